"""The 2 MiB that the engine borrows, and whether a guest's tables lead there.

They lie where there is no RAM. A table that a guest has there would be the engine's own words, so
such a question is refused; a page there is no RAM like any other hole, but is probed singly, since
a single probe puts back what it has overwritten. Entries that are present are followed, whatever
rights they give: nothing about the access is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.engine.guest.reach import addresses_of
from harness.engine.guest.slots import SHIFTS
from harness.engine.steps import Step, WriteStep
from harness.engine.unicorn.core import SCRATCH_SIZE, Layout
from harness.memory import PhysicalMemory

__all__ = ["any_entry_leads_there", "leads_there", "refusal", "rows_that_lead_there", "steps_lead"]

_TABLE: Final = 0x000F_FFFF_FFFF_F000
_PRESENT, _HUGE = 1 << 0, 1 << 7
_U64 = np.uint64


def refusal(layout: Layout) -> str:
    """Say why such a question is refused."""
    return (
        f"the tables lead to the 2 MiB at {layout.scratch:#x}, where there is no RAM and this "
        "engine keeps its own code"
    )


def leads_there(
    layout: Layout,
    memory: PhysicalMemory,
    root: int,
    levels: int,
    vas: Iterable[int],
    *,
    pages: bool = True,
) -> bool:
    """Say whether a walk of one of some addresses could read what is borrowed.

    :param pages: or end in a page that lies there.
    """
    for va in vas:
        table = root
        for shift in SHIFTS[levels]:
            at = memory.offset(table | (va >> shift & 511) << 3)
            if at < 0:
                break
            entry = int(memory.words[at >> 3])
            if not entry & _PRESENT:
                break
            table = entry & _TABLE
            if shift == 12 or (entry & _HUGE and shift < 39):
                inside = (1 << shift) - 1
                if pages and (table & ~inside | va & inside) in layout:
                    return True
                break
            if table in layout:
                return True
    return False


def rows_that_lead_there(
    layout: Layout, memory: PhysicalMemory, cpu: CpuState, vas: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say of each of many addresses whether its tables lead there, and whether its page does."""
    through, onto = np.zeros(len(vas), np.bool_), np.zeros(len(vas), np.bool_)
    rows, table = np.arange(len(vas)), np.full(len(vas), cpu.root, _U64)
    for shift in SHIFTS[cpu.levels]:
        at = memory.offsets(table | (vas[rows] >> _U64(shift) & _U64(511)) << _U64(3))
        there = at >= 0
        if not there.all():
            rows, at = rows[there], at[there]
        if not len(rows):
            break
        entry = memory.words[at >> 3]
        table = entry & _U64(_TABLE)
        there = entry & _U64(_PRESENT) != 0
        if shift < 39:
            inside = _U64((1 << shift) - 1)
            leaf = there if shift == 12 else there & (entry & _U64(_HUGE) != 0)
            onto[rows] |= leaf & _within(layout, table & ~inside | vas[rows] & inside)
            there = there & ~leaf
        through[rows] |= there & _within(layout, table)
        rows, table = rows[there], table[there]
    return through, onto


def any_entry_leads_there(layout: Layout, entries: NDArray[np.uint64]) -> bool:
    """Say whether one of some entries holds a frame that is borrowed."""
    return bool(_within(layout, entries & _U64(_TABLE)).any())


def steps_lead(
    layout: Layout, memory: PhysicalMemory, cpu: CpuState, steps: Sequence[Step]
) -> bool:
    """Say whether steps, or what they write, could lead there."""
    written = [
        word for step in steps if isinstance(step, WriteStep) for word in step.words.values()
    ]
    if any((word & _TABLE) in layout for word in written):
        return True
    return leads_there(layout, memory, cpu.root, cpu.levels, addresses_of(steps))


def _within(layout: Layout, pas: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return (pas - _U64(layout.scratch)) < _U64(SCRATCH_SIZE)
