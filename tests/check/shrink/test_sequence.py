"""Scenarios made small: what shows a difference stays, and nothing else does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.check.findings.reproducer import reproduce
from harness.check.question import Question
from harness.check.shrink.finding import shrink_finding
from harness.check.shrink.sequence import shrink_steps
from harness.cpu import CpuState
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    ExecuteStep,
    InvlpgStep,
    WriteStep,
)
from harness.fuzz import sequences
from harness.outcome import Access, AccessKind

READ, WRITE = Access(AccessKind.READ, 8), Access(AccessKind.WRITE, 4)


def scenario() -> Question:
    """A page is unmapped and invalidated between two reads, among much else."""
    return Question(
        CpuState(cr3=0x1018, cr4=0xA0, efer=0xD00, rflags=0x4_0002, pkru=0x55),
        0x10_0000,
        {
            0x1000: 0x2027,
            0x2000: 0x3027,
            0x3000: 0x4027,
            0x4020: 0x5067,
            0x4028: 0x6067,
            0x8000: 0x1234,
        },
        [
            ControlStep("rflags", 0x2),
            AccessStep(0x5008, WRITE),
            AccessStep(0x4008, READ, cpl=0),
            WriteStep({0x4020: 0x0, 0x8000: 0x77}),
            ExecuteStep("nop", {"rax": 5}),
            InvlpgStep(0x4000),
            AccessStep(0x4008, READ),
            AccessStep(0x5008, READ),
        ],
    )


def test_what_is_needed_stays() -> None:
    def differs(one: Question) -> bool:
        kinds = [type(step) for step in one.steps]
        return (
            WriteStep in kinds
            and InvlpgStep in kinds
            and any(isinstance(s, WriteStep) and 0x4020 in s.words for s in one.steps)
            and one.memory.get(0x4020, 0) & 1 == 1
            and bool(one.cpu.cr4 & 0x80)
        )

    small = shrink_steps(scenario(), differs)

    assert [type(step) for step in small.steps] == [WriteStep, InvlpgStep]
    assert small.steps[0] == WriteStep({0x4020: 0})
    assert small.memory == {0x4020: 1}
    assert small.cpu == CpuState(cr3=0x1000, cr4=0xA0)


def test_steps_become_plainer() -> None:
    def differs(one: Question) -> bool:
        return any(isinstance(s, AccessStep) and s.access.is_write for s in one.steps) and any(
            isinstance(s, ExecuteStep) for s in one.steps
        )

    small = shrink_steps(scenario(), differs)

    assert small.steps == (
        AccessStep(0x5000, Access(AccessKind.WRITE)),
        ExecuteStep("nop"),
    )


@settings(deadline=None, max_examples=15)
@given(number=st.integers(0, 10_000), kept=st.integers(0, 5))
def test_the_result_always_differs_and_is_minimal(number: int, kept: int) -> None:
    whole = sequences.generate(3, number)
    place = kept % len(whole.steps)
    wanted = type(whole.steps[place])

    def differs(one: Question) -> bool:
        return any(isinstance(step, wanted) for step in one.steps)

    small = shrink_steps(whole, differs)

    assert differs(small)
    assert len(small.steps) == 1
    assert small.memory == {}


def test_it_gives_up_in_time() -> None:
    asked = []

    def differs(one: Question) -> bool:
        asked.append(one)
        return False

    assert shrink_steps(scenario(), differs, tries=7) == scenario()
    assert len(asked) == 7


def test_a_finding_of_steps_becomes_small() -> None:
    engine = "harness.planted.engines:INVLPG"
    whole = scenario()
    steps = [step for step in whole.steps if not isinstance(step, ExecuteStep)]
    found = reproduce(Question(whole.cpu, whole.ram, whole.memory, steps), engine).finding
    assert found is not None

    small = shrink_finding(found, engine)

    assert small.key == found.key
    assert small.question is not None
    assert [type(step) for step in small.question.steps] == [
        AccessStep,
        WriteStep,
        InvlpgStep,
        AccessStep,
    ]
    assert len(small.question.memory) == 4
    assert reproduce(small.question, engine).judgement == "diverge"
    assert reproduce(small.question).judgement == "agree"
