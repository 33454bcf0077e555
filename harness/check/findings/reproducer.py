"""Reproducers: each finding as a case file and as a test that runs alone.

:func:`write_reproducers` writes two files for a finding, of one readable and stable name: a
``.jsonl`` that ``harness probe`` answers, and a pytest file that needs nothing but this package::

    harness probe user_us_level_3_5d9c0a11.jsonl
    pytest test_user_us_level_3_5d9c0a11.py

The test passes when engine and walker agree. Otherwise it fails and tells the whole story: the
walk level by level, the rule with its text, what the engine did, and what it acted as if.
:func:`judge_json` is what it calls: it takes the JSON of a case or of a scenario.

It raises :class:`~harness.errors.CaseError` for what is neither, and
:class:`~harness.errors.EngineError` when the engine is missing or breaks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent, wrap
from typing import Any, Final

from harness.address import format_address
from harness.check.bench import Bench, Opener
from harness.check.case import Case
from harness.check.cause import finding_of
from harness.check.findings.finding import Finding
from harness.check.registered.access import EngineIdentity, Verdict
from harness.cpu import ErrorCode
from harness.describe.walks import WIDTH, explain
from harness.engine import ENGINES
from harness.isolate import Ended, isolated_all
from harness.outcome import Observation
from harness.walker import RULE_TEXT, Walk

__all__ = ["Judged", "file_stem", "judge_alone", "judge_json", "write_reproducers"]

_RULE_OF_BOUND: Final = {"invlpg": "INVLPG", "cr3_load": "CR3_LOAD", "order": "STALE"}

SECONDS: Final = 30.0
"""How long an engine may take over one case, where it was seen to hang or die."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one case or scenario.

    :ivar judgement: agree, known, diverge or unsupported.
    :ivar explanation: what the walker says and why, with the rule's text, and what the engine did.
    :ivar finding: the difference as a finding; None when there is none.
    """

    judgement: str
    explanation: str
    finding: Finding | None = None

    @property
    def agree(self) -> bool:
        """Whether engine and walker agree."""
        return self.judgement == "agree"


def judge_json(case: dict[str, Any], engine: str | Opener = "unicorn") -> Judged:
    """Ask walker and engine one case or scenario, in this process.

    :param case: its JSON object.
    :param engine: a name, or what opens an engine over a memory.
    :raises CaseError: when it is neither case nor scenario.
    :raises EngineError: when the engine is missing or breaks.
    """
    if isinstance(case, dict) and "steps" in case:
        return _judge_scenario(case, engine)
    question = Case.from_json(case)
    with Bench(question.ram, engine) as bench:
        walk, seen, verdict = bench.ask(question)
        finding = None
        if verdict.difference is not None:
            finding = finding_of(verdict.difference, verdict, bench.engine)
        told = _story(walk, seen, verdict, bench.engine, finding)
        return Judged(str(verdict.judgement), told, finding)


def judge_alone(
    case: dict[str, Any], engine: str = "unicorn", *, seconds: float = SECONDS
) -> Judged:
    """Ask one case or scenario in a process of its own, which may die or hang.

    :param case: its JSON object.
    :param engine: a name.
    :param seconds: how long it may take.
    :raises EngineBroken: when the process died or did not end.
    """
    for event in isolated_all([(judge_json, (case, engine), {})], workers=1, seconds=seconds):
        if isinstance(event, Ended):
            if event.error is not None:
                raise event.error
            assert isinstance(event.value, Judged)
            return event.value
    raise AssertionError("every call ends")


def _judge_scenario(case: dict[str, Any], engine: str | Opener) -> Judged:
    # Imported here: most cases are one access, and need none of that.
    from harness.check.scenario import Scenario, ask

    scenario = Scenario.from_json(case)
    with Bench(scenario.ram, engine) as bench:
        answer = ask(bench.engine, scenario)
        name, version = bench.engine.name, bench.engine.version
    judgement = str(answer.judgement)
    steps = answer.to_json(name)["steps"]
    lines = [f"a scenario of {len(case['steps'])} steps, asked of {name} {version}: {judgement}"]
    for number, (asked, answered) in enumerate(zip(case["steps"], steps, strict=False), 1):
        lines.append(f"step {number}: {json.dumps(asked)}")
        permitted = answered["predicted"]
        lines += [f"  permitted: {json.dumps(one)}" for one in permitted]
        lines.append(f"  observed:  {json.dumps(answered['observed'][name])}")
    if judgement in ("agree", "unsupported"):
        return Judged(judgement, "\n".join(lines))
    rule, text = answer.rule, RULE_TEXT.get(answer.rule, "")
    lines += [answer.sentence, f"rule {rule}: {text}" if text else f"rule {rule}"]
    if answer.known:
        lines.append(f"known as {', '.join(answer.known)}")
    causes: list[dict[str, Any]] = [
        {"key": f"steps:{name}", "rule": name, "level": None, "as_if": answer.sentence}
        for name in _caching_rules(rule, answer.decisive.acted, answer.level)
        if judgement == "diverge"
    ]
    kind = ":".join(["steps", rule, *map(str, answer.kind)]).replace(" ", "")
    if judgement == "known":  # never the key of a divergence, which would be lost in it
        kind = f"known:{'+'.join(sorted(answer.known))}"
    finding = Finding(
        key="|".join(str(cause["key"]) for cause in causes) if causes else kind,
        judgement=judgement,
        rule=rule,
        level=None if causes else answer.level,
        sentence=answer.sentence,
        case=scenario.to_json(),
        known=tuple(answer.known),
        details={
            "engine": {"name": name, "version": version},
            "rule_text": text,
            "as_if": answer.sentence,
            "steps": steps,
            **({"explanations": causes} if causes else {}),
        },
    )
    return Judged(judgement, "\n".join(lines), finding)


def _caching_rules(rule: str, acted: str, level: int | None) -> list[str]:
    """Name the rules about caches that an engine may have broken, the likeliest first.

    :param acted: the bounds of what may be stale that it acted without.
    :param level: of the entry that decided.
    """
    found = [rule] if acted else []
    found += [_RULE_OF_BOUND[bound] for bound in acted.split("+") if bound in _RULE_OF_BOUND]
    if "INVLPG" in found and level is not None and level > 1:
        found.append("BIG")
    return list(dict.fromkeys(found))


def _story(
    walk: Walk,
    seen: Observation,
    verdict: Verdict,
    engine: EngineIdentity,
    finding: Finding | None,
) -> str:
    lines = ["The walker:", indent(explain(walk), "  "), f"{engine.name} {engine.version}:"]
    lines.append(f"  {_observed(seen)}")
    if finding is None:
        if seen.reason is None:
            lines.append("They agree.")
        return "\n".join(lines)
    rule = finding.rule
    facts = [finding.sentence, *_as_if(finding), f"rule {rule}: {RULE_TEXT.get(rule, '')}"]
    facts += [f"known as {k.name}: {k.reason} Source: {k.source}" for k in verdict.known]
    lines.append("The difference:")
    for fact in facts:
        lines += wrap(fact, WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines += ["The case (harness probe answers it):", f"  {json.dumps(finding.case)}"]
    return "\n".join(lines)


def _as_if(finding: Finding) -> list[str]:
    text = finding.details.get("as_if")
    return [] if finding.known or not text else [str(text)]


def _observed(seen: Observation) -> str:
    parts = [str(seen.outcome)]
    if seen.error_code is not None:
        parts.append(f"error code {seen.error_code:#x} = {ErrorCode(seen.error_code)}")
    for name in ("cr2", "pa"):
        value = getattr(seen, name)
        if value is not None:
            parts.append(f"{name} {format_address(value)}")
    entries: dict[int, list[str]] = {}
    for at, bits in sorted(seen.changed.items()):
        entries.setdefault(bits, []).append(format_address(at))
    parts += [f"{_bits(bits)} changed at {', '.join(at)}" for bits, at in entries.items()]
    if seen.stored:
        parts.append(f"{seen.stored} bytes were written")
    if seen.reason is not None:
        parts.append(seen.reason)
    return ", ".join(parts)


def _bits(bits: int) -> str:
    names = [name for bit, name in ((0x20, "A"), (0x40, "D")) if bits & bit]
    rest = bits & ~0x60
    return " and ".join(names + ([f"bits {rest:#x}"] if rest else []))


def file_stem(finding: Finding) -> str:
    """Return the name of a finding's files: its rule, its level, and a short hash of its cause.

    :param finding: the finding.
    """
    words = [finding.rule] if finding.level is None else [finding.rule, "level", str(finding.level)]
    readable = re.sub(r"[^a-z0-9]+", "_", "_".join(words).lower()).strip("_")
    return f"{readable}_{hashlib.sha256(finding.key.encode()).hexdigest()[:8]}"


def write_reproducers(findings: Iterable[Finding], folder: str | Path) -> list[Path]:
    """Write a ``.jsonl`` case and a pytest file for each finding that has a case.

    :param findings: the findings; one without a case is left out.
    :param folder: made when it is missing.
    """
    folder = Path(folder)
    paths = []
    for finding in findings:
        if finding.case is None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        stem = file_stem(finding)
        case, test = folder / f"{stem}.jsonl", folder / f"test_{stem}.py"
        case.write_text(json.dumps(finding.case) + "\n", encoding="utf-8")
        test.write_text(_test_file(stem, finding), encoding="utf-8")
        paths += [case, test]
    return paths


_TEST: Final = '''"""{sentence}

