"""The JSON form of findings: what the journal and the database keep, and read again.

A finding is stored as its question and what the engines *saw*; verdicts and predictions are made
anew from these (:func:`harness.check.bench.judged`), so that nothing is told twice and a stored
prediction cannot be stale. What is wrong with a stored finding raises
:class:`~harness.errors.InputError`, which names the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.check.bench import EngineAnswer, EngineId, judged
from harness.check.cause import Explanation
from harness.check.codec import memory_from_json, memory_to_json
from harness.check.findings.finding import Finding
from harness.check.question import Question
from harness.engine.run import Event
from harness.engine.steps import StepResult
from harness.errors import InputError
from harness.jsontext import flag, number, obj, shown
from harness.outcome import Observation, Outcome

__all__ = ["finding_from_json", "finding_to_json", "older_finding"]

_STRINGS: Final = ("key", "judgement", "rule", "sentence", "why")
_KEYS: Final = (
    *_STRINGS,
    *("level", "count", "first", "question", "engine", "observed"),
    *("explanations", "explained", "levels", "witnesses"),
)


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as one JSON object, which :func:`finding_from_json` reads."""
    return {
        **{name: getattr(finding, name) for name in _STRINGS},
        "level": finding.level,
        "count": finding.count,
        "first": finding.first,
        "question": None if finding.question is None else finding.question.to_json(),
        "engine": None if finding.engine is None else finding.engine.to_json(),
        "observed": None if finding.answer is None else _results(finding.answer),
        "explanations": [one.to_json() for one in finding.explanations],
        "explained": finding.explained,
        "levels": list(finding.levels),
        "witnesses": [
            {"engine": one.engine.to_json(), "observed": _results(one)} for one in finding.witnesses
        ],
    }


def finding_from_json(data: object) -> Finding:
    """Return the finding that :func:`finding_to_json` described.

    :raises InputError: for what is no finding; the message names the key.
    """
    given = obj("a finding", data, required=_KEYS, optional=())
    question = None if given["question"] is None else Question.from_json(given["question"])
    engine = None if given["engine"] is None else _engine(given["engine"])
    answer = None
    if question is not None and engine is not None and given["observed"] is not None:
        answer = _answer(question, engine, given["observed"])
    return Finding(
        key=_string("key", given["key"]),
        judgement=_string("judgement", given["judgement"]),
        rule=_string("rule", given["rule"]),
        sentence=_string("sentence", given["sentence"]),
        why=_string("why", given["why"]),
        level=None if given["level"] is None else _level(given["level"]),
        count=number("count", given["count"]),
        first=number("first", given["first"]),
        question=question,
        engine=engine,
        answer=answer,
        explanations=tuple(map(_explanation, _list("explanations", given["explanations"]))),
        explained=flag("explained", given["explained"]),
        levels=tuple(map(_level, _list("levels", given["levels"]))),
        witnesses=tuple(_witness(question, one) for one in _list("witnesses", given["witnesses"])),
    )


def _witness(question: Question | None, data: object) -> EngineAnswer:
    given = obj("a witness", data, required=("engine", "observed"), optional=())
    if question is None:
        raise InputError("witnesses must have a question, and there is none")
    return _answer(question, _engine(given["engine"]), given["observed"])


def _answer(question: Question, engine: EngineId, observed: object) -> EngineAnswer:
    results = [_result(one) for one in _list("observed", observed)]
    if not 1 <= len(results) <= len(question.steps):
        raise InputError(
            f"observed must have one object for each step asked, not {len(results)} for "
            f"{len(question.steps)}"
        )
    return judged(engine, question.build(), question, results)


def _engine(data: object) -> EngineId:
    given = obj("engine", data, required=("name", "version", "spec"), optional=())
    return EngineId(**{name: _string(name, value) for name, value in given.items()})


def _explanation(data: object) -> Explanation:
    given = obj(
        "an explanation", data, required=("rule", "how", "level", "as_if"), optional=("key",)
    )
    level = None if given["level"] is None else _level(given["level"])
    words = [_string(name, given[name]) for name in ("rule", "how", "as_if")]
    return Explanation.of(words[0], words[1], level, words[2])


def _results(answer: EngineAnswer) -> list[dict[str, Any]]:
    return [_result_to_json(verdict.result) for verdict in answer.verdicts]


def _result_to_json(result: StepResult) -> dict[str, Any]:
    seen = result.seen
    line = result.to_json() | {"changed": memory_to_json(seen.changed)}
    if seen.value is not None:
        line["value"] = f"{seen.value:#x}"
    if seen.untold:
        line["untold"] = sorted(seen.untold)
    if result.start:
        line["start"] = f"{result.start:#x}"
    return line


def _result(data: object) -> StepResult:
    given = obj("an observation", data, required=("outcome", "error_code", "cr2", "pa", "changed"))
    try:
        outcome = Outcome(given["outcome"])
    except ValueError:
        raise InputError(f"outcome must be one that there is, not {shown(given['outcome'])}") from (
            None
        )
    seen = Observation(
        outcome,
        _maybe("error_code", given["error_code"]),
        _maybe("cr2", given["cr2"]),
        _maybe("pa", given["pa"]),
        _maybe("value", given.get("value")),
        memory_from_json("changed", given["changed"]),
        None if given.get("reason") is None else _string("reason", given["reason"]),
        number("stored", given.get("stored", 0)),
        frozenset(_string("untold", one) for one in _list("untold", given.get("untold", []))),
    )
    registers = obj("registers", given.get("registers", {}))
    events = [_event(one) for one in _list("events", given.get("events", []))]
    return StepResult(
        seen,
        {name: number(name, value) for name, value in registers.items()},
        tuple(events),
        number("start", given.get("start", 0)),
        _string("delivered_by", given.get("delivered_by", "cpu")),
    )


def _event(data: object) -> Event:
    given = obj("an event", data, required=("vector", "error_code", "cr2", "rip", "cpl"))
    return Event(
        number("vector", given["vector"], 8),
        _maybe("error_code", given["error_code"]),
        _maybe("cr2", given["cr2"]),
        number("rip", given["rip"]),
        number("cpl", given["cpl"], 2),
        _maybe("handler", given.get("handler")),
        None if given.get("note") is None else _string("note", given["note"]),
    )


def _maybe(name: str, value: object) -> int | None:
    return None if value is None else number(name, value)


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, not {shown(value)}")
    return value


def _level(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 5:
        raise InputError(f"level must be 1 to 5 or null, not {shown(value)}")
    return value


def _list(name: str, value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list, not {shown(value)}")
    return value


def older_finding(data: Mapping[str, Any]) -> Finding:
    """Return the finding that a version before questions stored; it has to be asked again.

    :raises InputError: for what is no such finding.
    """
    given = obj("a finding", data, required=("key", "judgement", "rule", "sentence", "case"))
    details = obj("details", given.get("details", {}))
    engine = details.get("engine")
    name = None if not isinstance(engine, dict) else engine.get("name")
    version = None if not isinstance(engine, dict) else engine.get("version")
    identity = None
    if isinstance(name, str) and isinstance(version, str):
        identity = EngineId(name, version, name)
    level = given.get("level")
    return Finding(
        key=_string("key", given["key"]),
        judgement=_string("judgement", given["judgement"]),
        rule=_string("rule", given["rule"]),
        sentence=_string("sentence", given["sentence"]),
        level=None if level is None else _level(level),
        count=number("count", given.get("count", 1)),
        first=number("first", given.get("first", 0)),
        question=Question.from_json(given["case"]),
        engine=identity,
    )
