"""Page tables for people."""

from __future__ import annotations

import itertools

from harness.boot import BootConfig, BootedState, TableBuilder, elf_kernel, load
from harness.boot.listing import listing_json, listing_text, mapped_runs
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.walker.scalar import walk

MAPS = BootConfig(map_physical_memory=True)
MAPPED = """\
  0x1000..0x1_4fff -> 0x1000 20 x 4K RWX-, 0 accessed, 0 dirty: the bootloader
  0xb_8000..0xb_8fff -> 0xb_8000 1 x 4K RWX-, 0 accessed, 0 dirty: the text screen
  0x20_0000..0x20_0fff -> 0x40_0000 1 x 4K R---, 0 accessed, 0 dirty: the kernel
  0x20_1000..0x20_1fff -> 0x40_1000 1 x 4K R-X-, 1 accessed, 0 dirty: the kernel
  0x20_2000..0x20_4fff -> 0x1_6000 3 x 4K RW--, 1 accessed, 1 dirty: the kernel
  0x100_0000_0000..0x100_0000_0fff -> 0x1_5000 1 x 4K RWX-, 0 accessed, 0 dirty: the boot info
  0x100_0000_2000..0x100_0000_5fff -> 0x1_9000 4 x 4K RWX-, 0 accessed, 0 dirty: the kernel stack
  0x180_0000_0000..0x181_001f_ffff -> 0x0 2049 x 2M RWX-, 0 accessed, 0 dirty: """


def booted(three_segments: bytes, config: BootConfig) -> BootedState:
    state = load(elf_kernel(three_segments, name="three"), config)
    for va, bits in (
        (0x20_1010, PageTableFlags.ACCESSED),
        (0x20_3000, PageTableFlags.ACCESSED | PageTableFlags.DIRTY),
    ):
        leaf = walk(state.memory, state.cpu, va).steps[-1]
        state.memory.write_u64(leaf.address, leaf.raw | bits)
    return state


def test_runs_of_pages(three_segments: bytes) -> None:
    config = BootConfig(map_physical_memory=True, kernel_stack_size=4)
    text = listing_text(booted(three_segments, config), tables=True)
    assert text.split("mapped:\n")[1] == MAPPED + "the physical memory map"
    assert text.splitlines()[:3] == [
        "level 4 table at 0x1000:",
        "    0  0x2003  the kernel, the bootloader, the text screen",
        "    2  0x40_4003  the kernel stack, the boot info",
    ]
    assert "mapped" not in listing_text(booted(three_segments, config), tables=False)


def test_a_slot_of_the_kernels_own(three_segments: bytes) -> None:
    state = booted(three_segments, MAPS)
    state.memory.write_u64(state.cpu.root + 8 * 400, 0x7003)
    assert "  400  0x7003  not the bootloader's" in listing_text(state, tables=False)


def test_the_recursive_slot_is_not_taken_apart(three_segments: bytes) -> None:
    state = booted(three_segments, BootConfig(recursive_page_table=True, kernel_stack_size=4))
    runs = mapped_runs(state.memory, state.cpu, state.layout)
    assert [run.start >> 39 for run in runs] == [0, 0, 0, 0, 0, 2, 2]
    assert len(mapped_runs(state.memory, state.cpu)) > len(runs)
    assert mapped_runs(state.memory, state.cpu)[0].names == ()


def test_neighbours_with_frames_apart_are_two_runs() -> None:
    memory = PhysicalMemory(1 << 20)
    tables = TableBuilder(memory, itertools.count(0x1000, 0x1000).__next__)
    for va, pa in ((0x20_0000, 0x8_1000), (0x20_1000, 0x8_0000), (0x20_2000, 0x8_1000)):
        tables.map(va, pa, 0x1000, PageTableFlags.PRESENT)
    runs = mapped_runs(memory, CpuState(cr3=tables.root))
    assert [(run.start, run.pa, run.pages, run.rights) for run in runs] == [
        (0x20_0000, 0x8_1000, 1, "R-X-"),
        (0x20_1000, 0x8_0000, 2, "R-X-"),
    ]
    assert str(runs[1]).endswith("-> 0x8_0000 2 x 4K R-X-, 0 accessed, 0 dirty: unnamed")


def test_no_pages_at_all(three_segments: bytes) -> None:
    state = booted(three_segments, BootConfig())
    state.memory.frame(state.cpu.root)[:] = 0
    assert mapped_runs(state.memory, state.cpu) == []


def test_json(three_segments: bytes) -> None:
    result = listing_json(booted(three_segments, MAPS), tables=True)
    assert result["level_4"][0] == {
        "index": 0,
        "entry": "0x2003",
        "names": ["the kernel", "the bootloader", "the text screen"],
    }
    assert result["mapped"][4] == {
        "start": "0x202000",
        "end": "0x205000",
        "pa": "0x16000",
        "page_size": 4096,
        "pages": 3,
        "rights": "RW--",
        "accessed": 1,
        "dirty": 1,
        "names": ["the kernel"],
    }
    assert "mapped" not in listing_json(booted(three_segments, MAPS), tables=False)
