"""Reproducers run alone: they fail and explain while engine and walker differ, and pass after."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.check.bench import EngineId
from harness.check.findings.finding import Finding
from harness.check.findings.reproducer import Written, file_stem, reproduce, write_reproducers
from harness.check.question import Question
from harness.check.registered.registry import REGISTRY
from harness.errors import CaseError, EngineBroken
from harness.walker import RULE_TEXT

KNOWN_1G = REGISTRY[0]
PLANTED = "harness.planted.engines:WP"
AGREES: dict[str, Any] = {
    "cpu": {"cr3": "0x1000"},
    "memory": {"0x1000": "0x2007"},
    "access": {"va": "0x4123"},
}
SCENARIO: dict[str, Any] = {
    "cpu": {"cr3": "0x1000"},
    "memory": {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4000": "0x5007"},
    "steps": [{"access": {"va": "0x123"}}, {"access": {"va": "0x123", "kind": "write"}}],
}


WRITES: dict[str, Any] = {
    "cpu": {"cr3": "0x1000"},
    "memory": {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4000": "0x5005"},
    "access": {"va": "0x123", "kind": "write"},
}
"""A write that CR0.WP forbids."""


def finding() -> Finding:
    found = reproduce(WRITES, PLANTED).finding
    assert found is not None
    return found


def written(one: Finding, folder: Path, engine: str = PLANTED) -> Written:
    [result] = write_reproducers([one], folder, engine)
    return result


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Alone: no configuration of ours, no plugins but pytest's own.
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_agreement_is_told() -> None:
    found = reproduce(AGREES)

    assert (found.judgement, found.differs, found.finding) == ("agree", False, None)
    assert "They agree." in found.story
    assert f"PRESENT: {RULE_TEXT['PRESENT']}" in " ".join(found.story.split())


def test_a_known_difference_is_explained() -> None:
    found = reproduce(KNOWN_1G.example)

    assert (found.judgement, found.differs) == ("known", True)
    text = " ".join(found.story.split())
    assert "The walker: a user read at 0x0" in text
    assert "error code 0xd = P U RSVD" in text
    assert "A changed in the entries at 0x1000, 0x2000" in text
    assert RULE_TEXT["A_ON_FAULT"] in text
    assert KNOWN_1G.source in text


def test_an_open_point_is_no_difference() -> None:
    asked = {
        "cpu": {"cr3": "0x1000"},
        "memory": {**WRITES["memory"], "0x4000": "0x5007"},
        "access": {"va": "0xffe", "kind": "write", "size": 4},
    }
    found = reproduce(asked)

    assert (found.judgement, found.differs) == ("open", False)
    assert "the manual leaves it open: D_OF_LOWER in docs/rules.md" in found.story


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(CaseError, match="access"):
        reproduce({"cpu": {}})


def test_a_planted_flaw_is_explained_by_what_it_acted_as_if() -> None:
    assert reproduce(WRITES).judgement == "agree"
    found = reproduce(WRITES, PLANTED)

    assert found.judgement == "diverge"
    assert found.finding is not None
    assert found.finding.rule == "WP"
    assert found.finding.engine is not None
    assert found.finding.engine.spec == PLANTED
    assert "the CPU acted as if bit R/W of the PTE at 0x4000 were 1" in found.story
    assert f"rule WP: {RULE_TEXT['WP']}" in found.story


def test_names_are_readable_and_stable() -> None:
    one = Finding(key="USER_US:ignored:L3", judgement="diverge", rule="USER_US", sentence="")

    assert file_stem(dataclasses.replace(one, level=3)) == "user_us_level_3_cadb4b7a"
    assert file_stem(one) == "user_us_cadb4b7a"
    assert file_stem(dataclasses.replace(one, key="x")) != file_stem(one)
    assert file_stem(dataclasses.replace(one, count=7, sentence="other")) == file_stem(one)
    elsewhere = EngineId("unicorn", "2.1.4", "mine:CPU")
    assert file_stem(dataclasses.replace(one, engine=elsewhere)) != file_stem(one)
    plain = EngineId("unicorn", "2.1.4", "unicorn")
    assert file_stem(dataclasses.replace(one, engine=plain)) == file_stem(one)


def test_a_finding_without_a_question_has_no_reproducer(tmp_path: Path) -> None:
    without = written(dataclasses.replace(finding(), question=None), tmp_path / "none")

    assert without.files == ()
    assert "it is not known on which question" in without.why_not
    assert not (tmp_path / "none").exists()


def test_what_does_not_fail_on_its_engine_is_not_written(tmp_path: Path) -> None:
    agrees = dataclasses.replace(finding(), question=Question.from_json(AGREES))
    for one, engine in ((agrees, PLANTED), (finding(), "unicorn")):
        result = written(one, tmp_path / "none", engine)
        assert result.files == ()
        assert result.why_not == "asked alone, its question ended with exit code 0, not 1"
    assert not (tmp_path / "none").exists()


def test_all_that_is_written_fails_on_its_engine_and_passes_on_a_right_one(tmp_path: Path) -> None:
    result = written(finding(), tmp_path)

    assert result.why_not == ""
    assert result.question is not None
    assert result.test is not None
    [line] = result.question.read_text().splitlines()
    assert Question.from_json(json.loads(line)) == Question.from_json(WRITES)
    probe = [sys.executable, "-m", "harness", "probe", result.question.name, "--engine"]
    for engine, code in ((PLANTED, 1), ("unicorn", 0)):
        ended = subprocess.run([*probe, engine], cwd=tmp_path, capture_output=True, check=False)
        assert ended.returncode == code, ended.stderr

    failed = run_pytest(tmp_path, result.test.name)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    told = " ".join(failed.stdout.split())
    assert "1 failed" in told
    assert "The walker:" in told
    assert RULE_TEXT["WP"] in told
    assert "the CPU acted as if bit R/W of the PTE at 0x4000 were 1" in told
    assert "Traceback" not in told

    test = result.test.read_text()
    result.test.write_text(test.replace(f'reproduce(QUESTION, "{PLANTED}")', "reproduce(QUESTION)"))
    passed = run_pytest(tmp_path, result.test.name)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "1 passed" in passed.stdout


def test_a_generated_test_of_what_the_engine_cannot_run_is_skipped(tmp_path: Path) -> None:
    result = written(finding(), tmp_path)
    assert result.test is not None
    text = result.test.read_text().replace('"maxphyaddr": 40', '"maxphyaddr": 46')
    result.test.write_text(text)

    skipped = run_pytest(tmp_path, result.test.name, "-rs")

    assert skipped.returncode == 0
    assert "1 skipped" in skipped.stdout
    assert "MAXPHYADDR is 40" in skipped.stdout


def test_generated_files_are_valid_whatever_the_words(tmp_path: Path) -> None:
    odd = dataclasses.replace(finding(), sentence='it says """ and \\N and \\')
    result = written(odd, tmp_path)

    assert result.test is not None
    compile(result.test.read_text(), str(result.test), "exec")


def test_what_broke_the_engine_is_asked_in_another_process(tmp_path: Path) -> None:
    result = written(dataclasses.replace(finding(), judgement="broke"), tmp_path)

    assert result.test is not None
    assert "alone=True" in result.test.read_text()


def test_an_engine_that_does_not_answer_is_told() -> None:
    with pytest.raises(EngineBroken, match=r"was ended after 0\.001 s"):
        reproduce(AGREES, alone=True, seconds=0.001)


def test_several_steps_go_the_same_way(tmp_path: Path) -> None:
    found = reproduce(SCENARIO)
    assert found.judgement == "agree", found.story
    assert "step 2" in found.story

    engine = "harness.planted.engines:INVLPG"
    steps = [
        {"access": {"va": "0x123"}},
        {"write": {"0x4000": "0x0"}},
        {"invlpg": "0x0"},
        {"access": {"va": "0x123"}},
    ]
    stale = reproduce({**SCENARIO, "steps": steps}, engine).finding
    assert stale is not None
    result = written(stale, tmp_path, engine)
    assert result.test is not None
    assert run_pytest(tmp_path, result.test.name).returncode == 1
