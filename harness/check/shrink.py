"""Make a differing case small: fewer words, fewer bits, fewer features, the same difference.

:func:`shrink` tries one simplification after another and keeps those under which the two sides
still differ in the same way (:attr:`~harness.check.compare.Difference.kind`). It ends when a whole
round has changed nothing, so that the result is minimal: every bit that is left is needed::

    small = shrink(case, lambda case: differs(case) == wanted)
    print(small.line())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from harness.check.case import Case
from harness.cpu import CpuState
from harness.errors import InputError
from harness.outcome import Access

__all__ = ["shrink"]

_DEFAULTS = CpuState()
_REGISTERS = ("cr0", "cr4", "efer", "rflags", "pkru", "pkrs")


def shrink(case: Case, differs: Callable[[Case], bool], *, tries: int = 5000) -> Case:
    """Return the smallest case found that still differs.

    :param case: one that differs.
    :param differs: says whether a case still differs in the same way; it must not raise.
    :param tries: how many cases to try at most.
    """
    left = tries
    progress = True
    while progress and left > 0:
        progress = False
        for candidate in _simpler(case):
            left -= 1
            if left < 0:
                break
            if differs(candidate):
                case = candidate
                progress = True
                # The candidates of the old case are stale: begin again from the new one.
                break
    return case


def _simpler(case: Case) -> Iterator[Case]:
    """Give cases that are simpler by one step, the greatest steps first."""
    yield from _smaller_memory(case)
    yield from _simpler_cpu(case)
    yield from _simpler_access(case)
    yield from _fewer_bits(case)


def _smaller_memory(case: Case) -> Iterator[Case]:
    for address in case.memory:
        words = {at: word for at, word in case.memory.items() if at != address}
        yield _with(case, memory=words)


def _fewer_bits(case: Case) -> Iterator[Case]:
    for address, word in case.memory.items():
        for bit in range(63, -1, -1):
            if word >> bit & 1:
                words = {**case.memory, address: word & ~(1 << bit)}
                yield _with(case, memory=words)


def _simpler_cpu(case: Case) -> Iterator[Case]:
    cpu = case.cpu
    changes: list[dict[str, object]] = []
    if cpu.features != _DEFAULTS.features:
        changes.append({"features": _DEFAULTS.features})
    if cpu.cpl in (1, 2):
        changes.append({"cpl": 0})
    if cpu.cr3 & 0xFFF:
        changes.append({"cr3": cpu.root})
    for register in _REGISTERS:
        value, default = getattr(cpu, register), getattr(_DEFAULTS, register)
        if value != default:
            changes.append({register: default})
        changes += [
            {register: value & ~(1 << bit)}
            for bit in range(32)
            if value >> bit & 1 and not default >> bit & 1
        ]
    for change in changes:
        try:
            yield _with(case, cpu=cpu.replace(**change))
        except InputError:
            continue


def _simpler_access(case: Case) -> Iterator[Case]:
    access = case.access
    for size in (1, 2, 4):
        if size < access.size and not access.implicit:
            smaller = Access(access.kind, size, access.implicit, access.stack)
            yield _with(case, access=smaller)
    if access.stack:
        yield _with(case, access=dataclasses.replace(access, stack=False))
    offset = case.va & 0xFFF
    if offset:
        yield _with(case, va=case.va & ~0xFFF)


def _with(case: Case, **changes: object) -> Case:
    values = {name: getattr(case, name) for name in ("cpu", "ram", "memory", "va", "access")}
    return Case(**{**values, **changes})
