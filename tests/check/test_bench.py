"""The bench: it leaves the memory as it was, and owns up to what it cannot ask."""

from __future__ import annotations

import json

import pytest

from harness.check.bench import Bench, EngineId, judged
from harness.check.findings.finding import finding_of
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.check.shrink.finding import shrink_finding
from harness.cpu import CpuState
from harness.engine import open_engine
from harness.errors import EngineError, InputError
from harness.fuzz.groups import generate
from harness.fuzz.spaces import RAM
from harness.memory import PhysicalMemory
from harness.walker import scalar, walk

TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4020: 0x5005}
WRONG = "harness.planted.engines:WP"


def written() -> Question:
    return Question.of_access(CpuState(cr3=0x1000), RAM, TABLES, 0x4123, "write")


def test_the_memory_is_as_it_was() -> None:
    with Bench(RAM, "unicorn") as bench:
        for question in generate(8, 500):
            bench.ask(question)
        assert not bench.memory.words.any()


def test_a_question_that_the_engine_cannot_run_is_not_agreement() -> None:
    question = Question.of_access(CpuState(cr3=0x1000, cr4=0x100_0020), RAM, {}, 0)
    with Bench(RAM, "unicorn") as bench:
        answer = bench.ask(question)

    assert answer.judgement is Judgement.UNSUPPORTED
    assert answer.agree is None
    assert "does not implement PKS" in answer.sentence


def test_without_an_engine_the_walker_answers() -> None:
    with Bench(RAM) as bench:
        answer = bench.ask(written())

    assert answer.walk is not None
    assert (answer.walk.rule, answer.engines, answer.agree) == ("WP", (), None)
    assert answer.to_json()["observed"] == {}


def test_each_engine_is_judged_for_itself() -> None:
    with Bench(RAM, "unicorn", WRONG) as bench:
        answer = bench.ask(written())
        right = bench.ask(Question.of_access(CpuState(cr3=0x1000), RAM, TABLES, 0x4123))

    assert [each.judgement for each in answer.engines] == [Judgement.AGREE, Judgement.DIVERGE]
    assert (answer.judgement, answer.agree) == (Judgement.DIVERGE, False)
    assert answer.sentence == answer.engines[1].sentence
    assert list(answer.to_json()["observed"]) == ["unicorn", WRONG]
    assert answer.engines[1].engine.title == f"{WRONG} (unicorn 2.1.4)"
    assert (right.judgement, right.agree) == (Judgement.AGREE, True)


def test_several_steps_on_several_engines_are_told_by_engine() -> None:
    first, second = written().steps[0], written().steps[0]
    question = Question(CpuState(cr3=0x1000), RAM, TABLES, [first, second])
    with Bench(RAM, "unicorn", "harness.planted.engines:NONE") as bench:
        line = bench.ask(question).to_json()

    assert list(line["engines"]) == ["unicorn", "harness.planted.engines:NONE"]
    assert [each["agree"] for each in line["engines"].values()] == [True, True]


def test_one_access_among_many_is_judged_as_the_question_of_it() -> None:
    with Bench(RAM, "unicorn") as bench:
        for question in generate(3, 300):
            whole = bench.ask(question).engines[0]
            with bench.holding(question.memory):
                walked, seen, verdict = bench.ask_access(question.cpu, question.va, question.access)
            assert verdict.judgement is whole.judgement
            assert whole.decisive.walk is not None
            assert walked.rule == whole.decisive.walk.rule
            assert seen == whole.decisive.result.seen


def test_what_was_observed_can_be_judged_again_elsewhere() -> None:
    with Bench(RAM, "unicorn") as bench:
        for question in generate(4, 300):
            whole = bench.ask(question).engines[0]
            results = [verdict.result for verdict in whole.verdicts]
            again = judged(whole.engine, question.build(), question, results)
            assert (again.judgement, again.sentence) == (whole.judgement, whole.sentence)


def test_a_spec_that_opens_nothing_is_refused_and_nothing_stays_open() -> None:
    closed = []

    class Closing:
        name = version = spec = "closing"

        def __init__(self, memory: PhysicalMemory) -> None:
            self.memory = memory

        def close(self) -> None:
            closed.append(self)

    with pytest.raises((InputError, EngineError), match="no-such"):
        Bench(RAM, Closing, "no-such")  # type: ignore[arg-type]
    assert len(closed) == 1


def test_a_title_names_the_spec_where_it_says_more() -> None:
    assert EngineId("unicorn", "2.1.4", "unicorn").title == "unicorn 2.1.4"
    assert EngineId("walker:m:f", "yours", "walker:m:f").title == "the walker m:f"


def test_a_difference_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    real = scalar.denial

    def without_nx(*arguments: object) -> str | None:
        rule = real(*arguments)  # type: ignore[arg-type]
        return None if rule == "NX" else rule

    monkeypatch.setattr(scalar, "denial", without_nx)
    with Bench(RAM, "unicorn") as bench:
        question, answer = next(
            (question, answer)
            for question in generate(1, 1500)
            if (answer := bench.ask(question).engines[0]).judgement is Judgement.DIVERGE
            and answer.rule == "COMBINE"
        )
    small = shrink_finding(finding_of(question, answer)).question

    assert small is not None
    # Small: the entries of one walk, few bits each.
    assert len(small.memory) <= small.cpu.levels
    assert any(word >> 63 for word in small.memory.values())
    monkeypatch.undo()
    alone = Question.from_json(json.loads(small.line()))
    memory = alone.build()
    with open_engine("unicorn", memory) as engine:
        seen = engine.probe(alone.cpu, alone.va, alone.access)
    assert walk(memory, alone.cpu, alone.va, alone.access).outcome is seen.outcome
