"""A block: many cases that differ only in the entries that one access walks.

A :class:`Block` is one CPU state, one access of one virtual address, and columns of entries: case i
walks ``entries[0, i]``, ``entries[1, i]``, ... from the root down. All cases share the same tables
and the same frames.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.check.question import Question
from harness.cpu import CpuState
from harness.engine.steps import AccessStep
from harness.memory import Region
from harness.outcome import (
    Access,
    AccessKind,
)

__all__ = ["Block", "FRAME_1G", "FRAME_2M", "FRAME_4K", "RAM", "TABLES", "VA4", "VA5"]


TABLES: Final = (0x1000, 0x2000, 0x3000, 0x4000, 0x5000)
"""The tables that a walk of a block reads, the root's first; four levels use the first four."""


FRAME_4K: Final = 0x7000


FRAME_2M: Final = 0x20_0000


FRAME_1G: Final = 0x4000_0000


RAM: Final = (Region(0, 0x40_0000), Region(FRAME_1G, 0x40_0000))


VA4: Final = 4 << 39 | 3 << 30 | 1 << 21 | 2 << 12 | 8
"""The address of every access with 4 levels: another index at every level."""


VA5: Final = 5 << 48 | VA4
"""The address of every access with 5 levels."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Cases that differ only in the entries that one access walks.

    :ivar cpu: the CPU state; CR3 is ``TABLES[0]``.
    :ivar access: within one aligned word.
    :ivar va: the virtual address, :data:`VA4` or :data:`VA5`.
    :ivar entries: u64, shape (levels, cases), the root's entry first. An entry leads to the next of
        :data:`TABLES`, or maps one of the three frames.
    :ivar supervisor_reads_first: a supervisor reads the same address first, and nothing is
        invalidated in between; what becomes of that read does not matter.
    """

    cpu: CpuState
    access: Access
    va: int
    entries: NDArray[np.uint64]
    supervisor_reads_first: bool = False

    def __len__(self) -> int:
        return int(self.entries.shape[1])

    @property
    def at(self) -> tuple[int, ...]:
        """Give the physical address of each level's entry, the root's first."""
        levels = self.cpu.levels
        return tuple(
            TABLES[depth] | self.va >> 9 * (levels - depth) & 0xFF8 for depth in range(levels)
        )

    def rows(self, where: slice) -> Block:
        """Return some of the cases."""
        return dataclasses.replace(self, entries=self.entries[:, where])

    def question(self, row: int) -> Question:
        """Return the question of one case: of two steps where there is a first access."""
        words = dict(zip(self.at, self.entries[:, row].tolist(), strict=True))
        steps = [AccessStep(self.va, self.access)]
        if self.supervisor_reads_first:
            read = Access(AccessKind.READ, self.access.size)
            steps.insert(0, AccessStep(self.va, read, cpl=0))
        return Question(self.cpu, RAM, words, steps)
