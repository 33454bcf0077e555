"""What ``harness probe`` shows: a table of predictions and observations, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any, Final

from rich.text import Text

from harness.address import entry_name, format_address
from harness.check.bench import Answer, EngineAnswer
from harness.check.codec import step_to_json
from harness.check.findings.finding import finding_of
from harness.check.judge.verdict import StepVerdict
from harness.describe.walks import WIDTH, headline, index_of
from harness.outcome import Observation
from harness.show.console import columns, console
from harness.walker import Walk

__all__ = ["print_answers"]

_WORDS: Final = {
    "agree": ("agrees", ""),
    "open": ("differs where it may", "yellow"),
    "known": ("differs as known", "yellow"),
    "diverge": ("DIVERGES", "bold red"),
    "unsupported": ("cannot", "yellow"),
    "delivered_by_harness": ("delivered by harness", "yellow"),
}
_SHORT: Final = {
    "page-fault": "#PF",
    "general-protection": "#GP",
    "stack-fault": "#SS",
    "double-fault": "#DF",
    "no-memory": "no RAM",
}


def print_answers(answers: list[Answer]) -> None:
    """Print what became of the questions of a file."""
    out = console()
    rows: list[tuple[str, ...]] = []
    styles: list[str] = []
    for number, answer in enumerate(answers, 1):
        for row, style in _rows(number, answer):
            rows.append(row)
            styles.append(style)
    headings = ("", "access", "CPL", "predicted", "rule", "level, entry", "observed")
    columns(out, headings, rows, styles)
    for number, answer in enumerate(answers, 1):
        for each in answer.engines:
            facts = _facts(answer, each)
            if not facts:
                continue
            out.print(Text(f"{number}: {_title(answer)}", style="bold"))
            for fact in facts:
                told = f"{each.engine.spec}: {fact}" if fact is facts[0] else fact
                for line in wrap(told, WIDTH - 3):
                    out.print(Text(f"   {line}"))


def _title(answer: Answer) -> str:
    if answer.walk is None:
        return f"a question of {len(answer.question.steps)} steps"
    return headline(answer.walk)


def _rows(number: int, answer: Answer) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the rows of the table that one line of the file fills."""
    walk = answer.walk
    if walk is None:
        for each in answer.engines:
            for place, step in enumerate(each.verdicts, 1):
                cpl = answer.question.cpu.cpl
                yield _step_row(f"{number}.{place}", each.engine.spec, step, cpl)
        return
    predicted = _outcome(walk)
    asked = f"{walk.access.kind} {format_address(walk.va)}"
    told = (str(number), asked, str(walk.cpu.cpl), predicted, walk.rule, _entry(walk))
    if not answer.engines:
        yield (*told, ""), ""
    # Most often there is one engine, and one row.
    for each in answer.engines:
        word, style = _WORDS[each.judgement]
        text = _outcome(each.decisive.result.seen)
        seen = f"{each.engine.spec} {word}" + ("" if text == predicted else f": {text}")
        yield (*told, seen), style


def _step_row(
    number: str, name: str, verdict: StepVerdict, cpl: int
) -> tuple[tuple[str, ...], str]:
    words = step_to_json(verdict.step)
    own = words.pop("cpl", cpl)
    word, what = next(iter(words.items()))
    if isinstance(what, dict):
        what = " ".join(str(value) for value in what.values()) if word == "access" else ""
    predicted = list(dict.fromkeys(_told(one) for one in verdict.permitted))
    text, style = _WORDS[verdict.judgement]
    if not predicted:  # nothing that could go wrong
        return (number, f"{word} {what}", "", "", "", "", ""), ""
    seen = _outcome(verdict.result.seen)
    seen = f"{name} {text}" + ("" if [seen] == predicted else f": {seen}")
    level = "" if verdict.level is None else str(verdict.level)
    asked = (number, f"{word} {what}", str(own))
    return (*asked, " or ".join(predicted), verdict.rule, level, seen), style


def _facts(asked: Answer, answer: EngineAnswer) -> list[str]:
    """Give what is to be said below the table of one engine's answer."""
    facts = [answer.sentence] if answer.sentence else []
    if answer.judgement == "diverge":
        finding = finding_of(asked.question, answer)
        if finding.explanations and finding.as_if != answer.sentence:
            facts.append(finding.as_if)
    facts += [f"known as {known.name}: {known.reason}" for known in answer.known]
    facts += [f"the manual leaves it open: {name} in docs/rules.md" for name in answer.open]
    if answer.judgement == "delivered_by_harness":
        facts.append("the exception was delivered by harness, not by this CPU")
    return facts


def _entry(walk: Walk) -> str:
    """Name the entry that decided."""
    if walk.level is None:
        return ""
    pages = [walk] if walk.second is None else [walk.second, walk]
    steps = [step for page in pages for step in page.steps if step.level == walk.level]
    where = f" {index_of(steps[0])}" if steps else ""
    return f"{walk.level}, {entry_name(walk.level)}{where}"


def _told(prediction: dict[str, Any]) -> str:
    """Name what a permitted outcome says, as :func:`_outcome` names a walk's."""
    word = _SHORT.get(prediction["outcome"], prediction["outcome"])
    if prediction.get("error_code") is not None:
        return f"{word} {prediction['error_code']}"
    pa = prediction.get("pa")
    return word if pa is None else f"{word} {format_address(int(pa, 16))}"


def _outcome(answer: Walk | Observation) -> str:
    word = _SHORT.get(answer.outcome, str(answer.outcome))
    if answer.error_code is not None:
        return f"{word} {answer.error_code:#x}"
    return word if answer.pa is None else f"{word} {format_address(answer.pa)}"
