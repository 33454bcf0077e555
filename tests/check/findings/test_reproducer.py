"""Reproducers run alone: they fail and explain while engine and walker differ, and pass after."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.check.registered.access import KNOWN

from harness.check.findings.finding import Finding
from harness.check.findings.reproducer import file_stem, judge_alone, judge_json, write_reproducers
from harness.check.question import Question
from harness.engine import Engine
from harness.engine.unicorn import UnicornEngine
from harness.errors import CaseError, EngineBroken
from harness.memory import PhysicalMemory
from harness.outcome import Observation
from harness.walker import RULE_TEXT

KNOWN_1G = KNOWN[0]
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


def finding() -> Finding:
    judged = judge_json(KNOWN_1G.example)
    assert judged.finding is not None
    return judged.finding


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
    judged = judge_json(AGREES)

    assert judged.agree
    assert judged.finding is None
    assert "They agree." in judged.explanation
    assert f"PRESENT: {RULE_TEXT['PRESENT']}" in " ".join(judged.explanation.split())


def test_a_difference_is_explained() -> None:
    judged = judge_json(KNOWN_1G.example)

    assert judged.judgement == "known"
    assert not judged.agree
    text = " ".join(judged.explanation.split())
    assert "The walker: a user read at 0x0" in text
    assert "page-fault, error code 0x5 = P U" in text
    assert "A changed at 0x1000, 0x2000" in text
    assert RULE_TEXT["A_ON_FAULT"] in text
    assert KNOWN_1G.source in text


def test_what_is_neither_case_nor_scenario_is_refused() -> None:
    with pytest.raises(CaseError, match="access"):
        judge_json({"cpu": {}})


class WithoutWp(UnicornEngine):
    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        return super().probe(cpu.replace(cr0=cpu.cr0 & ~(1 << 16)), va, access)


def test_a_planted_flaw_is_explained_by_what_it_acted_as_if() -> None:
    case = {
        "cpu": {"cr3": "0x1000"},
        "memory": {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4000": "0x5005"},
        "access": {"va": "0x123", "kind": "write"},
    }

    def flawed(memory: PhysicalMemory) -> Engine:
        return WithoutWp(memory)

    assert judge_json(case).agree
    judged = judge_json(case, flawed)

    assert judged.judgement == "diverge"
    assert judged.finding is not None
    assert judged.finding.rule == "WP"
    assert "the CPU acted as if bit R/W of the PTE at 0x4000 were 1" in judged.explanation
    assert f"rule WP: {RULE_TEXT['WP']}" in judged.explanation


def test_names_are_readable_and_stable() -> None:
    one = Finding(key="USER_US:ignored:L3", judgement="diverge", rule="USER_US", sentence="")

    assert file_stem(dataclasses.replace(one, level=3)) == "user_us_level_3_cadb4b7a"
    assert file_stem(one) == "user_us_cadb4b7a"
    assert file_stem(dataclasses.replace(one, key="x")) != file_stem(one)
    assert file_stem(dataclasses.replace(one, count=7, sentence="other")) == file_stem(one)


def test_a_finding_without_a_case_has_no_reproducer(tmp_path: Path) -> None:
    without = dataclasses.replace(finding(), case=None)

    assert write_reproducers([without], tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_the_case_file_is_one_that_probe_reads(tmp_path: Path) -> None:
    case, _ = write_reproducers([finding()], tmp_path)

    assert case.suffix == ".jsonl"
    [line] = case.read_text().splitlines()
    assert Question.from_json(json.loads(line)).to_json() == KNOWN_1G.case.to_json()


FIXED = '''
"""The engine, mended: it answers as the walker does."""
import harness.engine.unicorn
from harness.outcome import Observation
from harness.walker import walk

def probe(self, cpu, va, access="read"):
    right = walk(self.memory, cpu, va, access)
    return Observation(
        right.outcome, right.error_code, right.cr2, right.pa, None, dict(right.sets)
    )

harness.engine.unicorn.UnicornEngine.probe = probe
'''


def test_the_generated_test_fails_and_passes_when_the_engine_is_mended(tmp_path: Path) -> None:
    _, test = write_reproducers([finding()], tmp_path)

    failed = run_pytest(tmp_path, test.name)

    assert failed.returncode == 1, failed.stdout + failed.stderr
    told = " ".join(failed.stdout.split())
    assert "1 failed" in told
    assert "The walker:" in told
    assert RULE_TEXT["A_ON_FAULT"] in told
    assert "A changed at 0x1000, 0x2000" in told
    assert "Traceback" not in told

    (tmp_path / "conftest.py").write_text(FIXED)
    passed = run_pytest(tmp_path, test.name)

    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "1 passed" in passed.stdout


def test_a_generated_test_of_what_the_engine_cannot_run_is_skipped(tmp_path: Path) -> None:
    case = {**AGREES, "cpu": {"cr3": "0x1000", "maxphyaddr": "0x2e"}}
    _, test = write_reproducers([dataclasses.replace(finding(), case=case)], tmp_path)

    skipped = run_pytest(tmp_path, test.name, "-rs")

    assert skipped.returncode == 0
    assert "1 skipped" in skipped.stdout
    assert "MAXPHYADDR is 40" in skipped.stdout


def test_generated_files_are_valid_whatever_the_words(tmp_path: Path) -> None:
    odd = dataclasses.replace(finding(), sentence='it says """ and \\N and \\', case=AGREES)
    _, test = write_reproducers([odd], tmp_path)

    compile(test.read_text(), str(test), "exec")
    assert run_pytest(tmp_path, test.name).returncode == 0


def test_what_broke_the_engine_is_asked_in_another_process(tmp_path: Path) -> None:
    broke = dataclasses.replace(finding(), judgement="broke", case=AGREES)
    _, test = write_reproducers([broke], tmp_path)

    assert "judge_alone(CASE" in test.read_text()
    assert run_pytest(tmp_path, test.name).returncode == 0


def test_an_engine_that_does_not_answer_is_told() -> None:
    with pytest.raises(EngineBroken, match=r"was ended after 0\.001 s"):
        judge_alone(AGREES, seconds=0.001)


def test_a_scenario_goes_the_same_way(tmp_path: Path) -> None:
    pytest.importorskip("harness.check.judge.sequence")
    judged = judge_json(SCENARIO)
    assert judged.agree, judged.explanation
    assert "step 2" in judged.explanation

    one = Finding(key="s", judgement="diverge", rule="STALE", sentence="s", case=SCENARIO)
    _, test = write_reproducers([one], tmp_path)

    assert run_pytest(tmp_path, test.name).returncode == 0
