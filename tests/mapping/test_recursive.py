"""A top-level table that leads to itself, in any slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.address import Page, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.mapping import (
    AccessFault,
    BootPageTable,
    InvalidPageTable,
    InvalidRequest,
    RecursivePageTable,
    TableNotVisible,
    make_recursive,
)
from harness.mapping.flavours import SLOT, Flavour, Lab, set_up

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))
Snapshotter = Callable[[Lab], Any]


@pytest.mark.parametrize("slot", [0, 1, 255, 256, 300, 510, 511])
@pytest.mark.parametrize("levels", [4, 5])
def test_any_slot_will_do(slot: int, levels: int) -> None:
    cpu = CpuState(cr4=0x1020 if levels == 5 else 0x20)
    lab = set_up(Flavour.RECURSIVE, cpu=cpu, slot=slot)
    va = VA if levels == 4 else 77 << 48 | VA
    page = Page(VirtAddr(va, levels))
    lab.mapper.map_to(page, FRAME, P | W, lab.frames).flush()
    assert lab.boot.translate_addr(va) == PhysAddr(0x5000)
    assert isinstance(lab.mapper, RecursivePageTable)
    assert lab.mapper.slot == slot


@pytest.mark.parametrize(
    "table",
    [0xFFFF_FF7F_BFDF_F000, 0xFFFF_FF7F_BFC0_0000, 0xFFFF_FF00_0000_0000, 0xFFFF_FF7F_BFDF_E008],
)
def test_an_address_with_different_indices_is_not_recursive(table: int) -> None:
    lab = set_up(Flavour.RECURSIVE)
    with pytest.raises(InvalidPageTable.NotRecursive) as caught:
        RecursivePageTable.new(lab.space, table)
    assert str(caught.value) == (
        "the address of a recursive top-level table must have one index at all 4 levels and "
        f"offset 0, got {table:#_x}"
    )
    assert caught.value.table == VirtAddr(table)


def test_a_recursive_table_that_is_not_in_cr3_is_not_active() -> None:
    lab = set_up(Flavour.RECURSIVE)
    # The slot of the active table leads to another table, which leads to itself.
    other = BootPageTable.create(lab.memory, CpuState(), lab.frames)
    make_recursive(other, SLOT)
    at = int(other.root.start_address)
    lab.memory.write_u64(int(lab.mapper.root.start_address) + 8 * SLOT, at | 3)
    with pytest.raises(InvalidPageTable.NotActive) as caught:
        RecursivePageTable.new(lab.space, 0xFFFF_FF7F_BFDF_E000)
    assert str(caught.value) == (
        "entry 510 of a recursive table must lead to the table in CR3, at 0x1000, got "
        f"{at | 0x23:#x}"
    )


def test_a_slot_that_is_not_there_is_a_fault() -> None:
    lab = set_up(Flavour.RECURSIVE)
    with pytest.raises(AccessFault) as caught:
        RecursivePageTable.from_slot(lab.space, 511)
    assert str(caught.value) == (
        "a mapper's access must go through virtual memory, got page-fault (rule PRESENT at the "
        "PML4E) for the read of 0xffff_ffff_ffff_fff8"
    )


def test_a_read_only_slot_reads_and_does_not_write(snapshot: Snapshotter) -> None:
    lab = set_up(Flavour.RECURSIVE)
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    slot = int(lab.mapper.root.start_address) + 8 * SLOT
    lab.memory.write_u64(slot, lab.memory.read_u64(slot) & ~2)
    before = snapshot(lab)
    assert lab.mapper.translate_addr(VA) == PhysAddr(0x5000)
    with pytest.raises(TableNotVisible) as caught:
        lab.mapper.unmap(PAGE)
    assert caught.value.walk.rule == "WP"
    assert snapshot(lab) == before


def test_a_freed_table_is_invalidated_where_it_was_seen() -> None:
    told: list[int] = []

    class Tlb:
        def invlpg(self, va: int) -> None:
            told.append(va)

        def flush_all(self) -> None:
            told.clear()

    lab = set_up(Flavour.RECURSIVE, tlb=Tlb())
    page = Page.from_page_table_indices(0o123, 0o234, 0o345, 0o456)
    lab.mapper.map_to(page, FRAME, P | W, lab.frames).ignore()
    lab.mapper.unmap(page)[1].ignore()
    receipt = lab.mapper.clean_up(lab.frames)
    slot = Page.from_page_table_indices
    assert told == [
        int(page.start_address)
        for page in (
            slot(SLOT, 0o123, 0o234, 0o345),
            slot(SLOT, SLOT, 0o123, 0o234),
            slot(SLOT, SLOT, SLOT, 0o123),
        )
    ]
    receipt.flush_all()


@pytest.mark.parametrize("slot", [-1, 512, SLOT])
def test_a_slot_must_be_free(slot: int) -> None:
    lab = set_up(Flavour.RECURSIVE)
    with pytest.raises(InvalidRequest) as caught:
        make_recursive(lab.boot, slot)
    assert str(caught.value) == (
        f"the recursive slot must be a free entry of the top-level table, got {slot}"
    )
