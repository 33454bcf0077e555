"""Coverage: what counts where, and what cannot be met."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.check.findings.tally import Cell
from harness.cpu import CR4, CpuState
from harness.fuzz.coverage import KINDS, MODES, cells_of, impossible, rare, reachable, table
from harness.fuzz.groups import generate
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind
from harness.walker import RULES, walk

NX = Cell("NX", 1, "fetch", "user4")
P, W, U, A, D, PS, PAT_BIG = 1, 2, 4, 0x20, 0x40, 0x80, 0x1000
ALL = P | W | U


@pytest.fixture
def memory() -> PhysicalMemory:
    """Page 0 of 4 levels, and page 1 not there."""
    memory = PhysicalMemory(0x10000)
    for at in (0x1000, 0x2000, 0x3000, 0x4000):
        memory.write_u64(at, at + 0x1000 | ALL)
    return memory


def cells(
    memory: PhysicalMemory, access: str | Access = "read", va: int = 0, **cpu: int
) -> set[str]:
    found = cells_of(walk(memory, CpuState(cr3=0x1000).replace(**cpu), va, access))
    return {cell.name for cell in found}


def test_a_read_that_is_mapped(memory: PhysicalMemory) -> None:
    assert cells(memory) == {
        "COMBINE/1/read/kernel4",
        *(f"A/{level}/read/kernel4" for level in (1, 2, 3, 4)),
    }
    for at in (0x1000, 0x2000, 0x3000, 0x4000):
        memory.write_u64(at, memory.read_u64(at) | A)
    assert cells(memory, cpl=3) == {"COMBINE/1/read/user4"}
    assert cells(memory, "write", cr3=0x1008) == {
        *("COMBINE/1/write/kernel4", "D/1/write/kernel4", "CR3/-/write/kernel4")
    }


def test_a_fault_counts_where_it_was_decided(memory: PhysicalMemory) -> None:
    memory.write_u64(0x3000, 0)
    assert cells(memory, "fetch") == {
        *("PRESENT/2/fetch/kernel4", "ERR/2/fetch/kernel4"),
        *("A_ON_FAULT/4/fetch/kernel4", "A_ON_FAULT/3/fetch/kernel4"),
    }
    memory.write_u64(0x1000, 0x2000 | P | A)
    assert "ORDER/2/read/user4" in cells(memory, cpl=3)
    assert cells(memory, va=1 << 47) == {"CANONICAL/-/read/kernel4", "ERR/-/read/kernel4"}
    assert cells(memory, Access(AccessKind.READ, 8, implicit=True), va=1 << 47, cpl=3) == {
        *("CANONICAL/-/implicit/user4", "ERR/-/implicit/user4")
    }


def test_the_leaf_s_bits(memory: PhysicalMemory) -> None:
    memory.write_u64(0x4000, 0x5000 | ALL | PS | 3 << 59)
    assert {"PAT/1/read/kernel4", "KEY/1/read/kernel4"} <= cells(memory)
    memory.write_u64(0x3000, PAT_BIG | ALL | PS)
    assert {"PAT/2/read/kernel4", "COMBINE/2/read/kernel4"} <= cells(memory)


def test_two_pages(memory: PhysicalMemory) -> None:
    wide = Access(AccessKind.WRITE, 8)
    assert cells(memory, wide, va=0xFFC) == {
        *("PRESENT/1/write/kernel4", "ERR/1/write/kernel4", "SPLIT/1/write/kernel4"),
        *(f"A_ON_FAULT/{level}/write/kernel4" for level in (1, 2, 3, 4)),
        "COMBINE/1/write/kernel4",
    }
    memory.write_u64(0x4008, 0x6000 | ALL)
    assert {"SPLIT/1/write/kernel4", "D/1/write/kernel4"} <= cells(memory, wide, va=0xFFC)


def test_an_entry_that_is_used_twice(memory: PhysicalMemory) -> None:
    memory.write_u64(0x1000, 0x1000 | ALL)
    found = cells(memory, cr4=int(CR4.PAE))
    assert {f"SELF/{level}/read/kernel4" for level in (1, 2, 3)} <= found
    assert "SELF/4/read/kernel4" not in found


def test_what_can_never_be_met_says_why() -> None:
    assert impossible("COMBINE", 1, "read", "user4") is None
    assert impossible("NX", 1, "read", "user4") == "only a fetch asks about it"
    assert impossible("PRESENT", 5, "read", "user4") == "with 4 levels there is no level 5"
    assert impossible("RSVD_2M", 3, "read", "user5") == "only a PDE maps a 2 MiB page"
    assert impossible("USER_US", 1, "implicit", "user4") == "only a user access asks about it"
    assert impossible("SMAP", 1, "implicit", "user4") is None
    assert impossible("SMAP", 1, "read", "user4") == "only a supervisor access asks about it"
    every = [
        (rule, level, kind, mode)
        for rule in RULES
        for level in (None, 1, 2, 3, 4, 5)
        for kind in KINDS
        for mode in MODES
    ]
    possible = {Cell(*one) for one in every if impossible(*one) is None}
    assert possible == reachable()
    assert 900 < len(possible) < 1000


def test_no_case_meets_what_cannot_be_met() -> None:
    met: Counter[Cell] = Counter()
    memories: dict[object, PhysicalMemory] = {}
    for case in generate(11, 4000):
        if case.cpu.pks or not case.cpu.pdpe1gb:  # not in this engine
            continue
        memory = memories.setdefault(case.ram, PhysicalMemory(case.ram))
        for at, word in case.memory.items():
            memory.write_u64(at, word)
        met.update(cells_of(walk(memory, case.cpu, case.va, case.access)))
        for at in case.memory:
            memory.write_u64(at, 0)

    assert set(met) <= reachable()
    assert len(met) > 850


def test_the_table_says_n_of_m() -> None:
    rows = {row.rule: row for row in table({NX: 7, Cell("STALE", 1, "sequence", "user4"): 3})}

    assert (rows["NX"].met, rows["NX"].reachable, rows["NX"].cases) == (1, 12, 7)
    assert Cell("NX", 2, "fetch", "user4") in rows["NX"].missing
    assert (rows["all"].met, rows["all"].reachable) == (1, len(reachable()))
    assert rows["PKS"].reachable == 0


def test_rare_cells_come_first() -> None:
    counts = dict.fromkeys(reachable(), 100)
    counts[NX] = 0
    counts[Cell("D", 1, "write", "user4")] = 3

    assert rare(counts) == ["NX/1/fetch/user4", "D/1/write/user4"]
    assert rare(counts, most=1) == ["NX/1/fetch/user4"]
    assert rare({}, most=10_000) == sorted(cell.name for cell in reachable())
