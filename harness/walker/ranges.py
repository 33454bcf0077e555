"""A whole address space, piece by piece, as the tables cut it.

:func:`ranges` is drgn's page-table iterator: each step gives the range that one entry decides,
and goes on at that range's end, so that the ranges cover all 2**64 addresses without a break.
Pages are ranges, and so is what is not a page: the span of a not-present entry, of an entry with
a reserved bit, of an entry whose table is not RAM, and the non-canonical hole. Ranges are never
merged: a 2 MiB page is one range, 512 neighbouring 4 KiB pages are 512.

>>> for piece in ranges(memory, cpu):  # doctest: +SKIP
...     print(piece)
<Range 0x0..0x1000: page of 4K at 0x5000, u->

:func:`leaves` gives the pages alone, as columns: half a million in a fraction of a second.

Neither fails on damaged tables. Both follow every entry that a CPU would follow, and stop at
level 1 as it does, so that a recursive slot shows what the CPU sees there: each table of the
address space once more, as a 4 KiB page. Tables that refer to each other all over can therefore
describe more pages than any machine could list: ``ranges`` is lazy, and ``leaves`` has a limit.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.address import PageSize
from harness.cpu import CpuState
from harness.entry import ADDRESS_MASK, PageTableEntry, PageTableFlags
from harness.errors import InputError
from harness.memory import PhysicalMemory
from harness.walker.scalar import reserved_masks

__all__ = ["Leaf", "Leaves", "Range", "RangeKind", "leaves", "ranges"]

_U64 = np.uint64
_PRESENT = int(PageTableFlags.PRESENT)
_WRITABLE = int(PageTableFlags.WRITABLE)
_USER = int(PageTableFlags.USER_ACCESSIBLE)
_HUGE = int(PageTableFlags.HUGE_PAGE)
_NO_EXECUTE = int(PageTableFlags.NO_EXECUTE)
_EVERYTHING = (1 << 64) - 1
_PAGE_SIZES = {int(size): size for size in PageSize}
# Tables expanded at once by ``leaves``: 16 MiB of entries.
_TABLES_AT_ONCE = 1 << 12


class RangeKind(enum.StrEnum):
    """What a range of addresses is."""

    PAGE = "page"
    GAP = "gap"
    RESERVED = "reserved"
    OUTSIDE = "outside"
    HOLE = "hole"

    @property
    def meaning(self) -> str:
        """Say it in words."""
        return _MEANINGS[self]


_MEANINGS = {
    RangeKind.PAGE: "mapped by a leaf entry",
    RangeKind.GAP: "the entry is not present",
    RangeKind.RESERVED: "the entry is present and has a reserved bit set: every access faults",
    RangeKind.OUTSIDE: "the entry leads to a table that is not in RAM",
    RangeKind.HOLE: "the addresses are not canonical",
}


class Range(NamedTuple):
    """The addresses that one entry decides.

    :ivar start: the first address
    :ivar end: the address behind the last one; 2**64 for the last range
    :ivar level: the entry's level; None for the hole, and for a root table outside RAM
    :ivar entry_address: where the entry lies; None where ``level`` is
    :ivar raw: the entry, 0 where there is none
    :ivar pa: for a page, its first physical address, else None
    :ivar user: for a page, whether all levels let user code use it
    :ivar writable: for a page, whether all levels let it be written
    :ivar executable: for a page, whether all levels let code be fetched from it
    """

    start: int
    end: int
    kind: RangeKind
    level: int | None = None
    entry_address: int | None = None
    raw: int = 0
    pa: int | None = None
    user: bool = False
    writable: bool = False
    executable: bool = False

    @property
    def size(self) -> int:
        """Give the number of bytes."""
        return self.end - self.start

    @property
    def page_size(self) -> PageSize | None:
        """Give the page's size; None for what is not a page."""
        return PageSize(self.size) if self.kind is RangeKind.PAGE else None

    @property
    def entry(self) -> PageTableEntry | None:
        """Decode the entry, if there is one."""
        return None if self.level is None else PageTableEntry(self.raw, self.level)

    def __repr__(self) -> str:
        head = f"<Range {self.start:#_x}..{self.end:#_x}: {self.kind}"
        if self.page_size is None:
            return f"{head}>"
        rights = zip("uwx", (self.user, self.writable, self.executable), strict=True)
        letters = "".join(letter if holds else "-" for letter, holds in rights)
        return f"{head} of {self.page_size.letter} at {self.pa:#_x}, {letters}>"


