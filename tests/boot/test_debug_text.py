"""The text that a kernel prints, there and back."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.boot import (
    BootInfo,
    FrameRange,
    MemoryRegion,
    MemoryRegionType,
    TlsTemplate,
    parse_boot_info,
)
from harness.errors import BootError

words = st.integers(0, (1 << 64) - 1)
regions = st.builds(
    lambda start, count, kind: MemoryRegion(FrameRange(start << 12, (start + count) << 12), kind),
    st.integers(0, 1 << 50),
    st.integers(0, 1 << 20),
    st.sampled_from(list(MemoryRegionType)),
)
boot_infos = st.builds(
    BootInfo,
    st.lists(regions, max_size=8).map(tuple),
    physical_memory_offset=st.none() | words,
    recursive_page_table_addr=st.none() | words,
    tls_template=st.builds(TlsTemplate, words, words, words),
)

SMALL = BootInfo(
    (MemoryRegion(FrameRange(0, 0x1000), MemoryRegionType.FrameZero),),
    physical_memory_offset=0x180_0000_0000,
    recursive_page_table_addr=0x80_4020_1000,
)
SMALL_TEXT = (
    "BootInfo { memory_map: [MemoryRegion { range: FrameRange(0x0..0x1000), region_type: FrameZero "
    "}], recursive_page_table_addr: 550831656960, physical_memory_offset: 1649267441664, "
    "tls_template: TlsTemplate { start_addr: 0, file_size: 0, mem_size: 0 }, _non_exhaustive: 0 }"
)
SMALL_PRETTY = """\
BootInfo {
    memory_map: [
        MemoryRegion {
            range: FrameRange(0x0..0x1000),
            region_type: FrameZero,
        },
    ],
    recursive_page_table_addr: 550831656960,
    physical_memory_offset: 1649267441664,
    tls_template: TlsTemplate {
        start_addr: 0,
        file_size: 0,
        mem_size: 0,
    },
    _non_exhaustive: 0,
}"""


def test_the_lectures_printout(lecture_text: str) -> None:
    info = parse_boot_info(lecture_text)
    assert info.debug() == lecture_text
    assert str(info) == lecture_text
    assert len(info.memory_map) == 16
    assert info.memory_map[-1] == MemoryRegion(
        FrameRange(0xFD_0000_0000, 0x100_0000_0000), MemoryRegionType.Reserved
    )
    assert info.physical_memory_offset == 0x180_0000_0000
    assert info.recursive_page_table_addr is None


def test_what_rust_prints() -> None:
    assert SMALL.debug() == SMALL_TEXT
    assert SMALL.debug(pretty=True) == SMALL_PRETTY
    assert BootInfo(()).debug(pretty=True).startswith("BootInfo {\n    memory_map: [],\n    tls")


@given(boot_infos)
@example(SMALL)
def test_both_forms_round_trip(info: BootInfo) -> None:
    assert parse_boot_info(info.debug()) == info
    assert parse_boot_info(info.debug(pretty=True)) == info


@given(boot_infos, st.integers(7, 80))
@settings(max_examples=50)
def test_a_wrapped_screen_does_not_hurt(info: BootInfo, columns: int) -> None:
    text = info.debug()
    lines = [text[i : i + columns] for i in range(0, len(text), columns)]
    assert parse_boot_info("\n".join(lines)) == info


def test_a_kernels_other_output_is_skipped() -> None:
    assert parse_boot_info(f"Hello World!\n{SMALL_TEXT}\nL4 Entry 0: ...\n") == SMALL


def test_hex_decimal_and_the_order_of_fields_do_not_matter() -> None:
    text = (
        "BootInfo { physical_memory_offset: 0x180_0000_0000, memory_map: [MemoryRegion { "
        "region_type: FrameZero, range: FrameRange(0..4096) }, ] }"
    )
    assert parse_boot_info(text) == BootInfo(SMALL.memory_map, 0x180_0000_0000)


@pytest.mark.parametrize(
    ("old", "new", "at", "wanted"),
    [
        ("FrameRange", "FrmeRange", "FrmeRange", "'FrameRange('"),
        ("0x0..", "zero..", "zero", "a number below 2**64"),
        ("1649267441664", "9" * 30, "999", "a number below 2**64"),
        ("..0x1000", ".0x1000", ".0x1000", "'..'"),
        ("0x1000)", "0x1000", ", region_type", "')'"),
        ("}],", "},", "recursive", "'MemoryRegion {' or ']'"),
        ("}], rec", "}] rec", "rec", "',' or '}'"),
        ("memory_map:", "memory_map", "[", "':'"),
        (", mem_size: 0", "", " }, _non", "the field mem_size before '}'"),
    ],
)
def test_what_must_stand_where(old: str, new: str, at: str, wanted: str) -> None:
    assert old in SMALL_TEXT
    broken = SMALL_TEXT.replace(old, new, 1)
    place = broken.index(at) + len(at) - len(at.lstrip())
    found = "".join(broken[place:].split())[:24]
    with pytest.raises(BootError) as refused:
        parse_boot_info(broken)
    assert str(refused.value) == (
        f"BootInfo text, line 1 column {place + 1}: {wanted} must stand here, not {found!r}"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BootInfo", "BottInfo", "the text must contain 'BootInfo { ... }'"),
        (
            "0x1000)",
            "0x1001)",
            "BootInfo text, line 1 column 47: "
            "a FrameRange must end at a multiple of 0x1000 below 2**64, not 0x1001",
        ),
        (
            "FrameZero",
            "FrameOne",
            "BootInfo text, line 1 column 85: a region type of bootloader 0.9 (Usable, InUse, "
            "Reserved, AcpiReclaimable, AcpiNvs, BadMemory, Kernel, KernelStack, PageTable, "
            "Bootloader, FrameZero, Empty, BootInfo, Package) must stand here, not "
            "'FrameOne}],recursive_pag'",
        ),
        (
            "memory_map",
            "memory_mop",
            "BootInfo text, line 1 column 12: one of the fields memory_map, "
            "recursive_page_table_addr, physical_memory_offset, tls_template, _non_exhaustive "
            "must stand here, not 'memory_mop:[MemoryRegion'",
        ),
        (
            "1649267441664",
            "18446744073709551616",
            "BootInfo text, line 1 column 1: "
            "physical_memory_offset must be 0 or more and below 2**64, not 0x10000000000000000",
        ),
        (
            " }, _non_exhaustive: 0 }",
            "",
            "BootInfo text, line 1 column 247: ',' or '}' must stand here, not the end of the text",
        ),
    ],
)
def test_what_is_wrong(old: str, new: str, message: str) -> None:
    assert old in SMALL_TEXT
    with pytest.raises(BootError) as refused:
        parse_boot_info(SMALL_TEXT.replace(old, new, 1))
    assert str(refused.value) == message


def test_the_place_counts_lines() -> None:
    broken = textwrap.indent(SMALL_PRETTY, "  ").replace("FrameZero", "FrameOne")
    with pytest.raises(BootError, match="line 5 column 28: a region type"):
        parse_boot_info(broken)


def test_a_field_may_not_come_twice() -> None:
    with pytest.raises(BootError, match="one of the fields recursive_page_table_addr"):
        parse_boot_info("BootInfo { memory_map: [], memory_map: [] }")


@given(st.data())
@settings(max_examples=400)
def test_damaged_texts_are_read_or_refused_in_one_sentence(
    lecture_text: str, data: st.DataObject
) -> None:
    text = lecture_text
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 20))
        text = text[:at] + data.draw(st.text(max_size=4)) + text[at + cut :]
    refused = ""
    try:
        parse_boot_info(text)
    except BootError as error:
        refused = str(error)
    assert not refused or "must" in refused
    assert "\n" not in refused


@given(st.text())
def test_any_text_at_all(text: str) -> None:
    with pytest.raises(BootError):
        parse_boot_info("BootInfo {" + text)
