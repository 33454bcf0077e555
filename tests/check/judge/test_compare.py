"""Prediction against observation, field by field."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from harness.check.judge.compare import (
    Agreement,
    Difference,
    Field,
    Judgement,
    compare,
    excess,
    worst,
)
from harness.check.question import question_of
from harness.cpu import CpuState
from harness.memory import PhysicalMemory
from harness.outcome import Access, Observation, Outcome
from harness.walker import Walk, walk

CPU = CpuState(cr3=0x1000)
USER = CpuState(cr3=0x1000, cpl=3)


@pytest.fixture
def memory() -> PhysicalMemory:
    memory = PhysicalMemory(0x10000)
    entries = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5003, 0x4008: 0x6007}
    for at, word in entries.items():
        memory.write_u64(at, word)
    return memory


def seen(prediction: Walk, **changes: object) -> Observation:
    """Return the observation that agrees with a walk in everything, but for the changes."""
    same = Observation(
        prediction.outcome,
        prediction.error_code,
        prediction.cr2,
        prediction.pa,
        None,
        prediction.sets,
    )
    return dataclasses.replace(same, **changes)  # type: ignore[arg-type]


def difference(prediction: Walk, observation: Observation) -> Difference:
    result = compare(prediction, observation)
    assert isinstance(result, Difference)
    return result


@pytest.mark.parametrize(
    ("cpu", "va", "access"),
    [
        (CPU, 0x123, "read"),
        (CPU, 0x123, "write"),
        (USER, 0x123, "read"),
        (CPU, 0x5000, "fetch"),
        (CPU, 1 << 47, "read"),
        (CPU, 0xFFE, Access.of("write", size=4)),
    ],
)
def test_the_same_answer_agrees(
    memory: PhysicalMemory, cpu: CpuState, va: int, access: str
) -> None:
    prediction = walk(memory, cpu, va, access)

    assert isinstance(compare(prediction, seen(prediction)), Agreement)


@pytest.mark.parametrize(
    ("field", "changes", "rule"),
    [
        (Field.OUTCOME, {"outcome": Outcome.MAPPED}, "USER_US"),
        (Field.ERROR_CODE, {"error_code": 1}, "ERR"),
        (Field.CR2, {"cr2": 0x120}, "ERR"),
        (Field.CHANGED, {"changed": {0x4000: 0x20}}, "A_ON_FAULT"),
        (Field.CHANGED, {"changed": {0x3000: 0x40}}, "D"),
    ],
)
def test_of_a_fault_each_field_counts(
    memory: PhysicalMemory, field: Field, changes: dict[str, object], rule: str
) -> None:
    prediction = walk(memory, USER, 0x123)

    found = difference(prediction, seen(prediction, **changes))

    assert found.rule == rule
    assert found.fields == (field,)


def test_a_faulting_access_may_set_a_above_the_last_entry(memory: PhysicalMemory) -> None:
    prediction = walk(memory, USER, 0x123)

    for changed in ({}, {0x1000: 0x20}, {0x1000: 0x20, 0x2000: 0x20, 0x3000: 0x20}):
        assert isinstance(compare(prediction, seen(prediction, changed=changed)), Agreement)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({0x1000: 0x20, 0x2000: 0x20, 0x3000: 0x20, 0x4000: 0x20}, "D"),
        ({0x1000: 0x20, 0x2000: 0x20, 0x4000: 0x60}, "A"),
        ({0x1000: 0x20, 0x2000: 0x20, 0x3000: 0x60, 0x4000: 0x60}, "D"),
    ],
)
def test_a_completed_access_sets_exactly_its_bits(
    memory: PhysicalMemory, changed: dict[int, int], rule: str
) -> None:
    prediction = walk(memory, CPU, 0x123, "write")

    found = difference(prediction, seen(prediction, changed=changed))

    assert found.fields == (Field.CHANGED,)
    assert found.rule == rule


def test_a_wrong_physical_address_differs_and_an_unknown_one_does_not(
    memory: PhysicalMemory,
) -> None:
    prediction = walk(memory, CPU, 0x123)

    assert difference(prediction, seen(prediction, pa=0x5124)).fields == (Field.PA,)
    assert isinstance(compare(prediction, seen(prediction, pa=None)), Agreement)


def test_the_sentence_says_what_was_predicted_and_what_was_seen(memory: PhysicalMemory) -> None:
    prediction = walk(memory, USER, 0x123)

    assert difference(prediction, seen(prediction, error_code=1)).sentence == (
        "a read of 0x123 at CPL 3: the error code was predicted to be 0x5 (P U), and was 0x1 (P)"
    )
    mapped = Observation(Outcome.MAPPED, pa=0x5123)
    assert difference(prediction, mapped).sentence == (
        "a read of 0x123 at CPL 3 was predicted to end as page-fault 0x5 (P U) (rule USER_US), "
        "and ended as mapped at 0x5123"
    )
    bits = seen(prediction, changed={0x4000: 0x20})
    assert difference(prediction, bits).sentence == (
        "a read of 0x123 at CPL 3 faulted (rule USER_US), and the CPU treated ACCESSED of the "
        "entry at 0x4000 otherwise than the rules permit"
    )


def test_excess_lists_the_bits_that_are_wrong(memory: PhysicalMemory) -> None:
    fault = walk(memory, USER, 0x123)
    assert excess(fault, seen(fault, changed={0x1000: 0x20, 0x4000: 0x60})) == {0x4000: 0x60}
    write = walk(memory, CPU, 0x123, "write")
    missing = {0x1000: 0x20, 0x2000: 0x20, 0x4000: 0x20}
    assert excess(write, seen(write, changed=missing)) == {0x3000: 0x20, 0x4000: 0x40}


def test_a_case_of_a_walk_runs_alone(memory: PhysicalMemory) -> None:
    prediction = walk(memory, USER, 0xFFE, Access.of("read", size=4))

    case = question_of(memory, prediction)

    again = walk(case.build(), case.cpu, case.va, case.access)
    assert again.outcome is prediction.outcome
    assert again.steps == prediction.steps
    spanning = walk(memory, CPU, 0xFFE, Access.of("read", size=4))
    assert 0x4008 in question_of(memory, spanning).memory


def test_a_difference_can_leave_a_worker(memory: PhysicalMemory) -> None:
    prediction = walk(memory, USER, 0x123)
    found = difference(prediction, seen(prediction, error_code=1))

    back = pickle.loads(pickle.dumps(found))

    assert (back.fields, back.rule, back.sentence) == (found.fields, found.rule, found.sentence)
    assert back.observation == found.observation
    assert back.walk.steps == found.walk.steps


@pytest.mark.parametrize(
    ("untold", "changes"),
    [
        ("error_code", {"error_code": None}),
        ("cr2", {"cr2": 0x999}),
        ("changed", {"changed": {0x4000: 0x20}}),
    ],
)
def test_what_is_not_told_is_not_compared(
    memory: PhysicalMemory, untold: str, changes: dict[str, object]
) -> None:
    prediction = walk(memory, USER, 0x123)

    assert difference(prediction, seen(prediction, **changes)).fields == (Field(untold),)
    silent = seen(prediction, **changes, untold=frozenset({untold}))
    assert isinstance(compare(prediction, silent), Agreement)


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], "agree"),
        (["agree", "delivered_by_harness"], "delivered_by_harness"),
        (["open", "delivered_by_harness", "agree"], "open"),
        (["known", "open"], "known"),
        (["unsupported", "known"], "unsupported"),
        (["agree", "diverge", "unsupported"], "diverge"),
    ],
)
def test_a_whole_is_as_bad_as_its_worst_part(parts: list[str], whole: str) -> None:
    assert worst(map(Judgement, parts)) is Judgement(whole)
