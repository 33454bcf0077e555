"""TableBuilder: what it writes, judged by the walker."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import PageSize
from harness.boot.tables import TableBuilder
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.errors import AddressError, BootError
from harness.memory import PhysicalMemory
from harness.outcome import Outcome
from harness.walker.scalar import walk

P, W, U = PageTableFlags.PRESENT, PageTableFlags.WRITABLE, PageTableFlags.USER_ACCESSIBLE
G, NX = PageTableFlags.GLOBAL, PageTableFlags.NO_EXECUTE
MIB = 1 << 20
MULTIPLE = "must be a multiple of the page size 0x1000, not"


def builder(levels: int = 4, memory: int = 4 * MIB) -> TableBuilder:
    frames = itertools.count(0x10_0000, 0x1000)
    return TableBuilder(PhysicalMemory(memory), frames.__next__, levels)


def cpu_for(tables: TableBuilder) -> CpuState:
    return CpuState(cr3=tables.root, cr4=0x20 | (0x1000 if tables.levels == 5 else 0))


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("page", list(PageSize))
def test_each_page_size_is_found_by_the_walker(levels: int, page: PageSize) -> None:
    tables = builder(levels)
    va = 0x40_0000_0000
    tables.map(va, 2 << 30, 2 * page, P | W | NX, page)
    for offset in (0, page - 1, page, 2 * page - 1):
        found = walk(tables._memory, cpu_for(tables), va + offset)
        assert found.pa == (2 << 30) + offset
        assert found.page_size == page
        assert found.outcome is Outcome.NO_MEMORY  # 2 GiB is beyond this RAM
    for outside in (va - 1, va + 2 * page):
        missed = walk(tables._memory, cpu_for(tables), outside)
        assert missed.outcome is Outcome.PAGE_FAULT
        assert missed.rule == "PRESENT"


def test_entries_are_what_a_bootloader_writes() -> None:
    tables = builder()
    memory = tables._memory
    tables.map(0x20_0000, 0x8_0000, 0x2000, P | NX)
    tables.map(0x60_0000, 0x20_0000, 2 * MIB, P | W, PageSize.Size2MiB)
    pdpt, directory, table = 0x10_1000, 0x10_2000, 0x10_3000
    assert tables.root == 0x10_0000
    assert memory.read_u64(tables.root) == pdpt | P | W
    assert memory.read_u64(pdpt) == directory | P | W
    assert memory.read_u64(directory + 8) == table | P | W
    assert memory.read_u64(directory + 24) == 0x20_0000 | P | W | PageTableFlags.HUGE_PAGE
    assert memory.read_u64(table) == 0x8_0000 | P | NX
    assert memory.read_u64(table + 8) == 0x8_1000 | P | NX
    assert memory.read_u64(table + 16) == 0
    assert tables.tables == 4


def test_a_user_page_makes_its_parents_user_tables() -> None:
    tables = builder()
    tables.map(0x1000, 0x8_0000, 0x1000, P | W)
    tables.map(0x2000, 0x8_1000, 0x1000, P | W | U)
    user = cpu_for(tables).replace(cpl=3)
    assert walk(tables._memory, user, 0x2000).outcome is Outcome.MAPPED
    assert walk(tables._memory, user, 0x1000).rule == "USER_US"


def test_new_tables_are_cleared() -> None:
    memory = PhysicalMemory(MIB)
    memory.buffer[:] = 0xFF
    tables = TableBuilder(memory, itertools.count(0x1_0000, 0x1000).__next__)
    tables.map(0, 0, 0x1000, P)
    assert walk(memory, CpuState(cr3=tables.root), 0x1000).rule == "PRESENT"


def test_a_given_root_is_used() -> None:
    memory = PhysicalMemory(MIB)
    first = TableBuilder(memory, itertools.count(0x1_0000, 0x1000).__next__)
    first.map(0x1000, 0x2000, 0x1000, P)
    second = TableBuilder(memory, itertools.count(0x2_0000, 0x1000).__next__, root=first.root)
    second.map(0x2000, 0x3000, 0x1000, P)
    assert (second.root, second.tables) == (first.root, 0)
    assert walk(memory, CpuState(cr3=first.root), 0x2000).pa == 0x3000


def test_the_recursive_slot() -> None:
    tables = builder()
    tables.link(510, tables.root)
    va = 0xFFFF_0000_0000_0000 | 510 << 39 | 510 << 30 | 510 << 21 | 510 << 12
    assert walk(tables._memory, cpu_for(tables), va).pa == tables.root
    with pytest.raises(BootError) as refused:
        tables.link(510, 0x1000)
    assert str(refused.value) == ("slot 510 of the level 4 table must be free: it holds 0x10_0003")


def test_a_terabyte_is_mapped_in_a_moment() -> None:
    tables = builder(memory=16 * MIB)
    tables.map(0x180_0000_0000, 0, 1 << 40, P | W, PageSize.Size2MiB)
    assert tables.tables == 1 + 2 + 1024
    assert walk(tables._memory, cpu_for(tables), 0x27F_FFFF_FFFF).pa == (1 << 40) - 1


def test_what_is_mapped_stays_mapped() -> None:
    tables = builder()
    tables.map(0x20_3000, 0x8_0000, 0x1000, P)
    with pytest.raises(BootError) as refused:
        tables.map(0x20_0000, 0, 0x10_000, P)
    assert str(refused.value) == "0x20_3000 must not be mapped yet: its PTE is 0x8_0001"
    with pytest.raises(BootError) as refused:
        tables.map(0x20_0000, 0, 2 * MIB, P, PageSize.Size2MiB)
    assert str(refused.value) == "0x20_0000 must not be mapped yet: its PDE is 0x10_3003"
    tables.map(0x40_0000, 0, 2 * MIB, P, PageSize.Size2MiB)
    with pytest.raises(BootError) as refused:
        tables.map(0x40_5000, 0, 0x1000, P)
    assert str(refused.value) == (
        "0x40_5000 must not be mapped yet: its PDE maps a larger page (0x81)"
    )


@pytest.mark.parametrize(
    ("va", "pa", "size", "page", "message"),
    [
        (0x800, 0, 0x1000, 4096, f"the virtual address {MULTIPLE} 0x800"),
        (0, 0x800, 0x1000, 4096, f"the physical address {MULTIPLE} 0x800"),
        (0, 0, 0x1800, 4096, f"the size {MULTIPLE} 0x1800"),
        (
            0x7FFF_FFFF_F000, 0, 0x2000, 4096,
            "the range must stay within one half of the 4-level address space, "
            "not 0x7fff_ffff_f000 to 0x8000_0000_0fff",
        ),
        (
            (1 << 64) - 0x1000, 0, 0x2000, 4096,
            "the range must stay within one half of the 4-level address space, "
            "not 0xffff_ffff_ffff_f000 to 0x1_0000_0000_0000_0fff",
        ),
        (
            0x8000_0000_0000, 0, 0x1000, 4096,
            "the range must stay within one half of the 4-level address space, "
            "not 0x8000_0000_0000 to 0x8000_0000_0fff",
        ),
        (
            0, (1 << 52) - 0x1000, 0x2000, 4096,
            "physical addresses must be below 2**52, "
            "not 0xf_ffff_ffff_f000 to 0x10_0000_0000_0fff",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped(va: int, pa: int, size: int, page: int, message: str) -> None:
    with pytest.raises(AddressError) as refused:
        builder().map(va, pa, size, P, page)
    assert str(refused.value) == message


def test_only_four_or_five_levels() -> None:
    with pytest.raises(AddressError, match="levels must be 4 or 5, not 3"):
        builder(3)


@settings(max_examples=100, deadline=None)
@given(
    page=st.sampled_from([PageSize.Size4KiB, PageSize.Size2MiB]),
    first=st.integers(0, (1 << 15) - 1),
    count=st.integers(1, 1300),
    half=st.sampled_from([0, 0xFFFF_8000_0000_0000]),
    flags=st.sampled_from([P, P | W, P | W | U, P | NX, P | W | G]),
    probes=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
)
def test_every_address_of_a_range_translates(
    page: PageSize, first: int, count: int, half: int, flags: int, probes: list[float]
) -> None:
    tables = builder()
    va, pa = half + first * page, 0x40_0000_0000
    tables.map(va, pa, count * page, flags, page)
    cpu = cpu_for(tables)
    for probe in (*probes, 0.0):
        offset = int(probe * count * page)
        found = walk(tables._memory, cpu, va + offset)
        assert (found.pa, found.page_size) == (pa + offset, page)
        assert found.steps[-1].raw & ~0x000F_FFFF_FFFF_F000 & ~0x80 == flags
    assert walk(tables._memory, cpu, va + count * page).outcome is Outcome.PAGE_FAULT
