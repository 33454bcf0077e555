"""What the walker says of a block, in columns: one call of ``bulk`` for all its cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.check.matrix.block import RAM, TABLES, Block
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import (
    Access,
    AccessKind,
    Outcome,
)
from harness.walker import bulk

__all__ = ["BlockWalker", "Prediction", "ROWS"]

_U64 = np.uint64
_P, _A, _D, _PS = (
    _U64(int(flag))
    for flag in (
        PageTableFlags.PRESENT,
        PageTableFlags.ACCESSED,
        PageTableFlags.DIRTY,
        PageTableFlags.HUGE_PAGE,
    )
)
_MAPPED, _PAGE_FAULT = Outcome.MAPPED.code, Outcome.PAGE_FAULT.code
_NO_MEMORY = Outcome.NO_MEMORY.code
_Column = NDArray[np.uint64]
_Rows = NDArray[np.bool_]


ROWS: Final = 0x2000
"""Cases that are predicted and compared at once: their columns stay in a core's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the walker says of a block, in columns.

    :ivar outcome: :attr:`Outcome.code <harness.outcome.Outcome.code>`.
    :ivar rule: the index in ``RULES`` of the rule that decided.
    :ivar level: the level of the entry that decided.
    :ivar error_code: of a page fault.
    :ivar cr2: of a page fault.
    :ivar pa: the physical address reached.
    :ivar must: shape (levels, cases): the bits of each entry that the access must set.
    :ivar may: the bits that it may set besides.
    """

    outcome: NDArray[np.uint8]
    rule: NDArray[np.uint8]
    level: NDArray[np.uint8]
    error_code: NDArray[np.uint32]
    cr2: _Column
    pa: _Column
    must: _Column
    may: _Column


class BlockWalker:
    """The walker's memory: each case of a block laid out as an address space of its own.

    Case i has index i mod 512 in every table, and shares its tables with the 511 around it. So
    each level's entries lie one after another, and only the addresses in them are other than in the
    block; what a walk says of them is the same.
    """

    _BASE: Final = 0x1_0000_0000

    def __init__(self) -> None:
        size = 8 * ROWS
        self.memory = PhysicalMemory([*RAM, (self._BASE, len(TABLES) * size)])
        first = self.memory.offset(self._BASE) >> 3
        self._words = self.memory.words[first:].reshape(len(TABLES), ROWS)
        case = np.arange(ROWS, dtype=_U64)
        group = case >> _U64(9) << _U64(12)
        self._tables = [group + _U64(self._BASE + depth * size) for depth in range(len(TABLES))]
        self._indices = case & _U64(511)

    def predict(self, block: Block) -> Prediction:
        """Ask ``bulk`` of up to :data:`ROWS` cases."""
        self._lay_out(block)
        last = self._walk(block, block.cpu, block.access)
        if block.supervisor_reads_first:
            supervisor = block.cpu.replace(cpl=0)
            read = Access(AccessKind.READ, block.access.size)
            first = self._walk(block, supervisor, read)
            np.bitwise_or(last.must, first.must, out=last.must)
            np.bitwise_or(last.may, first.may, out=last.may)
            last.may[:] &= ~last.must
        return last

    def _lay_out(self, block: Block) -> None:
        count = len(block)
        for depth, column in enumerate(block.entries):
            words = self._words[depth, :count]
            words[:] = column
            if depth + 1 < block.cpu.levels:
                # Bits above and below the table's number are the entry's own.
                leads_on = column & _U64(0xFF_FFFF_F000) == _U64(TABLES[depth + 1])
                moved = self._tables[depth + 1][:count] - _U64(TABLES[depth + 1])
                np.add(words, moved, out=words, where=leads_on)

    def _walk(self, block: Block, cpu: CpuState, access: Access) -> Prediction:
        count, levels = len(block), cpu.levels
        index = self._indices[:count]
        vas = np.full(count, block.va & 0xFFF, _U64)
        for level in range(levels):
            vas |= index << _U64(12 + 9 * level)
        top = _U64(12 + 9 * levels - 1)
        vas |= np.where(vas >> top & _U64(1), ~_U64(0) << top, _U64(0))
        found = bulk(self.memory, cpu, vas, access, roots=self._tables[0][:count])
        inside = np.maximum(found.page_size, _U64(1)) - _U64(1)
        must, may = self._updates(block, found.level, found.completed, access)
        pa = found.pa & ~inside | _U64(block.va) & inside
        landed = np.where(self.memory.offsets(pa) < 0, _NO_MEMORY, _MAPPED).astype(np.uint8)
        return Prediction(
            np.where(found.completed, landed, found.outcome),
            found.rule,
            found.level,
            found.error_code,
            np.where(found.outcome == _PAGE_FAULT, _U64(block.va), _U64(0)),
            pa,
            must,
            may,
        )

    @staticmethod
    def _updates(
        block: Block, level: NDArray[np.uint8], completed: _Rows, access: Access
    ) -> tuple[_Column, _Column]:
        """Say which bits must be set (rules A and D), and which may be (A_ON_FAULT)."""
        levels = block.cpu.levels
        must, may = np.zeros_like(block.entries), np.zeros_like(block.entries)
        for depth in range(levels):
            here = levels - depth
            lacking = ~block.entries[depth] & _A
            must[depth] = np.where(completed & (level <= here), lacking, 0)
            may[depth] = np.where(~completed & (level < here), lacking, 0)
            if access.is_write:
                leaf = completed & (level == here)
                must[depth] |= np.where(leaf, ~block.entries[depth] & _D, 0)
        return must, may
