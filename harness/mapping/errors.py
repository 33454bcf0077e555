"""Why a mapper refused, with the level and the entry that stood in the way.

::

    MappingError
    ├── AtEntry                     about one page and one entry: page, level, entry_address, raw
    │   ├── MapToError              .FrameAllocationFailed .ParentEntryHugePage
    │   │                           .PageAlreadyMapped .InvalidFrameAddress
    │   ├── UnmapError              .ParentEntryHugePage .PageNotMapped .InvalidFrameAddress
    │   ├── FlagUpdateError         .ParentEntryHugePage .PageNotMapped .InvalidFrameAddress
    │   └── TranslateError          .ParentEntryHugePage .PageNotMapped .InvalidFrameAddress
    ├── InvalidRequest              also a ValueError: no entry of this CPU can hold what was asked
    ├── InvalidPageTable            .NotRecursive .NotActive
    ├── AccessFault                 a virtual access of the mapper's own faulted: walk
    │   └── TableNotVisible         ... and it was to a page table: the trick does not work here
    ├── AddressTaken                the virtual page that a table must appear at shows another frame
    ├── OutsideWindow               a fixed-offset window has no tables to show a frame with
    └── NoFreeSlot                  all the slots of a temporary mapping table are in use

The variants are classes that can be caught by either name: ``MapToError.ParentEntryHugePage`` is
both a :class:`MapToError` and a :class:`ParentEntryHugePage`, which any operation may raise.

>>> from harness.mapping import MapToError, ParentEntryHugePage
>>> issubclass(MapToError.ParentEntryHugePage, ParentEntryHugePage)
True

Source: the error enums of the crate's ``structures::paging::mapper``. Ours adds
``InvalidFrameAddress`` to map_to and to flag updates: the crate follows an entry with reserved
bits as if they were part of the address.
"""

from __future__ import annotations

from typing import ClassVar

from harness.address import (
    Page,
    PhysAddr,
    PhysFrame,
    VirtAddr,
    entry_name,
    format_address,
    table_name,
)
from harness.entry import PageTableEntry
from harness.errors import MappingError
from harness.walker import Step, Walk

__all__ = [
    "AccessFault",
    "AddressTaken",
    "AtEntry",
    "FlagUpdateError",
    "FrameAllocationFailed",
    "InvalidFrameAddress",
    "InvalidPageTable",
    "InvalidRequest",
    "MapToError",
    "NoFreeSlot",
    "OutsideWindow",
    "PageAlreadyMapped",
    "PageNotMapped",
    "ParentEntryHugePage",
    "TableNotVisible",
    "TranslateError",
    "UnmapError",
]


class AtEntry(MappingError):
    """An operation on a page met an entry that it could not go on with.

    :ivar page: the page that was asked for.
    :ivar level: the level of the entry, 1 to 5.
    :ivar entry_address: the physical address of the entry.
    :ivar raw: the entry.
    """

    def __init__(self, page: Page, step: Step) -> None:
        self.page = page
        self.level = step.level
        self.entry_address = PhysAddr(step.address)
        self.raw = step.raw
        super().__init__(f"{self._rule()}, got the {self._entry()}")

    def _rule(self) -> str:
        raise NotImplementedError

    def _page(self) -> str:
        return f"the {self.page.size.letter} page {format_address(self.page.start_address)}"

    def _entry(self) -> str:
        described = PageTableEntry(self.raw, self.level).describe()
        return f"{described}, at physical address {format_address(self.entry_address)}"


class FrameAllocationFailed(AtEntry):
    """A new page table was needed, and the allocator had no frame for it."""

    def _rule(self) -> str:
        return (
            f"a frame must be left for each new table on the way to {self._page()} "
            f"(a {table_name(self.level - 1)} is the first that is missing)"
        )


class ParentEntryHugePage(AtEntry):
    """The page lies inside a bigger page: where the next table should be, there is a page."""

    def _rule(self) -> str:
        return f"{self._page()} must be reached through tables only"


class PageAlreadyMapped(AtEntry):
    """The page is mapped, or, if it is a big one, a table stands in its entry.

    :ivar frame: what the page is mapped to; None when the entry holds a table.
    """

    def __init__(self, page: Page, step: Step) -> None:
        entry = PageTableEntry(step.raw, step.level)
        self.frame: PhysFrame | None = entry.frame() if entry.is_page else None
        super().__init__(page, step)

    def _rule(self) -> str:
        return f"{self._page()} must not be mapped yet"


