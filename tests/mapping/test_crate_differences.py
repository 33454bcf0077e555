"""Where the `x86_64` crate surprises, and what we do: one test for each row of docs/mappers.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.frames import EmptyFrameAllocator
from harness.mapping import (
    FlagUpdateError,
    InvalidRequest,
    MapToError,
    TranslateError,
    TranslateResult,
    UnmapError,
)
from harness.mapping.flavours import SLOT, Flavour, Lab, set_up
from harness.outcome import Outcome
from harness.walker import walk

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
U = PageTableFlags.USER_ACCESSIBLE
HUGE = PageTableFlags.HUGE_PAGE
PAT = PageTableFlags.HUGE_PAGE_PAT

VA = 0x7000_4000_0000
Snapshotter = Callable[[Lab], Any]

SMALL = Page.containing_address(VirtAddr(VA))
BIG = Page.containing_address(VirtAddr(VA), PageSize.Size2MiB)
GIANT = Page.containing_address(VirtAddr(VA), PageSize.Size1GiB)
FRAME = PhysFrame(PhysAddr(0x5000))
BIG_FRAME = PhysFrame(PhysAddr(3 << 30), PageSize.Size2MiB)


def unmap(lab: Lab, page: Page) -> PhysFrame:
    frame, receipt = lab.mapper.unmap(page)
    receipt.flush()
    return frame


def entry_at(lab: Lab, level: int) -> int:
    """Find the physical address of VA's entry, behind the mapper's back."""
    steps = walk(lab.memory, lab.space.cpu, VA).steps
    return next(step.address for step in steps if step.level == level)


def test_a_failed_map_to_does_not_widen_a_huge_parent(lab: Lab) -> None:
    lab.mapper.map_to(BIG, BIG_FRAME, P, lab.frames).flush()
    with pytest.raises(MapToError.ParentEntryHugePage):
        lab.mapper.map_to(SMALL, FRAME, P | W | U, lab.frames)
    assert lab.memory.read_u64(entry_at(lab, 2)) == 0xC000_0081
    assert walk(lab.memory, lab.space.cpu, VA, "write").outcome is Outcome.PAGE_FAULT


def test_a_failed_map_to_leaves_no_tables(lab: Lab, snapshot: Snapshotter) -> None:
    while lab.frames.free > 2:
        lab.frames.allocate_frame()
    before = snapshot(lab)
    with pytest.raises(MapToError.FrameAllocationFailed):
        lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames)
    assert snapshot(lab) == before
    assert lab.frames.free == 2


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_an_entry_that_is_not_present_is_unmapped_for_every_operation(lab: Lab, level: int) -> None:
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    at = entry_at(lab, level)
    parked = 0x1234_5678_9ABC_DE00 & ~1
    lab.memory.write_u64(at, parked)
    result = lab.mapper.translate(VA)
    assert isinstance(result, TranslateResult.NotMapped)
    assert (result.entry.level, result.entry.raw) == (level, parked)
    with pytest.raises(TranslateError.PageNotMapped):
        lab.mapper.translate_page(SMALL)
    with pytest.raises(UnmapError.PageNotMapped):
        lab.mapper.unmap(SMALL)
    with pytest.raises(FlagUpdateError.PageNotMapped):
        lab.mapper.update_flags(SMALL, P)
    if level > 1:
        with pytest.raises(FlagUpdateError.PageNotMapped):
            lab.mapper.set_flags_p2_entry(SMALL, P)
    assert lab.memory.read_u64(at) == parked
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    assert lab.mapper.translate_addr(VA) == PhysAddr(0x5000)


def test_no_operation_makes_an_entry_that_is_not_present(lab: Lab) -> None:
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    for call in (
        lambda: lab.mapper.map_to(SMALL, FRAME, W, lab.frames),
        lambda: lab.mapper.update_flags(SMALL, W),
        lambda: lab.mapper.set_flags_p2_entry(SMALL, W),
        lambda: lab.mapper.map_to_with_table_flags(SMALL, FRAME, P, W, lab.frames),
    ):
        with pytest.raises(InvalidRequest, match="must hold PRESENT"):
            call()


def test_a_table_with_an_entry_that_is_not_present_is_not_empty(lab: Lab) -> None:
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    at = entry_at(lab, 1)
    lab.memory.write_u64(at, 0x1234_5000)
    lab.mapper.clean_up(lab.frames).flush_all()
    assert lab.memory.read_u64(at) == 0x1234_5000
    assert entry_at(lab, 1) == at


def test_bit_7_of_a_pte_is_its_pat(lab: Lab) -> None:
    lab.mapper.map_to(SMALL, FRAME, P | W | HUGE, lab.frames).flush()
    assert lab.mapper.translate(VA + 5) == TranslateResult.Mapped(FRAME, 5, P | W | HUGE)
    lab.mapper.update_flags(SMALL, P | HUGE).flush()
    assert unmap(lab, SMALL) == FRAME


def test_the_pat_bit_of_a_big_page_is_kept_in_flags_and_out_of_the_frame(lab: Lab) -> None:
    lab.mapper.map_to(BIG, BIG_FRAME, P | PAT, lab.frames).flush()
    assert lab.mapper.translate(VA) == TranslateResult.Mapped(BIG_FRAME, 0, P | HUGE | PAT)
    assert lab.mapper.translate_page(BIG) == BIG_FRAME
    lab.mapper.update_flags(BIG, P | W).flush()
    assert lab.mapper.translate(VA) == TranslateResult.Mapped(BIG_FRAME, 0, P | W | HUGE)
    lab.mapper.update_flags(BIG, P | PAT).flush()
    assert unmap(lab, BIG) == BIG_FRAME


@pytest.mark.parametrize("bit", [HUGE, PageTableFlags(1 << 50)])
def test_reserved_bits_are_errors_and_not_an_address(lab: Lab, bit: PageTableFlags) -> None:
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    at = entry_at(lab, 4)
    lab.memory.write_u64(at, lab.memory.read_u64(at) | int(bit))
    assert isinstance(lab.mapper.translate(VA), TranslateResult.InvalidFrameAddress)
    with pytest.raises(UnmapError.InvalidFrameAddress):
        lab.mapper.unmap(SMALL)
    with pytest.raises(MapToError.InvalidFrameAddress):
        lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames)
    with pytest.raises(FlagUpdateError.InvalidFrameAddress):
        lab.mapper.set_flags_p4_entry(SMALL, P)
    assert walk(lab.memory, lab.space.cpu, VA).rule in ("RSVD_PS", "RSVD_ADDR")


def test_already_mapped_names_the_frame_that_is_mapped(lab: Lab) -> None:
    lab.mapper.map_to(SMALL, FRAME, P, lab.frames).flush()
    with pytest.raises(MapToError.PageAlreadyMapped) as caught:
        lab.mapper.map_to(SMALL, PhysFrame(PhysAddr(0x9000)), P, lab.frames)
    assert caught.value.frame == FRAME
    with pytest.raises(MapToError.PageAlreadyMapped) as caught:
        lab.mapper.map_to(BIG, BIG_FRAME, P, lab.frames)
    assert caught.value.frame is None


@pytest.mark.parametrize("size", [PageSize.Size2MiB, PageSize.Size1GiB], ids=lambda s: s.letter)
def test_a_table_is_not_a_big_page(lab: Lab, size: PageSize, snapshot: Snapshotter) -> None:
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    before = snapshot(lab)
    page = Page.containing_address(VirtAddr(VA), size)
    with pytest.raises(TranslateError.PageNotMapped):
        lab.mapper.translate_page(page)
    with pytest.raises(UnmapError.PageNotMapped):
        lab.mapper.unmap(page)
    with pytest.raises(FlagUpdateError.PageNotMapped):
        lab.mapper.update_flags(page, P)
    setter = {2: lab.mapper.set_flags_p2_entry, 3: lab.mapper.set_flags_p3_entry}[size.level]
    with pytest.raises(FlagUpdateError.PageNotMapped):
        setter(page, P)
    assert snapshot(lab) == before


def test_flags_of_a_table_cannot_be_set_on_a_big_page(lab: Lab, snapshot: Snapshotter) -> None:
    giant_frame = PhysFrame(PhysAddr(3 << 30), PageSize.Size1GiB)
    lab.mapper.map_to(GIANT, giant_frame, P | W, lab.frames).flush()
    before = snapshot(lab)
    for page in (SMALL, BIG, GIANT):
        with pytest.raises(FlagUpdateError.ParentEntryHugePage):
            lab.mapper.set_flags_p3_entry(page, P)
    assert snapshot(lab) == before


def test_recursion_writes_the_table_flags_that_were_asked_for() -> None:
    lab = set_up(Flavour.RECURSIVE)
    lab.mapper.map_to_with_table_flags(SMALL, FRAME, P | W, P, lab.frames).flush()
    for level in (2, 3, 4):
        assert lab.memory.read_u64(entry_at(lab, level)) & 3 == 1
    # The tables below are read-only pages now, and are reached with CR0.WP clear.
    second = SMALL + 1
    lab.mapper.map_to_with_table_flags(second, FRAME, P, P, EmptyFrameAllocator()).flush()
    assert unmap(lab, second) == FRAME


def test_a_flush_of_everything_reaches_global_pages() -> None:
    told: list[object] = []

    class Tlb:
        def invlpg(self, va: int) -> None:
            told.append(va)

        def flush_all(self) -> None:
            told.append("all, global pages too")

    lab = set_up(Flavour.OFFSET_2M, tlb=Tlb())
    lab.mapper.map_to(SMALL, FRAME, P | PageTableFlags.GLOBAL, lab.frames).flush()
    lab.mapper.set_flags_p4_entry(SMALL, P).flush_all()
    assert told == [VA, "all, global pages too"]


def test_clean_up_gives_a_receipt() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    receipt = lab.mapper.clean_up(lab.frames)
    assert repr(receipt) == "MapperFlushAll()"
    receipt.flush_all()


@pytest.mark.parametrize("slot", [0, 255, 256, SLOT])
def test_clean_up_does_not_follow_a_recursive_slot(slot: int) -> None:
    lab = set_up(Flavour.RECURSIVE, slot=slot)
    lab.mapper.map_to(SMALL, FRAME, P | W, lab.frames).flush()
    lab.mapper.unmap(SMALL)[1].flush()
    lab.mapper.clean_up(lab.frames).flush_all()
    assert [table.level for table in lab.boot.tables()] == [4]
    assert lab.frames.allocated == 1
    assert lab.memory.frame(int(lab.boot.root.start_address))[slot] & 1


def test_5_levels_work_as_4_do(lab: Lab) -> None:
    levels = lab.mapper.levels
    high = Page.containing_address(VirtAddr.new_truncate(0xFF << 48 | VA, levels))
    lab.mapper.map_to(high, FRAME, P | W, lab.frames).flush()
    assert lab.mapper.translate_addr(high.start_address) == PhysAddr(0x5000)
    if levels == 5:
        lab.mapper.set_flags_p5_entry(high, P | W | U).flush_all()


def test_the_document_names_every_test_here() -> None:
    document = Path(__file__).parents[2] / "docs" / "mappers.md"
    text = document.read_text()
    tests = {name for name in globals() if name.startswith("test_")} - {
        "test_the_document_names_every_test_here"
    }
    assert {name for name in tests if f"`{name}`" not in text} == set()
