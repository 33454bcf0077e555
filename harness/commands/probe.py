"""``harness probe``: answer the cases and scenarios of a file, by the walker and by the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import click

from harness.errors import EngineMissing
from harness.isolate import doing, isolated

if TYPE_CHECKING:
    from harness.check.case import Case
    from harness.check.judge.verdict import StepVerdict
    from harness.check.registered.access import Verdict
    from harness.check.scenario import Scenario, ScenarioAnswer
    from harness.outcome import Observation
    from harness.walker import Walk

__all__ = ["Answer", "Played", "answer_cases", "probe"]

_CHOICES: Final = ("unicorn", "kvm", "all", "none")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(_CHOICES),
    default="unicorn",
    show_default=True,
    help="Who answers beside the walker.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a case.")
def probe(file: Path, engine: str, as_json: bool) -> None:
    """Answer each line of FILE, a .jsonl file with one question to the MMU a line.

    A line is a case (one access) or a scenario (several steps on one CPU). The walker predicts, the
    engine observes, and the two are compared. Exit code 1 means that they differ in a way that is
    not registered as known.
    """
    from harness.engine import ENGINES

    if engine not in (*ENGINES, "all", "none"):
        raise EngineMissing(f"the engine must be one of {', '.join(ENGINES)}, not {engine}")
    engines = ENGINES if engine == "all" else () if engine == "none" else (engine,)
    # Without an engine there is nothing that could take this process down.
    answers: list[Answer | Played] = (
        isolated(answer_cases, file, tuple(engines)) if engines else answer_cases(file, ())
    )
    if as_json:
        for answer in answers:
            click.echo(json.dumps(answer.to_json()))
    else:
        _print(answers)
    if any(answer.diverges for answer in answers):
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was predicted and what was observed of one case.

    :ivar case: the question.
    :ivar walk: the prediction.
    :ivar observed: by engine: what it saw, and how that compares.
    """

    case: Case
    walk: Walk
    observed: dict[str, tuple[Observation, Verdict]]

    @property
    def diverges(self) -> bool:
        """Say whether an engine differs in a way that is not registered."""
        return any(verdict.judgement == "diverge" for _, verdict in self.observed.values())

    @property
    def agree(self) -> bool | None:
        """Say whether all engines that could answer agree; None when none could."""
        words = [str(verdict.judgement) for _, verdict in self.observed.values()]
        told = [word == "agree" for word in words if word != "unsupported"]
        return all(told) if told else None

    def to_json(self) -> dict[str, Any]:
        """Return the line that ``--json`` prints."""
        from harness.check.case import observation_to_json, prediction_to_json

        line: dict[str, Any] = {
            "predicted": prediction_to_json(self.walk),
            "observed": {name: observation_to_json(o) for name, (o, _) in self.observed.items()},
            "agree": self.agree,
        }
        known = {
            name: [entry.name for entry in verdict.known]
            for name, (_, verdict) in self.observed.items()
            if verdict.known
        }
        if known:
            line["known"] = known
        return line


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one scenario.

    :ivar scenario: the question.
    :ivar observed: by engine: how it did, step by step.
    """

    scenario: Scenario
    observed: dict[str, ScenarioAnswer]

    @property
    def diverges(self) -> bool:
        """Say whether an engine differs in a way that is not registered."""
        return any(answer.judgement == "diverge" for answer in self.observed.values())

    def to_json(self) -> dict[str, Any]:
        """Return the line that ``--json`` prints.

        What a step may do depends on what the steps before it did, so that without an engine there
        is no prediction.
        """
        lines = [answer.to_json(name) for name, answer in self.observed.items()]
        if not lines:
            return {"steps": [], "agree": None}
        if len(lines) == 1:
            return lines[0]
        return {"engines": dict(zip(self.observed, lines, strict=True))}


def answer_cases(path: Path, engines: tuple[str, ...]) -> list[Answer | Played]:
    """Answer the cases and scenarios of a file in this process.

    :raises CaseError: for the first line that is neither.
    :raises EngineError: when an engine is missing or breaks.
    """
    from harness.check.bench import Bench
    from harness.check.scenario import Scenario, ask, read_questions
    from harness.walker import walk

    answers: list[Answer | Played] = []
    benches: dict[str, Bench] = {}
    # Reading them all first means that a bad line is told before anything was asked.
    cases = list(read_questions(path))
    try:
        for number, case in enumerate(cases, 1):
            asked: dict[str, Bench] = {}
            for name in engines:
                bench = benches.get(name)
                if bench is None or bench.memory.regions != case.ram:
                    if bench is not None:
                        bench.close()
                    bench = benches[name] = Bench(case.ram, name)
                asked[name] = bench
            doing(f"asking case {number} of {path.name}", number, len(cases))
            if isinstance(case, Scenario):
                played = {name: ask(bench.engine, case) for name, bench in asked.items()}
                answers.append(Played(case, played))
                continue
            observed: dict[str, tuple[Observation, Verdict]] = {}
            prediction = None
            for name, bench in asked.items():
                prediction, seen, verdict = bench.ask(case)
                observed[name] = seen, verdict
            if prediction is None:
                prediction = walk(case.build(), case.cpu, case.va, case.access)
            answers.append(Answer(case, prediction, observed))
    finally:
        for bench in benches.values():
            bench.close()
    return answers


def _print(answers: list[Answer | Played]) -> None:
    from rich.text import Text

    from harness.describe.walks import WIDTH, headline
    from harness.show.console import columns, console

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
        for name, title, facts in _facts(answer):
            heading = title or (headline(answer.walk) if isinstance(answer, Answer) else "")
            out.print(Text(f"{number}: {heading}", style="bold"))
            for fact in facts:
                for line in wrap(f"{name}: {fact}" if fact is facts[0] else fact, WIDTH - 3):
                    out.print(Text(f"   {line}"))


def _rows(number: int, answer: Answer | Played) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the rows of the table that one line of the file fills."""
    from harness.address import format_address

    if isinstance(answer, Played):
        for name, played in answer.observed.items():
            for place, step in enumerate(played.verdicts, 1):
                yield _step_row(f"{number}.{place}", name, step, answer.scenario.cpu.cpl)
        return
    walk = answer.walk
    predicted = _outcome(walk)
    asked = f"{walk.access.kind} {format_address(walk.va)}"
    told = (predicted, walk.rule, _entry(walk))
    # Most often there is one engine, and one row.
    for name, (observation, verdict) in answer.observed.items() or {"": (None, None)}.items():
        seen, style = "", ""
        if observation is not None and verdict is not None:
            word, style = _WORDS[verdict.judgement]
            text = _outcome(observation)
            seen = f"{name} {word}" + ("" if text == predicted else f": {text}")
        yield (str(number), asked, str(walk.cpu.cpl), *told, seen), style