class PageNotMapped(AtEntry):
    """No page of that size is mapped there: the entry is not present, or holds a table."""

    def _rule(self) -> str:
        return f"{self._page()} must be mapped"


class InvalidFrameAddress(AtEntry):
    """A present entry has reserved bits set, so that the CPU faults on whatever lies behind it.

    :ivar address: the bits 51:12 of the entry.
    """

    def __init__(self, page: Page, step: Step) -> None:
        self.address = PhysAddr(step.raw & 0x000F_FFFF_FFFF_F000)
        super().__init__(page, step)

    def _rule(self) -> str:
        return f"on the way to {self._page()} no entry may have a reserved bit set"


class MapToError(AtEntry):
    """``map_to`` and its kin failed, and changed nothing."""

    FrameAllocationFailed: ClassVar[type[_MapToFrameAllocationFailed]]
    ParentEntryHugePage: ClassVar[type[_MapToParentEntryHugePage]]
    PageAlreadyMapped: ClassVar[type[_MapToPageAlreadyMapped]]
    InvalidFrameAddress: ClassVar[type[_MapToInvalidFrameAddress]]


class UnmapError(AtEntry):
    """``unmap`` failed, and changed nothing."""

    ParentEntryHugePage: ClassVar[type[_UnmapParentEntryHugePage]]
    PageNotMapped: ClassVar[type[_UnmapPageNotMapped]]
    InvalidFrameAddress: ClassVar[type[_UnmapInvalidFrameAddress]]


class FlagUpdateError(AtEntry):
    """``update_flags`` or a ``set_flags_p*_entry`` failed, and changed nothing."""

    ParentEntryHugePage: ClassVar[type[_FlagUpdateParentEntryHugePage]]
    PageNotMapped: ClassVar[type[_FlagUpdatePageNotMapped]]
    InvalidFrameAddress: ClassVar[type[_FlagUpdateInvalidFrameAddress]]


class TranslateError(AtEntry):
    """``translate_page`` found no page of that size."""

    ParentEntryHugePage: ClassVar[type[_TranslateParentEntryHugePage]]
    PageNotMapped: ClassVar[type[_TranslatePageNotMapped]]
    InvalidFrameAddress: ClassVar[type[_TranslateInvalidFrameAddress]]


# An exception class cannot hold its own subclasses, so each variant is made here and hung up below
# under the crate's name, which is also the name that it shows and is pickled by.
class _MapToFrameAllocationFailed(FrameAllocationFailed, MapToError):
    __qualname__ = "MapToError.FrameAllocationFailed"


class _MapToParentEntryHugePage(ParentEntryHugePage, MapToError):
    __qualname__ = "MapToError.ParentEntryHugePage"


class _MapToPageAlreadyMapped(PageAlreadyMapped, MapToError):
    __qualname__ = "MapToError.PageAlreadyMapped"


class _MapToInvalidFrameAddress(InvalidFrameAddress, MapToError):
    __qualname__ = "MapToError.InvalidFrameAddress"


class _UnmapParentEntryHugePage(ParentEntryHugePage, UnmapError):
    __qualname__ = "UnmapError.ParentEntryHugePage"


class _UnmapPageNotMapped(PageNotMapped, UnmapError):
    __qualname__ = "UnmapError.PageNotMapped"


class _UnmapInvalidFrameAddress(InvalidFrameAddress, UnmapError):
    __qualname__ = "UnmapError.InvalidFrameAddress"


class _FlagUpdateParentEntryHugePage(ParentEntryHugePage, FlagUpdateError):
    __qualname__ = "FlagUpdateError.ParentEntryHugePage"


class _FlagUpdatePageNotMapped(PageNotMapped, FlagUpdateError):
    __qualname__ = "FlagUpdateError.PageNotMapped"


class _FlagUpdateInvalidFrameAddress(InvalidFrameAddress, FlagUpdateError):
    __qualname__ = "FlagUpdateError.InvalidFrameAddress"


class _TranslateParentEntryHugePage(ParentEntryHugePage, TranslateError):
    __qualname__ = "TranslateError.ParentEntryHugePage"


class _TranslatePageNotMapped(PageNotMapped, TranslateError):
    __qualname__ = "TranslateError.PageNotMapped"


class _TranslateInvalidFrameAddress(InvalidFrameAddress, TranslateError):
    __qualname__ = "TranslateError.InvalidFrameAddress"


