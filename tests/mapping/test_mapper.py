"""The operations, on every flavour, with 4 and 5 levels and all page sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuFeatures, CpuState
from harness.entry import PageTableFlags
from harness.frames import BootInfoFrameAllocator, EmptyFrameAllocator
from harness.mapping import (
    FlagUpdateError,
    InvalidRequest,
    MapToError,
    TranslateError,
    TranslateResult,
    UnmapError,
)
from harness.mapping.flavours import Flavour, Lab, set_up
from harness.outcome import Outcome
from harness.walker import walk

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
U = PageTableFlags.USER_ACCESSIBLE
NX = PageTableFlags.NO_EXECUTE
HUGE = PageTableFlags.HUGE_PAGE

VA = 0x7000_4000_0000
SIZES = pytest.mark.parametrize("size", list(PageSize), ids=lambda size: size.letter)
Snapshotter = Callable[[Lab], Any]


def page(va: int = VA, size: PageSize = PageSize.Size4KiB, levels: int = 4) -> Page:
    return Page.containing_address(VirtAddr(va, levels), size)


def frame(pa: int = 0, size: PageSize = PageSize.Size4KiB) -> PhysFrame:
    return PhysFrame.containing_address(PhysAddr(pa), size)


def entry_of(lab: Lab, va: int, level: int) -> tuple[int, int]:
    """Address and value of the level's entry, found behind the mapper's back."""
    steps = walk(lab.memory, lab.space.cpu, va).steps
    return next((step.address, step.raw) for step in steps if step.level == level)


@SIZES
def test_map_translate_unmap(lab: Lab, size: PageSize) -> None:
    target = frame(3 << 30, size)
    lab.mapper.map_to(page(VA, size), target, P | W, lab.frames).flush()
    offset = size.value - 0x123
    expected = P | W | HUGE if size > 4096 else P | W
    assert lab.mapper.translate(VA + offset) == TranslateResult.Mapped(target, offset, expected)
    assert lab.mapper.translate_addr(VirtAddr(VA + offset)) == PhysAddr((3 << 30) + offset)
    assert lab.mapper.translate_page(page(VA, size)) == target
    found = walk(lab.memory, lab.space.cpu, VA + offset, "write")
    assert (found.pa, found.page_size) == ((3 << 30) + offset, size)
    unmapped, receipt = lab.mapper.unmap(page(VA, size))
    receipt.flush()
    assert unmapped == target
    assert isinstance(lab.mapper.translate(VA), TranslateResult.NotMapped)
    assert lab.mapper.translate_addr(VA) is None
    assert walk(lab.memory, lab.space.cpu, VA).outcome is Outcome.PAGE_FAULT


@SIZES
def test_what_is_mapped_can_be_used(lab: Lab, size: PageSize) -> None:
    target = frame(0xE0_0000, size)
    lab.mapper.map_to(page(VA, size), target, P | W, lab.frames).flush()
    inside = 0xE0_0000 - int(target.start_address)
    lab.space.write_u64(VA + inside, 0x1122_3344)
    assert lab.memory.read_u64(0xE0_0000) == 0x1122_3344
    result = lab.mapper.translate(VA)
    assert isinstance(result, TranslateResult.Mapped)
    assert result.flags & ~HUGE == P | W | PageTableFlags.ACCESSED | PageTableFlags.DIRTY


def test_new_tables_are_empty_whatever_was_in_their_frames(lab: Lab) -> None:
    for at in range(0x1000, lab.memory.size, 4096):
        if not lab.frames.is_allocated(frame(at)):
            lab.memory.frame(at)[:] = 0xFFFF_FFFF
    va, levels = own_va(lab), lab.mapper.levels
    lab.mapper.map_to(page(va, levels=levels), frame(0x5000), P, lab.frames).flush()
    for table in lab.boot.tables():
        if va & -1 << 39 <= int(table.first) <= va and table.level < levels:
            words = lab.memory.frame(int(table.frame.start_address))
            assert int((words != 0).sum()) == 1


def test_the_upper_half(lab: Lab) -> None:
    high = 0xFFFF_8000_0020_0000
    lab.mapper.map_to(page(high), frame(0x5000), P, lab.frames).flush()
    assert lab.mapper.translate_addr(high + 5) == PhysAddr(0x5005)


def own_va(lab: Lab) -> int:
    """Give an address none of whose entries the trick itself needs."""
    return VA if lab.mapper.levels == 4 else 3 << 48 | VA


@SIZES
def test_new_tables_get_the_rights_of_the_page(lab: Lab, size: PageSize) -> None:
    va, levels = own_va(lab), lab.mapper.levels
    lab.mapper.map_to(page(va, size, levels), frame(0, size), P | U | NX, lab.frames).flush()
    for level in range(size.level + 1, levels + 1):
        assert entry_of(lab, va, level)[1] & 0xFFF & ~0x60 == int(P | U)


def test_existing_tables_get_rights_added(lab: Lab) -> None:
    va, levels = own_va(lab), lab.mapper.levels
    lab.mapper.map_to(page(va, levels=levels), frame(), P, lab.frames).flush()
    assert entry_of(lab, va, 2)[1] & 7 == 1
    second = page(va + 4096, levels=levels)
    lab.mapper.map_to(second, frame(0x1000), P | W | U, lab.frames).flush()
    for level in range(2, levels + 1):
        assert entry_of(lab, va, level)[1] & 7 == 7
    assert entry_of(lab, va, 1)[1] & 7 == 1


def test_table_flags_are_written_as_asked(lab: Lab) -> None:
    va, levels = own_va(lab), lab.mapper.levels
    table_flags = P | U | PageTableFlags.BIT_9 | NX
    first, second = page(va, levels=levels), page(va + 4096, levels=levels)
    lab.mapper.map_to_with_table_flags(first, frame(), P | W, table_flags, lab.frames).flush()
    for level in range(2, levels + 1):
        assert entry_of(lab, va, level)[1] & ~0x000F_FFFF_FFFF_F060 == int(table_flags)
    # The tables under a read-only parent can be changed all the same.
    lab.mapper.map_to_with_table_flags(
        second, frame(), P | W, table_flags, EmptyFrameAllocator()
    ).flush()
    assert lab.mapper.translate_addr(va + 4096) == PhysAddr(0)
    assert walk(lab.memory, lab.space.cpu, va, "write").rule == "WP"


@SIZES
def test_update_flags(lab: Lab, size: PageSize) -> None:
    target = frame(5 << 30, size)
    lab.mapper.map_to(page(VA, size), target, P | W, lab.frames).flush()
    lab.mapper.update_flags(page(VA, size), P | U | NX).flush()
    result = lab.mapper.translate(VA)
    assert isinstance(result, TranslateResult.Mapped)
    assert (result.frame, result.flags & ~HUGE) == (target, P | U | NX)


def test_flags_of_tables(lab: Lab) -> None:
    mapper, va = lab.mapper, own_va(lab)
    held = page(va, levels=mapper.levels)
    mapper.map_to(held, frame(0x5000), P | W | U, lab.frames).flush()
    setters = {2: mapper.set_flags_p2_entry, 3: mapper.set_flags_p3_entry}
    setters[4] = mapper.set_flags_p4_entry
    if mapper.levels == 5:
        setters[5] = mapper.set_flags_p5_entry
    for level, set_flags in setters.items():
        before = entry_of(lab, va, level)[1]
        set_flags(held, P | PageTableFlags.BIT_10).flush_all()
        after = entry_of(lab, va, level)[1]
        assert after & ~0x60 == before & 0x000F_FFFF_FFFF_F000 | int(P | PageTableFlags.BIT_10)
        assert mapper.translate_addr(va) == PhysAddr(0x5000)


def test_level_5_entries_need_5_levels() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    with pytest.raises(InvalidRequest) as caught:
        lab.mapper.set_flags_p5_entry(page(), P)
    assert str(caught.value) == "a level 5 entry must belong to 5-level paging, got 4 levels"


@SIZES
def test_identity_map(lab: Lab, size: PageSize) -> None:
    target = frame(64 << 30, size)
    lab.mapper.identity_map(target, P, lab.frames).flush()
    assert lab.mapper.translate_addr((64 << 30) + 7) == PhysAddr((64 << 30) + 7)


def test_an_address_without_a_page_of_that_number_cannot_be_identity_mapped() -> None:
    cpu = CpuState(features=CpuFeatures(maxphyaddr=52))
    lab = set_up(Flavour.OFFSET_2M, cpu=cpu)
    with pytest.raises(InvalidRequest) as caught:
        lab.mapper.identity_map(frame(1 << 47), P, lab.frames)
    assert str(caught.value) == "an address must be canonical for 4 levels, got 0x800000000000"


# --- every error of every mapper ---------------------------------------------------------------


def hold_the_space(lab: Lab, size: PageSize) -> Page:
    """Map a page of that size around VA, and give it."""
    held = page(VA, size)
    lab.mapper.map_to(held, frame(3 << 30, size), P | W, lab.frames).flush()
    return held


@SIZES
def test_map_to_refuses_a_mapped_page(lab: Lab, size: PageSize, snapshot: Snapshotter) -> None:
    held = hold_the_space(lab, size)
    before = snapshot(lab)
    with pytest.raises(MapToError.PageAlreadyMapped) as caught:
        lab.mapper.map_to(held, frame(0, size), P | W | U, lab.frames)
    assert snapshot(lab) == before
    error = caught.value
    assert (error.page, error.level, error.frame) == (held, size.level, frame(3 << 30, size))
    assert (int(error.entry_address), error.raw) == entry_of(lab, VA, size.level)


@pytest.mark.parametrize("big", [PageSize.Size2MiB, PageSize.Size1GiB], ids=lambda s: s.letter)
def test_a_huge_parent_is_refused_by_all(lab: Lab, big: PageSize, snapshot: Snapshotter) -> None:
    hold_the_space(lab, big)
    before = snapshot(lab)
    small = page(VA + 0x3000)
    with pytest.raises(MapToError.ParentEntryHugePage) as mapping:
        lab.mapper.map_to(small, frame(), P | W | U, lab.frames)
    with pytest.raises(UnmapError.ParentEntryHugePage) as unmapping:
        lab.mapper.unmap(small)
    with pytest.raises(FlagUpdateError.ParentEntryHugePage) as updating:
        lab.mapper.update_flags(small, P)
    with pytest.raises(TranslateError.ParentEntryHugePage) as translating:
        lab.mapper.translate_page(small)
    setter = {2: lab.mapper.set_flags_p2_entry, 3: lab.mapper.set_flags_p3_entry}[big.level]
    with pytest.raises(FlagUpdateError.ParentEntryHugePage) as setting:
        setter(small, P)
    for caught in (mapping, unmapping, updating, translating, setting):
        assert (caught.value.page, caught.value.level) == (small, big.level)
        assert (int(caught.value.entry_address), caught.value.raw) == entry_of(lab, VA, big.level)
    assert snapshot(lab) == before


@SIZES
def test_what_is_not_mapped_is_refused_by_all(
    lab: Lab, size: PageSize, snapshot: Snapshotter
) -> None:
    before = snapshot(lab)
    absent = page(VA, size)
    with pytest.raises(UnmapError.PageNotMapped) as unmapping:
        lab.mapper.unmap(absent)
    with pytest.raises(FlagUpdateError.PageNotMapped) as updating:
        lab.mapper.update_flags(absent, P)
    with pytest.raises(TranslateError.PageNotMapped) as translating:
        lab.mapper.translate_page(absent)
    with pytest.raises(FlagUpdateError.PageNotMapped) as setting:
        lab.mapper.set_flags_p4_entry(absent, P)
    for caught in (unmapping, updating, translating):
        step = walk(lab.memory, lab.space.cpu, VA).steps[-1]
        assert (caught.value.page, caught.value.level, caught.value.raw) == (absent, step.level, 0)
        assert int(caught.value.entry_address) == step.address
    assert setting.value.raw == 0
    assert snapshot(lab) == before


@SIZES
def test_map_to_without_frames(lab: Lab, size: PageSize, snapshot: Snapshotter) -> None:
    before = snapshot(lab)
    with pytest.raises(MapToError.FrameAllocationFailed) as caught:
        lab.mapper.map_to(page(VA, size), frame(0, size), P, EmptyFrameAllocator())
    assert snapshot(lab) == before
    step = walk(lab.memory, lab.space.cpu, VA).steps[-1]
    assert (caught.value.level, int(caught.value.entry_address)) == (step.level, step.address)


def test_frames_that_run_out_on_the_way_are_given_back(lab: Lab, snapshot: Snapshotter) -> None:
    while lab.frames.free > 1:
        lab.frames.allocate_frame()
    before = snapshot(lab)
    with pytest.raises(MapToError.FrameAllocationFailed):
        lab.mapper.map_to(page(), frame(), P | W, lab.frames)
    assert snapshot(lab) == before
    assert lab.frames.free == 1


def test_an_allocator_that_takes_nothing_back_loses_frames_but_no_entry_changes(
    lab: Lab, snapshot: Snapshotter
) -> None:
    before = snapshot(lab)
    few = BootInfoFrameAllocator([(0xF0_0000, 0xF0_1000, True)])
    with pytest.raises(MapToError.FrameAllocationFailed):
        lab.mapper.map_to(page(), frame(), P | W, few)
    assert snapshot(lab) == before
    assert few.remaining == 0


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_reserved_bits_are_refused_by_all(lab: Lab, level: int, snapshot: Snapshotter) -> None:
    hold_the_space(lab, PageSize.Size4KiB)
    address, raw = entry_of(lab, VA, level)
    lab.memory.write_u64(address, raw | 1 << 50)
    before = snapshot(lab)
    held = page(VA)
    with pytest.raises(MapToError.InvalidFrameAddress) as mapping:
        lab.mapper.map_to(held, frame(), P, lab.frames)
    with pytest.raises(UnmapError.InvalidFrameAddress) as unmapping:
        lab.mapper.unmap(held)
    with pytest.raises(FlagUpdateError.InvalidFrameAddress) as updating:
        lab.mapper.update_flags(held, P)
    with pytest.raises(TranslateError.InvalidFrameAddress) as translating:
        lab.mapper.translate_page(held)
    for caught in (mapping, unmapping, updating, translating):
        assert (caught.value.level, int(caught.value.entry_address)) == (level, address)
        assert int(caught.value.address) == (raw | 1 << 50) & 0x000F_FFFF_FFFF_F000
    if level > 1:
        setter = {
            2: lab.mapper.set_flags_p2_entry,
            3: lab.mapper.set_flags_p3_entry,
            4: lab.mapper.set_flags_p4_entry,
        }[level]
        with pytest.raises(FlagUpdateError.InvalidFrameAddress):
            setter(held, P)
    result = lab.mapper.translate(VA)
    assert isinstance(result, TranslateResult.InvalidFrameAddress)
    assert (result.address, result.entry.level) == (mapping.value.address, level)
    assert lab.mapper.translate_addr(VA) is None
    assert snapshot(lab) == before


# --- requests that no entry can hold -----------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "pa", "flags", "message"),
    [
        (
            PageSize.Size4KiB,
            0,
            W,
            "the flags of a 4K page must hold PRESENT (unmap takes a page out), got "
            "PageTableFlags.WRITABLE",
        ),
        (
            PageSize.Size4KiB,
            0,
            P | PageTableFlags.HUGE_PAGE_PAT,
            "the flags of a 4K page must not hold other bits than its flags, got 0x1000 in 0x1001",
        ),
        (
            PageSize.Size2MiB,
            0,
            P | PageTableFlags(1 << 21),
            "the flags of a 2M page must not hold other bits than its flags, got 0x200000 in "
            "0x200081",
        ),
        (
            PageSize.Size2MiB,
            0,
            P | PageTableFlags(1 << 13),
            "a 2M page's entry must not have bits that this CPU reserves, got 0x2000 in 0x2081",
        ),
        (
            PageSize.Size4KiB,
            1 << 40,
            P,
            "a 4K page's entry must not have bits that this CPU reserves, got 0x10000000000 in "
            "0x10000000001",
        ),
    ],
)
def test_entries_that_cannot_be(
    lab: Lab,
    size: PageSize,
    pa: int,
    flags: PageTableFlags,
    message: str,
    snapshot: Snapshotter,
) -> None:
    before = snapshot(lab)
    with pytest.raises(InvalidRequest) as caught:
        lab.mapper.map_to(page(VA, size), frame(pa, size), flags, lab.frames)
    assert str(caught.value) == message
    assert snapshot(lab) == before


def test_what_this_cpu_does_not_offer() -> None:
    cpu = CpuState(efer=0x500, features=CpuFeatures(pdpe1gb=False))
    lab = set_up(Flavour.OFFSET_2M, cpu=cpu)
    with pytest.raises(InvalidRequest) as caught:
        lab.mapper.map_to(page(), frame(), P | NX, lab.frames)
    assert str(caught.value) == (
        "a 4K page's entry must not have bits that this CPU reserves, got 0x8000000000000000 in "
        "0x8000000000000001"
    )
    big = PageSize.Size1GiB
    with pytest.raises(InvalidRequest, match="this CPU reserves, got 0x80 in 0x81"):
        lab.mapper.map_to(page(VA, big), frame(0, big), P, lab.frames)
    with pytest.raises(InvalidRequest, match="flags of a table must not hold other bits"):
        lab.mapper.map_to_with_table_flags(page(), frame(), P, P | NX, lab.frames)


@pytest.mark.parametrize("flags", [W, P | HUGE, P | PageTableFlags.HUGE_PAGE_PAT])
def test_flags_that_no_table_can_have(lab: Lab, flags: PageTableFlags) -> None:
    hold_the_space(lab, PageSize.Size4KiB)
    with pytest.raises(InvalidRequest, match=r"^the flags of a table must"):
        lab.mapper.map_to_with_table_flags(page(), frame(), P, flags, lab.frames)
    with pytest.raises(InvalidRequest, match=r"^the flags of a table must"):
        lab.mapper.set_flags_p2_entry(page(), flags)


def test_page_and_frame_must_have_one_size(lab: Lab) -> None:
    with pytest.raises(InvalidRequest) as caught:
        lab.mapper.map_to(page(), frame(0, PageSize.Size2MiB), P, lab.frames)
    assert str(caught.value) == (
        "a page and its frame must have one size, got 4K for the page and 2M for the frame"
    )


def test_addresses_must_be_canonical_for_the_levels_in_use() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    for call in (lab.mapper.translate, lab.mapper.translate_addr):
        with pytest.raises(InvalidRequest) as caught:
            call(1 << 47)
        assert str(caught.value) == "an address must be canonical for 4 levels, got 0x800000000000"
    wide = Page.containing_address(VirtAddr(1 << 47, levels=5))
    with pytest.raises(InvalidRequest):
        lab.mapper.map_to(wide, frame(), P, lab.frames)


def test_messages_name_what_must_hold_and_the_entry() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    hold_the_space(lab, PageSize.Size2MiB)
    address, _ = entry_of(lab, VA, 2)
    where = f"at physical address {address:#_x}"
    held = f"got the PDE 0xc000_0083: 2M page at 0xc000_0000, PRESENT WRITABLE HUGE_PAGE, {where}"
    with pytest.raises(MapToError) as mapping:
        lab.mapper.map_to(page(VA), frame(), P, lab.frames)
    assert str(mapping.value) == (
        f"the 4K page 0x7000_4000_0000 must be reached through tables only, {held}"
    )
    with pytest.raises(MapToError) as mapping:
        lab.mapper.map_to(page(VA, PageSize.Size2MiB), frame(0, PageSize.Size2MiB), P, lab.frames)
    assert str(mapping.value) == f"the 2M page 0x7000_4000_0000 must not be mapped yet, {held}"
    with pytest.raises(UnmapError) as unmapping:
        lab.mapper.unmap(page(VA + 0x20_0000))
    assert str(unmapping.value) == (
        f"the 4K page 0x7000_4020_0000 must be mapped, got the PDE 0x0: unused, at physical "
        f"address {address + 8:#_x}"
    )
    with pytest.raises(MapToError) as mapping:
        lab.mapper.map_to(page(VA + 0x20_0000), frame(), P, EmptyFrameAllocator())
    assert str(mapping.value) == (
        "a frame must be left for each new table on the way to the 4K page 0x7000_4020_0000 (a PT "
        f"is the first that is missing), got the PDE 0x0: unused, at physical address "
        f"{address + 8:#_x}"
    )
    lab.memory.write_u64(address, 0xC000_2083)
    with pytest.raises(TranslateError) as translating:
        lab.mapper.translate_page(page(VA, PageSize.Size2MiB))
    assert str(translating.value).startswith(
        "on the way to the 2M page 0x7000_4000_0000 no entry may have a reserved bit set, got the "
        "PDE 0xc000_2083: 2M page"
    )
