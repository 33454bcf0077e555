"""Guest RAM: the same bytes through every view, and 'no memory' wherever there is none."""

from __future__ import annotations

import ctypes
import gc
import mmap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import memory as memory_module
from harness.address import PhysAddr, VirtAddr
from harness.errors import InputError, NoMemory
from harness.memory import PhysicalMemory, Region

SPLIT = [(0, 0x3000), (0x3000, 0x1000), (0x1_0000, 0x2000), (0xFFFC_0000, 0x1000)]
HIGH_ONLY = [(0x10_0000, 0x2000)]
LAYOUTS: list[Any] = [0x4000, SPLIT, HIGH_ONLY]

layouts = st.sampled_from(LAYOUTS)
# Around every edge of every region, and anywhere.
pas = st.one_of(
    st.sampled_from([0, 0x3000, 0x4000, 0x1_0000, 0x1_2000, 0xFFFC_0000, 0xFFFC_1000, 0x10_0000])
    .flatmap(lambda edge: st.integers(edge - 9, edge + 9)),
    st.integers(0, (1 << 52) - 1),
)  # fmt: skip


def _is_ram(memory: PhysicalMemory, pa: int) -> bool:
    return any(region.base <= pa < region.end for region in memory.regions)


# Regions


def test_regions_are_sorted_and_adjacent_ones_map_as_one() -> None:
    memory = PhysicalMemory(reversed(SPLIT))
    assert memory.regions == tuple(Region(base, size) for base, size in SPLIT)
    host = memory.buffer.ctypes.data
    assert memory.region_pointers() == [
        (0, 0x4000, host),
        (0x1_0000, 0x2000, host + 0x4000),
        (0xFFFC_0000, 0x1000, host + 0x6000),
    ]
    assert host % 0x1000 == 0
    assert memory.size == 0x7000
    assert eval(repr(memory), vars(memory_module)).regions == memory.regions


def test_an_int_is_one_region_at_0() -> None:
    assert PhysicalMemory(0x4000).regions == (Region(0, 0x4000),)
    assert PhysicalMemory(np.int64(0x4000)).regions == (Region(0, 0x4000),)
    assert repr(PhysicalMemory(0x1_0000)) == "PhysicalMemory([(0x0, 0x1_0000)])"
    assert Region(0x1000, 0x2000).end == 0x3000


