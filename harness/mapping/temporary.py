"""Temporary mapping: one level-1 table that maps itself, and 511 entries to borrow.

A kernel that can write to a single level-1 table can see any frame: it finds a free entry, points
it at the frame, uses the page that the entry maps, and clears the entry again. To be able to write
to the table, one of its entries maps the table itself. The lecture's table is at 32 KiB, controls
the first 2 MiB, and maps itself through entry 8, so that it is identity mapped. Then entry 0 makes
page 0 KiB show any frame, and entry 9 page 36 KiB.

>>> slots = TemporaryMapping(space, table=32 * 1024)  # doctest: +SKIP
>>> slots.map(level_2_table)  # doctest: +SKIP
VirtAddr(0x0)
>>> slots.unmap(VirtAddr(0))  # doctest: +SKIP

:class:`TemporaryPageTable` does this for each table that it looks at, one at a time. Even a
translation writes to memory, therefore: the slot is set and cleared for each level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

import numpy as np

from harness.address import Page, PhysFrame, VirtAddr, format_address
from harness.cpu import CpuState
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.mapping.errors import InvalidPageTable, InvalidRequest, NoFreeSlot
from harness.mapping.mapper import Mapper
from harness.mapping.space import AddressSpace
from harness.mapping.table_access import TableAccess, VirtualTable
from harness.outcome import Access

__all__ = ["TemporaryMapping", "TemporaryPageTable"]

_FLAGS = int(PageTableFlags.PRESENT | PageTableFlags.WRITABLE)


class TemporaryMapping:
    """The entries of a level-1 table, to be borrowed for a while.

    :param space: in which the table is mapped.
    :param table: the virtual address at which the table appears through an entry of its own.
    :raises InvalidPageTable: ``NotRecursive``: the page at ``table`` is not the level-1 table that
        maps that page.
    :raises AccessFault: there is no page at ``table``.
    """

    def __init__(self, space: AddressSpace, table: SupportsIndex) -> None:
        self._space = space
        self._page = Page.from_start_address(VirtAddr(int(table), space.cpu.levels))
        self._own_slot = self._page.page_table_index(1)
        shown = space.physical(int(table), Access())
        raw = space.read_u64(int(table) + 8 * self._own_slot)
        if raw & ADDRESS_MASK != shown or not raw & 1:
            raise InvalidPageTable.NotRecursive(
                self._page.start_address,
                f"the table at {format_address(self._page.start_address)} must map itself through "
                f"its entry {self._own_slot}, got the entry {raw:#x} in the frame at {shown:#x}",
            )

    @property
    def table(self) -> Page:
        """The page at which the table appears."""
        return self._page

    @property
    def free_slots(self) -> int:
        """The number of entries that are free: at most 511."""
        return int((self._space.read_words(int(self._page.start_address), 512) == 0).sum())

    def map(self, frame: PhysFrame) -> VirtAddr:
        """Make a frame appear, and give the address of the page that shows it.

        :raises NoFreeSlot: no entry of the table is zero.
        """
        words = self._space.read_words(int(self._page.start_address), 512)
        free = np.flatnonzero(words == 0)
        if not len(free):
            raise NoFreeSlot(self._page)
        slot = int(free[0])
        self._write(slot, int(frame.start_address) | _FLAGS)
        return (self._page + (slot - self._own_slot)).start_address

    def unmap(self, at: SupportsIndex) -> None:
        """Give back the slot of the page at ``at``, and invalidate the page.

        :raises InvalidRequest: ``at`` is not in the table's 2 MiB, or is the table itself.
        """
        slot = self._own_slot + (int(at) - int(self._page.start_address)) // 4096
        if not 0 <= slot < 512 or slot == self._own_slot:
            raise InvalidRequest(
                f"a slot's page must be one of the 511 that the table at "
                f"{format_address(self._page.start_address)} lends, got {int(at):#x}"
            )
        self._write(slot, 0)
        self._space.invlpg(int(at))

    @contextmanager
    def showing(self, frame: PhysFrame) -> Iterator[VirtAddr]:
        """Make a frame appear for the length of a ``with`` block.

        :raises NoFreeSlot: as :meth:`map`.
        """
        at = self.map(frame)
        try:
            yield at
        finally:
            self.unmap(at)

    def _write(self, slot: int, raw: int) -> None:
        self._space.write_u64(int(self._page.start_address) + 8 * slot, raw)


class _TemporaryAccess(TableAccess):
    def __init__(self, space: AddressSpace, slots: TemporaryMapping) -> None:
        self._space = space
        self._slots = slots

    @property
    def cpu(self) -> CpuState:
        return self._space.cpu

    @property
    def tlb(self) -> AddressSpace:
        return self._space

    @contextmanager
    def open(self, frame: PhysFrame, level: int, va: int) -> Iterator[VirtualTable]:
        with self._slots.showing(frame) as at:
            yield VirtualTable(self._space, int(at), frame, level)


class TemporaryPageTable(Mapper):
    """A mapper that maps each page table for as long as it looks at it.

    :param space: in which the temporary mapping table appears.
    :param table: the virtual address of that table, as for :class:`TemporaryMapping`.
    :param root: the top-level table to work on, of this address space or of another one; by default
        the active one.
    :raises InvalidPageTable: as :class:`TemporaryMapping`.
    """

    def __init__(
        self, space: AddressSpace, table: SupportsIndex, root: PhysFrame | None = None
    ) -> None:
        self.slots = TemporaryMapping(space, table)
        super().__init__(_TemporaryAccess(space, self.slots), space.root if root is None else root)
