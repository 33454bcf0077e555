"""A loaded machine, judged by the walker."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import PageSize
from harness.boot import (
    BootConfig,
    BootedState,
    BootInfo,
    Firmware,
    FrameRange,
    KernelImage,
    MemoryRegion,
    MemoryRegionType,
    Segment,
    elf_kernel,
    flat_kernel,
    level_4_listing,
    load,
    parse_boot_info,
)
from harness.errors import BootError, InputError
from harness.outcome import Outcome
from harness.walker.scalar import Walk, walk

MIB = 1 << 20
MAPS = BootConfig(map_physical_memory=True)
LECTURE_PC = Firmware.pc(128 * MIB, amd_hole=True)


def look(state: BootedState, va: int, access: str = "read") -> Walk:
    return walk(state.memory, state.cpu, va, access)


def outcomes(state: BootedState, va: int) -> list[str]:
    return [
        "ok" if (w := look(state, va, access)).outcome is Outcome.MAPPED else str(w.rule)
        for access in ("read", "write", "fetch")
    ]


def byte_at(state: BootedState, va: int) -> int:
    pa = look(state, va).pa
    assert pa is not None
    return state.memory.read(pa, 1)[0]


@pytest.fixture
def booted(three_segments: bytes) -> BootedState:
    return load(elf_kernel(three_segments, name="three"), MAPS)


def test_segments_have_their_own_rights(booted: BootedState) -> None:
    assert outcomes(booted, 0x20_0000) == ["ok", "WP", "NX"]
    assert outcomes(booted, 0x20_1010) == ["ok", "WP", "ok"]
    assert outcomes(booted, 0x20_2100) == ["ok", "ok", "NX"]
    assert look(booted, 0x20_1010).page_size == PageSize.Size4KiB
    assert outcomes(booted, 0x20_5000) == ["PRESENT"] * 3


def test_segments_hold_the_files_bytes_and_then_zeros(booted: BootedState) -> None:
    assert [byte_at(booted, va) for va in (0x20_1000, 0x20_1233)] == [0xC3, 0xC3]
    assert [byte_at(booted, va) for va in (0x20_2100, 0x20_23FF)] == [0xDA, 0xDA]
    assert [byte_at(booted, va) for va in (0x20_2400, 0x20_2FFF, 0x20_3000, 0x20_40FF)] == [0] * 4
    # What lies before .data in its page is the file's, as in bootloader 0.9.
    assert byte_at(booted, 0x20_2000) == 0xDA


def test_the_file_lies_at_4_mib_and_bss_elsewhere(booted: BootedState) -> None:
    assert look(booted, 0x20_1010).pa == 0x40_1010
    assert booted.memory.read(0x40_1000, 2) == b"\xc3\xc3"
    kernel = booted.boot_info.regions(MemoryRegionType.Kernel)
    # The page of .data with zeros in it is a copy, and two pages are all zeros.
    assert [(r.start, len(r.range)) for r in kernel] == [(0x1_6000, 3), (0x40_0000, 4)]
    assert look(booted, 0x20_2100).pa == 0x1_6100
    assert booted.memory.read(0x40_2400, 1) == b"\xda"


def test_registers_and_the_stack_with_its_guard_page(booted: BootedState) -> None:
    assert booted.rip == 0x20_1010
    assert booted.rdi == 0x100_0000_0000
    assert booted.rsp == 0x100_0020_2000 - 8
    assert outcomes(booted, booted.rsp) == ["ok", "ok", "ok"]
    assert outcomes(booted, 0x100_0000_2000) == ["ok", "ok", "ok"]
    assert outcomes(booted, 0x100_0000_1FFF) == ["PRESENT"] * 3
    assert outcomes(booted, 0x100_0020_2000) == ["PRESENT"] * 3
    assert booted.memory.read(look(booted, booted.rsp).pa or 0, 8) == bytes(8)
    cpu = booted.cpu
    assert (cpu.wp, cpu.nxe, cpu.levels, cpu.root, cpu.cpl) == (True, True, 4, 0x1000, 0)


def test_the_boot_info_lies_where_rdi_points(booted: BootedState) -> None:
    pa = look(booted, booted.rdi).pa
    assert pa is not None
    data = booted.memory.read(pa, 4096)
    read = BootInfo.from_bytes(data, map_physical_memory=True, recursive_page_table=False)
    assert read == booted.boot_info
    assert booted.boot_info.regions(MemoryRegionType.BootInfo)[0].start == pa


def test_the_physical_memory_map(booted: BootedState) -> None:
    offset = booted.boot_info.physical_memory_offset
    assert offset == 0x180_0000_0000
    for pa in (0, 0xB_8000, 0x40_1010, 128 * MIB - 1):
        found = look(booted, offset + pa, "write")
        assert (found.pa, found.page_size) == (pa, PageSize.Size2MiB)
    assert outcomes(booted, offset + 0x40_1010) == ["ok", "ok", "ok"]
    # Up to the end of the memory map, RAM or not, and one large page more.
    assert look(booted, offset + (4 << 30) + 2 * MIB - 1).outcome is Outcome.NO_MEMORY
    assert look(booted, offset + (4 << 30) + 2 * MIB).rule == "PRESENT"


def test_the_bootloader_and_the_text_screen_are_identity_mapped(booted: BootedState) -> None:
    for va in (0x1000, 0x4FFF, 0x5000, 0x1_4FFF, 0xB_8000):
        assert look(booted, va, "write").pa == va
    for va in (0, 0x1_5000, 0xB_7FFF, 0xB_9000):
        assert look(booted, va).rule == "PRESENT"


def test_the_recursive_slot_is_there_only_with_its_feature(three_segments: bytes) -> None:
    image = elf_kernel(three_segments, name="three")
    state = load(image, BootConfig(recursive_page_table=True))
    address = state.boot_info.recursive_page_table_addr
    assert address == 0x80_4020_1000
    assert state.boot_info.recursive_index == 1
    assert state.boot_info.physical_memory_offset is None
    assert look(state, address, "write").pa == state.cpu.root
    state = load(image, BootConfig(recursive_page_table=True, recursive_index=511))
    assert look(state, 0xFFFF_FFFF_FFFF_F000).pa == state.cpu.root
    state = load(image)
    assert state.memory.read_u64(state.cpu.root + 8) == 0
    assert look(state, address).rule == "PRESENT"


def test_sse() -> None:
    image = flat_kernel(b"\xf4", name="k")
    assert (load(image).cpu.cr0, load(image).cpu.cr4) == (0x8001_0011, 0x20)
    sse = load(image, BootConfig(sse=True)).cpu
    assert (sse.cr0, sse.cr4) == (0x8001_0013, 0x620)


def test_the_configuration_decides_on_addresses() -> None:
    state = load(
        flat_kernel(b"\xf4", name="high", address=0xFFFF_FFFF_8020_0000),
        BootConfig(
            map_physical_memory=True,
            physical_memory_offset=0xFFFF_8880_0000_0000,
            kernel_stack_address=0xFFFF_FE00_0000_0000,
            kernel_stack_size=4,
            boot_info_address=0xFFFF_FD00_0000_0000,
        ),
    )
    assert state.rip == 0xFFFF_FFFF_8020_0000
    assert state.rdi == 0xFFFF_FD00_0000_0000
    assert state.rsp == 0xFFFF_FE00_0000_5000 - 8
    assert outcomes(state, state.rip) == ["ok", "ok", "ok"]
    assert look(state, 0xFFFF_8880_000B_8000).pa == 0xB_8000
    names = {slot.index: slot.names for slot in level_4_listing(state)}
    assert names == {
        0: ("the bootloader", "the text screen"),
        273: ("the physical memory map",),
        506: ("the boot info",),
        508: ("the kernel stack",),
        511: ("the kernel",),
    }


def test_the_memory_map_accounts_for_every_frame(booted: BootedState) -> None:
    before = {f for r in Firmware.pc(128 * MIB).memory_map for f in (r.start, r.end)}
    regions = booted.boot_info.memory_map
    for one, other in itertools.pairwise(regions):
        assert one.end == other.start or {one.end, other.start} <= before


# The lecture.


def test_a_kernel_of_the_lectures_size_gets_the_lectures_boot_info(
    lecture_text: str, lecture_sized_kernel: KernelImage
) -> None:
    state = load(lecture_sized_kernel, MAPS, LECTURE_PC)
    assert state.boot_info.debug() == lecture_text


def test_the_lectures_printout_boots(
    lecture_boot_info: BootInfo, lecture_sized_kernel: KernelImage
) -> None:
    state = load(lecture_sized_kernel, None, lecture_boot_info)
    assert state.boot_info == lecture_boot_info
    assert state.memory.size == 128 * MIB
    offset = 0x180_0000_0000
    assert look(state, offset + 0x41_2345).pa == 0x41_2345
    assert [(slot.index, slot.names) for slot in level_4_listing(state)] == [
        (0, ("the kernel", "the bootloader", "the text screen")),
        (2, ("the kernel stack", "the boot info")),
        (3, ("the physical memory map",)),
        (4, ("the physical memory map",)),
        (5, ("the physical memory map",)),
        (31, ("the bootloader's scratch page",)),
    ]
    tables = [r.range for r in lecture_boot_info.regions(MemoryRegionType.PageTable)]
    for slot in level_4_listing(state):
        assert any(int(slot.entry.address) in area for area in tables)
    for purpose, va in (
        (MemoryRegionType.Kernel, state.rip),
        (MemoryRegionType.Kernel, 0x23_6000),
        (MemoryRegionType.KernelStack, state.rsp),
        (MemoryRegionType.BootInfo, state.rdi),
    ):
        pa = look(state, va).pa
        assert pa is not None
        assert any(pa in region.range for region in lecture_boot_info.regions(purpose))


def test_booting_a_printout_is_booting_the_machine_that_printed_it(
    lecture_boot_info: BootInfo, lecture_sized_kernel: KernelImage
) -> None:
    first = load(lecture_sized_kernel, MAPS, LECTURE_PC)
    again = load(lecture_sized_kernel, None, lecture_boot_info)
    assert bytes(first.memory.buffer) == bytes(again.memory.buffer)
    assert (first.cpu, first.rip, first.rsp, first.rdi) == (
        again.cpu, again.rip, again.rsp, again.rdi,
    )  # fmt: skip


def test_a_smaller_kernel_boots_on_the_lectures_printout(
    lecture_boot_info: BootInfo, three_segments: bytes
) -> None:
    state = load(elf_kernel(three_segments, name="three"), None, lecture_boot_info)
    assert state.boot_info == lecture_boot_info
    assert outcomes(state, 0x20_1010) == ["ok", "WP", "ok"]


def test_a_larger_kernel_does_not(lecture_boot_info: BootInfo) -> None:
    with pytest.raises(BootError) as refused:
        load(flat_kernel(bytes(57 * 4096), name="k"), None, lecture_boot_info)
    assert str(refused.value) == (
        "the kernel must fit into the memory that is free for it, 0x3_8000 bytes: it has 0x3_9000"
    )


def test_a_printout_with_a_recursive_slot(
    lecture_boot_info: BootInfo, three_segments: bytes
) -> None:
    image = elf_kernel(three_segments, name="three")
    info = dataclasses.replace(lecture_boot_info, recursive_page_table_addr=0x80_4020_1000)
    state = load(image, None, info)
    assert state.boot_info == info
    assert look(state, 0x80_4020_1000).pa == 0x1000
    taken = dataclasses.replace(lecture_boot_info, recursive_page_table_addr=0)
    with pytest.raises(BootError) as refused:
        load(image, None, taken)
    assert str(refused.value) == (
        "the recursive page table (0x0 to 0x7f_ffff_ffff) must not overlap the kernel "
        "(0x20_0000 to 0x20_0fff): choose another recursive slot"
    )
    mixed = dataclasses.replace(lecture_boot_info, recursive_page_table_addr=0x80_4020_2000)
    with pytest.raises(BootError, match=r"must have the same slot .* not be 0x80_4020_2000"):
        load(image, None, mixed)


def test_a_printout_decides_on_the_stacks_size(lecture_boot_info: BootInfo) -> None:
    first, second = lecture_boot_info.regions(MemoryRegionType.KernelStack)
    without = tuple(r for r in lecture_boot_info.memory_map if r != second)
    info = dataclasses.replace(lecture_boot_info, memory_map=without)
    state = load(flat_kernel(b"\xf4", name="k"), None, info)
    assert state.layout.stack_end - state.layout.stack_start == first.range.size


@pytest.mark.parametrize(
    "missing", [MemoryRegionType.PageTable, MemoryRegionType.BootInfo, MemoryRegionType.Kernel]
)
def test_a_printout_must_have_what_a_boot_takes(
    missing: MemoryRegionType, lecture_boot_info: BootInfo
) -> None:
    regions = tuple(r for r in lecture_boot_info.memory_map if r.region_type != missing)
    info = dataclasses.replace(lecture_boot_info, memory_map=regions)
    with pytest.raises(BootError):
        load(flat_kernel(b"\xf4", name="k"), None, info)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_printouts_boot_or_are_refused(lecture_text: str, data: st.DataObject) -> None:
    text = lecture_text
    for _ in range(data.draw(st.integers(1, 3))):
        digits = [m.start() for m in re.finditer(r"[0-9a-f]", text[24:-150])]
        at = 24 + data.draw(st.sampled_from(digits))
        text = text[:at] + data.draw(st.sampled_from("0123456789abcdefx")) + text[at + 1 :]
    refused = ""
    try:
        state = load(flat_kernel(b"\xf4", name="k"), None, parse_boot_info(text))
        assert look(state, state.rip, "fetch").outcome is Outcome.MAPPED
    except InputError as error:
        refused = str(error)
    assert not refused or "must" in refused
    assert "\n" not in refused


def test_a_printout_whose_map_is_no_machine() -> None:
    with pytest.raises(BootError, match="the memory map must have RAM above 1 MiB"):
        load(flat_kernel(b"\xf4", name="k"), None, BootInfo(()))
    backwards = BootInfo(
        tuple(
            MemoryRegion(FrameRange(start, start + 0x1000), MemoryRegionType.Usable)
            for start in (0x20_0000, 0x10_0000)
        )
    )
    with pytest.raises(BootError, match="must be sorted and not overlap"):
        load(flat_kernel(b"\xf4", name="k"), None, backwards)


# What does not fit.


def test_a_kernel_bigger_than_the_memory() -> None:
    with pytest.raises(BootError) as refused:
        load(flat_kernel(bytes(16 * MIB), name="big"), None, Firmware.pc(8 * MIB))
    assert str(refused.value).startswith("the kernel must fit into the memory that is free for it")
    segment = Segment(0x20_0000, b"\xf4", 1 << 46, True, True)
    with pytest.raises(
        BootError, match=r"the kernel must fit into the memory .* it has 0x4000_0000"
    ):
        load(KernelImage("bss", b"\xf4", 0x20_0000, (segment,)))


def test_a_stack_bigger_than_the_memory() -> None:
    with pytest.raises(BootError, match="the kernel stack must fit into the memory"):
        load(flat_kernel(b"\xf4", name="k"), BootConfig(kernel_stack_size=1 << 20))


def test_sizes_beyond_4_gib_are_refused_before_they_are_counted_out() -> None:
    machine = Firmware.pc(64 << 30)
    with pytest.raises(BootError) as refused:
        load(flat_kernel(b"\xf4", name="k"), BootConfig(kernel_stack_size=1 << 21), machine)
    assert str(refused.value) == "the kernel stack must have at most 4 GiB: it has 0x2_0000_0000"


def test_a_machine_that_ends_below_4_mib() -> None:
    with pytest.raises(BootError) as refused:
        load(flat_kernel(b"\xf4", name="k"), None, Firmware.pc(4 * MIB))
    assert str(refused.value) == (
        "the memory must have usable frames at 0x40_0000 to 0x40_0fff for the Kernel region: "
        "it has not; give the machine more"
    )


def test_tables_that_do_not_fit() -> None:
    with pytest.raises(BootError) as refused:
        load(flat_kernel(b"\xf4", name="k"), MAPS, Firmware.pc(5 * MIB, amd_hole=True))
    assert str(refused.value) == (
        "the memory must have a free frame for the PageTable region: it is used up; "
        "give the machine more"
    )