@pytest.mark.parametrize(
    ("ram", "message"),
    [
        ([], "RAM must have at least one region, not none"),
        (0, "a region of RAM must not be empty, as Region(0x0, 0x0) is"),
        (-4096, "a region of RAM must not be empty, as Region(0x0, -0x1000) is"),
        (
            0x1800,
            "a region of RAM must be made of whole 4 KiB frames, not be Region(0x0, 0x1800)",
        ),
        (
            [(0x800, 0x1000)],
            "a region of RAM must be made of whole 4 KiB frames, not be Region(0x800, 0x1000)",
        ),
        (
            [(0, 0x2000), (0x1000, 0x1000)],
            "regions of RAM must not overlap, as Region(0x0, 0x2000) and Region(0x1000, 0x1000) do",
        ),
        (
            [((1 << 52) - 0x1000, 0x2000)],
            "a region of RAM must lie in 52 bits, unlike Region(0xf_ffff_ffff_f000, 0x2000)",
        ),
        (
            [(-0x1000, 0x2000)],
            "a region of RAM must lie in 52 bits, unlike Region(-0x1000, 0x2000)",
        ),
    ],
)
def test_bad_regions(ram: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        PhysicalMemory(ram)
    assert str(caught.value) == message


def test_more_ram_than_the_host_can_give() -> None:
    with pytest.raises(InputError, match=r"^the host must have room for the RAM, and refuses 0x8_"):
        PhysicalMemory(1 << 51)


def test_the_last_frame_of_52_bits_is_allowed() -> None:
    memory = PhysicalMemory([((1 << 52) - 0x1000, 0x1000)])
    memory.write_u64((1 << 52) - 8, 9)
    assert memory.read_u64((1 << 52) - 8) == 9


# One memory, many views


@given(layouts, pas)
def test_offset_contains_and_offsets_agree(ram: Any, pa: int) -> None:
    memory = PhysicalMemory(ram)
    offset = memory.offset(pa)
    assert (offset >= 0) is _is_ram(memory, pa) is memory.contains(pa)
    if pa >= 0:
        assert memory.offsets(np.array([pa], np.uint64)).tolist() == [offset]
    if offset >= 0:
        memory.buffer[offset] = 0xA5
        assert memory.read(pa, 1) == b"\xa5"


def test_offsets_is_vectorised() -> None:
    memory = PhysicalMemory(SPLIT)
    asked = np.array([0, 0x3FFF, 0x4000, 0x1_0008, 0x1_2000, 0xFFFC_0FFF, (1 << 64) - 1], np.uint64)
    offsets = memory.offsets(asked)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [0, 0x3FFF, -1, 0x4008, -1, 0x6FFF, -1]
    assert memory.offsets(np.zeros(0, np.uint64)).tolist() == []
    assert PhysicalMemory(0x1000).offsets(np.array([1 << 63], np.uint64)).tolist() == [-1]


@given(layouts, pas, st.integers(0, (1 << 64) - 1))
def test_a_word_reads_back_or_is_no_memory(ram: Any, pa: int, value: int) -> None:
    memory = PhysicalMemory(ram)
    missing = [at for at in range(pa, pa + 8) if not _is_ram(memory, at)]
    if missing:
        for access in (
            lambda: memory.read_u64(pa),
            lambda: memory.write_u64(pa, value),
            lambda: memory.read(pa, 8),
            lambda: memory.write(pa, bytes(8)),
            lambda: memory.view(pa, 8),
        ):
            with pytest.raises(NoMemory) as caught:
                access()
            assert caught.value.pa == missing[0]
        assert not memory.contains(pa, 8)
        assert not memory.words.any()
        return
    memory.write_u64(pa, value)
    assert memory.read_u64(pa) == value
    assert type(memory.read_u64(pa)) is int
    assert memory.read(pa, 8) == value.to_bytes(8, "little")
    assert memory.view(pa, 8).tobytes() == value.to_bytes(8, "little")
    if pa % 8 == 0:
        assert memory.words[memory.offset(pa) // 8] == value
        assert memory.frame(pa & ~0xFFF)[(pa & 0xFFF) // 8] == value
    memory.write(pa, bytes(8))
    assert not memory.words.any()


def test_physical_addresses_are_welcome_and_virtual_ones_are_not() -> None:
    memory = PhysicalMemory(SPLIT)
    memory.write_u64(PhysAddr(0x1_0000), 5)
    assert memory.read_u64(PhysAddr(0x1_0000)) == 5
    assert memory.frame(PhysAddr(0x1_0000))[0] == 5
    assert memory.offset(PhysAddr(0x1_0000)) == 0x4000
    virt: Any = VirtAddr(0x1000)
    accesses: list[Callable[[], object]] = [
        lambda: memory.read_u64(virt),
        lambda: memory.write_u64(virt, 0),
        lambda: memory.read(virt, 1),
        lambda: memory.frame(virt),
    ]
    for access in accesses:
        with pytest.raises(TypeError, match="physical memory has no virtual addresses"):
            access()


def test_views_are_not_copies() -> None:
    memory = PhysicalMemory(0x4000)
    frame = memory.frame(0x2000)
    assert len(frame) == 512
    frame[511] = 7
    memory.view(0x2000, 1)[0] = 9
    assert memory.read_u64(0x2FF8) == 7
    assert memory.read_u64(0x2000) == 9


def test_reads_cross_adjacent_regions_only() -> None:
    memory = PhysicalMemory(SPLIT)
    memory.write(0x2FFE, b"abcd")
    assert memory.read(0x2FFE, 4) == b"abcd"
    with pytest.raises(NoMemory) as caught:
        memory.write(0x3FFE, b"abcd")
    assert caught.value.pa == 0x4000
    assert memory.read(0x3FFE, 2) == bytes(2)


def test_bad_arguments() -> None:
    memory = PhysicalMemory(0x4000)
    with pytest.raises(InputError, match=r"^a frame's address must be a multiple of 0x1000"):
        memory.frame(0x1008)
    with pytest.raises(NoMemory):
        memory.frame(0x4000)
    for value in (1 << 64, -1):
        with pytest.raises(InputError, match=r"^a word must fit in 64 bits, not be "):
            memory.write_u64(0, value)
    with pytest.raises(InputError, match=r"^a size must be 0 or more bytes, not -1$"):
        memory.read(0, -1)
    assert memory.read(0, 0) == b""
    for access in (lambda: memory.read_u64(-8), lambda: memory.write_u64(-8, 0)):
        with pytest.raises(NoMemory):
            access()


def test_the_pointers_lead_to_the_same_bytes() -> None:
    memory = PhysicalMemory(SPLIT)
    for base, size, host in memory.region_pointers():
        memory.write_u64(base + size - 8, base + 1)
        assert ctypes.c_uint64.from_address(host + size - 8).value == base + 1


def test_a_copy_is_a_memory_of_its_own() -> None:
    memory = PhysicalMemory([(0, 0x30_0000), (0x100_0000, 0x1000)])
    memory.write_u64(0x2F_FFF8, 3)
    memory.write_u64(0x100_0000, 4)
    twin = memory.copy()
    assert twin.regions == memory.regions
    assert np.array_equal(twin.words, memory.words)
    twin.write_u64(0, 5)
    assert memory.read_u64(0) == 0


# Resources


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_memory_is_committed_when_it_is_written() -> None:
    before = _resident()
    memory = PhysicalMemory(64 << 30)
    memory.write_u64((64 << 30) - 8, 1)
    assert memory.read_u64((64 << 30) - 8) == 1
    assert _resident() - before < 16 << 20


def test_a_copy_of_nothing_commits_nothing() -> None:
    memory = PhysicalMemory(128 << 20)
    memory.write_u64(0x1000, 1)
    before = _resident()
    twin = memory.copy()
    assert twin.read_u64(0x1000) == 1
    assert _resident() - before < 16 << 20


def test_it_closes_by_itself() -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as maps:
            return sum(
                int(line[:line.index("-")], 16) <= address < int(line.split()[0].split("-")[1], 16)
                for line in maps
            )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = PhysicalMemory(3 << 20)
        address = memory.buffer.ctypes.data
        frame = memory.frame(0x1000)
        del memory
        gc.collect()
        frame[0] = 1  # a view keeps the mapping
        assert mappings() == 1
        del frame
        gc.collect()
        assert mappings() == 0
