"""Findings are kept, replayed, and said to be fixed; a damaged file is named."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.check.bench import EngineId
from harness.check.findings import database as module
from harness.check.findings.codec import finding_to_json
from harness.check.findings.database import Database
from harness.check.findings.finding import Finding
from harness.check.findings.reproducer import reproduce
from harness.check.question import Question
from harness.check.registered.registry import REGISTRY
from harness.errors import InputError
from tests.campaign.works import die

AGREES: dict[str, Any] = {
    "cpu": {"cr3": "0x1000"},
    "memory": {"0x1000": "0x2007"},
    "access": {"va": "0x4123"},
}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "findings")


@pytest.fixture(scope="module")
def known() -> Finding:
    finding = reproduce(REGISTRY[0].example).finding
    assert finding is not None
    return finding


def gone(key: str = "gone") -> Finding:
    return Finding(
        key=key,
        judgement="diverge",
        rule="NX",
        level=2,
        sentence="it was so",
        question=Question.from_json(AGREES),
        count=3,
    )


def test_what_is_saved_is_there_again(database: Database, known: Finding) -> None:
    assert list(database) == []

    path = database.save(known)

    assert path is not None
    assert list(Database(database.path)) == [known]
    assert len(database) == 1
    assert path.name.startswith("a_on_fault_level_3_")


def test_one_cause_is_one_file(database: Database, known: Finding) -> None:
    database.save(known)
    database.save(dataclasses.replace(known, count=9))
    database.save(gone())

    assert sorted(finding.count for finding in database) == [3, 9]


def test_a_finding_without_a_question_is_not_kept(database: Database, known: Finding) -> None:
    assert database.save(dataclasses.replace(known, question=None)) is None
    assert not database.path.exists()


def test_a_file_is_written_whole_or_not_at_all(
    database: Database, known: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.save(known)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="must be writable: No space left on device"):
        database.save(dataclasses.replace(known, count=2))
    monkeypatch.undo()

    assert [finding.count for finding in database] == [known.count]
    assert [path.name for path in database.path.iterdir()] == [
        path.name for path in database.paths()
    ]


def test_what_still_differs_comes_back(database: Database, known: Finding) -> None:
    database.save(dataclasses.replace(known, count=5, first=17))

    [again] = database.replay()

    assert (again.key, again.judgement, again.count, again.first) == (known.key, "known", 5, 17)
    assert again.verdict is not None
    assert known.verdict is not None
    assert again.verdict.result.seen == known.verdict.result.seen
    assert len(database) == 1


def test_what_no_longer_differs_is_fixed_and_set_aside(database: Database, known: Finding) -> None:
    database.save(known)
    path = database.save(gone())
    assert path is not None

    judgements = {finding.key: finding.judgement for finding in database.replay()}

    assert judgements == {known.key: "known", "gone": "fixed"}
    assert [finding.key for finding in database] == [known.key]
    assert (database.path / "fixed" / path.name).exists()
    assert [finding.judgement for finding in database.replay()] == ["known"]


def test_what_cannot_be_run_is_kept(database: Database) -> None:
    case = {**AGREES, "cpu": {"cr3": "0x1000", "maxphyaddr": "0x2e"}}
    database.save(dataclasses.replace(gone(), question=Question.from_json(case)))

    assert [finding.judgement for finding in database.replay()] == ["unsupported"]
    assert len(database) == 1


def test_what_hangs_is_broke(database: Database) -> None:
    database.save(gone())

    [finding] = database.replay(seconds=0.001)

    assert finding.judgement == "broke"
    assert "did not end" in finding.why
    assert len(database) == 1


def test_what_kills_the_engine_is_broke(
    database: Database, known: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.save(known)
    database.save(gone())
    monkeypatch.setattr(module, "reproduce", die)

    found = database.replay()

    assert [finding.judgement for finding in found] == ["broke", "broke"]
    assert all("died of SIGABRT" in finding.why for finding in found)
    assert len(database) == 2


def test_findings_of_another_engine_are_left_alone(database: Database, known: Finding) -> None:
    other = EngineId("unicorn", "2.1.4", "harness.planted.engines:NX_2")
    database.save(dataclasses.replace(known, engine=other))
    database.save(gone())

    assert {finding.key for finding in database.replay()} == {"gone"}
    assert [finding.key for finding in database.replay(other.spec)] == [known.key]


def test_one_cause_on_two_engines_is_two_files(database: Database, known: Finding) -> None:
    database.save(known)
    other = EngineId("unicorn", "2.1.4", "harness.planted.engines:NX_2")
    database.save(dataclasses.replace(known, engine=other))

    assert len(database) == 2


OLDER = {
    "format": 1,
    "finding": {
        "key": "NX:ignored:L2", "judgement": "diverge", "rule": "NX", "level": 2,
        "sentence": "it was so", "count": 3, "first": 7, "case": AGREES, "known": [],
        "details": {"engine": {"name": "unicorn", "version": "2.1.4"}},
    },
}  # fmt: skip


def test_what_an_older_version_stored_is_asked_again(database: Database) -> None:
    damaged(database.path, json.dumps(OLDER))

    [finding] = database
    assert (finding.key, finding.count, finding.first) == ("NX:ignored:L2", 3, 7)
    assert finding.question == Question.from_json(AGREES)
    assert [each.judgement for each in database.replay()] == ["fixed"]


def damaged(path: Path, text: str) -> None:
    path.mkdir(parents=True)
    (path / "nx_12345678.json").write_text(text)


def changed(**changes: object) -> str:
    return json.dumps({"format": 2, "finding": {**finding_to_json(gone()), **changes}})


def older(**changes: object) -> str:
    return json.dumps({"format": 1, "finding": {**OLDER["finding"], **changes}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text must be JSON"),
        ('{"format": 2, "finding"', "the text must be JSON"),
        ("[]", "a finding must be an object with format 2"),
        ('{"format": 3}', "a finding must be an object with format 2"),
        ('{"format": 2, "finding": {"key": "x"}}', "a finding must have the key 'judgement'"),
        (changed(key=5), "key must be a string, not 5"),
        (changed(count=-1), "count must be 0 or more"),
        (changed(level=9), "level must be 1 to 5 or null, not 9"),
        (changed(levels="x"), "levels must be a list"),
        (changed(explanations={}), "explanations must be a list"),
        (changed(question=None), "a stored finding must have a question, and has none"),
        (changed(question={"access": {}}), "va"),
        (changed(question={"access": {"va": "0x0", "kind": "jump"}}), "jump"),
        (changed(question={"cpu": {}, "steps": [{"jump": 1}]}), "step 1 must have one key of"),
        (older(key=5), "key must be a string, not 5"),
        (older(details=[]), "details must be an object"),
        (older(case={"access": {}}), "va"),
    ],
)
def test_a_damaged_file_is_named(database: Database, text: str, message: str) -> None:
    damaged(database.path, text)

    readers: list[Callable[[], object]] = [lambda: list(database), database.replay]
    for read in readers:
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).startswith(f"{database.path / 'nx_12345678.json'}: ")
        assert message in str(caught.value)


def test_other_files_are_left_alone(database: Database, known: Finding) -> None:
    database.save(known)
    (database.path / "notes.txt").write_text("mine")
    (database.path / ".half.part").write_text("{")

    assert len(list(database)) == 1
