"""Answers in words: what the walker says and why, what an engine did, and how the two differ.

Reproducers fail with this text, and the reports of campaigns and of ``harness probe`` show parts of
it. Everything is made from the objects of an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from textwrap import indent, wrap

from harness.address import format_address
from harness.check.bench import EngineAnswer
from harness.check.codec import step_to_json
from harness.check.findings.finding import Finding
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.cpu import ErrorCode
from harness.describe.walks import WIDTH, explain
from harness.entry import PageTableFlags
from harness.outcome import Observation, Outcome
from harness.walker import RULE_TEXT

__all__ = ["observation_words", "step_lines", "story"]

_A_AND_D = int(PageTableFlags.ACCESSED | PageTableFlags.DIRTY)


def story(question: Question, answer: EngineAnswer, finding: Finding | None) -> str:
    """Tell the whole story of an answer.

    :param finding: how it differs; None when it does not.
    """
    if question.single is None:
        lines = [_headline(question, answer), *step_lines(question, answer)]
    else:
        verdict = answer.decisive
        assert verdict.walk is not None
        lines = ["The walker:", indent(explain(verdict.walk), "  "), f"{answer.engine.title}:"]
        lines.append(f"  {observation_words(verdict.result.seen)}")
    if finding is None:
        if answer.judgement is Judgement.AGREE:
            lines.append("They agree.")
        return "\n".join(lines)
    lines.append("The difference:")
    for fact in _facts(finding, answer):
        lines += wrap(fact, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([*lines, "The question (harness probe answers it):", f"  {question.line()}"])


def _headline(question: Question, answer: EngineAnswer) -> str:
    count = len(question.steps)
    return f"a question of {count} steps, asked of {answer.engine.title}: {answer.judgement}"


def _facts(finding: Finding, answer: EngineAnswer) -> list[str]:
    facts = [finding.sentence]
    if finding.explanations and finding.as_if != finding.sentence:
        facts.append(finding.as_if)
    text = RULE_TEXT.get(finding.rule, "")
    facts.append(f"rule {finding.rule}: {text}".rstrip(": "))
    facts += [f"known as {one.name}: {one.reason} Source: {one.source}" for one in answer.known]
    facts += [f"the manual leaves it open: {name} in docs/rules.md" for name in answer.open]
    return facts


def step_lines(question: Question, answer: EngineAnswer) -> list[str]:
    """Tell a question of several steps: what is asked, what is permitted, what was seen."""
    lines = []
    for place, step in enumerate(question.steps):
        lines.append(f"step {place + 1}: {json.dumps(step_to_json(step))}")
        if place < len(answer.verdicts):
            verdict = answer.verdicts[place]
            lines += [f"  permitted: {json.dumps(one)}" for one in verdict.permitted]
            lines.append(f"  observed:  {json.dumps(verdict.result.to_json())}")
    return lines


def observation_words(seen: Observation) -> str:
    """Say in words what an engine saw of one access."""
    parts = [str(seen.outcome).replace("-", " ")]
    if seen.error_code is not None:
        bits = ErrorCode(seen.error_code)
        named = f" = {bits}: {bits.sentence()}" if seen.outcome is Outcome.PAGE_FAULT else ""
        parts.append(f"error code {seen.error_code:#x}{named}")
    if seen.cr2 is not None:
        parts.append(f"CR2 {format_address(seen.cr2)}")
    if seen.pa is not None:
        parts.append(f"physical address {format_address(seen.pa)}")
    parts += _changes(seen.changed)
    if seen.stored:
        parts.append(f"{seen.stored} bytes were written")
    if seen.reason is not None:
        parts.append(seen.reason)
    return "; ".join(parts)


def _changes(changed: Mapping[int, int]) -> list[str]:
    """Say which bits changed, and in which entries."""
    entries: dict[int, list[str]] = {}
    for at, bits in sorted(changed.items()):
        entries.setdefault(bits, []).append(format_address(at))
    return [
        f"{_bits(bits)} changed in the entr{'y' if len(where) == 1 else 'ies'} at "
        f"{', '.join(where)}"
        for bits, where in entries.items()
    ]


def _bits(mask: int) -> str:
    names = [name for name, bit in (("A", 0x20), ("D", 0x40)) if mask & bit]
    rest = mask & ~_A_AND_D
    return " and ".join([*names, *([f"bits {rest:#x}"] if rest else [])])