MapToError.FrameAllocationFailed = _MapToFrameAllocationFailed
MapToError.ParentEntryHugePage = _MapToParentEntryHugePage
MapToError.PageAlreadyMapped = _MapToPageAlreadyMapped
MapToError.InvalidFrameAddress = _MapToInvalidFrameAddress
UnmapError.ParentEntryHugePage = _UnmapParentEntryHugePage
UnmapError.PageNotMapped = _UnmapPageNotMapped
UnmapError.InvalidFrameAddress = _UnmapInvalidFrameAddress
FlagUpdateError.ParentEntryHugePage = _FlagUpdateParentEntryHugePage
FlagUpdateError.PageNotMapped = _FlagUpdatePageNotMapped
FlagUpdateError.InvalidFrameAddress = _FlagUpdateInvalidFrameAddress
TranslateError.ParentEntryHugePage = _TranslateParentEntryHugePage
TranslateError.PageNotMapped = _TranslatePageNotMapped
TranslateError.InvalidFrameAddress = _TranslateInvalidFrameAddress


class InvalidRequest(MappingError, ValueError):
    """What was asked for cannot be written into an entry, or into the entries of this CPU."""


class InvalidPageTable(MappingError):
    """The table given to ``RecursivePageTable.new`` cannot serve.

    :ivar table: the address that was given.
    """

    NotRecursive: ClassVar[type[_NotRecursive]]
    NotActive: ClassVar[type[_NotActive]]

    def __init__(self, table: VirtAddr, message: str) -> None:
        self.table = table
        super().__init__(message)


class _NotRecursive(InvalidPageTable):
    __qualname__ = "InvalidPageTable.NotRecursive"


class _NotActive(InvalidPageTable):
    __qualname__ = "InvalidPageTable.NotActive"


InvalidPageTable.NotRecursive = _NotRecursive
InvalidPageTable.NotActive = _NotActive


class AccessFault(MappingError):
    """A virtual access that a mapper made faulted on the CPU that it runs on.

    :ivar walk: the access, with its fault, its rule and its steps.
    """

    def __init__(self, walk: Walk, what: str = "a mapper's access") -> None:
        self.walk = walk
        super().__init__(
            f"{what} must go through virtual memory, got {walk.outcome} "
            f"(rule {walk.rule}{_deciding(walk)}) for the {walk.access.kind} of "
            f"{format_address(walk.va)}"
        )


class TableNotVisible(AccessFault):
    """A page table does not appear at the virtual address where the mapper's trick expects it.

    :ivar level: the level of the table.
    :ivar frame: the frame that it is in.
    """

    def __init__(self, walk: Walk, level: int, frame: PhysFrame) -> None:
        self.level = level
        self.frame = frame
        where = format_address(frame.start_address)
        super().__init__(walk, f"the {table_name(level)} at physical address {where}")


class AddressTaken(MappingError):
    """A table's frame must appear at a virtual page that is in use for something else.

    :ivar page: the virtual page.
    :ivar frame: the frame of the table.
    :ivar taken_by: the frame that is mapped there now.
    """

    def __init__(self, page: Page, frame: PhysFrame, taken_by: PhysFrame) -> None:
        self.page = page
        self.frame = frame
        self.taken_by = taken_by
        super().__init__(
            f"the virtual page {format_address(page.start_address)} must be free or show the table "
            f"at {format_address(frame.start_address)}, got a mapping to "
            f"{format_address(taken_by.start_address)}"
        )


class OutsideWindow(MappingError):
    """A frame is to become a table, and the window that must show it has no table for its page.

    :ivar frame: the frame.
    :ivar page: the virtual page at which the window would show it.
    :ivar level: the level of the window's first table that is missing.
    """

    def __init__(self, page: Page, frame: PhysFrame, level: int) -> None:
        self.page = page
        self.frame = frame
        self.level = level
        super().__init__(
            f"the window must have its tables before a frame becomes a table, got the frame at "
            f"{format_address(frame.start_address)}, whose window page "
            f"{format_address(page.start_address)} has no {table_name(level)}"
        )


class NoFreeSlot(MappingError):
    """Every slot of a temporary mapping table is in use.

    :ivar table: the virtual page of the table.
    """

    def __init__(self, table: Page) -> None:
        self.table = table
        super().__init__(
            f"a slot of the temporary mapping table at {format_address(table.start_address)} must "
            f"be free, got none in 512 (one of them shows the table itself)"
        )


def _deciding(walk: Walk) -> str:
    return f" at the {entry_name(walk.level)}" if walk.level is not None else ""
