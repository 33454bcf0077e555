"""Findings are kept, replayed, and said to be fixed; a damaged file is named."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.check.findings import database as module
from harness.check.findings.database import Database
from harness.check.findings.finding import Finding
from harness.check.findings.reproducer import judge_json
from harness.check.registered.access import KNOWN
from harness.errors import InputError

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
    finding = judge_json(KNOWN[0].example).finding
    assert finding is not None
    return finding


def gone(key: str = "gone") -> Finding:
    return Finding(
        key=key, judgement="diverge", rule="NX", level=2, sentence="it was so", case=AGREES, count=3
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


def test_a_finding_without_a_case_is_not_kept(database: Database, known: Finding) -> None:
    assert database.save(dataclasses.replace(known, case=None)) is None
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
    assert again.details["observed"]["changed"] == known.details["observed"]["changed"]
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
    database.save(dataclasses.replace(gone(), case=case))

    assert [finding.judgement for finding in database.replay()] == ["unsupported"]
    assert len(database) == 1


def test_what_hangs_is_broke(database: Database) -> None:
    database.save(gone())

    [finding] = database.replay(seconds=0.001)

    assert finding.judgement == "broke"
    assert "did not end" in finding.details["why"]
    assert len(database) == 1


# A worker imports nothing of a test's, so that this is made of what it has: called with a case and
# an engine it looks for the lesser one by a key that aborts.
DIE = functools.partial(min, key=functools.partial(eval, "__import__('os').abort()"))


def test_what_kills_the_engine_is_broke(
    database: Database, known: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.save(known)
    database.save(gone())
    monkeypatch.setattr(module, "judge_json", DIE)

    found = database.replay()

    assert [finding.judgement for finding in found] == ["broke", "broke"]
    assert all("died of SIGABRT" in finding.details["why"] for finding in found)
    assert len(database) == 2


def test_a_scenario_that_is_none_is_named(database: Database) -> None:
    case = {"cpu": {}, "steps": [{"jump": 1}]}
    database.save(dataclasses.replace(gone(), case=case))

    with pytest.raises(InputError, match=r"nx_level_2_[0-9a-f]{8}\.json: "):
        database.replay()


def damaged(path: Path, text: str) -> None:
    path.mkdir(parents=True)
    (path / "nx_12345678.json").write_text(text)


GOOD = {"format": 1, "finding": gone().to_json()}


def changed(**changes: object) -> str:
    return json.dumps({"format": 1, "finding": {**gone().to_json(), **changes}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text must be JSON"),
        ('{"format": 1, "finding"', "the text must be JSON"),
        ("[]", "a finding must be an object with format 1"),
        ('{"format": 2}', "a finding must be an object with format 1"),
        ('{"format": 1, "finding": {"key": "x"}}', "a finding must have the keys case, count"),
        (changed(key=5), "key must be a string, not 5"),
        (changed(count=-1), "count must be an integer of 0 or more, not -1"),
        (changed(level=9), "level must be 1 to 5 or null, not 9"),
        (changed(known="x"), "known must be a list of strings"),
        (changed(details=[]), "details must be an object"),
        (changed(case=None), "case must be an object, not None"),
        (changed(case={"access": {}}), "va"),
        (changed(case={"access": {"va": "0x0", "kind": "jump"}}), "jump"),
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
