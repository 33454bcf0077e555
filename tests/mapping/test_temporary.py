"""The lecture's level 1 table at 32 KiB, and its 511 slots."""

from __future__ import annotations

import pytest

from harness.address import Page, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.frames import BitmapFrameAllocator
from harness.mapping import (
    AccessFault,
    BootPageTable,
    InvalidPageTable,
    InvalidRequest,
    MapToError,
    NoFreeSlot,
    TemporaryMapping,
    TemporaryPageTable,
    make_temporary_table,
)
from harness.mapping.flavours import Flavour, set_up
from harness.memory import PhysicalMemory

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
KIB, MIB = 1 << 10, 1 << 20
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))
Booted = tuple[BootPageTable, BitmapFrameAllocator]


def lecture_tables() -> BootPageTable:
    """The lecture's picture: level 4 at 4 KiB, 3 at 20, 2 at 24, and the level 1 table at 32."""
    memory = PhysicalMemory(MIB)
    for table, entry in [(4, 20), (20, 24), (24, 32)]:
        memory.write_u64(table * KIB, entry * KIB | 3)
    memory.write_u64(32 * KIB + 8 * 8, 32 * KIB | 3)
    return BootPageTable(memory, CpuState(), PhysFrame(PhysAddr(4 * KIB)))


def test_the_lectures_temporary_mappings() -> None:
    boot = lecture_tables()
    space = boot.address_space()
    slots = TemporaryMapping(space, 32 * KIB)
    assert slots.free_slots == 511
    assert slots.map(PhysFrame(PhysAddr(24 * KIB))) == VirtAddr(0)
    assert space.read_u64(0) & ~0x60 == 32 * KIB | 3  # the level 2 table
    for _ in range(7):
        slots.map(FRAME)
    assert slots.map(PhysFrame(PhysAddr(4 * KIB))) == VirtAddr(36 * KIB)  # entry 9, after 8
    assert space.read_u64(36 * KIB) & ~0x60 == 20 * KIB | 3  # the level 4 table
    space.write_u64(36 * KIB + 8 * 511, 0x1234)
    assert boot.memory.read_u64(4 * KIB + 8 * 511) == 0x1234
    slots.unmap(36 * KIB)
    with pytest.raises(AccessFault):
        space.read_u64(36 * KIB)


def test_there_are_511_slots() -> None:
    boot = lecture_tables()
    slots = TemporaryMapping(boot.address_space(), 32 * KIB)
    pages = [slots.map(FRAME) for _ in range(511)]
    assert len(set(pages)) == 511
    assert VirtAddr(32 * KIB) not in pages
    assert slots.free_slots == 0
    with pytest.raises(NoFreeSlot) as caught:
        slots.map(FRAME)
    assert str(caught.value) == (
        "a slot of the temporary mapping table at 0x8000 must be free, got none in 512 (one of "
        "them shows the table itself)"
    )
    with pytest.raises(NoFreeSlot):
        TemporaryPageTable(boot.address_space(), 32 * KIB).translate(VA)
    slots.unmap(pages[200])
    assert slots.map(FRAME) == pages[200]


@pytest.mark.parametrize("at", [32 * KIB, 2 * MIB, 1 << 40])
def test_only_lent_pages_can_be_given_back(at: int) -> None:
    slots = TemporaryMapping(lecture_tables().address_space(), 32 * KIB)
    with pytest.raises(InvalidRequest, match="must be one of the 511 that the table at 0x8000"):
        slots.unmap(at)


def test_a_slot_is_given_back_and_invalidated_after_an_error() -> None:
    told: list[int] = []

    class Tlb:
        def invlpg(self, va: int) -> None:
            told.append(va)

        def flush_all(self) -> None:
            raise AssertionError

    slots = TemporaryMapping(lecture_tables().address_space(Tlb()), 32 * KIB)

    def fail() -> None:
        with slots.showing(FRAME) as at:
            assert at == VirtAddr(0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (slots.free_slots, told) == (511, [0])


def test_a_table_that_does_not_map_itself_is_refused() -> None:
    boot = lecture_tables()
    boot.memory.write_u64(32 * KIB + 8 * 9, 24 * KIB | 3)
    with pytest.raises(InvalidPageTable.NotRecursive) as caught:
        TemporaryMapping(boot.address_space(), 36 * KIB)
    assert str(caught.value) == (
        "the table at 0x9000 must map itself through its entry 9, got the entry 0x0 in the frame "
        "at 0x6000"
    )
    with pytest.raises(AccessFault):
        TemporaryMapping(boot.address_space(), 40 * KIB)


def test_the_temporary_mapper_leaves_no_mapping_behind() -> None:
    lab = set_up(Flavour.TEMPORARY)
    assert isinstance(lab.mapper, TemporaryPageTable)
    free = lab.mapper.slots.free_slots
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    with pytest.raises(MapToError):
        lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames)
    list(lab.mapper.tables())
    assert lab.mapper.slots.free_slots == free


def test_the_temporary_mapper_reaches_other_address_spaces() -> None:
    lab = set_up(Flavour.TEMPORARY)
    other = BootPageTable.create(lab.memory, CpuState(), lab.frames)
    assert isinstance(lab.mapper, TemporaryPageTable)
    table = lab.mapper.slots.table.start_address
    mapper = TemporaryPageTable(lab.space, table, other.root)
    mapper.map_to(PAGE, FRAME, P | W, lab.frames).ignore()
    assert other.translate_addr(VA) == PhysAddr(0x5000)


def test_a_temporary_table_need_not_be_identity_mapped(booted: Booted) -> None:
    boot, frames = booted
    at = make_temporary_table(boot, 0xFFFF_C000_0012_3000, frames)
    assert at == VirtAddr(0xFFFF_C000_0012_3000)
    mapper = TemporaryPageTable(boot.address_space(), at)
    mapper.map_to(PAGE, FRAME, P | W, frames).flush()
    assert boot.translate_addr(VA) == PhysAddr(0x5000)