{story}

Run it alone: pytest test_{stem}.py
"""

import json

import pytest

from harness.check.findings.reproducer import {judge}

CASE = json.loads(
    r"""
{case}
"""
)


def test_{stem}() -> None:
    judged = {judge}(CASE, {engine})
    if judged.judgement == "unsupported":
        pytest.skip(judged.explanation)
    if not judged.agree:
        pytest.fail(judged.explanation, pytrace=False)
'''


def _test_file(stem: str, finding: Finding) -> str:
    engine = finding.details.get("engine", {}).get("name")
    text = finding.details.get("rule_text") or RULE_TEXT.get(finding.rule, "")
    facts = [*_as_if(finding), f"Rule {finding.rule}: {text}".rstrip(": ")]
    return _TEST.format(
        sentence=_prose([finding.sentence or finding.rule]),
        story=_prose(facts),
        stem=stem,
        # What took the engine down must not take pytest down.
        judge="judge_alone" if finding.judgement == "broke" else "judge_json",
        case=json.dumps(finding.case, indent=2),
        engine=json.dumps(engine if engine in ENGINES else ENGINES[0]),
    )


def _prose(facts: list[str]) -> str:
    """Wrap sentences for a docstring."""
    lines = [line for fact in facts for line in wrap(f"{fact[:1].upper()}{fact[1:]}", WIDTH - 4)]
    return "\n".join(lines).replace("\\", "/").replace('"', "'")
