"""Ranges: cut into the largest pages that fit, and mapped as page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuFeatures, CpuState
from harness.entry import PageTableFlags
from harness.mapping import InvalidRequest, MapToError, TranslateResult
from harness.mapping.flavours import Flavour, Lab, set_up
from harness.mapping.ranges import Run, runs

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
U = PageTableFlags.USER_ACCESSIBLE
NX = PageTableFlags.NO_EXECUTE

VA = 0x7000_0000_0000
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
Snapshotter = Callable[[Lab], Any]


def pages(va: int, pa: int, length: int, largest: PageSize) -> list[tuple[int, int, PageSize]]:
    """Cut a range the slow way, one page at a time."""
    found = []
    end = va + length
    while va < end:
        size = max(
            size
            for size in PageSize
            if size <= largest and va % size == pa % size == 0 and va + size <= end
        )
        found.append((va, pa, size))
        va += size
        pa += size
    return found


@st.composite
def ranges(draw: st.DrawFn, max_pages: int = 2000) -> tuple[int, int, int, PageSize]:
    # Addresses near the boundaries of all three sizes, offsets between them of all alignments.
    va = draw(st.sampled_from([0, 512 * GIB, 3 * GIB])) + draw(
        st.sampled_from([0, 4 * KIB, 2 * MIB - 4 * KIB, 2 * MIB, GIB - 8 * KIB, GIB - 2 * MIB])
    )
    pa = va % GIB + draw(st.sampled_from([0, 0, 4 * KIB, 2 * MIB, 6 * MIB, GIB]))
    length = draw(
        st.one_of(
            st.integers(0, max_pages).map(lambda count: count * 4 * KIB),
            st.builds(
                lambda gib, mib, kib: gib * GIB + mib * 2 * MIB + kib * 4 * KIB,
                st.integers(0, 1),
                st.integers(0, 3),
                st.integers(0, 3),
            ),
        )
    )
    largest = draw(st.sampled_from(PageSize))
    if length >= GIB and (va ^ pa) % (2 * MIB):
        length %= GIB
    return va, pa, length, largest


@given(ranges())
def test_runs_are_the_pages_cut_one_at_a_time(case: tuple[int, int, int, PageSize]) -> None:
    va, pa, length, largest = case
    if length >= GIB and largest is PageSize.Size4KiB:
        length %= GIB
    expanded = []
    for run in runs(va, pa, length, largest):
        assert 1 <= run.pages <= 512
        table = 512 * run.size
        assert run.va // table == (run.va + (run.pages - 1) * run.size) // table
        expanded += [
            (run.va + k * run.size, run.pa + k * run.size, run.size) for k in range(run.pages)
        ]
    assert expanded == pages(va, pa, length, largest)


def test_a_run_ends_where_a_table_ends() -> None:
    assert list(runs(0x1F_F000, 0x1F_F000, 0x40_2000, PageSize.Size1GiB)) == [
        Run(0x1F_F000, 0x1F_F000, PageSize.Size4KiB, 1),
        Run(0x20_0000, 0x20_0000, PageSize.Size2MiB, 2),
        Run(0x60_0000, 0x60_0000, PageSize.Size4KiB, 1),
    ]
    assert [run.pages for run in runs(0, 4096, 4 * MIB, PageSize.Size1GiB)] == [512, 512]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(Flavour), st.sampled_from([4, 5]), ranges(600), st.sampled_from([0, P | U]))
def test_map_range_is_map_to_page_by_page(
    flavour: Flavour,
    levels: int,
    case: tuple[int, int, int, PageSize],
    table_flags: PageTableFlags | int,
) -> None:
    va, pa, length, largest = case
    va, length = va + VA, length if length < GIB or largest is PageSize.Size1GiB else length % GIB
    cpu = CpuState(cr4=0x1020 if levels == 5 else 0x20)
    fast, slow = (set_up(flavour, cpu=cpu, ram=16 * MIB) for _ in range(2))
    tables = PageTableFlags(table_flags) if table_flags else None
    fast.mapper.map_range(
        va, pa, length, P | W | NX, fast.frames, largest=largest, table_flags=tables
    ).flush_all()
    for at, target, size in pages(va, pa, length, largest):
        page = Page(VirtAddr(at, levels), size)
        frame = PhysFrame(PhysAddr(target), size)
        slow.mapper.map_to_with_table_flags(
            page, frame, P | W | NX, P | W if tables is None else tables, slow.frames
        ).flush()
    # A and D differ: the trick's own pages are used in another order, and as often as needed.
    mask = np.uint64(0xFFFF_FFFF_FFFF_FF9F)
    assert np.array_equal(fast.memory.words & mask, slow.memory.words & mask)
    assert fast.frames.allocated == slow.frames.allocated


def test_the_biggest_page_that_the_cpu_offers_is_the_default() -> None:
    for features, size in [
        (CpuFeatures(), PageSize.Size1GiB),
        (CpuFeatures(pdpe1gb=False), PageSize.Size2MiB),
    ]:
        lab = set_up(Flavour.OFFSET_2M, cpu=CpuState(features=features))
        lab.mapper.map_range(VA, 0, GIB, P, lab.frames).flush_all()
        found = lab.mapper.translate(VA + 5)
        assert isinstance(found, TranslateResult.Mapped)
        assert found.frame.size is size


def test_a_range_of_nothing_is_nothing(lab: Lab, snapshot: Snapshotter) -> None:
    before = snapshot(lab)
    lab.mapper.map_range(VA, 0, 0, P, lab.frames).flush_all()
    assert snapshot(lab) == before


def test_a_range_up_to_the_end_of_the_address_space() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    lab.mapper.map_range((1 << 64) - 2 * MIB, 0, 2 * MIB, P, lab.frames).flush_all()
    assert lab.mapper.translate_addr((1 << 64) - 1) == PhysAddr(2 * MIB - 1)
    lab.mapper.map_range((1 << 47) - 8 * KIB, 0, 8 * KIB, P, lab.frames).flush_all()
    assert lab.mapper.translate_addr((1 << 47) - 1) == PhysAddr(8 * KIB - 1)


@pytest.mark.parametrize("conflict", [4 * KIB * 600, 0, 4 * KIB * 1023, 2 * MIB])
def test_a_conflict_anywhere_undoes_all(lab: Lab, conflict: int, snapshot: Snapshotter) -> None:
    page = Page(VirtAddr(VA + conflict))
    lab.mapper.map_to(page, PhysFrame(PhysAddr(0x7000)), P, lab.frames).flush()
    before = snapshot(lab)
    with pytest.raises(MapToError.PageAlreadyMapped) as caught:
        lab.mapper.map_range(VA, 0x1000, 4 * MIB, P | W | U, lab.frames)
    assert (caught.value.page, caught.value.frame) == (page, PhysFrame(PhysAddr(0x7000)))
    assert caught.value.raw & 0xF_F000 == 0x7000
    assert snapshot(lab) == before


def test_a_big_page_in_the_way_undoes_all(lab: Lab, snapshot: Snapshotter) -> None:
    big = Page(VirtAddr(VA + 2 * MIB), PageSize.Size2MiB)
    lab.mapper.map_to(big, PhysFrame(PhysAddr(0), PageSize.Size2MiB), P, lab.frames).flush()
    before = snapshot(lab)
    with pytest.raises(MapToError.ParentEntryHugePage) as caught:
        lab.mapper.map_range(VA, 0x1000, 4 * MIB, P | W, lab.frames)
    assert int(caught.value.page.start_address) == VA + 2 * MIB
    assert snapshot(lab) == before


def test_frames_that_run_out_undo_all(lab: Lab, snapshot: Snapshotter) -> None:
    while lab.frames.free > 5:
        lab.frames.allocate_frame()
    before = snapshot(lab)
    with pytest.raises(MapToError.FrameAllocationFailed):
        lab.mapper.map_range(VA, 0x1000, 16 * MIB, P | W, lab.frames)
    assert snapshot(lab) == before
    assert lab.frames.free == 5


@pytest.mark.parametrize(
    ("va", "pa", "length", "message"),
    [
        (VA + 1, 0, 4096, "a range must be made of whole 4 KiB pages, got 0x1000 bytes from "),
        (VA, 8, 4096, "a range must be made of whole 4 KiB pages, got 0x1000 bytes from "),
        (VA, 0, 4095, "a range must be made of whole 4 KiB pages, got 0xfff bytes from "),
        (VA, 0, -4096, "a range must be made of whole 4 KiB pages, got -0x1000 bytes from "),
        ((1 << 47) - 4096, 0, 8192, "a range must end in the half of the address space that it "),
        (-4096 % (1 << 64), 0, 8192, "a range must end in the half of the address space that it "),
        (0, 0, 1 << 63, "a range must end in the half of the address space that it starts in, "),
        (1 << 47, 0, 4096, "an address must be canonical for 4 levels, got 0x800000000000"),
        (VA, (1 << 40) - 4096, 8192, "a 4K page's entry must not have bits that this CPU reserve"),
    ],
)
def test_bad_ranges_are_refused(va: int, pa: int, length: int, message: str) -> None:
    lab = set_up(Flavour.OFFSET_2M)
    allocated = lab.frames.allocated
    with pytest.raises(InvalidRequest) as caught:
        lab.mapper.map_range(va, pa, length, P, lab.frames)
    assert str(caught.value).startswith(message)
    assert lab.frames.allocated == allocated
