"""Ranges and leaves against hand-made tables, against ``walk``, and against QEMU."""

import operator
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import PageSize
from harness.cpu import CpuFeatures, CpuState
from harness.errors import InputError
from harness.memory import PhysicalMemory
from harness.snapshot.sets import PageTableSet
from harness.walker import Leaf, Leaves, Range, RangeKind, leaves, ranges, walk

PAGE, GAP, RESERVED = RangeKind.PAGE, RangeKind.GAP, RangeKind.RESERVED
OUTSIDE, HOLE = RangeKind.OUTSIDE, RangeKind.HOLE
CPU = CpuState(cr3=0x1000)
GIB, TOP = 1 << 30, 1 << 64


def memory_of(entries: dict[int, int]) -> PhysicalMemory:
    memory = PhysicalMemory(0x10000)
    for address, raw in entries.items():
        memory.write_u64(address, raw)
    return memory


# The same small address space with 4 and with 5 levels. PAT is set in every leaf.
SMALL = {
    0x1000: 0x2007,
    0x2000: 0x3003,  # 0: a supervisor's page directory
    0x2008: 0x4000_1087 | 1 << 63,  # 1: a 1 GiB page
    0x2010: 0x9_0007,  # 2: a table that is not RAM
    0x2018: 0x2087,  # 3: a 1 GiB page with a reserved bit
    0x3000: 0x4005,  # 0: a read-only page table
    0x3008: 0x20_1087,  # 1: a 2 MiB page
    0x3010: 0x1_2000_0000_0007,  # 2: beyond MAXPHYADDR
    0x3018: 0x6,  # 3: not present, though not zero
    0x4000: 0x5087,
    0x4008: 0x5087,  # the same frame: not merged
    0x4010: 0x6087 | 1 << 63,
    0x4018: 0x7000,
    0x4020: 0x8003,
}
FIRST = [
    Range(0x0, 0x1000, PAGE, 1, 0x4000, 0x5087, 0x5000, False, False, True),
    Range(0x1000, 0x2000, PAGE, 1, 0x4008, 0x5087, 0x5000, False, False, True),
    Range(0x2000, 0x3000, PAGE, 1, 0x4010, 0x6087 | 1 << 63, 0x6000, False, False, False),
    Range(0x3000, 0x4000, GAP, 1, 0x4018, 0x7000),
    Range(0x4000, 0x5000, PAGE, 1, 0x4020, 0x8003, 0x8000, False, False, True),
    Range(0x5000, 0x6000, GAP, 1, 0x4028),
]
BEHIND = [  # what follows the page table
    Range(0x20_0000, 0x40_0000, PAGE, 2, 0x3008, 0x20_1087, 0x20_0000, False, True, True),
    Range(0x40_0000, 0x60_0000, RESERVED, 2, 0x3010, 0x1_2000_0000_0007),
    Range(0x60_0000, 0x80_0000, GAP, 2, 0x3018, 0x6),
]
BIG = [  # what follows the page directory
    Range(GIB, 2 * GIB, PAGE, 3, 0x2008, 0x4000_1087 | 1 << 63, GIB, True, True, False),
    Range(2 * GIB, 3 * GIB, OUTSIDE, 3, 0x2010, 0x9_0007),
    Range(3 * GIB, 4 * GIB, RESERVED, 3, 0x2018, 0x2087),
    Range(4 * GIB, 5 * GIB, GAP, 3, 0x2020),
]


def test_every_kind_of_range() -> None:
    found = list(ranges(memory_of(SMALL), CPU))
    assert found[:6] == FIRST
    assert found[512:515] == BEHIND
    assert found[512 + 511 : 512 + 515] == BIG
    # The rest of the PDPT and of the PML4, whose halves lie around the hole.
    assert len(found) == 512 + 511 + 511 + 511 + 1
    assert found[512 + 511 + 511 + 255] == Range(1 << 47, TOP - (1 << 47), HOLE)
    assert found[-1] == Range(TOP - (1 << 39), TOP, GAP, 4, 0x1FF8)
    assert found[-256] == Range(TOP - (1 << 47), TOP - (1 << 47) + (1 << 39), GAP, 4, 0x1800)


