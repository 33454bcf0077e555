"""BootInfo as objects and as the bytes of bootloader 0.9."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.boot.bootinfo import (
    MAX_REGIONS,
    BootInfo,
    FrameRange,
    MemoryRegion,
    MemoryRegionType,
    TlsTemplate,
)
from harness.errors import BootError
from harness.frames import usable_ranges

words = st.integers(0, (1 << 64) - 1)
ranges = st.tuples(st.integers(0, 1 << 51), st.integers(0, 1 << 40)).map(
    lambda pair: FrameRange(pair[0] << 12, min((pair[0] + pair[1]) << 12, (1 << 64) - 4096))
)
regions = st.builds(MemoryRegion, ranges, st.sampled_from(list(MemoryRegionType)))
boot_infos = st.builds(
    BootInfo,
    st.lists(regions, max_size=MAX_REGIONS).map(tuple),
    physical_memory_offset=st.none() | words,
    recursive_page_table_addr=st.none() | words,
    tls_template=st.builds(TlsTemplate, words, words, words),
)


def test_the_numbers_of_the_types_are_the_crates() -> None:
    assert [t.name for t in sorted(MemoryRegionType)] == [
        "Usable", "InUse", "Reserved", "AcpiReclaimable", "AcpiNvs", "BadMemory", "Kernel",
        "KernelStack", "PageTable", "Bootloader", "FrameZero", "Empty", "BootInfo", "Package",
    ]  # fmt: skip
    assert sorted(MemoryRegionType) == list(range(14))


@pytest.mark.parametrize(
    ("recursive", "offset", "size", "tls_at"),
    [(None, None, 1576, 1544), (0x11, None, 1584, 1552), (None, 0x22, 1584, 1552),
     (0x11, 0x22, 1592, 1560)],
)  # fmt: skip
def test_every_byte_lies_where_docs_boot_md_says(
    recursive: int | None, offset: int | None, size: int, tls_at: int
) -> None:
    first = MemoryRegion(FrameRange(0x1000, 0x5000), MemoryRegionType.PageTable)
    second = MemoryRegion(FrameRange(0x5000, 0x1_5000), MemoryRegionType.Package)
    info = BootInfo((first, second), offset, recursive, TlsTemplate(0x33, 0x44, 0x55))
    data = info.to_bytes()
    assert len(data) == size
    assert data[:24] == struct.pack("<QQII", 1, 5, 8, 0)
    assert data[24:48] == struct.pack("<QQII", 5, 0x15, 13, 0)
    assert data[48:1536] == struct.pack("<QQII", 0, 0, 11, 0) * 62
    optional = [value for value in (recursive, offset) if value is not None]
    assert struct.unpack_from(f"<{1 + len(optional)}Q", data, 1536) == (2, *optional)
    assert struct.unpack_from("<QQQB7x", data, tls_at) == (0x33, 0x44, 0x55, 0)
    assert size == BootInfo.size_in_memory(
        map_physical_memory=offset is not None, recursive_page_table=recursive is not None
    )


@given(boot_infos, st.binary(max_size=20))
def test_bytes_round_trip(info: BootInfo, behind: bytes) -> None:
    data = info.to_bytes()
    read = BootInfo.from_bytes(
        data + behind,
        map_physical_memory=info.physical_memory_offset is not None,
        recursive_page_table=info.recursive_page_table_addr is not None,
    )
    assert read == info
    assert read.to_bytes() == data


@given(boot_infos, st.data())
def test_damaged_bytes_are_read_or_refused(info: BootInfo, data: st.DataObject) -> None:
    damaged = bytearray(info.to_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        refused = ""
        try:
            BootInfo.from_bytes(candidate, map_physical_memory=True, recursive_page_table=True)
        except BootError as error:
            refused = str(error)
        assert not refused or "must" in refused


def test_bytes_that_are_no_boot_info() -> None:
    good = BootInfo((MemoryRegion(FrameRange(0, 0x1000), MemoryRegionType.Usable),)).to_bytes()

    def refusal(data: bytes) -> str:
        with pytest.raises(BootError) as refused:
            BootInfo.from_bytes(data, map_physical_memory=False, recursive_page_table=False)
        return str(refused.value)

    assert refusal(good[:-1]) == "a BootInfo with these features must have 1576 bytes, not 1575"
    assert refusal(good[:1536] + b"\x41" + good[1537:]) == (
        "a memory map must have at most 64 regions, not 65"
    )
    assert refusal(good[:16] + b"\x0e" + good[17:]) == (
        "the type of memory region 0 must be 0 to 13, not 14"
    )
    assert refusal(b"\x02" + good[1:]) == (
        "a FrameRange must not end before it starts: 0x2000..0x1000"
    )
    assert refusal(good[:14] + b"\x10" + good[15:]) == (
        "a FrameRange must end at a multiple of 0x1000 below 2**64, not 0x10000000000001000"
    )


def test_a_frame_range_is_made_of_frames() -> None:
    area = FrameRange(0x1000, 0x4000)
    assert (len(area), area.size, list(area.frames())) == (3, 0x3000, [0x1000, 0x2000, 0x3000])
    assert 0x1000 in area
    assert 0x3FFF in area
    assert 0x4000 not in area
    with pytest.raises(BootError) as refused:
        FrameRange(0x1000, 0x1800)
    assert str(refused.value) == (
        "a FrameRange must end at a multiple of 0x1000 below 2**64, not 0x1800"
    )
    with pytest.raises(BootError, match=r"must start at .* not -0x1000"):
        FrameRange(-0x1000, 0x1000)


def test_limits() -> None:
    region = MemoryRegion(FrameRange(0, 0x1000), MemoryRegionType.Usable)
    assert len(BootInfo((region,) * 64).memory_map) == 64
    with pytest.raises(BootError, match="must have at most 64 regions, not 65"):
        BootInfo((region,) * 65)
    with pytest.raises(BootError, match=r"physical_memory_offset must be .* not -0x1"):
        BootInfo((), physical_memory_offset=-1)
    with pytest.raises(BootError, match=r"TlsTemplate.mem_size must be .* not 0x10000000000000000"):
        TlsTemplate(mem_size=1 << 64)


@pytest.mark.parametrize(("address", "index"), [(0xFFFF_FFFF_FFFF_F000, 511), (0x80_4020_1000, 1)])
def test_recursive_index(address: int, index: int) -> None:
    assert BootInfo((), recursive_page_table_addr=address).recursive_index == index
    assert BootInfo(()).recursive_index is None


def test_the_lectures_regions(lecture_boot_info: BootInfo) -> None:
    info = lecture_boot_info
    assert info.physical_memory_offset == 0x180_0000_0000
    stack = info.regions(MemoryRegionType.KernelStack)
    assert sum(len(region.range) for region in stack) == 512
    assert usable_ranges(info.memory_map) == [(0x27_E000, 0x40_0000), (0x83_D000, 0x7FE_0000)]
    assert dataclasses.replace(info, physical_memory_offset=None) != info
