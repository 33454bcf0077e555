"""Recursive page tables: the top-level table has an entry that leads back to itself.

Every table of the *active* address space then appears at an address that can be computed
(:mod:`harness.mapping.recursive_address`), at the price of one entry of the top-level table.

>>> mapper = RecursivePageTable.new(space, 0xffff_ffff_ffff_f000)  # doctest: +SKIP
>>> mapper.slot  # doctest: +SKIP
511

Two consequences of the trick, and what is done about them:

* The entries above a table act on the table too. Below a parent entry without R/W the tables
  themselves are read-only, and a supervisor's write to them faults while CR0.WP = 1. The crate
  makes every new parent writable instead, whatever its caller asked for; here the entries are
  those that were asked for, and such a write is made with CR0.WP clear, as kernels do.
* A new table can be seen only once it is linked, so it is cleared while it is live already. A CPU
  that runs ahead could see what was in the frame: allocators for it should give cleared frames.
"""

from __future__ import annotations

from typing import Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from harness.address import PhysFrame, VirtAddr, format_address
from harness.cpu import CpuState
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.mapping.errors import InvalidPageTable, TableNotVisible
from harness.mapping.mapper import Mapper
from harness.mapping.recursive_address import table_address
from harness.mapping.space import AddressSpace
from harness.mapping.table_access import TableAccess, VirtualTable

__all__ = ["RecursivePageTable"]

_WRITABLE = int(PageTableFlags.WRITABLE)


class _RecursiveTable(VirtualTable):
    # Retries a write that only CR0.WP stopped, unless the slot itself is read-only.
    def __setitem__(self, index: int, raw: int) -> None:
        self.store(index, np.array([raw], np.uint64))

    def store(self, first: int, words: NDArray[np.uint64]) -> None:
        try:
            super().store(first, words)
        except TableNotVisible as fault:
            if fault.walk.rule != "WP" or not fault.walk.steps[0].raw & _WRITABLE:
                raise
            self._space.without_write_protect().write_words(self._page + 8 * first, words)


class _RecursiveAccess(TableAccess):
    visible_when_linked = True

    def __init__(self, space: AddressSpace, slot: int) -> None:
        self._space = space
        self._slot = slot

    @property
    def cpu(self) -> CpuState:
        return self._space.cpu

    @property
    def tlb(self) -> AddressSpace:
        return self._space

    def open(self, frame: PhysFrame, level: int, va: int) -> _RecursiveTable:
        page = table_address(va, level, self._slot, self.cpu.levels)
        return _RecursiveTable(self._space, int(page), frame, level)

    def retire(self, frame: PhysFrame, level: int, va: int) -> None:
        self._space.invlpg(int(table_address(va, level, self._slot, self.cpu.levels)))


class RecursivePageTable(Mapper):
    """A mapper that finds page tables through a recursive slot of the active top-level table.

    Made by :meth:`new` or :meth:`from_slot`, which check the slot, or directly, which does not.

    :param space: in which the slot is.
    :param slot: the index of the recursive entry, 0 to 511.
    """

    def __init__(self, space: AddressSpace, slot: int) -> None:
        self.slot = slot
        super().__init__(_RecursiveAccess(space, slot), space.root)

    @classmethod
    def new(cls, space: AddressSpace, table: SupportsIndex) -> Self:
        """Make a mapper from the virtual address of the top-level table.

        :param table: the address at which the table appears through its own slot.
        :raises InvalidPageTable: ``NotRecursive``: the table indices of the address are not all the
            same; ``NotActive``: the slot's entry does not lead to the table in CR3.
        :raises AccessFault: there is no page at that address.
        """
        levels = space.cpu.levels
        address = VirtAddr(int(table), levels)
        slot = address.page_table_index(levels)
        if address != table_address(0, levels, slot, levels):
            raise InvalidPageTable.NotRecursive(
                address,
                f"the address of a recursive top-level table must have one index at all {levels} "
                f"levels and offset 0, got {format_address(address)}",
            )
        raw = space.read_u64(int(address) + 8 * slot)
        if not raw & 1 or raw & ADDRESS_MASK != space.cpu.root:
            raise InvalidPageTable.NotActive(
                address,
                f"entry {slot} of a recursive table must lead to the table in CR3, at "
                f"{format_address(space.cpu.root)}, got {raw:#x}",
            )
        return cls(space, slot)

    @classmethod
    def from_slot(cls, space: AddressSpace, slot: int) -> Self:
        """Make a mapper from the index of the recursive entry.

        :raises InvalidPageTable: as :meth:`new`.
        :raises AccessFault: as :meth:`new`.
        """
        levels = space.cpu.levels
        return cls.new(space, table_address(0, levels, slot, levels))
