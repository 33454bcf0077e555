"""Tables at their own addresses: the lecture's two conflicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.address import Page, PhysAddr, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.frames import BitmapFrameAllocator
from harness.mapping import (
    AddressTaken,
    IdentityPageTable,
    find_free_region,
    frames_ruled_out,
)
from harness.mapping.flavours import Flavour, Lab, set_up

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
KIB, MIB = 1 << 10, 1 << 20
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))
Snapshotter = Callable[[Lab], Any]


LECTURE_TABLES = [(at * KIB, (at + 4) * KIB) for at in (4, 8, 12, 16, 20, 24, 1004)]


def test_the_lectures_region_of_1000_kib() -> None:
    size = 1000 * KIB
    assert 28 * KIB < 1004 * KIB < 28 * KIB + size
    assert find_free_region(LECTURE_TABLES, size, start=28 * KIB) == 1008 * KIB
    assert find_free_region(LECTURE_TABLES[:-1], size, start=28 * KIB) == 28 * KIB
    assert find_free_region(LECTURE_TABLES, 976 * KIB, start=28 * KIB) == 28 * KIB
    assert find_free_region(LECTURE_TABLES, size, end=2007 * KIB) is None
    assert find_free_region([(4 * KIB, 4 * KIB)], size) == 0  # a range of nothing is not in the way


def test_the_lectures_frames_that_a_region_rules_out() -> None:
    ruled_out = frames_ruled_out(1008 * KIB, 1000 * KIB)
    addresses = [int(frame.start_address) // KIB for frame in ruled_out]
    assert (addresses[0], addresses[-1], len(addresses)) == (1008, 2004, 250)
    assert len(frames_ruled_out(1008 * KIB, 1)) == 1


def test_a_frame_in_the_region_cannot_become_a_table(snapshot: Snapshotter) -> None:
    lab = set_up(Flavour.IDENTITY)
    lab.mapper.map_range(1008 * KIB, 4 * MIB, 1000 * KIB, P | W, lab.frames).flush_all()
    before = snapshot(lab)
    for frame in (1008 * KIB, 2004 * KIB):
        only = BitmapFrameAllocator([(frame, frame + 3 * 4096)])
        with pytest.raises(AddressTaken) as caught:
            lab.mapper.map_to(PAGE, FRAME, P | W, only)
        assert int(caught.value.page.start_address) == frame
        assert int(caught.value.taken_by.start_address) == 4 * MIB + frame - 1008 * KIB
        assert snapshot(lab) == before
        assert only.allocated == 0
    beside = BitmapFrameAllocator([(2008 * KIB, 2020 * KIB)])
    lab.mapper.map_to(PAGE, FRAME, P | W, beside).flush()
    assert lab.mapper.translate_addr(VA) == PhysAddr(0x5000)


def test_identity_mapped_tables_have_their_own_addresses() -> None:
    lab = set_up(Flavour.IDENTITY)
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    for table in lab.boot.tables():
        assert lab.boot.translate_addr(int(table.frame.start_address)) == table.frame.start_address
    assert isinstance(lab.mapper, IdentityPageTable)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), max_size=8),
    st.integers(1, 20),
    st.integers(0, 60),
    st.sampled_from([1, 2, 4, 8]),
)
def test_find_free_region_finds_the_first(
    used: list[tuple[int, int]], size: int, start: int, align: int
) -> None:
    mapped = [(at, at + length) for at, length in used]
    busy = {byte for low, high in mapped for byte in range(low, high)}
    fits = (
        at
        for at in range(start, 200)
        if at % align == 0 and at + size <= 70 and busy.isdisjoint(range(at, at + size))
    )
    found = find_free_region(mapped, size, start=start, end=70, align=align)
    assert found == next(fits, None)


@pytest.mark.parametrize(
    ("size", "align", "message"),
    [
        (0, 4096, "a region must have at least one byte, got a size of 0"),
        (1, 3, "an alignment must be a power of two, got 3"),
        (1, 0, "an alignment must be a power of two, got 0"),
    ],
)
def test_find_free_region_refuses(size: int, align: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        find_free_region([], size, align=align)
    assert str(caught.value) == message