def _step_row(
    number: str, name: str, verdict: StepVerdict, cpl: int
) -> tuple[tuple[str, ...], str]:
    from harness.check.scenario import step_to_json

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


def _facts(answer: Answer | Played) -> Iterator[tuple[str, str, list[str]]]:
    """Give what is to be said below the table: who, about what, and what."""
    if isinstance(answer, Played):
        from harness.check.registered.registry import REGISTRY

        reasons = {known.name: known.reason for known in REGISTRY}
        for name, played in answer.observed.items():
            facts = [played.sentence] if played.sentence else []
            facts += [f"known as {word}: {reasons[word]}" for word in played.known]
            if facts:
                yield name, f"a scenario of {len(answer.scenario.steps)} steps", facts
        return
    for name, (observation, verdict) in answer.observed.items():
        if verdict.difference is not None:
            facts = [verdict.difference.sentence]
            facts += [f"known as {known.name}: {known.reason}" for known in verdict.known]
            yield name, "", facts
        elif observation.reason is not None:
            yield name, "", [observation.reason]


_WORDS: Final = {
    "agree": ("agrees", ""),
    "known": ("differs as known", "yellow"),
    "diverge": ("DIVERGES", "bold red"),
    "unsupported": ("cannot", "yellow"),
}


_SHORT: Final = {
    "page-fault": "#PF",
    "general-protection": "#GP",
    "stack-fault": "#SS",
    "double-fault": "#DF",
    "no-memory": "no RAM",
}


def _entry(walk: Walk) -> str:
    """Name the entry that decided."""
    from harness.address import entry_name
    from harness.describe.walks import index_of

    if walk.level is None:
        return ""
    pages = [walk] if walk.second is None else [walk.second, walk]
    steps = [step for page in pages for step in page.steps if step.level == walk.level]
    where = f" {index_of(steps[0])}" if steps else ""
    return f"{walk.level}, {entry_name(walk.level)}{where}"


def _told(prediction: dict[str, Any]) -> str:
    """Name what a prediction in JSON says, as :func:`_outcome` names a walk's."""
    from harness.address import format_address

    word = _SHORT.get(prediction["outcome"], prediction["outcome"])
    if prediction.get("error_code") is not None:
        return f"{word} {prediction['error_code']}"
    pa = prediction.get("pa")
    return word if pa is None else f"{word} {format_address(int(pa, 16))}"


def _outcome(answer: Walk | Observation) -> str:
    from harness.address import format_address

    word = _SHORT.get(answer.outcome, str(answer.outcome))
    if answer.error_code is not None:
        return f"{word} {answer.error_code:#x}"
    return word if answer.pa is None else f"{word} {format_address(answer.pa)}"
