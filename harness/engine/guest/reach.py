"""What steps may reach: the addresses that they name, and the top-level slots that these need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.engine.guest.footprint import Footprint
from harness.engine.guest.slots import SHIFTS, slots_of
from harness.engine.steps import AccessStep, DeliverStep, ExecuteStep, Step, WriteStep

__all__ = ["addresses_of", "slots_reached"]

_MASK: Final = (1 << 64) - 1
_TABLE: Final = 0x000F_FFFF_FFFF_F000
_NEAR: Final = 1024
"""How far from a register's value an instruction is taken to reach, in bytes."""

_FRAME: Final = 128
"""Bytes below RSP that a delivery may write."""


def slots_reached(footprint: Footprint, steps: Sequence[Step]) -> set[int]:
    """Return the top-level slots whose entries steps may read or write.

    :param footprint: of their memory, with the root and the levels that are in force.
    """
    used = {slot for va in addresses_of(steps) for slot in slots_of(footprint.levels, va)}
    for step in steps:
        if isinstance(step, WriteStep):
            used |= {pa >> 3 & 511 for pa in step.words}
        elif isinstance(step, ExecuteStep):
            for va in step.registers.values():
                if _reaches_root(footprint, va):
                    used |= {va + delta >> 3 & 511 for delta in range(-_NEAR, _NEAR, 8)}
        elif isinstance(step, DeliverStep):
            used |= {step.rsp - delta >> 3 & 511 for delta in range(0, _FRAME, 8)}
    return used


def _reaches_root(footprint: Footprint, va: int) -> bool:
    """Say whether an address near this one may be translated to the root table itself."""
    for near in (va - _NEAR & _MASK, va + _NEAR & _MASK):
        chain = footprint.chain(near)
        for index, shift in zip(chain, SHIFTS[footprint.levels], strict=False):
            inside = (1 << shift) - 1
            frame = footprint.words[index] & _TABLE & ~inside
            if (frame | near & inside) >> 12 == footprint.root >> 12:
                return True
    return False


def addresses_of(steps: Sequence[Step]) -> list[int]:
    """List the pages, each by one of its bytes, that the steps are known to ask for."""
    found: dict[int, None] = {}
    for step in steps:
        if isinstance(step, AccessStep):
            found[step.va] = None
            last = step.va + step.access.size - 1 & _MASK
            if last >> 12 != step.va >> 12:
                found[last] = None
        elif isinstance(step, ExecuteStep):
            for value in step.registers.values():
                for delta in (-0x1000, 0, 0x1000):
                    found[value + delta & _MASK] = None
        elif isinstance(step, DeliverStep):
            bases = (step.idt[0], step.gdt[0], step.tss[0])
            limits = (step.idt[1], step.gdt[1], step.tss[1])
            for base, limit in zip(bases, limits, strict=True):
                for at in range(base, base + limit + 0x1000, 0x1000):
                    found[at & _MASK] = None
            found[step.rsp - 1 & _MASK] = None
    return list(found)
