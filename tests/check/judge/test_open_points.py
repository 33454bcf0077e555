"""Open points: what the manual leaves to the CPU is neither agreement nor divergence."""

from __future__ import annotations

import dataclasses

import pytest

from harness.check.bench import Bench
from harness.check.judge.access import verdict_of_access
from harness.check.judge.compare import Judgement
from harness.check.judge.open_points import OPEN_WAYS
from harness.check.question import Question
from harness.cpu import CR4, CpuState
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Observation, Outcome
from harness.walker import Walk, walk

CPU = CpuState(cr3=0x1000)
USER = CPU.replace(cpl=3)
TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5007}
WRITE = Access(AccessKind.WRITE, 4)


class Nobody:
    """An engine of which nothing is registered."""

    name, version = "nobody", "1.0"


def memory_of(words: dict[int, int]) -> PhysicalMemory:
    memory = PhysicalMemory(0x10000)
    for at, word in {**TABLES, **words}.items():
        memory.write_u64(at, word)
    return memory


def seen(prediction: Walk, **changes: object) -> Observation:
    """Return what agrees with a walk in everything, but for the changes."""
    same = Observation(prediction.outcome, prediction.error_code, prediction.cr2, prediction.pa)
    return dataclasses.replace(same, changed=prediction.sets, **changes)  # type: ignore[arg-type]


CANONICAL_EDGE = 0x7FFF_FFFF_FFFE
PKS = CpuState(cr3=0x1000, cr4=0x20 | int(CR4.PKS), pkrs=1 << 2, cpl=3)

# The point; words; state; address; access; how an engine differs.
DIFFERENT: list[tuple[str, dict[int, int], CpuState, int, Access, dict[str, object]]] = [
    ("A_LEAF_DENIED", {0x4000: 0x5003}, USER, 0x123, Access(), {"changed": {0x4000: 0x20}}),
    ("D_OF_LOWER", {}, CPU, 0xFFE, WRITE, {"changed": {0x4000: 0x60}}),
    (
        *("SPLIT_CANONICAL", {}, CPU, CANONICAL_EDGE, Access(AccessKind.READ, 4)),
        {"outcome": Outcome.GENERAL_PROTECTION, "error_code": 0, "cr2": None},
    ),
    ("PK_OF_DENIED", {0x4000: 0x5003 | 1 << 59}, PKS, 0x123, Access(), {"error_code": 5}),
    ("WIDE_PARTS", {0x4000: 0x5067}, CPU, 0xFF8, Access(AccessKind.WRITE, 16), {"stored": 8}),
]


def predicted(case: tuple[str, dict[int, int], CpuState, int, Access, dict[str, object]]) -> Walk:
    _, words, cpu, va, access, _ = case
    return walk(memory_of(words), cpu, va, access)


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: case[0])
def test_such_a_difference_is_open_by_its_name(
    case: tuple[str, dict[int, int], CpuState, int, Access, dict[str, object]],
) -> None:
    prediction = predicted(case)
    memory = memory_of(case[1])

    changes = dict(case[5])
    changed = dict(changes.pop("changed", {}))  # type: ignore[call-overload]
    observed = dataclasses.replace(seen(prediction, **changes), changed=changed)
    verdict = verdict_of_access(Nobody(), memory, prediction, observed)

    assert verdict.difference is not None
    assert (verdict.judgement, verdict.open, verdict.known) == (Judgement.OPEN, (case[0],), ())


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: case[0])
def test_anything_else_beside_it_diverges(
    case: tuple[str, dict[int, int], CpuState, int, Access, dict[str, object]],
) -> None:
    prediction = predicted(case)
    memory = memory_of(case[1])
    changes = dict(case[5])
    changed = dict(changes.pop("changed", {}))  # type: ignore[call-overload]
    observed = dataclasses.replace(seen(prediction, **changes), changed=changed)

    for worse in (
        dataclasses.replace(observed, changed={**changed, 0x8000: 0x20}),
        dataclasses.replace(observed, changed={**changed, 0x1000: 0x1}),
        dataclasses.replace(observed, outcome=Outcome.DOUBLE_FAULT),
    ):
        verdict = verdict_of_access(Nobody(), memory, prediction, worse)
        assert (verdict.judgement, verdict.open) == (Judgement.DIVERGE, ())


def test_every_way_is_put_to_the_test() -> None:
    assert [case[0] for case in DIFFERENT] == [way.name for way in OPEN_WAYS]


def test_d_of_the_lower_page_is_open_for_writes_that_fault_in_the_upper_one_alone() -> None:
    memory = memory_of({0x4008: 0x6007})
    both = walk(memory, CPU, 0xFFE, Access(AccessKind.READ, 4))
    observed = seen(both)
    dirty = dataclasses.replace(observed, changed={**observed.changed, 0x4000: 0x60})

    assert verdict_of_access(Nobody(), memory, both, dirty).judgement is Judgement.DIVERGE


def test_more_than_the_lower_page_stored_diverges() -> None:
    memory = memory_of({0x4000: 0x5067})
    prediction = walk(memory, CPU, 0xFF8, Access(AccessKind.WRITE, 16))

    verdict = verdict_of_access(Nobody(), memory, prediction, seen(prediction, stored=9))

    assert verdict.judgement is Judgement.DIVERGE


@pytest.mark.parametrize(
    ("point", "words", "cpl", "va", "access"),
    [
        ("D_OF_LOWER", TABLES, 0, 0xFFE, WRITE),
        (
            *("WIDE_PARTS", {**TABLES, 0x4000: 0x5067}, 0, 0xFF8),
            Access(AccessKind.WRITE, 16),
        ),
        ("A_LEAF_DENIED", {0x1000: 0x2007, 0x2000: 0x83}, 3, 0, Access()),
    ],
)
def test_unicorn_goes_these_ways(
    point: str, words: dict[int, int], cpl: int, va: int, access: Access
) -> None:
    question = Question.of_access(CPU.replace(cpl=cpl), 0x10000, words, va, access)
    with Bench(question.ram, "unicorn") as bench:
        answer = bench.ask(question)

    assert answer.judgement is Judgement.OPEN
    assert answer.to_json()["open"] == {"unicorn": [point]}
    assert answer.agree is False
