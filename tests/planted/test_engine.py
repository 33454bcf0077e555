"""The wrapper is right: without a flaw it agrees everywhere, with one it puts everything back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.check.findings.tally import Tally
from harness.check.matrix.block import RAM
from harness.check.matrix.blocks import BlockBench
from harness.check.matrix.work import MatrixWork
from harness.cpu import CpuState
from harness.fuzz.work import FuzzWork
from harness.memory import PhysicalMemory
from harness.outcome import Access, Outcome
from harness.planted.engine import PlantedEngine
from harness.planted.engines import name_of, open_planted
from harness.planted.flaws import FLAWS, Flaw
from harness.planted.query import Entry

_TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4020: 0x5007}
_NOTHING = Flaw(
    name="NOTHING",
    rule="",
    sentence="every entry is taken as it is",
    entry=lambda e: e.raw.copy(),
    answer=lambda query, answer: None,
)


def _memory() -> PhysicalMemory:
    memory = PhysicalMemory(0x20_0000)
    for pa, word in _TABLES.items():
        memory.write_u64(pa, word)
    return memory


def test_without_a_flaw_it_agrees_everywhere() -> None:
    fuzz = FuzzWork(seed=5, cases=600, engine=name_of("NONE"))
    tally = fuzz.run(fuzz.plan(0, Tally())[0])
    assert tally.judgements["diverge"] == 0
    assert tally.judgements["agree"] > 500
    matrix = MatrixWork("classic", engine=name_of("NONE"), sample=100_003)
    tally = matrix.run(matrix.plan(0, Tally())[0])
    assert tally.judgements == {"agree": matrix.cases}


def test_a_flaw_that_changes_nothing_agrees_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of the wrapper's work, and none of its effect.
    monkeypatch.setitem(FLAWS, "NOTHING", _NOTHING)
    fuzz = FuzzWork(seed=6, cases=600, engine=name_of("NOTHING"))
    tally = fuzz.run(fuzz.plan(0, Tally())[0])
    assert tally.judgements["diverge"] == 0
    assert tally.judgements["agree"] > 500
    matrix = MatrixWork("classic", engine=name_of("NOTHING"), sample=100_003)
    tally = matrix.run(matrix.plan(0, Tally())[0])
    assert tally.judgements == {"agree": matrix.cases}


@pytest.mark.parametrize("name", ["PRESENT_2", "COMBINE_US_3", "A_1", "D_IN_TABLE_2", "ERR_P"])
def test_memory_is_put_back(name: str) -> None:
    memory = _memory()
    engine = open_planted(memory, flaw=name)
    before = memory.words.copy()
    for kind in ("read", "write", "fetch"):
        engine.probe(CpuState(cr3=0x1000), 0x4123, kind)
        engine.probe(CpuState(cr3=0x1000, cpl=3), 0x20_4123, kind)
        engine.probe(CpuState(cr3=0x1000), 0x7FFC, Access.of(kind))
    assert np.array_equal(memory.words, before)
    engine.close()


def test_what_changed_is_told_of_the_entries_as_they_stand() -> None:
    memory = _memory()
    memory.write_u64(0x3000, 0x4006)
    engine = open_planted(memory, flaw="PRESENT_2")
    seen = engine.probe(CpuState(cr3=0x1000), 0x4123)
    assert seen.outcome is Outcome.MAPPED
    assert seen.pa == 0x5123
    assert seen.changed == dict.fromkeys((0x1000, 0x2000, 0x3000, 0x4020), 0x20)
    engine.close()


def test_where_one_entry_serves_two_levels_a_flaw_of_one_level_does_not_show() -> None:
    memory = PhysicalMemory(0x20_0000)
    memory.write_u64(0x1000, 0x1003)  # the PML4E, the PDPTE, the PDE and the PTE
    engine = open_planted(memory, flaw="COMBINE_US_2")
    assert engine.probe(CpuState(cr3=0x1000, cpl=3), 0).outcome is Outcome.PAGE_FAULT
    engine.close()


@pytest.mark.parametrize(
    "name",
    ["PRESENT_1", "RSVD_ADDR_2", "COMBINE_RW_3", "WP", "A_2", "D_1", "D_BY_READ_2", "ORDER_2"],
)
@pytest.mark.parametrize("kind", ["read", "write"])
def test_many_versions_are_answered_as_one_by_one(name: str, kind: str) -> None:
    work = MatrixWork("classic", levels=(4,), sample=40_009)
    memory = PhysicalMemory(RAM)
    engine = open_planted(memory, flaw=name)
    asked = 0
    for _, block in work._blocks(0, 60):
        block = dataclasses.replace(block, access=Access.of(kind))
        for pa, column in zip(block.at, block.entries, strict=True):
            memory.write_u64(pa, int(column[0]))
        args = (block.cpu, block.va, block.access, block.at, block.entries)
        many = engine.probe_entries(*args, landing_words=())
        for pa, column in zip(block.at, block.entries, strict=True):
            memory.write_u64(pa, int(column[0]))
        one = engine.probe_entries_singly(*args)
        assert many.outcome.tolist() == one.outcome.tolist()
        faults = one.outcome == Outcome.PAGE_FAULT.code
        assert many.error_code[faults].tolist() == one.error_code[faults].tolist()
        assert many.after.tolist() == one.after.tolist()
        asked += len(block)
    assert asked == 60
    engine.close()


def test_a_bench_can_judge_it() -> None:
    with BlockBench(name_of("PRESENT_2")) as bench:
        assert isinstance(bench.engine, PlantedEngine)
        assert bench.engine.flaw is not None
        assert bench.engine.flaw.name == "PRESENT_2"


def test_an_entry_knows_its_leaves() -> None:
    raw = np.array([0x87, 0x7], np.uint64)
    cpu, access = CpuState(), Access()
    for level, leaves in ((4, [False, False]), (3, [True, False]), (1, [True, True])):
        assert Entry(level, raw, (), cpu, access).leaf.tolist() == leaves