def ranges(memory: PhysicalMemory, cpu: CpuState) -> Iterator[Range]:
    """Go through all 2**64 addresses, lowest first, range by range.

    What the rights mean for one access is for ``walk`` to say; the reserved bits are judged here.

    :param memory: the physical memory that holds the tables
    :param cpu: its root table, levels, and what makes a bit reserved
    """
    half = 1 << 9 * cpu.levels + 11
    upper = (1 << 64) - half
    if memory.offset(cpu.root) < 0:
        yield Range(0, half, RangeKind.OUTSIDE)
        yield Range(half, upper, RangeKind.HOLE)
        yield Range(upper, 1 << 64, RangeKind.OUTSIDE)
        return
    masks = reserved_masks(cpu)
    entries = memory.frame(cpu.root).tolist()
    yield from _table(memory, masks, cpu.root, entries[:256], cpu.levels, 0, _EVERYTHING)
    yield Range(half, upper, RangeKind.HOLE)
    yield from _table(
        memory, masks, cpu.root + 0x800, entries[256:], cpu.levels, upper, _EVERYTHING
    )


def _table(
    memory: PhysicalMemory,
    masks: tuple[tuple[int, int], ...],
    address: int,
    entries: list[int],
    level: int,
    start: int,
    granted: int,
) -> Iterator[Range]:
    # The ranges of some entries of a table: ``address`` is the first entry's, ``start`` the
    # first address that it decides, ``granted`` what the levels above allow.
    span = 8 << 9 * level
    small, big = masks[level]
    for raw in entries:
        end = start + span
        if not raw & _PRESENT:
            yield Range(start, end, RangeKind.GAP, level, address, raw)
        elif raw & (big if raw & _HUGE else small):
            yield Range(start, end, RangeKind.RESERVED, level, address, raw)
        elif level == 1 or raw & _HUGE:
            rights = granted & (raw ^ _NO_EXECUTE)
            yield Range(
                start,
                end,
                RangeKind.PAGE,
                level,
                address,
                raw,
                raw & ADDRESS_MASK & -span,
                rights & _USER != 0,
                rights & _WRITABLE != 0,
                rights & _NO_EXECUTE != 0,
            )
        elif memory.offset(raw & ADDRESS_MASK) < 0:
            yield Range(start, end, RangeKind.OUTSIDE, level, address, raw)
        else:
            table = raw & ADDRESS_MASK
            below = memory.frame(table).tolist()
            rights = granted & (raw ^ _NO_EXECUTE)
            yield from _table(memory, masks, table, below, level - 1, start, rights)
        start = end
        address += 8


class Leaf(NamedTuple):
    """One page: a row of :class:`Leaves`."""

    va: int
    pa: int
    size: PageSize
    raw: int
    user: bool
    writable: bool
    executable: bool

    @property
    def entry(self) -> PageTableEntry:
        """Decode the leaf entry."""
        return PageTableEntry(self.raw, self.size.level)


@dataclass(frozen=True, slots=True, eq=False)
class Leaves:
    """Every page of an address space, by virtual address, in columns of one length.

    :ivar va: the page's first address
    :ivar pa: the frame's first address
    :ivar size: bytes
    :ivar raw: the leaf entry
    :ivar user: whether all levels let user code use it
    :ivar writable: whether all levels let it be written
    :ivar executable: whether all levels let code be fetched from it
    """

    va: NDArray[np.uint64]
    pa: NDArray[np.uint64]
    size: NDArray[np.uint64]
    raw: NDArray[np.uint64]
    user: NDArray[np.bool_]
    writable: NDArray[np.bool_]
    executable: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.va)

    def __getitem__(self, row: int) -> Leaf:
        return Leaf(
            int(self.va[row]),
            int(self.pa[row]),
            PageSize(int(self.size[row])),
            int(self.raw[row]),
            bool(self.user[row]),
            bool(self.writable[row]),
            bool(self.executable[row]),
        )

    def __iter__(self) -> Iterator[Leaf]:
        sizes = map(_PAGE_SIZES.__getitem__, self.size.tolist())
        rights = (self.user.tolist(), self.writable.tolist(), self.executable.tolist())
        return map(Leaf, self.va.tolist(), self.pa.tolist(), sizes, self.raw.tolist(), *rights)


