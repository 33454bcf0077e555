"""What the bootloader makes, and what it refuses."""

from __future__ import annotations

import pytest

from harness.address import Page, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.errors import NoMemory
from harness.frames import BitmapFrameAllocator, EmptyFrameAllocator
from harness.mapping import (
    BootPageTable,
    FixedOffsetPageTable,
    InvalidRequest,
    MapToError,
    make_window,
)
from harness.mapping.flavours import OFFSET
from harness.memory import PhysicalMemory

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
MIB = 1 << 20
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))
Booted = tuple[BootPageTable, BitmapFrameAllocator]


def test_a_new_address_space_needs_a_frame_in_ram() -> None:
    memory = PhysicalMemory(MIB)
    with pytest.raises(InvalidRequest) as caught:
        BootPageTable.create(memory, CpuState(), EmptyFrameAllocator())
    assert str(caught.value) == "a frame must be left for the top-level table, got none"
    with pytest.raises(NoMemory):
        BootPageTable.create(memory, CpuState(), BitmapFrameAllocator([(MIB, 2 * MIB)]))


def test_a_new_address_space_is_empty() -> None:
    memory = PhysicalMemory(MIB)
    memory.frame(0x1000)[:] = 0xFFFF
    boot = BootPageTable.create(memory, CpuState(), BitmapFrameAllocator([(0x1000, MIB)]))
    assert not memory.frame(0x1000).any()
    assert boot.address_space().root == boot.root == PhysFrame(PhysAddr(0x1000))


def test_a_window_is_made_around_what_is_mapped_there_already(booted: Booted) -> None:
    boot, frames = booted
    at = Page(VirtAddr(OFFSET + 2 * MIB))
    boot.map_to(at, FRAME, P | W, frames).ignore()
    make_window(boot, OFFSET, 8 * MIB, frames)
    assert boot.translate_page(at) == FRAME
    mapper = FixedOffsetPageTable(boot.address_space(), OFFSET)
    mapper.map_to(PAGE, FRAME, P | W, frames).flush()
    assert boot.translate_addr(VA) == FRAME.start_address


def test_a_window_must_hold_every_table(booted: Booted) -> None:
    boot, frames = booted
    while frames.allocated < 600:
        frames.allocate_frame()
    boot.map_to(PAGE, FRAME, P | W, frames).ignore()
    with pytest.raises(MapToError.FrameAllocationFailed):
        make_window(boot, OFFSET, 2 * MIB, frames)
