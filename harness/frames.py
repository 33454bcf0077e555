"""Physical frames: who gives them out, and who takes them back.

A mapper that needs a new page table asks an allocator for a 4 KiB frame. Where the frames come
from is the kernel's business, so an allocator is anything with ``allocate_frame``:

* :class:`BootInfoFrameAllocator` hands out the usable regions of the bootloader's memory map, low
  addresses first, and takes nothing back: the lecture's next chapter begins with it;
* :class:`BitmapFrameAllocator` knows the state of every frame, hands out big frames too, and takes
  frames back. Freeing a frame that is not allocated is refused, since a frame that two owners
  believe to be theirs is the hardest of bugs to find later;
* :class:`EmptyFrameAllocator` has none, for mappings whose tables are known to exist.

An allocator that has run out answers None, as the ``x86_64`` crate's does: what that means is for
the caller to say.

>>> from harness.frames import BootInfoFrameAllocator
>>> frames = BootInfoFrameAllocator([(0x0, 0x1000, False), (0x1000, 0x3000, True)])
>>> [hex(frames.allocate_frame().start_address), frames.remaining]
['0x1000', 1]
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol, runtime_checkable

from harness.address import PageSize, PhysAddr, PhysFrame, format_address
from harness.errors import MappingError

__all__ = [
    "BitmapFrameAllocator",
    "BootInfoFrameAllocator",
    "EmptyFrameAllocator",
    "FrameAllocator",
    "FrameDeallocator",
    "FrameNotAllocated",
    "MemoryMapRegion",
    "usable_ranges",
]

_FRAME = PageSize.Size4KiB.value


@runtime_checkable
class FrameAllocator(Protocol):
    """Gives out unused 4 KiB frames."""

    def allocate_frame(self) -> PhysFrame | None:
        """Give a frame that nobody else has, or None when there is none."""


@runtime_checkable
class FrameDeallocator(Protocol):
    """Takes frames back."""

    def deallocate_frame(self, frame: PhysFrame) -> None:
        """Take back a frame that nobody uses any more."""


class MemoryMapRegion(Protocol):
    """A region of a bootloader's memory map; its end is exclusive."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def region_type(self) -> object: ...


class FrameNotAllocated(MappingError, ValueError):
    """A frame was given back that is not allocated (a double free, or not this allocator's)."""

    def __init__(self, frame: PhysFrame, given: str) -> None:
        super().__init__(
            f"a frame must be allocated to be given back, got the frame at "
            f"{format_address(int(frame.start_address))}, which {given}"
        )
        self.frame = frame


