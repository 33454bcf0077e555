"""Only the page tables are mapped, at an offset: what that shows, and what it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.frames import BitmapFrameAllocator
from harness.mapping import (
    AddressTaken,
    BootPageTable,
    FixedOffsetPageTable,
    InvalidRequest,
    OutsideWindow,
    TableNotVisible,
    make_window,
)
from harness.mapping.flavours import OFFSET, Flavour, Lab, set_up

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
MIB = 1 << 20
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))
Snapshotter = Callable[[Lab], Any]
Booted = tuple[BootPageTable, BitmapFrameAllocator]


def test_the_window_shows_tables_and_nothing_else() -> None:
    lab = set_up(Flavour.FIXED_OFFSET)
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    tables = {int(table.frame.start_address) for table in lab.boot.tables()}
    for at in range(0, lab.memory.size, 4096):
        expected = PhysAddr(at) if at in tables else None
        assert lab.boot.translate_addr(OFFSET + at) == expected


def test_a_freed_table_leaves_the_window() -> None:
    lab = set_up(Flavour.FIXED_OFFSET)
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    tables = {table.frame for table in lab.boot.tables()}
    lab.mapper.unmap(PAGE)[1].flush()
    lab.mapper.clean_up(lab.frames).flush_all()
    freed = tables - {table.frame for table in lab.boot.tables()}
    assert len(freed) == 3
    for frame in freed:
        assert lab.boot.translate_addr(OFFSET + int(frame.start_address)) is None


def test_tables_of_other_address_spaces_are_not_in_the_window() -> None:
    lab = set_up(Flavour.FIXED_OFFSET)
    other = BootPageTable.create(lab.memory, CpuState(), lab.frames)
    mapper = FixedOffsetPageTable(lab.space, OFFSET, other.root)
    with pytest.raises(TableNotVisible) as caught:
        mapper.map_to(PAGE, FRAME, P | W, lab.frames)
    assert caught.value.frame == other.root


def test_a_table_beyond_the_window_is_the_chicken_and_the_egg(
    snapshot: Snapshotter, booted: Booted
) -> None:
    boot, frames = booted
    make_window(boot, OFFSET, 2 * MIB, frames)
    mapper = FixedOffsetPageTable(boot.address_space(), OFFSET)
    lab = Lab(Flavour.FIXED_OFFSET, boot.memory, frames, boot, boot.address_space(), mapper)
    beyond = BitmapFrameAllocator([(4 * MIB, 5 * MIB)])
    before = snapshot(lab)
    with pytest.raises(OutsideWindow) as caught:
        mapper.map_to(PAGE, FRAME, P | W, beyond)
    assert str(caught.value) == (
        "the window must have its tables before a frame becomes a table, got the frame at "
        "0x40_0000, whose window page 0xa00_0040_0000 has no PT"
    )
    assert (caught.value.level, caught.value.frame) == (1, PhysFrame(PhysAddr(4 * MIB)))
    assert snapshot(lab) == before
    assert beyond.allocated == 0


@pytest.mark.parametrize("size", [PageSize.Size4KiB, PageSize.Size2MiB], ids=lambda s: s.letter)
def test_a_window_page_that_shows_something_else(
    size: PageSize, snapshot: Snapshotter, booted: Booted
) -> None:
    boot, frames = booted
    make_window(boot, OFFSET, 2 * MIB if size > 4096 else 8 * MIB, frames)
    lab = Lab(
        Flavour.FIXED_OFFSET,
        boot.memory,
        frames,
        boot,
        boot.address_space(),
        FixedOffsetPageTable(boot.address_space(), OFFSET),
    )
    other = PhysFrame(PhysAddr(6 * MIB), size)
    page = Page(VirtAddr(OFFSET + 4 * MIB), size)
    boot.map_to(page, other, P | W, frames).ignore()
    beyond = BitmapFrameAllocator([(4 * MIB, 5 * MIB)])
    before = snapshot(lab)
    with pytest.raises(AddressTaken) as caught:
        lab.mapper.map_to(PAGE, FRAME, P | W, beyond)
    assert str(caught.value) == (
        "the virtual page 0xa00_0040_0000 must be free or show the table at 0x40_0000, got a "
        "mapping to 0x60_0000"
    )
    assert (caught.value.taken_by, caught.value.frame) == (other, PhysFrame(PhysAddr(4 * MIB)))
    assert snapshot(lab) == before


def test_a_window_of_big_pages_needs_no_new_mappings() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    mapper = FixedOffsetPageTable(lab.space, OFFSET)
    before = lab.frames.allocated
    mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    mapper.unmap(PAGE)[1].flush()
    mapper.clean_up(lab.frames).flush_all()
    assert lab.frames.allocated == before
    assert lab.boot.translate_addr(OFFSET + 15 * MIB) == PhysAddr(15 * MIB)


def test_a_crooked_window_is_refused() -> None:
    lab = set_up(Flavour.FIXED_OFFSET)
    with pytest.raises(InvalidRequest) as caught:
        FixedOffsetPageTable(lab.space, OFFSET + 4096)
    assert str(caught.value) == (
        "the offset of a window must be a multiple of 2 MiB, got 0xa0000001000"
    )