def test_five_levels() -> None:
    cpu = CpuState(cr3=0xA000, cr4=0x1020)
    upper = {0xA000 + 8 * 256: 0x1007}  # the first of the upper half
    found = list(ranges(memory_of(SMALL | upper), cpu))
    assert found[:2] == [Range(0, 1 << 48, GAP, 5, 0xA000), Range(1 << 48, 2 << 48, GAP, 5, 0xA008)]
    start = TOP - (1 << 56)
    assert found[256] == Range(1 << 56, start, HOLE)
    assert found[257] == FIRST[0]._replace(start=start, end=start + 0x1000)
    assert found[-1].end == TOP
    assert leaves(memory_of(SMALL | upper), cpu).va[0] == start


def test_what_is_reserved_depends_on_the_cpu() -> None:
    memory = memory_of(SMALL)
    plain = CPU.replace(features=CpuFeatures(pdpe1gb=False), efer=0x500)
    kinds = {piece.start: piece.kind for piece in ranges(memory, plain)}
    assert (kinds[GIB], kinds[0x2000], kinds[0x1000]) == (RESERVED, RESERVED, PAGE)
    assert leaves(memory, plain).va.tolist() == [0, 0x1000, 0x4000, 0x20_0000]
    roomy = CPU.replace(features=CpuFeatures(maxphyaddr=52))
    assert {piece.start: piece.kind for piece in ranges(memory, roomy)}[0x40_0000] is OUTSIDE


def test_leaves_are_the_pages() -> None:
    found = leaves(memory_of(SMALL), CPU)
    small, big, huge = PageSize.Size4KiB, PageSize.Size2MiB, PageSize.Size1GiB
    assert list(found) == [
        Leaf(0x0, 0x5000, small, 0x5087, False, False, True),
        Leaf(0x1000, 0x5000, small, 0x5087, False, False, True),
        Leaf(0x2000, 0x6000, small, 0x6087 | 1 << 63, False, False, False),
        Leaf(0x4000, 0x8000, small, 0x8003, False, False, True),
        Leaf(0x20_0000, 0x20_0000, big, 0x20_1087, False, True, True),
        Leaf(GIB, GIB, huge, 0x4000_1087 | 1 << 63, True, True, False),
    ]
    assert found[5].entry.letters == "X-P----UW"
    assert len(found) == 6


def test_a_range_describes_itself() -> None:
    assert repr(FIRST[0]) == "<Range 0x0..0x1000: page of 4K at 0x5000, --x>"
    assert repr(BIG[0]) == "<Range 0x4000_0000..0x8000_0000: page of 1G at 0x4000_0000, uw->"
    assert repr(FIRST[3]) == "<Range 0x3000..0x4000: gap>"
    assert FIRST[0].page_size is PageSize.Size4KiB
    assert BIG[0].page_size is PageSize.Size1GiB
    assert (BIG[1].page_size, BIG[1].size) == (None, GIB)
    hole = Range(1 << 47, TOP - (1 << 47), HOLE)
    assert hole.entry is None
    assert BEHIND[1].entry is not None
    assert BEHIND[1].entry.is_present
    assert {kind.meaning for kind in RangeKind} > {"the addresses are not canonical"}


def test_a_root_outside_ram() -> None:
    lost = CpuState(cr3=0x20000)
    memory = PhysicalMemory(0x10000)
    assert list(ranges(memory, lost)) == [
        Range(0, 1 << 47, OUTSIDE),
        Range(1 << 47, TOP - (1 << 47), HOLE),
        Range(TOP - (1 << 47), TOP, OUTSIDE),
    ]
    assert len(leaves(memory, lost)) == 0


def test_an_empty_address_space() -> None:
    memory = PhysicalMemory(0x10000)
    assert {piece.kind for piece in ranges(memory, CPU)} == {GAP, HOLE}
    assert len(list(ranges(memory, CPU))) == 513
    assert len(leaves(memory, CPU)) == 0


def test_a_recursive_slot_shows_every_table_as_a_page() -> None:
    memory = memory_of(SMALL | {0x1FF8: 0x1003})
    slot = TOP - (1 << 39)
    shown = [(piece.start, piece.pa) for piece in ranges(memory, CPU) if piece.kind is PAGE]
    tables = [pa for start, pa in shown if start >= slot]
    # PT and PD, the 1 GiB and 2 MiB pages seen as tables' rows, the PDPT, and the PML4 last.
    assert {0x4000, 0x3000, 0x2000, 0x1000} <= set(tables)
    assert shown[-1] == (TOP - 0x1000, 0x1000)
    found = leaves(memory, CPU)
    assert list(zip(found.va.tolist(), found.pa.tolist(), strict=True)) == shown