def usable_ranges(
    memory_map: Iterable[tuple[int, int, bool] | MemoryMapRegion],
) -> list[tuple[int, int]]:
    """Give the whole frames of a memory map that are usable, as sorted, disjoint ranges.

    A range is (first address, address after the last). A frame that any region which is not usable
    touches is left out, and one that two usable regions name is given once.

    :param memory_map: regions as (start, end, is usable), or as objects with ``start``, ``end`` and
        ``region_type``, whose name is ``Usable`` for those that are.
    :raises ValueError: a region that ends before it starts.
    """
    usable: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    for region in memory_map:
        start, end, is_usable = _read_region(region)
        if end < start:
            raise ValueError(
                f"a region must not end before it starts, got {start:#x} to {end:#x}",
            )
        if is_usable:
            usable.append((-(-start // _FRAME) * _FRAME, end // _FRAME * _FRAME))
        elif end > start:
            taken.append((start // _FRAME * _FRAME, -(-end // _FRAME) * _FRAME))
    taken.sort()
    ranges: list[tuple[int, int]] = []
    for start, end in sorted(usable):
        start = max(start, ranges[-1][1]) if ranges else start
        for hole_start, hole_end in taken:
            if hole_end <= start or hole_start >= end:
                continue
            if hole_start > start:
                ranges.append((start, hole_start))
            start = hole_end
        if start < end:
            ranges.append((start, end))
    return ranges


class BootInfoFrameAllocator:
    """Hand out the usable frames of a bootloader's memory map, low addresses first.

    It takes nothing back: a frame that a failed mapping asked for is lost, as in the lecture.

    :param memory_map: as for :func:`usable_ranges`.
    """

    def __init__(self, memory_map: Iterable[tuple[int, int, bool] | MemoryMapRegion]) -> None:
        self._ranges = usable_ranges(memory_map)
        self._position = 0
        self._next = self._ranges[0][0] if self._ranges else 0
        self.allocated = 0

    @property
    def remaining(self) -> int:
        """The number of frames that are left."""
        total = sum(end - start for start, end in self._ranges) // _FRAME
        return total - self.allocated

    def allocate_frame(self) -> PhysFrame | None:
        """Give the lowest usable frame that was not given out before, or None."""
        while self._position < len(self._ranges):
            if self._next < self._ranges[self._position][1]:
                frame = PhysFrame.from_start_address(PhysAddr(self._next))
                self._next += _FRAME
                self.allocated += 1
                return frame
            self._position += 1
            if self._position < len(self._ranges):
                self._next = self._ranges[self._position][0]
        return None


class BitmapFrameAllocator:
    """Hand out and take back frames, knowing the state of each; the lowest free one goes first.

    :param ranges: (first address, address after the last) of the memory to manage; whole frames.
    :raises ValueError: a range that is not made of whole frames, or that overlaps another.
    """

    _FREE, _USED, _FOREIGN = 0, 1, 2

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        listed = sorted(ranges)
        for start, end in listed:
            if start % _FRAME or end % _FRAME or end < start:
                raise ValueError(
                    f"a range must be made of whole 4 KiB frames, got {start:#x} to {end:#x}"
                )
        for (_, end), (start, _) in pairwise(listed):
            if start < end:
                raise ValueError(f"ranges must not overlap, got two that hold {start:#x}")
        # One byte a frame, not one bit: `bytearray.find` is then the search for a free frame.
        self._base = listed[0][0] // _FRAME if listed else 0
        self._state = bytearray(b"\2" * (listed[-1][1] // _FRAME - self._base if listed else 0))
        for start, end in listed:
            first = start // _FRAME - self._base
            self._state[first : end // _FRAME - self._base] = bytes((end - start) // _FRAME)
        self._no_free_below = 0
        self.free = self._state.count(self._FREE)
        self.allocated = 0

    @classmethod
    def from_memory_map(
        cls, memory_map: Iterable[tuple[int, int, bool] | MemoryMapRegion]
    ) -> BitmapFrameAllocator:
        """Manage the usable frames of a bootloader's memory map."""
        return cls(usable_ranges(memory_map))

    def allocate_frame(self, size: PageSize = PageSize.Size4KiB) -> PhysFrame | None:
        """Give the lowest free frame of that size, or None.

        :param size: a big frame is aligned to its size, and is 512 or 262,144 free 4 KiB frames.
        """
        count = size.value // _FRAME
        first = self._find_free(count)
        if first is None:
            return None
        self._state[first : first + count] = b"\1" * count
        self.free -= count
        self.allocated += count
        address = PhysAddr((self._base + first) * _FRAME)
        return PhysFrame.from_start_address(address, size)

    def deallocate_frame(self, frame: PhysFrame) -> None:
        """Take back a frame, of the size it was given out with or of a smaller one.

        :raises FrameNotAllocated: a part of it is free already, or is not this allocator's; then
            nothing is taken back.
        """
        count = frame.size.value // _FRAME
        first = int(frame.start_address) // _FRAME - self._base
        states = self._state[first : first + count] if first >= 0 else b""
        if len(states) < count or self._FOREIGN in states:
            raise FrameNotAllocated(frame, "this allocator does not manage")
        if self._FREE in states:
            raise FrameNotAllocated(frame, "is free already (a double free)")
        self._state[first : first + count] = bytes(count)
        self._no_free_below = min(self._no_free_below, first)
        self.free += count
        self.allocated -= count

    def is_allocated(self, frame: PhysFrame) -> bool:
        """Say whether all of a frame is given out."""
        count = frame.size.value // _FRAME
        first = int(frame.start_address) // _FRAME - self._base
        return first >= 0 and self._state[first : first + count] == b"\1" * count

    def reserve(self, start: int, end: int) -> None:
        """Count the frames from ``start`` up to ``end`` as given out: they were in use before.

        :raises ValueError: not whole frames, or one of them is not free.
        """
        first, last = start // _FRAME - self._base, end // _FRAME - self._base
        states = self._state[first:last] if first >= 0 else b""
        if start % _FRAME or end % _FRAME or len(states) != last - first or any(states):
            raise ValueError(
                f"what is reserved must be whole free frames, got {start:#x} to {end:#x}"
            )
        self._state[first:last] = b"\1" * (last - first)
        self.free -= last - first
        self.allocated += last - first

    def _find_free(self, count: int) -> int | None:
        if count == 1:
            found = self._state.find(self._FREE, self._no_free_below)
            self._no_free_below = found if found >= 0 else len(self._state)
            return found if found >= 0 else None
        first = -self._base % count
        for start in range(first, len(self._state) - count + 1, count):
            if start + count > self._no_free_below and not any(self._state[start : start + count]):
                return start
        return None


class EmptyFrameAllocator:
    """An allocator without frames, for mappings that need no new table."""

    def allocate_frame(self) -> PhysFrame | None:
        """Give None."""
        return None


def _read_region(region: tuple[int, int, bool] | MemoryMapRegion) -> tuple[int, int, bool]:
    if isinstance(region, tuple):
        return region
    # By name, so that this module need not know the bootloader's enumeration.
    name = str(getattr(region.region_type, "name", region.region_type))
    return int(region.start), int(region.end), name.lower() == "usable"
