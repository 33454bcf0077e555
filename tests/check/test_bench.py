"""The bench: it leaves the memory as it was, and owns up to what it cannot ask."""

from __future__ import annotations

import json

import pytest

from harness.check.bench import Bench
from harness.check.case import Case
from harness.check.judge.compare import Judgement
from harness.cpu import CpuState
from harness.engine import open_engine
from harness.fuzz.groups import generate
from harness.fuzz.spaces import RAM
from harness.outcome import Access
from harness.walker import scalar, walk


def test_the_memory_is_as_it_was() -> None:
    with Bench(RAM) as bench:
        for case in generate(8, 500):
            bench.ask(case)
        assert not bench.memory.words.any()


def test_a_case_that_the_engine_cannot_run_is_not_agreement() -> None:
    case = Case(CpuState(cr3=0x1000, cr4=0x100_0020), RAM, {}, 0, Access())
    with Bench(RAM) as bench:
        _, _, verdict = bench.ask(case)

    assert verdict.judgement is Judgement.UNSUPPORTED


def test_a_difference_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    real = scalar.denial

    def without_nx(*arguments: object) -> str | None:
        rule = real(*arguments)  # type: ignore[arg-type]
        return None if rule == "NX" else rule

    monkeypatch.setattr(scalar, "denial", without_nx)
    with Bench(RAM) as bench:
        difference = next(
            found
            for case in generate(1, 1500)
            if (found := bench.ask(case)[2].difference) is not None and found.rule == "COMBINE"
        )
        small = bench.shrink(difference).case

    assert small is not None
    # Small: the entries of one walk, few bits each.
    assert len(small.memory) <= small.cpu.levels
    assert any(word >> 63 for word in small.memory.values())
    monkeypatch.undo()
    alone = Case.from_json(json.loads(small.line()))
    memory = alone.build()
    with open_engine(memory) as engine:
        seen = engine.probe(alone.cpu, alone.va, alone.access)
    assert walk(memory, alone.cpu, alone.va, alone.access).outcome is seen.outcome
