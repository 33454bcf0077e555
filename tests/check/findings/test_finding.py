"""Findings have all that is told of a difference, and merge by what caused it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.check.bench import Bench
from harness.check.findings.codec import finding_from_json, finding_to_json
from harness.check.findings.finding import Finding, broken, finding_of
from harness.check.judge.compare import Judgement
from harness.check.model.words import words_of
from harness.check.question import Question
from harness.check.registered.registry import REGISTRY
from harness.check.shrink.finding import shrink_finding
from harness.errors import InputError
from harness.outcome import Access
from harness.walker import walk

Asked = Any
Planted = Any
"""Of conftest.py: test modules do not import one another."""

NX = "    if fetch and not granted & _NO_EXECUTE:"


def there_and_back(finding: Finding) -> Finding:
    return finding_from_json(json.loads(json.dumps(finding_to_json(finding))))


def verdicts(finding: Finding) -> list[tuple[object, ...]]:
    """Tell all that a finding's answer says, walks by their words."""
    assert finding.answer is not None
    return [
        (v.step, v.result, v.judgement, v.permitted, v.rule, v.level, v.sentence, v.known, v.open)
        for v in finding.answer.verdicts
    ]


@pytest.mark.parametrize("number", range(len(REGISTRY)))
def test_a_known_divergence_is_a_finding_of_its_name(number: int) -> None:
    known = REGISTRY[number]
    with Bench(known.question.ram, "unicorn") as bench:
        finding = finding_of(known.question, bench.ask(known.question).engines[0], 7)

    assert finding.key == f"known:{known.name}"
    assert (finding.judgement, finding.rule, finding.first) == ("known", known.rule, 7)
    assert finding.known == (known.name,)
    assert finding.as_if == known.reason
    assert there_and_back(finding) == finding
    assert verdicts(there_and_back(finding)) == verdicts(finding)


def test_an_open_point_is_a_finding_of_its_name(asked: Asked) -> None:
    tables = {**asked.TABLES, 0x4000: 0x5007}
    question = Question.of_access(asked.CPU, 0x10000, tables, 0xFFE, Access.of("write", size=4))
    with Bench(question.ram, "unicorn") as bench:
        answer = bench.ask(question).engines[0]

    assert (answer.judgement, answer.open) == (Judgement.OPEN, ("D_OF_LOWER",))
    finding = finding_of(question, answer)
    assert (finding.key, finding.judgement) == ("open:D_OF_LOWER", "open")
    assert verdicts(there_and_back(finding)) == verdicts(finding)


def test_a_finding_has_all_that_is_told(planted: Planted) -> None:
    answer = planted.flawed((NX, "    if False:"))
    found = planted.findings(answer)

    assert found
    for finding in found:
        question, verdict = finding.question, finding.verdict
        assert question is not None
        assert verdict is not None
        prediction = walk(words_of(question), question.cpu, question.va, question.access)  # type: ignore[arg-type]
        assert verdict.walk is not None
        assert verdict.walk.rule == prediction.rule == "NX"
        assert verdict.walk.steps == prediction.steps
        assert verdict.result.seen.outcome != "page-fault" or prediction.second
        assert finding.explanations
        assert there_and_back(finding) == finding
        assert verdicts(there_and_back(finding)) == verdicts(finding)


def test_what_broke_an_engine_goes_there_and_back(asked: Asked) -> None:
    question = Question.of_access(asked.CPU, 0x10000, asked.TABLES, 0x123)
    for one in (question, None):
        finding = broken(one, 5, "it died", "SIGSEGV", "unicorn")
        assert there_and_back(finding) == finding
        assert (finding.key, finding.judgement) == ("broke: SIGSEGV", "broke")


def test_two_findings_of_one_key_are_one_with_the_earlier_question(asked: Asked) -> None:
    one, other = (Question.of_access(asked.CPU, 0x10000, asked.TABLES, va) for va in (0x123, 0x124))
    early = Finding(key="x", judgement="diverge", rule="A", sentence="a", first=3, question=one)
    late = Finding(
        key="x", judgement="diverge", rule="A", sentence="b", first=9, question=other, count=4
    )

    for merged in (early.merged(late), late.merged(early)):
        assert (merged.first, merged.count, merged.question) == (3, 5, one)


def test_a_finding_that_no_longer_differs_is_left_as_it_is(asked: Asked) -> None:
    question = Question.of_access(asked.CPU, 0x10000, asked.TABLES, 0x123)
    finding = Finding(
        key="A:missing", judgement="diverge", rule="A", sentence="", question=question
    )

    assert shrink_finding(finding) == finding


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": -1}, "count must be 0 or more"),
        ({"level": 6}, "level must be 1 to 5 or null, not 6"),
        ({"explained": 1}, "explained must be true or false, not 1"),
        ({"observed": []}, "observed must have one object for each step asked, not 0 for 1"),
        ({"observed": [{"outcome": "mapped"}]}, "an observation must have the key 'error_code'"),
        ({"engine": {"name": "unicorn"}}, "engine must have the key 'version'"),
        ({"explanations": [{"rule": "A"}]}, "an explanation must have the key 'how'"),
        ({"question": {"acces": {}}}, "a question must have the key 'access'"),
        ({"more": 1}, "a key of a finding must be one of"),
    ],
)
def test_what_is_no_finding_is_refused_by_key(change: dict[str, Any], sentence: str) -> None:
    known = REGISTRY[0]
    with Bench(known.question.ram, "unicorn") as bench:
        finding = finding_of(known.question, bench.ask(known.question).engines[0])

    with pytest.raises(InputError, match=sentence):
        finding_from_json(finding_to_json(finding) | change)
