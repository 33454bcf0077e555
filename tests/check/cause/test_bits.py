"""Causes about the A and D bits name the bit, the entry and what became of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.check.cause import cause_of
from harness.check.findings.roots import root_causes
from harness.check.model.words import words_of
from harness.check.question import Question
from harness.outcome import Access, Observation, Outcome
from harness.walker import walk

Asked = Any
Planted = Any
"""Of conftest.py: test modules do not import one another."""


def test_a_that_is_not_set(asked: Asked) -> None:
    seen = dataclasses.replace(asked.MAPPED, changed={**asked.ALL_A, 0x2000: 0})
    found = asked.cause({}, asked.CPU, "read", seen)
    assert (found.rule, found.level) == ("A", 3)
    assert found.as_if == "the CPU did not set A of the PDPTE at 0x2000"


def test_a_that_a_fault_sets(asked: Asked) -> None:
    seen = asked.fault(0, changed={0x4000: 0x20})
    found = asked.cause({0x4000: 0x5006}, asked.CPU, "read", seen)
    assert (found.rule, found.level) == ("A_ON_FAULT", 1)
    assert found.as_if == "the CPU set A of the PTE at 0x4000 although the access faults"


def test_a_not_set_and_d_are_told_apart_on_a_fault(planted: Planted) -> None:
    def answer(case: Question) -> Observation:
        prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
        page = prediction.second or prediction
        seen = Observation(
            prediction.outcome, prediction.error_code, prediction.cr2, prediction.pa, None,
            dict(prediction.sets),
        )  # fmt: skip
        if prediction.outcome is not Outcome.PAGE_FAULT:
            return seen
        last = page.steps[-1]
        return dataclasses.replace(seen, changed={last.address: 0x20 & ~last.raw})

    (cause,) = root_causes(planted.findings(answer))

    assert (cause.rule, cause.level) == ("A_ON_FAULT", None)
    assert cause.levels == (5, 4, 3, 2, 1)


def test_a_self_referencing_entry_names_self(asked: Asked) -> None:
    memory = {0x1000: 0x1007}
    case = Question.of_access(asked.CPU, 0x10000, memory, 0, Access.of("write"))
    prediction = walk(case.build(), case.cpu, case.va, case.access)
    assert prediction.sets == {0x1000: 0x60}
    seen = Observation(Outcome.MAPPED, pa=0x1000, changed={0x1000: 0x20})

    found = cause_of(words_of(case), prediction, seen)

    assert found.rule == "SELF"
    assert [*map(str, found.keys)] == ["SELF:D", "D:missing:L1", "D:missing"]
