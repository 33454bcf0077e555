"""Build page tables from nothing, as a bootloader must: physical addresses in, entries out.

A kernel can only reach page tables through page tables; whoever makes the first ones writes to
physical memory directly.  `TableBuilder` is that writer.  It takes frames for new tables from a
function, maps ranges with one page size at a time, and fills the entries of a table in one stroke,
so that a map of a terabyte takes milliseconds.

It makes tables and never changes or removes an entry: mapping what is mapped already is a
`BootError`, and so is running into a larger page.  `harness.mapping` is for everything else.

    >>> memory = PhysicalMemory(0x10_0000)
    >>> tables = TableBuilder(memory, iter(range(0x1000, 0x10_0000, 0x1000)).__next__)
    >>> tables.map(0x20_0000, 0x8_0000, 0x2000, PageTableFlags.PRESENT | PageTableFlags.WRITABLE)
    >>> hex(tables.root), tables.tables
    ('0x1000', 4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from harness.address import (
    ENTRIES_PER_TABLE,
    PageSize,
    entry_name,
    format_address,
    sign_extend,
)
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.errors import AddressError, BootError

if TYPE_CHECKING:
    from typing import SupportsIndex

    from harness.memory import PhysicalMemory

__all__ = ["TableBuilder"]

_PRESENT = int(PageTableFlags.PRESENT)
_HUGE = int(PageTableFlags.HUGE_PAGE)
# The crate's map_to gives new parents WRITABLE, and USER_ACCESSIBLE when the page has it; rights
# are taken away at the leaf.
_PARENT = int(PageTableFlags.PRESENT | PageTableFlags.WRITABLE)
_PARENT_FROM_PAGE = int(PageTableFlags.USER_ACCESSIBLE)


class TableBuilder:
    """Writes page tables into physical memory.

    :param memory: where the tables go
    :param allocate: gives the physical address of a free frame at every call; the frame is cleared
    :param levels: 4 or 5
    :param root: physical address of the top table if there is one already; None allocates it
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        allocate: Callable[[], int],
        levels: int = 4,
        *,
        root: SupportsIndex | None = None,
    ) -> None:
        if levels not in (4, 5):
            raise AddressError(f"levels must be 4 or 5, not {levels!r}")
        self._memory = memory
        self._allocate = allocate
        self.levels = levels
        #: Tables made so far, the root among them if it was not given.
        self.tables = 0
        #: Physical address of the top table, for CR3.
        self.root = self._new_table() if root is None else int(root)

    def map(
        self,
        va: SupportsIndex,
        pa: SupportsIndex,
        size: int,
        flags: int,
        page_size: int = PageSize.Size4KiB,
    ) -> None:
        """Map a range of virtual addresses to a range of physical ones.

        :param va: first virtual address, a multiple of the page size
        :param pa: first physical address, a multiple of the page size
        :param size: bytes, a multiple of the page size
        :param flags: flags of the leaves; HUGE_PAGE is added where the page size needs it
        :param page_size: size of the pages to use, in bytes; it is used throughout
        :raises AddressError: when a number is not aligned, or the range is not canonical or not
            within 52 physical bits
        :raises BootError: when something in the range is mapped already; what comes before it in
            the range is then mapped
        """
        page = PageSize(page_size)
        start, frame, end = int(va), int(pa), int(va) + size
        self._check_range(start, frame, size, page)
        leaf = int(flags) | (_HUGE if page.level > 1 else 0)
        parent = _PARENT | (int(flags) & _PARENT_FROM_PAGE)
        while start < end:
            table = self.table(start, page.level, parent)
            first = self._index(start, page.level)
            count = min(ENTRIES_PER_TABLE - first, (end - start) // page)
            self._fill(table, first, count, start, frame | leaf, page)
            start += count * page
            frame += count * page

    def table(self, va: SupportsIndex, level: int, flags: int = _PARENT) -> int:
        """Find the table of a level that serves a virtual address, making it and those above it.

        :param va: the virtual address
        :param level: 1 (the table of 4 KiB pages) up to the number of levels
        :param flags: flags that the entries on the way must at least have
        :returns: the table's physical address
        :raises BootError: when a larger page is in the way
        """
        address = int(va)
        table = self.root
        for above in range(self.levels, level, -1):
            place = table + 8 * self._index(address, above)
            entry = self._memory.read_u64(place)
            if not entry & _PRESENT:
                entry = self._new_table() | flags
                self._memory.write_u64(place, entry)
            elif entry & _HUGE:
                raise BootError(
                    f"{format_address(address)} must not be mapped yet: its "
                    f"{entry_name(above)} maps a larger page ({entry:#_x})"
                )
            elif flags & ~entry:
                self._memory.write_u64(place, entry | flags)
            table = entry & ADDRESS_MASK
        return table

    def link(self, index: int, table: SupportsIndex, flags: int = _PARENT) -> None:
        """Set one entry of the top table; with the top table itself as target, the recursive slot.

        :param index: 0 to 511
        :param table: physical address of the table that the entry points to
        :param flags: flags of the entry
        :raises BootError: when the entry is in use
        """
        place = self.root + 8 * index
        entry = self._memory.read_u64(place)
        if entry:
            raise BootError(
                f"slot {index} of the level {self.levels} table must be free: it holds {entry:#_x}"
            )
        self._memory.write_u64(place, int(table) | int(flags))

    def _new_table(self) -> int:
        frame = int(self._allocate())
        self._memory.frame(frame)[:] = 0
        self.tables += 1
        return frame

    def _fill(
        self, table: int, first: int, count: int, start: int, entry: int, page: PageSize
    ) -> None:
        entries = self._memory.frame(table)[first : first + count]
        taken = np.flatnonzero(entries)
        if len(taken):
            at = int(taken[0])
            raise BootError(
                f"{format_address(start + at * page)} must not be mapped yet: its "
                f"{entry_name(page.level)} is {int(entries[at]):#_x}"
            )
        steps = np.arange(count, dtype=np.uint64) * np.uint64(page)
        # The flags lie outside the address bits that grow, so adding does not disturb them.
        entries[:] = np.uint64(entry) + steps

    @staticmethod
    def _index(address: int, level: int) -> int:
        return address >> (3 + 9 * level) & (ENTRIES_PER_TABLE - 1)

    def _check_range(self, va: int, pa: int, size: int, page: PageSize) -> None:
        for name, value in (("virtual address", va), ("physical address", pa), ("size", size)):
            if value < 0 or value % page:
                raise AddressError(
                    f"the {name} must be a multiple of the page size {int(page):#_x}, "
                    f"not {value:#_x}"
                )
        last = va + size - 1
        half = 1 << (47 if self.levels == 4 else 56)
        crosses = last > (1 << 64) - 1 or va // half != last // half
        if size and (crosses or sign_extend(va, self.levels) != va):
            raise AddressError(
                f"the range must stay within one half of the {self.levels}-level address space, "
                f"not {va:#_x} to {last:#_x}"
            )
        if pa + size > 1 << 52:
            raise AddressError(
                f"physical addresses must be below 2**52, not {pa:#_x} to {pa + size - 1:#_x}"
            )
