"""The full physical map, and maps by any function of the frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.frames import BitmapFrameAllocator
from harness.mapping import (
    AccessFault,
    BootPageTable,
    InvalidRequest,
    MappedPageTable,
    OffsetPageTable,
    TableNotVisible,
    active_level_4_table,
    map_physical_memory,
)
from harness.mapping.flavours import OFFSET, Flavour, Lab, set_up
from harness.outcome import Outcome

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
MIB = 1 << 20
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))
Snapshotter = Callable[[Lab], Any]
Booted = tuple[BootPageTable, BitmapFrameAllocator]


def test_active_level_4_table_is_the_offset_and_cr3() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    table = active_level_4_table(lab.space, OFFSET)
    assert table == VirtAddr(OFFSET + 0x1000)
    first = lab.space.read_u64(int(table) + 8 * (OFFSET >> 39))
    assert first == lab.memory.read_u64(0x1000 + 8 * (OFFSET >> 39)) != 0


def test_a_wrong_offset_is_a_fault_with_its_walk() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    wrong = OffsetPageTable(lab.space, OFFSET << 1)
    with pytest.raises(TableNotVisible) as caught:
        wrong.translate(VA)
    assert str(caught.value) == (
        "the PML4 at physical address 0x1000 must go through virtual memory, got page-fault (rule "
        "PRESENT at the PML4E) for the read of 0x1400_0000_1700"
    )
    fault = caught.value
    assert (fault.level, fault.frame, fault.walk.cr2) == (4, lab.mapper.root, 0x1400_0000_1700)
    assert isinstance(fault.__cause__, AccessFault)


def test_a_read_only_map_reads_and_does_not_write(snapshot: Snapshotter, booted: Booted) -> None:
    boot, frames = booted
    map_physical_memory(boot, OFFSET, 8 * MIB, frames, flags=P)
    mapper = OffsetPageTable(boot.address_space(), OFFSET)
    lab = Lab(Flavour.OFFSET_2M, boot.memory, frames, boot, boot.address_space(), mapper)
    assert mapper.translate_addr(OFFSET + 5) == PhysAddr(5)
    before = snapshot(lab)
    with pytest.raises(TableNotVisible) as caught:
        mapper.map_to(PAGE, FRAME, P | W, frames)
    assert caught.value.walk.rule == "WP"
    assert snapshot(lab) == before


def test_a_frame_that_is_not_ram_cannot_become_a_table(snapshot: Snapshotter) -> None:
    for flavour in (Flavour.OFFSET_1G, Flavour.RECURSIVE, Flavour.TEMPORARY):
        lab = set_up(flavour)
        before = snapshot(lab)
        outside = BitmapFrameAllocator([(32 * MIB, 33 * MIB)])
        with pytest.raises(TableNotVisible) as caught:
            lab.mapper.map_to(PAGE, FRAME, P | W, outside)
        assert caught.value.walk.outcome is Outcome.NO_MEMORY
        assert caught.value.frame == PhysFrame(PhysAddr(32 * MIB))
        assert snapshot(lab) == before
        assert outside.allocated == 0


def test_the_full_map_reaches_other_address_spaces() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    other = BootPageTable.create(lab.memory, CpuState(), lab.frames)
    mapper = OffsetPageTable(lab.space, OFFSET, other.root)
    mapper.map_to(PAGE, FRAME, P | W, lab.frames).ignore()
    assert other.translate_addr(VA) == PhysAddr(0x5000)
    assert lab.mapper.translate_addr(VA) is None


def test_any_function_of_the_frame_will_do(booted: Booted) -> None:
    class Swapped:
        def frame_to_pointer(self, frame: PhysFrame) -> VirtAddr:
            return VirtAddr(OFFSET + (int(frame.start_address) ^ 0x20_0000))

    boot, frames = booted
    for virtual, physical in [(0, 0x20_0000), (0x20_0000, 0)]:
        boot.map_range(OFFSET + virtual, physical, 2 * MIB, P | W, frames).ignore()
    mapper = MappedPageTable(boot.address_space(), Swapped())
    mapper.map_to(PAGE, FRAME, P | W, frames).flush()
    assert boot.translate_addr(VA) == PhysAddr(0x5000)


def test_an_offset_so_high_that_a_frame_has_no_address() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    with pytest.raises(ValueError, match="must be equal with 4 levels"):
        OffsetPageTable(lab.space, (1 << 47) - 4096).translate(VA)


@pytest.mark.parametrize("size", list(PageSize), ids=lambda size: size.letter)
def test_the_physical_map_is_made_of_one_page_size(size: PageSize, booted: Booted) -> None:
    boot, frames = booted
    map_physical_memory(boot, OFFSET, 8 * MIB - 4096, frames, page_size=size)
    page = Page.containing_address(VirtAddr(OFFSET + 7 * MIB), size)
    assert boot.translate_page(page).size is size
    last = OFFSET + (8 * MIB - 4097 if size == 4096 else -(-8 * MIB // size) * size - 1)
    assert boot.translate_addr(last) == PhysAddr(last - OFFSET)
    assert boot.translate_addr(last + 1) is None


def test_a_physical_map_at_a_crooked_offset_is_refused(booted: Booted) -> None:
    boot, frames = booted
    with pytest.raises(InvalidRequest) as caught:
        map_physical_memory(boot, OFFSET + 4096, MIB, frames)
    assert str(caught.value) == (
        "the offset must be a multiple of the page size 2M, got 0xa0000001000"
    )
