"""Reproducers: each finding as a file of one question and as a test that runs alone.

:func:`write_reproducers` writes two files for a finding, of one readable and stable name: a
``.jsonl`` that ``harness probe`` answers, and a pytest file that needs nothing but this package::

    harness probe user_us_level_3_5d9c0a11.jsonl --engine unicorn
    pytest test_user_us_level_3_5d9c0a11.py

Both fail on the engine on which the finding was made, whatever it is: writing them runs them, each
in a process of its own, and what does not fail there is not written. The test tells the whole
story: the walk level by level, the rule with its text, what the engine did, and what it acted as
if. :func:`reproduce` is what it calls.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from harness.check.bench import Bench, EngineAnswer, EngineSource
from harness.check.findings.finding import BROKE, Finding, finding_of
from harness.check.findings.story import story
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.describe.walks import WIDTH
from harness.isolate import Ended, isolated_all, search_path
from harness.walker import RULE_TEXT

__all__ = ["Reproduction", "Written", "file_stem", "reproduce", "write_reproducers"]

SECONDS: Final = 30.0
"""How long an engine may take over one question, where it was seen to hang or die."""

_RUN_SECONDS: Final = 300.0
_DIFFERS, _BROKE = 1, 3


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What became of one question on one engine.

    :ivar answer: what the engine did, and how that compares.
    :ivar finding: the difference as a finding; None when there is none.
    :ivar story: what the walker says and why, with the rule's text, and what the engine did.
    """

    answer: EngineAnswer
    finding: Finding | None
    story: str

    @property
    def judgement(self) -> Judgement:
        """Give the judgement on the whole question."""
        return self.answer.judgement

    @property
    def differs(self) -> bool:
        """Say whether the engine does what the rules forbid, be it registered or not."""
        return self.judgement in (Judgement.DIVERGE, Judgement.KNOWN)


def reproduce(
    question: Question | Mapping[str, Any],
    engine: EngineSource = "unicorn",
    *,
    alone: bool = False,
    seconds: float = SECONDS,
) -> Reproduction:
    """Ask walker and engine one question.

    :param question: the question, or its JSON object.
    :param engine: a spec, or what opens an engine over a memory.
    :param alone: ask in a process of its own, which may die or hang.
    :param seconds: how long that process may take.
    :raises CaseError: when it is no question.
    :raises EngineError: when the engine is missing or breaks.
    """
    asked = question if isinstance(question, Question) else Question.from_json(question)
    if alone:
        return _isolated(asked, engine, seconds)
    with Bench(asked.ram, engine) as bench:
        answer = bench.ask(asked).engines[0]
    differs = answer.judgement in (Judgement.DIVERGE, Judgement.KNOWN, Judgement.OPEN)
    finding = finding_of(asked, answer) if differs else None
    return Reproduction(answer, finding, story(asked, answer, finding))


def _isolated(question: Question, engine: EngineSource, seconds: float) -> Reproduction:
    for event in isolated_all([(reproduce, (question, engine), {})], workers=1, seconds=seconds):
        if isinstance(event, Ended):
            if event.error is not None:
                raise event.error
            assert isinstance(event.value, Reproduction)
            return event.value
    raise AssertionError("every call ends")


def file_stem(finding: Finding) -> str:
    """Return the name of a finding's files: its rule, its level, and a short hash of its cause.

    The hash tells findings of one cause on several engines apart.
    """
    words = [finding.rule] if finding.level is None else [finding.rule, "level", str(finding.level)]
    readable = re.sub(r"[^a-z0-9]+", "_", "_".join(words).lower()).strip("_")
    own = finding.engine is not None and finding.engine.spec != finding.engine.name
    hashed = f"{finding.key} on {finding.engine.spec}" if own and finding.engine else finding.key
    return f"{readable}_{hashlib.sha256(hashed.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for a finding.

    :ivar finding: the finding.
    :ivar question: the ``.jsonl`` file; None when nothing was written.
    :ivar test: the pytest file.
    :ivar why_not: why nothing was written; empty when it was.
    """

    finding: Finding
    question: Path | None = None
    test: Path | None = None
    why_not: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """List the files."""
        return tuple(path for path in (self.question, self.test) if path is not None)


def write_reproducers(
    findings: Iterable[Finding], folder: str | Path, engine: str = "unicorn"
) -> list[Written]:
    """Write a ``.jsonl`` question and a pytest file for each finding that has a question.

    :param findings: the findings.
    :param folder: made when it is missing.
    :param engine: the spec of the engine on which they were made, and on which they must fail.
    """
    return [_write(finding, Path(folder), engine) for finding in findings]


def _write(finding: Finding, folder: Path, engine: str) -> Written:
    if finding.question is None:
        return Written(finding, why_not="it is not known on which question the engine broke")
    stem = file_stem(finding)
    texts = {
        f"{stem}.jsonl": f"{finding.question.line()}\n",
        f"test_{stem}.py": _test_file(stem, finding, engine),
    }
    with tempfile.TemporaryDirectory() as tried:
        for name, text in texts.items():
            (Path(tried) / name).write_text(text, encoding="utf-8")
        why_not = _does_not_fail(Path(tried), stem, engine)
    if why_not:
        return Written(finding, why_not=why_not)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return Written(finding, paths[0], paths[1])


def _does_not_fail(folder: Path, stem: str, engine: str) -> str:
    """Run both files; say which of them does not fail, or nothing."""
    probe = [sys.executable, "-P", "-m", "harness", "probe", f"{folder / stem}.jsonl"]
    code = _exit_code([*probe, "--engine", engine])
    if code not in (_DIFFERS, _BROKE):
        return f"asked alone, its question ended with exit code {code}, not {_DIFFERS}"
    if importlib.util.find_spec("pytest") is None:
        return ""
    test = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    code = _exit_code([*test, "--rootdir", str(folder), str(folder / f"test_{stem}.py")])
    return "" if code == 1 else f"run alone, its test ended with exit code {code}, not 1"


def _exit_code(command: list[str]) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search_path())}
    try:
        return subprocess.run(
            command, capture_output=True, timeout=_RUN_SECONDS, check=False, env=environment
        ).returncode
    except subprocess.TimeoutExpired:
        return _BROKE


_TEST: Final = '''"""{sentence}

{facts}

Run it alone: pytest test_{stem}.py
"""

import json

import pytest

from harness.check.findings.reproducer import reproduce

QUESTION = json.loads(
    r"""
{question}
"""
)


def test_{stem}() -> None:
    found = reproduce(QUESTION, {engine}{alone})
    if found.judgement == "unsupported":
        pytest.skip(found.story)
    if found.differs:
        pytest.fail(found.story, pytrace=False)
'''


def _test_file(stem: str, finding: Finding, engine: str) -> str:
    assert finding.question is not None
    text = RULE_TEXT.get(finding.rule, "")
    facts = [finding.as_if, f"Rule {finding.rule}: {text}".rstrip(": "), f"Found on {engine}."]
    return _TEST.format(
        sentence=_prose([finding.sentence or finding.rule]),
        facts=_prose([fact for fact in facts if fact]),
        stem=stem,
        # What took the engine down must not take pytest down.
        alone=", alone=True" if finding.judgement == BROKE else "",
        question=json.dumps(finding.question.to_json(), indent=2),
        engine=json.dumps(engine),
    )


def _prose(facts: list[str]) -> str:
    """Wrap sentences for a docstring."""
    lines = [line for fact in facts for line in wrap(f"{fact[:1].upper()}{fact[1:]}", WIDTH - 4)]
    return "\n".join(lines).replace("\\", "/").replace('"', "'")
