"""The operations on page tables: the same for every way of reaching them.

A :class:`Mapper` translates, maps, unmaps and changes flags in one tree of page tables, of 4 or 5
levels, for pages of all three sizes. The names are those of the ``x86_64`` crate's ``Mapper``,
``Translate`` and ``CleanUp`` traits. It reaches the tables through a :class:`TableAccess` only;
the subclasses differ in nothing else.

>>> flags = PageTableFlags.PRESENT | PageTableFlags.WRITABLE
>>> mapper.map_to(page, frame, flags, frames).flush()  # doctest: +SKIP
>>> mapper.translate_addr(page.start_address)  # doctest: +SKIP

What an operation refuses is an exception of :mod:`harness.mapping.errors` that names the entry,
and an operation that is refused leaves the tables as they were. Three rules hold throughout:

* an entry with P = 0 maps nothing and leads nowhere, whatever else is in it (rule ``PRESENT``);
  no operation makes such an entry other than zero;
* the flags given are the flags written, PAT among them (``HUGE_PAGE`` of a 4 KiB page *is* its PAT
  bit), except that a big page's ``HUGE_PAGE`` need not be said;
* an entry with reserved bits is an error, never followed (rules ``RSVD_*``).

``docs/mappers.md`` lists where the crate behaves differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from harness.address import Page, PageRange, PageSize, PhysAddr, PhysFrame, VirtAddr, is_canonical
from harness.entry import ADDRESS_MASK, PageTableEntry, PageTableFlags
from harness.frames import FrameAllocator, FrameDeallocator
from harness.mapping.clean_up import TableAt, clean_up, tables
from harness.mapping.errors import (
    FlagUpdateError,
    InvalidRequest,
    MapToError,
    TranslateError,
    UnmapError,
)
from harness.mapping.flush import MapperFlush, MapperFlushAll
from harness.mapping.ranges import runs
from harness.mapping.table_access import TableAccess
from harness.mapping.transaction import Transaction
from harness.mapping.translate import TranslateResult
from harness.walker import Step
from harness.walker.scalar import reserved_masks

__all__ = ["Mapper"]

_PRESENT = int(PageTableFlags.PRESENT)
_HUGE = int(PageTableFlags.HUGE_PAGE)
_PARENT_FLAGS = int(
    PageTableFlags.PRESENT | PageTableFlags.WRITABLE | PageTableFlags.USER_ACCESSIBLE
)


class Mapper:
    """The page tables below one top-level table.

    :param access: how page tables are reached.
    :param root: the frame of the top-level table; its level is the CPU's number of levels.
    """

    def __init__(self, access: TableAccess, root: PhysFrame) -> None:
        self._access = access
        self._root = root
        self._levels = access.cpu.levels
        self._reserved = reserved_masks(access.cpu)

    @property
    def root(self) -> PhysFrame:
        """The frame of the top-level table."""
        return self._root

    @property
    def levels(self) -> int:
        """The number of levels, 4 or 5."""
        return self._levels

    def translate(self, va: SupportsIndex) -> TranslateResult:
        """Say which frame an address lies in, at which offset, with which leaf flags.

        Rights are not judged: a page that this CPU's supervisor may not read is mapped all the
        same.

        :raises InvalidRequest: the address is not canonical.
        """
        address = self._canonical(va)
        found = self._descend(address, 1)[-1]
        if not found.raw & _PRESENT:
            return TranslateResult.NotMapped(found)
        if self._is_reserved(found):
            return TranslateResult.InvalidFrameAddress(PhysAddr(found.raw & ADDRESS_MASK), found)
        entry = PageTableEntry(found.raw, found.level)
        frame = entry.frame()
        return TranslateResult.Mapped(frame, address & (frame.size.value - 1), entry.flags)

    def translate_addr(self, va: SupportsIndex) -> PhysAddr | None:
        """Give the physical address of a virtual one, or None when it has none.

        :raises InvalidRequest: the address is not canonical.
        """
        found = self.translate(va)
        return found.address if isinstance(found, TranslateResult.Mapped) else None

    def translate_page(self, page: Page) -> PhysFrame:
        """Give the frame of a page of just that size.

        :raises TranslateError: there is no such page.
        """
        found = self._find_page(page, TranslateError)
        return PageTableEntry(found.raw, found.level).frame()

    def map_to(
        self, page: Page, frame: PhysFrame, flags: PageTableFlags, frames: FrameAllocator
    ) -> MapperFlush:
        """Map a page to a frame of the same size.

        Tables on the way get P, R/W and U/S as far as ``flags`` have them, whether they are made
        now or existed before, so that they do not take away what ``flags`` grant.

        :param frames: where new page tables come from; at most ``levels - 1`` are needed.
        :raises MapToError: the page is mapped, or a part of a bigger one, or frames ran out.
        :raises InvalidRequest: page and frame differ in size, or the flags cannot be written.
        """
        table_flags = PageTableFlags(int(flags) & _PARENT_FLAGS)
        return self.map_to_with_table_flags(page, frame, flags, table_flags, frames)

    def map_to_with_table_flags(
        self,
        page: Page,
        frame: PhysFrame,
        flags: PageTableFlags,
        table_flags: PageTableFlags,
        frames: FrameAllocator,
    ) -> MapperFlush:
        """Map a page to a frame, and say which flags the tables on the way must have.

        :param table_flags: the flags of new tables; they are added to those of existing ones.
        :raises MapToError: as :meth:`map_to`.
        :raises InvalidRequest: as :meth:`map_to`.
        """
        if page.size != frame.size:
            raise InvalidRequest(
                f"a page and its frame must have one size, got {page.size.letter} for the page and "
                f"{frame.size.letter} for the frame"
            )
        raw = self._leaf(int(frame.start_address), int(flags), page.size)
        links = self._link_flags(table_flags)
        with Transaction(self._access, frames) as transaction:
            self._put(transaction, page, np.array([raw], np.uint64), links)
        return MapperFlush(page, self._access.tlb)

    def map_range(
        self,
        va: SupportsIndex,
        pa: SupportsIndex,
        length: int,
        flags: PageTableFlags,
        frames: FrameAllocator,
        *,
        largest: PageSize | None = None,
        table_flags: PageTableFlags | None = None,
    ) -> MapperFlushAll:
        """Map ``length`` bytes from ``va`` on to physical memory from ``pa`` on.

        Each piece is mapped with the largest page that fits: both addresses aligned to it and
        enough of the range left. The tables are the same, bit for bit, as if each page was mapped
        with :meth:`map_to` in ascending order, but each table is written at once.

        :param length: in bytes, a multiple of 4 KiB.
        :param largest: use no page bigger than this; else the biggest that the CPU offers.
        :param table_flags: as for :meth:`map_to_with_table_flags`; by default as :meth:`map_to`.
        :raises MapToError: as :meth:`map_to`, of the first page that cannot be mapped.
        :raises InvalidRequest: the range is not made of whole pages, leaves its half of the address
            space, or the flags cannot be written.
        """
        start, target = self._canonical(va), int(pa)
        if (start | target | length) & 0xFFF or length < 0:
            raise InvalidRequest(
                f"a range must be made of whole 4 KiB pages, got {length:#x} bytes from "
                f"{start:#x} to {target:#x}"
            )
        if length and not self._one_half(start, length):
            raise InvalidRequest(
                f"a range must end in the half of the address space that it starts in, got "
                f"{length:#x} bytes from {start:#x} on"
            )
        if largest is None:
            pdpe1gb = self._access.cpu.features.pdpe1gb
            largest = PageSize.Size1GiB if pdpe1gb else PageSize.Size2MiB
        parent_flags = int(flags) & _PARENT_FLAGS if table_flags is None else int(table_flags)
        links = self._link_flags(PageTableFlags(parent_flags))
        with Transaction(self._access, frames) as transaction:
            for run in runs(start, target, length, largest):
                first = self._leaf(run.pa, int(flags), run.size)
                # The last address is checked too, so that all of the run stays below MAXPHYADDR.
                self._leaf(run.pa + (run.pages - 1) * run.size.value, int(flags), run.size)
                steps = np.arange(run.pages, dtype=np.uint64) * np.uint64(run.size.value)
                page = Page.from_start_address(VirtAddr(run.va, self._levels), run.size)
                self._put(transaction, page, steps + np.uint64(first), links)
        return MapperFlushAll(self._access.tlb)

    def identity_map(
        self, frame: PhysFrame, flags: PageTableFlags, frames: FrameAllocator
    ) -> MapperFlush:
        """Map the page whose virtual address is the frame's physical one.

        :raises MapToError: as :meth:`map_to`.
        :raises InvalidRequest: as :meth:`map_to`, or no canonical address equals the frame's.
        """
        page = Page.from_start_address(
            VirtAddr(self._canonical(frame.start_address), self._levels), frame.size
        )
        return self.map_to(page, frame, flags, frames)

    def unmap(self, page: Page) -> tuple[PhysFrame, MapperFlush]:
        """Take a page out, and give the frame that it was mapped to.

        Its tables stay, even empty ones; see :meth:`clean_up`.

        :raises UnmapError: there is no page of that size.
        """
        found = self._find_page(page, UnmapError)
        self._write(page, found, 0)
        frame = PageTableEntry(found.raw, found.level).frame()
        return frame, MapperFlush(page, self._access.tlb)

    def update_flags(self, page: Page, flags: PageTableFlags) -> MapperFlush:
        """Give a mapped page these flags in place of its old ones, A and D included.

        :raises FlagUpdateError: there is no page of that size.
        :raises InvalidRequest: the flags cannot be written.
        """
        found = self._find_page(page, FlagUpdateError)
        address = int(PageTableEntry(found.raw, found.level).address)
        self._write(page, found, self._leaf(address, int(flags), page.size))
        return MapperFlush(page, self._access.tlb)

    def set_flags_p5_entry(self, page: Page, flags: PageTableFlags) -> MapperFlushAll:
        """Give the page's level 5 entry, which leads to a table, these flags.

        :raises FlagUpdateError: the entry is not present.
        :raises InvalidRequest: the flags cannot be written, or there are 4 levels only.
        """
        if self._levels < 5:
            raise InvalidRequest("a level 5 entry must belong to 5-level paging, got 4 levels")
        return self._set_flags(page, 5, flags)

    def set_flags_p4_entry(self, page: Page, flags: PageTableFlags) -> MapperFlushAll:
        """Give the page's level 4 entry, which leads to a table, these flags.

        :raises FlagUpdateError: it, or one above it, is not present.
        :raises InvalidRequest: the flags cannot be written.
        """
        return self._set_flags(page, 4, flags)

    def set_flags_p3_entry(self, page: Page, flags: PageTableFlags) -> MapperFlushAll:
        """Give the page's level 3 entry, which leads to a table, these flags.

        :raises FlagUpdateError: it, or one above it, is not present, or it holds a page.
        :raises InvalidRequest: the flags cannot be written.
        """
        return self._set_flags(page, 3, flags)

    def set_flags_p2_entry(self, page: Page, flags: PageTableFlags) -> MapperFlushAll:
        """Give the page's level 2 entry, which leads to a table, these flags.

        :raises FlagUpdateError: it, or one above it, is not present or holds a page.
        :raises InvalidRequest: the flags cannot be written.
        """
        return self._set_flags(page, 2, flags)

    def clean_up(self, frames: FrameDeallocator) -> MapperFlushAll:
        """Free every table that is empty, but never the top-level one.

        Empty means that all 512 entries are zero. The receipt matters: until a flush the CPU may
        still walk through a freed table by its paging-structure caches.
        """
        half = 1 << (11 + 9 * self._levels)
        clean_up(self, self._access, 0, 2 * half - 1, frames)
        return MapperFlushAll(self._access.tlb)

    def clean_up_addr_range(
        self, pages: PageRange[Page], frames: FrameDeallocator
    ) -> MapperFlushAll:
        """Free every empty table that translates an address of the range, as :meth:`clean_up`."""
        if not pages.is_empty:
            mask = (1 << (12 + 9 * self._levels)) - 1
            first = self._canonical(pages.start.start_address) & mask
            clean_up(self, self._access, first, first + pages.size - 1, frames)
        return MapperFlushAll(self._access.tlb)

    def tables(self) -> Iterator[TableAt]:
        """List the page tables, each below its parent; the top-level one first.

        An entry of the top-level table that leads back to it (a recursive slot) is not followed.
        """
        return tables(self, self._access)

    def is_table(self, raw: int, level: int) -> bool:
        """Say whether a raw entry of that level leads to a table that the CPU can use."""
        huge = raw >> 7 & 1
        return bool(
            raw & _PRESENT
            and level > 1
            and not raw & self._reserved[level][huge]
            and not (huge and level <= 3)
        )

    def _descend(self, va: int, stop: int) -> list[Step]:
        # The entries on the way to `va`, down to level `stop` or to the first that is not a table.
        steps = []
        frame, level = self._root, self._levels
        while True:
            index = _index(va, level)
            with self._access.open(frame, level, va) as table:
                raw = table[index]
            steps.append(Step(level, int(frame.start_address) + 8 * index, raw))
            if level == stop or not self.is_table(raw, level):
                return steps
            frame, level = _frame(raw), level - 1

    def _find_page(
        self, page: Page, error: type[UnmapError | FlagUpdateError | TranslateError]
    ) -> Step:
        found = self._descend(self._canonical(page.start_address), page.size.level)[-1]
        if not found.raw & _PRESENT:
            raise error.PageNotMapped(page, found)
        if self._is_reserved(found):
            raise error.InvalidFrameAddress(page, found)
        if found.level > page.size.level:
            raise error.ParentEntryHugePage(page, found)
        if self.is_table(found.raw, found.level):
            raise error.PageNotMapped(page, found)
        return found

    def _set_flags(self, page: Page, level: int, flags: PageTableFlags) -> MapperFlushAll:
        links = self._link_flags(flags)
        found = self._descend(self._canonical(page.start_address), level)[-1]
        if not found.raw & _PRESENT:
            raise FlagUpdateError.PageNotMapped(page, found)
        if self._is_reserved(found):
            raise FlagUpdateError.InvalidFrameAddress(page, found)
        if not self.is_table(found.raw, found.level):
            raise FlagUpdateError.ParentEntryHugePage(page, found)
        if level <= page.size.level:  # a table where the page itself should be
            raise FlagUpdateError.PageNotMapped(page, found)
        self._write(page, found, found.raw & ADDRESS_MASK | links)
        return MapperFlushAll(self._access.tlb)

    def _write(self, page: Page, at: Step, raw: int) -> None:
        va = int(page.start_address)
        with self._access.open(_frame(at.address), at.level, va) as table:
            table[_index(va, at.level)] = raw

    def _put(
        self, transaction: Transaction, page: Page, words: NDArray[np.uint64], links: int
    ) -> None:
        # Write leaf entries for `page` and the pages after it, which lie in one table.
        va, level = self._canonical(page.start_address), page.size.level
        steps = self._descend(va, level)
        self._refuse_mapped(page, steps[-1])
        if steps[-1].level == level and len(words) > 1:
            self._refuse_any_mapped(page, steps[-1], len(words))
        missing = steps[-1].level - level
        new = transaction.take(missing)
        if new is None:
            raise MapToError.FrameAllocationFailed(page, steps[-1])
        for step in steps[:-1]:
            if step.raw & links != links:
                widened = np.array([step.raw | links], np.uint64)
                transaction.write(
                    _frame(step.address), step.level, va, _index(va, step.level), widened
                )
        parent = _frame(steps[-1].address)
        for below, frame in zip(range(steps[-1].level - 1, level - 1, -1), new, strict=True):
            link = int(frame.start_address) | links
            transaction.add_table(frame, below, va, parent, _index(va, below + 1), link)
            parent = frame
        transaction.write(parent, level, va, _index(va, level), words)

    def _refuse_mapped(self, page: Page, found: Step) -> None:
        if not found.raw & _PRESENT:
            return
        if self._is_reserved(found):
            raise MapToError.InvalidFrameAddress(page, found)
        if found.level > page.size.level:
            raise MapToError.ParentEntryHugePage(page, found)
        raise MapToError.PageAlreadyMapped(page, found)

    def _refuse_any_mapped(self, page: Page, first: Step, count: int) -> None:
        with self._access.open(
            _frame(first.address), first.level, int(page.start_address)
        ) as table:
            present = table.load(_index(int(page.start_address), first.level), count)
        for later in np.flatnonzero(present & np.uint64(_PRESENT))[:1].tolist():
            step = Step(first.level, first.address + 8 * later, int(present[later]))
            self._refuse_mapped(page + later, step)

    def _is_reserved(self, step: Step) -> bool:
        return bool(step.raw & self._reserved[step.level][step.raw >> 7 & 1])

    def _canonical(self, va: SupportsIndex) -> int:
        value = va.__index__()
        if not is_canonical(value, self._levels):
            raise InvalidRequest(
                f"an address must be canonical for {self._levels} levels, got {value:#x}"
            )
        return value

    def _one_half(self, start: int, length: int) -> bool:
        last = start + length - 1
        return last < 1 << 64 and is_canonical(last, self._levels) and not (start ^ last) >> 63

    def _leaf(self, address: int, flags: int, size: PageSize) -> int:
        if size is not PageSize.Size4KiB:
            flags |= _HUGE
        allowed = ~(ADDRESS_MASK & -size.value)
        self._check_flags(flags, allowed, f"a {size.letter} page")
        raw = address | flags
        reserved = raw & self._reserved[size.level][raw >> 7 & 1]
        if reserved:
            raise InvalidRequest(
                f"a {size.letter} page's entry must not have bits that this CPU reserves, got "
                f"{reserved:#x} in {raw:#x}"
            )
        return raw

    def _link_flags(self, flags: PageTableFlags) -> int:
        links = int(flags)
        reserved = 0 if self._access.cpu.nxe else int(PageTableFlags.NO_EXECUTE)
        self._check_flags(links, ~(ADDRESS_MASK | _HUGE | reserved), "a table")
        return links

    def _check_flags(self, flags: int, allowed: int, what: str) -> None:
        if not flags & _PRESENT:
            raise InvalidRequest(
                f"the flags of {what} must hold PRESENT (unmap takes a page out), got "
                f"{PageTableFlags(flags)!r}"
            )
        if flags & ~allowed or flags < 0 or flags >> 64:
            raise InvalidRequest(
                f"the flags of {what} must not hold other bits than its flags, got "
                f"{flags & ~allowed:#x} in {flags:#x}"
            )


def _index(va: int, level: int) -> int:
    return va >> (3 + 9 * level) & 511


def _frame(address: int) -> PhysFrame:
    return PhysFrame.from_start_address(PhysAddr(address & ADDRESS_MASK))
