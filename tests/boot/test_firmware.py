"""Memory maps, and who gets which frame."""

from __future__ import annotations

import pytest

from harness.boot.bootinfo import BootInfo, FrameRange, MemoryRegion, MemoryRegionType
from harness.boot.firmware import BootloaderFrames, Firmware, PrintoutFrames, ram_of
from harness.errors import BootError

T = MemoryRegionType
MIB = 1 << 20


def region(start: int, end: int, kind: MemoryRegionType = T.Usable) -> MemoryRegion:
    return MemoryRegion(FrameRange(start, end), kind)


def listed(regions: tuple[MemoryRegion, ...]) -> list[tuple[int, int, str]]:
    return [(r.start, r.end, r.region_type.name) for r in regions]


def test_a_pc_is_the_lectures_machine_before_it_booted(lecture_boot_info: BootInfo) -> None:
    machine = Firmware.pc(128 * MIB, amd_hole=True)
    printed = {r.range for r in lecture_boot_info.regions(T.Reserved)}
    assert {r.range for r in machine.memory_map if r.region_type == T.Reserved} == printed
    assert machine.ram == ((0, 128 * MIB),) == ram_of(lecture_boot_info.memory_map)
    assert machine.ram == ram_of(machine.memory_map)


def test_a_large_ram_continues_at_4_gib() -> None:
    assert Firmware.pc((7 << 29) - 4096).ram == ((0, (7 << 29) - 4096),)
    assert Firmware.pc(7 << 29).ram == ((0, 3 << 30), (4 << 30, 1 << 29))
    machine = Firmware.pc(5 << 30)
    assert machine.ram == ((0, 3 << 30), (4 << 30, 2 << 30))
    assert listed(machine.memory_map)[-2:] == [
        (0xFFFC_0000, 4 << 30, "Reserved"),
        (4 << 30, 6 << 30, "Usable"),
    ]
    assert ram_of(machine.memory_map)[0] == (0, 3 << 30)


@pytest.mark.parametrize("size", [0, -4096, 1 * MIB, 128 * MIB + 1, 1 << 40])
def test_sizes_that_no_machine_has(size: int) -> None:
    with pytest.raises(BootError) as refused:
        Firmware.pc(size)
    assert str(refused.value) == (
        f"the memory must be a multiple of 4 KiB from 2 MiB to 512 GiB, not {size} bytes"
    )


def test_reserved_memory_is_ram_where_it_follows_ram() -> None:
    bank = (
        region(0x0, 0x9_F000),
        region(0x10_0000, 0x20_0000),
        region(0x20_0000, 0x21_0000, T.Reserved),
        region(0x21_0000, 0x30_0000, T.AcpiNvs),
        region(0x40_0000, 0x50_0000, T.BadMemory),
    )
    assert ram_of(bank) == ((0, 0x30_0000),)
    assert ram_of((region(0x4000_0000, 0x8000_0000),)) == (
        (0, MIB),
        (0x4000_0000, 0x4000_0000),
    )
    with pytest.raises(BootError, match="the memory map must have RAM above 1 MiB: it has none"):
        ram_of((region(0, 0x9_F000),))


def test_a_memory_map_is_sorted() -> None:
    with pytest.raises(BootError) as refused:
        ram_of((region(0x10_0000, 0x20_0000), region(0x1F_F000, 0x30_0000)))
    assert str(refused.value) == (
        "the regions of a memory map must be sorted and not overlap: "
        "FrameRange(0x1ff000..0x300000) comes after FrameRange(0x100000..0x200000)"
    )


def test_regions_grow_where_the_frame_behind_is_usable() -> None:
    frames = BootloaderFrames((region(0x1000, 0x5000), region(0x8000, 0x9000, T.Reserved)))
    assert [frames.allocate(T.KernelStack) for _ in range(2)] == [0x1000, 0x2000]
    assert frames.allocate(T.Kernel) == 0x3000
    # The stack's region cannot grow any more.
    assert frames.allocate(T.KernelStack) == 0x4000
    assert listed(frames.memory_map) == [
        (0x1000, 0x3000, "KernelStack"),
        (0x3000, 0x4000, "Kernel"),
        (0x4000, 0x5000, "KernelStack"),
        (0x8000, 0x9000, "Reserved"),
    ]
    assert frames.available(T.Kernel) == 0
    with pytest.raises(BootError) as refused:
        frames.allocate(T.Kernel)
    assert str(refused.value) == (
        "the memory must have a free frame for the Kernel region: it is used up; "
        "give the machine more"
    )


def test_regions_do_not_grow_over_a_gap() -> None:
    frames = BootloaderFrames((region(0x1000, 0x2000, T.Kernel), region(0x8000, 0x9000)))
    assert frames.allocate(T.Kernel) == 0x8000
    assert listed(frames.memory_map) == [(0x1000, 0x2000, "Kernel"), (0x8000, 0x9000, "Kernel")]


def test_page_tables_come_from_the_last_usable_region() -> None:
    frames = BootloaderFrames((region(0x1000, 0x3000), region(0x10_0000, 0x10_2000)))
    assert [frames.allocate(T.PageTable) for _ in range(3)] == [0x10_0000, 0x10_1000, 0x1000]


def test_marking_takes_a_range_out_of_the_middle() -> None:
    frames = BootloaderFrames((region(0x1000, 0x9000),))
    frames.mark(FrameRange(0x3000, 0x5000), T.Bootloader)
    assert listed(frames.memory_map) == [
        (0x1000, 0x3000, "Usable"),
        (0x3000, 0x5000, "Bootloader"),
        (0x5000, 0x9000, "Usable"),
    ]
    with pytest.raises(BootError) as refused:
        frames.mark(FrameRange(0x4000, 0x6000), T.Kernel)
    assert str(refused.value) == (
        "the memory must have usable frames at 0x4000 to 0x5fff for the Kernel region: it has not; "
        "give the machine more"
    )


def test_a_memory_map_has_room_for_64_regions() -> None:
    holes = tuple(region(start, start + 0x1000) for start in range(0x2000, 0x2000 * 65, 0x2000))
    frames = BootloaderFrames((*holes[:-1], region(0x80_0000, 0x90_0000)))
    assert frames.allocate(T.Kernel) == 0x2000
    with pytest.raises(BootError, match="must have at most 64 regions: the memory is too frag"):
        frames.mark(FrameRange(0x80_0000, 0x80_1000), T.Kernel)


def test_a_printout_gives_its_own_regions(lecture_boot_info: BootInfo) -> None:
    frames = PrintoutFrames(lecture_boot_info.memory_map)
    assert [frames.allocate(T.PageTable) for _ in range(5)] == [
        0x1000, 0x2000, 0x3000, 0x4000, 0x43_1000,
    ]  # fmt: skip
    assert frames.kernel_file([0, 2], 3) == {0: 0x40_0000, 2: 0x40_1000}
    assert frames.available(T.Kernel) == 49 + 7 - 2
    assert frames.allocate(T.BootInfo) == 0x1_5000
    assert frames.memory_map == lecture_boot_info.memory_map
    with pytest.raises(BootError) as refused:
        frames.allocate(T.BootInfo)
    assert str(refused.value) == (
        "the BootInfo must have more frames in its BootInfo regions for this kernel: "
        "all 1 are used up"
    )
