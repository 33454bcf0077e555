"""Fixed offset: only the page tables are mapped, each at its physical address plus an offset.

The window is a part of virtual memory in which the page at ``offset + f`` shows frame ``f``, if
``f`` holds a page table, and is not mapped otherwise. Nothing else of physical memory can be seen
through it, which is the point, and which costs two things:

* *Each new page table needs a new mapping.* Before a frame becomes a table, the window's own
  level-1 table must get an entry for it. That table is a page table and so visible in the window;
  but where no level-1 table exists for that part of the window, making one would need a further
  mapping of the same kind. This mapper does not chase its tail: the window's tables are made
  beforehand (``make_window`` in :mod:`harness.mapping.bootstrap`, as a bootloader would), and a
  frame outside of what they reach raises :class:`OutsideWindow`, which names the missing table.
* *Tables of other address spaces cannot be seen*, unless someone maps them too:
  :class:`TableNotVisible`.

>>> mapper = FixedOffsetPageTable(space, offset=10 << 40)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import SupportsIndex

from harness.address import Page, PageSize, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.frames import EmptyFrameAllocator
from harness.mapping.errors import (
    AddressTaken,
    InvalidRequest,
    MapToError,
    OutsideWindow,
    TranslateError,
)
from harness.mapping.mapped import MappedAccess
from harness.mapping.mapper import Mapper
from harness.mapping.offset import PhysOffset
from harness.mapping.space import AddressSpace
from harness.mapping.translate import TranslateResult

__all__ = ["FixedOffsetPageTable"]

_FLAGS = PageTableFlags.PRESENT | PageTableFlags.WRITABLE


class _Window(MappedAccess):
    # Shows the tables at an offset, and maps each new one there.
    def __init__(self, space: AddressSpace, offset: SupportsIndex) -> None:
        super().__init__(space, PhysOffset(offset, space.cpu.levels))
        self._first = int(offset)
        ram = max(region.end for region in space.memory.regions)
        size = -(-ram // PageSize.Size2MiB) * PageSize.Size2MiB.value
        self._last = self._first + size - 1

    def admit(self, frame: PhysFrame) -> None:
        page = self._page(frame)
        try:
            self._window().map_to(page, frame, _FLAGS, EmptyFrameAllocator()).ignore()
        except MapToError.FrameAllocationFailed as error:
            raise OutsideWindow(page, frame, error.level - 1) from error
        except (MapToError.PageAlreadyMapped, MapToError.ParentEntryHugePage) as error:
            shown = self._window().translate(page.start_address)
            assert isinstance(shown, TranslateResult.Mapped)
            if shown.address != frame.start_address:
                raise AddressTaken(page, frame, shown.frame) from error

    def retire(self, frame: PhysFrame, level: int, va: int) -> None:
        page = self._page(frame)
        try:
            shown = self._window().translate_page(page)
        except TranslateError:
            return
        if shown == frame:
            self._window().unmap(page)[1].flush()

    def owns(self, first: int, last: int) -> bool:
        mask = (1 << (12 + 9 * self.cpu.levels)) - 1
        return self._first & mask <= first and last <= self._last & mask

    def _window(self) -> Mapper:
        return Mapper(self, self.space.root)

    def _page(self, frame: PhysFrame) -> Page:
        return Page.from_start_address(self.mapping.frame_to_pointer(frame))


class FixedOffsetPageTable(Mapper):
    """A mapper that sees page tables, and only them, at a fixed offset.

    :param space: whose active tables hold the window.
    :param offset: where frame 0 would appear; a multiple of 2 MiB.
    :param root: the top-level table to work on; by default the active one.
    :raises InvalidRequest: the offset is not aligned.
    """

    def __init__(
        self, space: AddressSpace, offset: SupportsIndex, root: PhysFrame | None = None
    ) -> None:
        if int(offset) % PageSize.Size2MiB:
            raise InvalidRequest(
                f"the offset of a window must be a multiple of 2 MiB, got {int(offset):#x}"
            )
        self.offset = VirtAddr(int(offset), space.cpu.levels)
        super().__init__(_Window(space, offset), space.root if root is None else root)