def test_tables_in_circles_are_bounded() -> None:
    memory = PhysicalMemory(0x10000)
    memory.frame(0x1000)[:] = 0x1007  # every entry leads back to its own table
    first = list(islice(ranges(memory, CPU), 3))
    assert [(piece.start, piece.pa) for piece in first] == [(n * 0x1000, 0x1000) for n in range(3)]
    with pytest.raises(InputError) as refusal:
        leaves(memory, CPU, limit=100_000)
    assert str(refusal.value).startswith("page tables must describe at most 100000 pages, not ")


def pages(memory: PhysicalMemory, cpu: CpuState) -> Iterator[tuple[int, ...]]:
    # The pages among the ranges, as rows of leaves.
    for p in ranges(memory, cpu):
        if p.kind is PAGE:
            yield p.start, p.pa or 0, p.size, p.raw, p.user, p.writable, p.executable


def same_pages(memory: PhysicalMemory, cpu: CpuState, found: Leaves) -> bool:
    return all(map(operator.eq, pages(memory, cpu), found)) and len(found) == sum(
        1 for _ in pages(memory, cpu)
    )


def test_agree_with_qemu(real: PageTableSet) -> None:
    cpu, truth = real.cpu, real.truth
    found = leaves(real.memory, cpu)
    listed = truth.is_leaf
    assert (found.va == truth.va[listed]).all()
    assert (found.pa == truth.pa[listed]).all()
    assert (found.size == truth.page_size[listed]).all()
    assert (found.raw & np.uint64(truth.FLAG_MASK) == truth.flags[listed]).all()
    assert same_pages(real.memory, cpu, found)


def test_combined_rights_agree_with_qemu(real: PageTableSet) -> None:
    """`info mem` merges neighbours of equal rights: merge the leaves, and compare its text."""
    listing = real.path / "infomem.txt"
    if not listing.exists():
        assert real.cpu.levels == 5  # QEMU 7.2 prints nothing there
        return
    merged: list[list[Any]] = []
    for leaf in leaves(real.memory, real.cpu):
        rights = f"{'u' if leaf.user else '-'}r{'w' if leaf.writable else '-'}"
        if merged and merged[-1][1:] == [leaf.va, rights]:
            merged[-1][1] = leaf.va + leaf.size
        else:
            merged.append([leaf.va, leaf.va + leaf.size, rights])
    lines = [
        f"{start:016x}-{end:016x} {end - start:016x} {rights}" for start, end, rights in merged
    ]
    assert lines == listing.read_text().splitlines()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_agree_with_walk(randomly: Any, seed: int) -> None:
    some = randomly(seed, 1)
    tolerant = some.cpu.replace(cpl=0, cr4=some.cpu.cr4 & 0x1020, rflags=2)
    rules = {PAGE: "COMBINE", GAP: "PRESENT", HOLE: "CANONICAL", OUTSIDE: "ORDER"}
    for before, piece in pairwise(islice(ranges(some.memory, some.cpu), 700)):
        assert before.end == piece.start < piece.end
        for va in (piece.start, piece.end - 1):
            answer = walk(some.memory, tolerant, va)
            if piece.kind is RESERVED:
                assert answer.rule.startswith("RSVD_")
            else:
                assert answer.rule == rules[piece.kind]
            if piece.kind is not HOLE:
                last = answer.steps[-1]
                assert (piece.level, piece.entry_address, piece.raw) == last
            if piece.kind is PAGE:
                assert piece.pa is not None
                assert answer.pa == piece.pa + va - piece.start
                assert answer.rights is not None
                assert answer.rights[:3] == (piece.user, piece.writable, piece.executable)


def test_ranges_cover_everything(real: PageTableSet) -> None:
    end = 0
    for piece in ranges(real.memory, real.cpu):
        assert piece.start == end
        end = piece.end
    assert end == TOP


def test_random_leaves_are_the_random_pages(randomly: Any) -> None:
    found_any = 0
    for seed in range(10):
        some = randomly(seed, 1)
        words = some.memory.words
        # Five of 512 entries stay, or a tree of tables that all lead to each other would not end.
        sparse = np.random.default_rng(seed).random(len(words)) < 0.99
        words[sparse] &= ~np.uint64(1)
        found = leaves(some.memory, some.cpu)
        assert same_pages(some.memory, some.cpu, found)
        found_any += len(found)
    assert found_any > 1000