class _Entries(NamedTuple):
    # Entries in columns: the first address that each decides, its value, the rights so far.
    va: NDArray[np.uint64]
    raw: NDArray[np.uint64]
    granted: NDArray[np.uint64]

    def where(self, mask: NDArray[np.bool_]) -> "_Entries":
        return _Entries(self.va[mask], self.raw[mask], self.granted[mask])


def leaves(memory: PhysicalMemory, cpu: CpuState, *, limit: int = 1 << 24) -> Leaves:
    """List every page of an address space.

    An entry that is not present, has a reserved bit set or leads out of RAM maps nothing.

    :param memory: the physical memory that holds the tables
    :param cpu: its root table, levels, and what makes a bit reserved
    :param limit: how many pages, and tables of one level, there may be
    :raises InputError: there are more, as in tables that refer to each other in circles
    """
    masks = reserved_masks(cpu)
    pages: list[tuple[int, _Entries]] = []
    # The root is entered as if an entry above it had led there.
    tables = _Entries(*(np.array([n], _U64) for n in (0, cpu.root, _EVERYTHING)))
    for level in range(cpu.levels, 0, -1):
        below: list[_Entries] = []
        for first in range(0, len(tables.va), _TABLES_AT_ONCE):
            batch = _Entries(*(column[first : first + _TABLES_AT_ONCE] for column in tables))
            entries = _expand(memory, masks, batch, level)
            leaf = entries.raw & _HUGE != 0 if level > 1 else np.full(len(entries.raw), True)
            pages.append((level, entries.where(leaf)))
            below.append(entries.where(~leaf))
            for found in (sum(len(page.va) for _, page in pages), sum(len(t.va) for t in below)):
                if found > limit:
                    raise InputError(
                        f"page tables must describe at most {limit} pages, not {found} or more"
                    )
        tables = _Entries(*map(np.concatenate, zip(*below, strict=True)))
        if not len(tables.va):
            break
    return _gather(pages, cpu.levels)


def _expand(
    memory: PhysicalMemory, masks: tuple[tuple[int, int], ...], tables: _Entries, level: int
) -> _Entries:
    # The entries of some tables that a CPU would follow.
    offsets = memory.offsets(tables.raw & _U64(ADDRESS_MASK))
    if (offsets < 0).any():
        tables = tables.where(offsets >= 0)
        offsets = offsets[offsets >= 0]
    index = np.arange(512, dtype=np.int64)
    raw = memory.words[(offsets >> 3)[:, None] + index]
    va = tables.va[:, None] + (index.astype(_U64) << _U64(9 * level + 3))
    granted = np.broadcast_to(tables.granted[:, None], raw.shape)
    small, big = masks[level]
    good = (raw & _PRESENT != 0) & (raw & np.where(raw & _HUGE, _U64(big), _U64(small)) == 0)
    return _Entries(va[good], raw[good], granted[good] & (raw[good] ^ _NO_EXECUTE))


def _gather(pages: list[tuple[int, _Entries]], levels: int) -> Leaves:
    sizes = [_U64(PageSize.of_level(level)) for level, page in pages if len(page.va)]
    parts = [page for _, page in pages if len(page.va)] or [pages[0][1]]
    entries = _Entries(*map(np.concatenate, zip(*parts, strict=True)))
    size = np.repeat(np.array(sizes, _U64), [len(part.va) for part in parts if len(part.va)])
    unused = 64 - (9 * levels + 12)
    va = (entries.va.view(np.int64) << unused >> unused).view(_U64)
    if (va[1:] < va[:-1]).any():
        order = np.argsort(va, kind="stable")
        va, size, entries = va[order], size[order], _Entries(*(c[order] for c in entries))
    return Leaves(
        va,
        entries.raw & _U64(ADDRESS_MASK) & ~(size - _U64(1)),
        size,
        entries.raw,
        entries.granted & _USER != 0,
        entries.granted & _WRITABLE != 0,
        entries.granted & _NO_EXECUTE != 0,
    )
