"""The frame allocators, against a set of frames kept by hand."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from harness.address import PageSize, PhysAddr, PhysFrame
from harness.boot.bootinfo import FrameRange, MemoryRegion, MemoryRegionType
from harness.errors import MappingError
from harness.frames import (
    BitmapFrameAllocator,
    BootInfoFrameAllocator,
    EmptyFrameAllocator,
    FrameAllocator,
    FrameDeallocator,
    FrameNotAllocated,
    usable_ranges,
)


class Kind(enum.Enum):
    Usable = 0
    Kernel = 6


@dataclass
class Region:
    start: int
    end: int
    region_type: object


def frame(address: int, size: PageSize = PageSize.Size4KiB) -> PhysFrame:
    return PhysFrame.from_start_address(PhysAddr(address), size)


def all_frames(allocator: FrameAllocator) -> list[int]:
    found = []
    while (given_out := allocator.allocate_frame()) is not None:
        found.append(int(given_out.start_address))
    return found


def test_the_lectures_memory_map() -> None:
    usable = [Region(0x27E000, 0x400000, Kind.Usable), Region(0x83D000, 0x7FE0000, Kind.Usable)]
    others = [Region(0, 0x1000, Kind.Kernel), Region(0x400000, 0x431000, Kind.Kernel)]
    frames = BootInfoFrameAllocator([*others, *usable])
    assert frames.remaining == (0x400000 - 0x27E000 + 0x7FE0000 - 0x83D000) // 4096
    first = frames.allocate_frame()
    assert first == frame(0x27E000)
    rest = all_frames(frames)
    assert rest[0] == 0x27F000
    assert rest[0x400000 // 4096 - 0x27E000 // 4096 - 1] == 0x83D000
    assert rest[-1] == 0x7FDF000
    assert (frames.remaining, frames.allocate_frame()) == (0, None)


def test_the_bootloaders_own_regions() -> None:
    memory_map = [
        MemoryRegion(FrameRange(0, 0x1000), MemoryRegionType.FrameZero),
        MemoryRegion(FrameRange(0x1000, 0x3000), MemoryRegionType.Usable),
        MemoryRegion(FrameRange(0x3000, 0x4000), MemoryRegionType.PageTable),
    ]
    assert all_frames(BootInfoFrameAllocator(memory_map)) == [0x1000, 0x2000]


@pytest.mark.parametrize("name", ["Usable", "usable"])
def test_a_region_type_may_be_a_word(name: str) -> None:
    assert usable_ranges([Region(0, 0x2000, name)]) == [(0, 0x2000)]
    assert usable_ranges([Region(0, 0x2000, "Reserved")]) == []


def test_only_whole_frames_are_usable() -> None:
    assert usable_ranges([(0x800, 0x3800, True)]) == [(0x1000, 0x3000)]
    assert usable_ranges([(0x800, 0x1800, True)]) == []
    assert usable_ranges([(0x0, 0x4000, True), (0x1FFF, 0x2001, False)]) == [
        (0x0, 0x1000),
        (0x3000, 0x4000),
    ]


def test_a_region_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        usable_ranges([(0x2000, 0x1000, True)])
    assert str(caught.value) == "a region must not end before it starts, got 0x2000 to 0x1000"


REGIONS = st.lists(
    st.tuples(st.integers(0, 0x20000), st.integers(0, 0x8000), st.booleans()).map(
        lambda region: (region[0], region[0] + region[1], region[2])
    ),
    max_size=8,
)


@given(REGIONS)
def test_exactly_the_frames_that_are_usable_throughout_are_given_out_once(
    regions: list[tuple[int, int, bool]],
) -> None:
    usable: set[int] = set()
    for start, end, is_usable in regions:
        if is_usable:
            usable |= {at for at in range(0, 0x40000, 4096) if start <= at and at + 4096 <= end}
    for start, end, is_usable in regions:
        if not is_usable and end > start:
            usable -= {at for at in range(0, 0x40000, 4096) if start < at + 4096 and at < end}
    assert all_frames(BootInfoFrameAllocator(regions)) == sorted(usable)
    assert all_frames(BitmapFrameAllocator.from_memory_map(regions)) == sorted(usable)


def test_an_empty_allocator_has_nothing() -> None:
    assert EmptyFrameAllocator().allocate_frame() is None
    assert BootInfoFrameAllocator([]).allocate_frame() is None
    assert BitmapFrameAllocator([]).allocate_frame() is None


def test_who_takes_frames_back() -> None:
    assert isinstance(BitmapFrameAllocator([]), FrameDeallocator)
    assert not isinstance(BootInfoFrameAllocator([]), FrameDeallocator)
    assert not isinstance(EmptyFrameAllocator(), FrameDeallocator)


def test_a_double_free_is_refused_with_a_sentence() -> None:
    frames = BitmapFrameAllocator([(0x1000, 0x3000)])
    taken = frames.allocate_frame()
    assert taken is not None
    frames.deallocate_frame(taken)
    with pytest.raises(FrameNotAllocated) as caught:
        frames.deallocate_frame(taken)
    assert str(caught.value) == (
        "a frame must be allocated to be given back, got the frame at 0x1000, which is free "
        "already (a double free)"
    )
    assert caught.value.frame == taken
    assert isinstance(caught.value, MappingError)
    assert (frames.free, frames.allocated) == (2, 0)


@pytest.mark.parametrize("address", [0x0, 0x3000, 0x5000, 1 << 40])
def test_a_foreign_frame_is_refused(address: int) -> None:
    frames = BitmapFrameAllocator([(0x1000, 0x3000), (0x4000, 0x5000)])
    assert len(all_frames(frames)) == 3
    with pytest.raises(FrameNotAllocated, match=r"which this allocator does not manage$"):
        frames.deallocate_frame(frame(address))
    assert not frames.is_allocated(frame(address))
    assert frames.is_allocated(frame(0x4000))


def test_big_frames_are_aligned_and_whole() -> None:
    frames = BitmapFrameAllocator([(0x1000, 0x60_0000)])
    small = frames.allocate_frame()
    assert small == frame(0x1000)
    big = frames.allocate_frame(PageSize.Size2MiB)
    assert big == frame(0x20_0000, PageSize.Size2MiB)
    assert frames.allocate_frame(PageSize.Size2MiB) == frame(0x40_0000, PageSize.Size2MiB)
    assert frames.allocate_frame(PageSize.Size2MiB) is None
    assert frames.allocate_frame(PageSize.Size1GiB) is None
    frames.deallocate_frame(frame(0x20_3000))
    with pytest.raises(FrameNotAllocated):
        frames.deallocate_frame(big)
    assert frames.allocated == 1 + 1024 - 1
    assert frames.allocate_frame() == frame(0x2000)


def test_reserved_frames_are_not_given_out() -> None:
    frames = BitmapFrameAllocator([(0x1000, 0x5000)])
    frames.reserve(0x1000, 0x3000)
    assert frames.allocated == 2
    assert all_frames(frames) == [0x3000, 0x4000]
    for start, end in [(0x1000, 0x2000), (0x4000, 0x6000), (0x0, 0x1000), (0x1800, 0x2000)]:
        with pytest.raises(ValueError) as caught:
            frames.reserve(start, end)
        assert str(caught.value) == (
            f"what is reserved must be whole free frames, got {start:#x} to {end:#x}"
        )


def test_bad_ranges_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        BitmapFrameAllocator([(0x1000, 0x1800)])
    assert str(caught.value) == "a range must be made of whole 4 KiB frames, got 0x1000 to 0x1800"
    with pytest.raises(ValueError) as caught:
        BitmapFrameAllocator([(0x2000, 0x3000), (0x1000, 0x2800 + 0x800)])
    assert str(caught.value) == "ranges must not overlap, got two that hold 0x2000"


class BitmapMachine(RuleBasedStateMachine):
    """The bitmap allocator against two sets."""

    def __init__(self) -> None:
        super().__init__()
        ranges = [(0x1000, 0x8000), (0x20_0000, 0x60_0000)]
        self.frames = BitmapFrameAllocator(ranges)
        self.free = {at for start, end in ranges for at in range(start, end, 4096)}
        self.used: set[int] = set()

    @rule()
    def allocate(self) -> None:
        got = self.frames.allocate_frame()
        if got is None:
            assert not self.free
        else:
            assert int(got.start_address) == min(self.free)
            self._take(got)

    @rule()
    def allocate_big(self) -> None:
        fits = [
            at
            for at in (0x20_0000, 0x40_0000)
            if self.free.issuperset(range(at, at + 0x20_0000, 4096))
        ]
        got = self.frames.allocate_frame(PageSize.Size2MiB)
        assert (None if got is None else int(got.start_address)) == min(fits, default=None)
        if got is not None:
            self._take(got)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.used)))
        self.frames.deallocate_frame(frame(at))
        self.used.remove(at)
        self.free.add(at)

    @precondition(lambda self: self.free)
    @rule(data=st.data())
    def give_back_twice(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.free)))
        with pytest.raises(FrameNotAllocated):
            self.frames.deallocate_frame(frame(at))

    @invariant()
    def counts(self) -> None:
        assert self.frames.free == len(self.free)
        assert self.frames.allocated == len(self.used)

    def _take(self, got: PhysFrame) -> None:
        start = int(got.start_address)
        taken = set(range(start, start + got.size.value, 4096))
        assert taken <= self.free
        self.free -= taken
        self.used |= taken


TestBitmapMachine = BitmapMachine.TestCase
