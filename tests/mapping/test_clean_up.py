"""Listing tables and freeing the empty ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.mapping import TableAt, TableNotVisible
from harness.mapping.flavours import Flavour, Lab, set_up

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
VA = 0x7000_0000_0000
SMALL = PageSize.Size4KiB
Snapshotter = Callable[[Lab], Any]


def use(lab: Lab, va: int, size: PageSize = SMALL) -> None:
    page = Page.containing_address(VirtAddr(va), size)
    lab.mapper.map_to(page, PhysFrame(PhysAddr(0), size), P | W, lab.frames).flush()


def drop(lab: Lab, va: int, size: PageSize = SMALL) -> None:
    lab.mapper.unmap(Page.containing_address(VirtAddr(va), size))[1].flush()


def test_tables_lists_each_table_below_its_parent(lab: Lab) -> None:
    levels = lab.mapper.levels
    use(lab, VA + 0x4060_1000)
    listed = list(lab.mapper.tables())
    assert listed == list(lab.boot.tables())
    assert listed[0] == TableAt(levels, lab.mapper.root, VirtAddr(0))
    below = {table.level: table for table in listed if VA <= int(table.first) < VA + (1 << 39)}
    assert {level: int(table.first) - VA for level, table in below.items() if level < 4} == {
        3: 0,
        2: 0x4000_0000,
        1: 0x4060_0000,
    }


def test_clean_up_frees_what_a_mapping_needed(lab: Lab, snapshot: Snapshotter) -> None:
    lab.mapper.clean_up(lab.frames).flush_all()
    before = snapshot(lab)
    use(lab, VA)
    use(lab, VA + (1 << 30), PageSize.Size2MiB)
    use(lab, VA + (2 << 30), PageSize.Size1GiB)
    use(lab, 0xFFFF_9000_0000_0000)
    assert snapshot(lab) != before
    drop(lab, VA)
    drop(lab, VA + (1 << 30), PageSize.Size2MiB)
    drop(lab, VA + (2 << 30), PageSize.Size1GiB)
    drop(lab, 0xFFFF_9000_0000_0000)
    lab.mapper.clean_up(lab.frames).flush_all()
    assert snapshot(lab) == before


def test_clean_up_keeps_tables_in_use(lab: Lab) -> None:
    use(lab, VA)
    use(lab, VA + 0x20_0000)
    drop(lab, VA)
    allocated = lab.frames.allocated
    lab.mapper.clean_up(lab.frames).flush_all()
    assert lab.frames.allocated == allocated - 1
    assert lab.mapper.translate_addr(VA + 0x20_0000) == PhysAddr(0)


def test_clean_up_of_a_range_leaves_the_rest(lab: Lab) -> None:
    use(lab, VA)
    use(lab, VA + 0x20_0000)
    use(lab, VA + 0x60_0000)
    for at in (0, 0x20_0000, 0x60_0000):
        drop(lab, VA + at)
    levels = lab.mapper.levels
    first = Page(VirtAddr(VA + 0x3F_F000, levels))
    allocated = lab.frames.allocated
    lab.mapper.clean_up_addr_range(Page.range(first, first), lab.frames).flush_all()
    assert lab.frames.allocated == allocated
    # 0x3f_f000 is the last page of the second table, 0x40_0000 belongs to none.
    lab.mapper.clean_up_addr_range(Page.range(first, first + 2), lab.frames).flush_all()
    assert lab.frames.allocated == allocated - 1
    left = {int(table.first) for table in lab.boot.tables() if table.level == 1}
    assert {VA, VA + 0x60_0000} <= left
    assert VA + 0x20_0000 not in left
    everything = Page.range_inclusive(Page(VirtAddr(VA, levels)), first + 1000)
    lab.mapper.clean_up_addr_range(everything, lab.frames).flush_all()
    assert not any(VA <= int(table.first) < VA + (1 << 39) for table in lab.boot.tables())


def test_the_last_page_of_the_address_space_can_be_cleaned_up(lab: Lab) -> None:
    top = (1 << 64) - 4096 - (1 << 40)
    use(lab, top)
    drop(lab, top)
    allocated = lab.frames.allocated
    levels = lab.mapper.levels
    last = Page(VirtAddr((1 << 64) - 4096, levels))
    pages = Page.range_inclusive(Page(VirtAddr(top, levels)), last)
    lab.mapper.clean_up_addr_range(pages, lab.frames).flush_all()
    assert lab.frames.allocated < allocated


def test_a_table_that_two_entries_lead_to_is_freed_once() -> None:
    lab = set_up(Flavour.OFFSET_2M)
    use(lab, VA)
    drop(lab, VA)
    root = lab.memory.frame(int(lab.mapper.root.start_address))
    slot = VA >> 39 & 511
    root[slot + 1] = root[slot]
    lab.mapper.clean_up(lab.frames).flush_all()
    assert (int(root[slot]), int(root[slot + 1])) == (0, 0)


def test_a_table_that_cannot_be_seen_stops_everything(snapshot: Snapshotter) -> None:
    lab = set_up(Flavour.FIXED_OFFSET)
    use(lab, VA)
    drop(lab, VA)
    # The tables of a page that is gone, and after them a table that is in no window.
    root = lab.memory.frame(int(lab.mapper.root.start_address))
    outside = lab.frames.allocate_frame()
    assert outside is not None
    root[(VA >> 39 & 511) + 1] = int(outside.start_address) | 3
    before = snapshot(lab)
    with pytest.raises(TableNotVisible) as caught:
        lab.mapper.clean_up(lab.frames)
    assert (caught.value.frame, caught.value.level) == (outside, 3)
    assert snapshot(lab) == before


def test_the_tables_of_a_window_stay() -> None:
    lab = set_up(Flavour.FIXED_OFFSET)
    lab.mapper.clean_up(lab.frames).flush_all()
    while lab.frames.free > 8:  # tables that come next lie in the window's last 2 MiB
        lab.frames.allocate_frame()
    use(lab, VA)
    assert lab.mapper.translate_addr(VA) == PhysAddr(0)
