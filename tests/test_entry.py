"""Entries: every bit kept, each in its place by level, and QEMU's letters on real tables."""

from __future__ import annotations

import csv
import io
import lzma
import struct
from collections import Counter
from collections.abc import Iterator
from json import loads
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import entry as entry_module
from harness.address import PageSize, PhysAddr, PhysFrame
from harness.entry import ADDRESS_MASK, PageTableEntry, PageTableFlags
from harness.errors import AddressNotAligned

SETS = Path(__file__).parents[1] / "fixtures" / "page-tables"

raws = st.integers(0, (1 << 64) - 1)
levels = st.integers(1, 5)
PAT_OF_BIG_PAGE = 1 << 12


def test_flags_name_the_bits_of_the_crate() -> None:
    assert int(PageTableFlags.HUGE_PAGE) == 1 << 7
    assert int(PageTableFlags.NO_EXECUTE) == 1 << 63
    for bit in (9, 10, 11, *range(52, 63)):
        assert int(PageTableFlags[f"BIT_{bit}"]) == 1 << bit
    assert PageTableFlags.mask() == ~ADDRESS_MASK & (1 << 64) - 1 | PAT_OF_BIG_PAGE


@given(raws)
def test_flags_keep_every_bit_and_evaluate(raw: int) -> None:
    flags = PageTableFlags(raw)
    assert int(flags) == raw
    assert eval(repr(flags), vars(entry_module)) == flags
    assert flags | PageTableFlags.PRESENT == raw | 1
    assert flags & ~PageTableFlags.PRESENT == raw & ~1


def test_flags_print() -> None:
    flags = PageTableFlags.PRESENT | PageTableFlags.WRITABLE
    assert repr(flags) == "PageTableFlags.PRESENT | PageTableFlags.WRITABLE"
    assert str(flags) == f"{flags}" == "PRESENT WRITABLE"
    assert str(PageTableFlags(0x2000)) == "0x2000"
    assert repr(PageTableFlags(0)) == "PageTableFlags(0x0)"
    assert flags.describe() == (
        "bit 0  PRESENT    the entry is in use; when clear the CPU ignores all its other bits\n"
        "bit 1  WRITABLE   writes are allowed (R/W)"
    )
    assert PageTableFlags(0).describe() == "no bit is set"


@given(raws, levels)
def test_address_and_flags_make_up_the_entry(raw: int, level: int) -> None:
    entry = PageTableEntry(raw, level)
    assert int(entry.address) | entry.flags == raw
    assert int(entry.address) & entry.flags == 0
    assert entry.frame().start_address == entry.address
    assert entry.frame().size == (entry.page_size or PageSize.Size4KiB)
    assert PageTableEntry.build(entry.address, entry.flags, level) == entry
    assert PageTableEntry.build(entry.frame(), entry.flags, level) == entry
    assert eval(repr(entry), vars(entry_module)) == entry


@given(raws, levels)
def test_page_or_table(raw: int, level: int) -> None:
    entry = PageTableEntry(raw, level)
    present = raw & 1 == 1
    assert entry.is_present is present
    assert entry.is_unused is (raw == 0)
    assert (entry.is_page or entry.is_table) is present
    assert not (entry.is_page and entry.is_table)
    maps = level == 1 or (level in (2, 3) and raw >> 7 & 1 == 1)
    assert entry.is_page is (present and maps)
    assert entry.page_size == (PageSize.of_level(level) if maps else None)


@given(raws, levels)
def test_key_and_pat(raw: int, level: int) -> None:
    entry = PageTableEntry(raw, level)
    assert entry.key == raw >> 59 & 15
    bit = 7 if level == 1 else 12
    assert entry.pat is (entry.page_size is not None and raw >> bit & 1 == 1)


def test_the_pat_bit_is_no_address_bit() -> None:
    huge = PageTableEntry(0x20_1083, level=2)
    assert huge.address == PhysAddr(0x20_0000)
    assert huge.flags & PageTableFlags.HUGE_PAGE_PAT
    table = PageTableEntry(0x20_1003, level=2)
    assert table.address == PhysAddr(0x20_1000)
    assert not table.pat


def test_build_refuses_a_misaligned_address() -> None:
    with pytest.raises(AddressNotAligned, match=r"multiple of 0x20_0000, not PhysAddr\(0x1000\)$"):
        PageTableEntry.build(PhysAddr(0x1000), PageTableFlags.HUGE_PAGE, 2)
    frame = PhysFrame(PhysAddr(0x1000))
    assert PageTableEntry.build(frame, PageTableFlags.HUGE_PAGE, 1).raw == 0x1080


@pytest.mark.parametrize(
    ("raw", "level", "letters"),
    [
        (0, 1, "---------"),
        ((1 << 64) - 1, 2, "XGPDACTUW"),
        ((1 << 64) - 1, 1, "XG-DACTUW"),
        (0x8000_0000_0000_0163, 1, "XG-DA---W"),
        (0x1083, 2, "--P-----W"),
    ],
)
def test_letters(raw: int, level: int, letters: str) -> None:
    assert PageTableEntry(raw, level).letters == letters


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        (0, 3, "PDPTE 0x0: unused"),
        (0x2007, 4, "PML4E 0x2007: table at 0x2000, PRESENT WRITABLE USER_ACCESSIBLE"),
        (0x40_0083, 2, "PDE 0x40_0083: 2M page at 0x40_0000, PRESENT WRITABLE HUGE_PAGE"),
        (0x5081, 1, "PTE 0x5081: 4K page at 0x5000, PRESENT PAT"),
        (0x5002, 1, "PTE 0x5002: not present, WRITABLE"),
    ],
)
def test_describe(raw: int, level: int, text: str) -> None:
    assert PageTableEntry(raw, level).describe() == text


def _leaves(
    tables: dict[int, tuple[int, ...]], table: int, level: int, base: int
) -> Iterator[tuple[int, PageTableEntry]]:
    for index, raw in enumerate(tables[table]):
        entry = PageTableEntry(raw, level)
        va = base | index << (3 + 9 * level)
        if entry.is_page:
            yield va, entry
        elif entry.is_table:
            yield from _leaves(tables, int(entry.address), level - 1, va)


@pytest.mark.parametrize("name", ["linux-max", "linux-max-pti", "linux-qemu64", "memtest-max"])
def test_letters_are_those_of_qemu_on_real_tables(name: str) -> None:
    folder = SETS / name
    cpu = loads((folder / "cpu.json").read_text())
    data = lzma.decompress((folder / "tables.bin.xz").read_bytes())
    tables = {pa: words for pa, *words in struct.iter_unpack("<513Q", data)}
    root = int(cpu["cr3"], 16) & ADDRESS_MASK
    seen = Counter(
        (va, int(entry.address), entry.frame().size.letter, entry.letters)
        for va, entry in _leaves(
            {pa: tuple(words) for pa, words in tables.items()}, root, cpu["levels"], 0
        )
    )
    bits = {4: 48, 5: 57}[cpu["levels"]]
    text = lzma.decompress((folder / "truth.csv.xz").read_bytes()).decode()
    truth = Counter(
        (int(row["va"], 16) & ((1 << bits) - 1), int(row["pa"], 16), row["size"], row["flags"])
        for row in csv.DictReader(io.StringIO(text))
        if row["source"] == "info tlb"
    )
    assert len(seen) > 400
    assert seen == truth
