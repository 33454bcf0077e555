"""``harness probe``: answer the cases of a file, by the walker and by the CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import click

from harness.errors import EngineMissing
from harness.isolate import doing, isolated

if TYPE_CHECKING:
    from harness.check.case import Case
    from harness.check.known import Verdict
    from harness.outcome import Observation
    from harness.walk import Walk

__all__ = ["Answer", "answer_cases", "probe"]

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
    """Answer each case of FILE, a .jsonl file with one question to the MMU a line.

    The walker predicts, the engine observes, and the two are compared. Exit code 1 means that they
    differ in a way that is not registered as known.
    """
    from harness.engine import ENGINES

    if engine not in (*ENGINES, "all", "none"):
        raise EngineMissing(f"the engine must be one of {', '.join(ENGINES)}, not {engine}")
    engines = ENGINES if engine == "all" else () if engine == "none" else (engine,)
    # Without an engine there is nothing that could take this process down.
    answers: list[Answer] = (
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


def answer_cases(path: Path, engines: tuple[str, ...]) -> list[Answer]:
    """Answer the cases of a file in this process.

    :raises CaseError: for the first line that is no case.
    :raises EngineError: when an engine is missing or breaks.
    """
    from harness.check.campaign import Bench
    from harness.check.case import read_cases
    from harness.walk import walk

    answers: list[Answer] = []
    benches: dict[str, Bench] = {}
    # Reading them all first means that a bad line is told before anything was asked.
    cases = list(read_cases(path))
    try:
        for number, case in enumerate(cases, 1):
            observed: dict[str, tuple[Observation, Verdict]] = {}
            prediction = None
            for name in engines:
                doing(f"asking {name} case {number} of {path.name}", number, len(cases))
                bench = benches.get(name)
                if bench is None or bench.memory.regions != case.ram:
                    if bench is not None:
                        bench.close()
                    bench = benches[name] = Bench(case.ram, name)
                prediction, seen, verdict = bench.ask(case)
                observed[name] = seen, verdict
            if prediction is None:
                prediction = walk(case.build(), case.cpu, case.va, case.access)
            answers.append(Answer(case, prediction, observed))
    finally:
        for bench in benches.values():
            bench.close()
    return answers


def _print(answers: list[Answer]) -> None:
    from rich.text import Text

    from harness.address import format_address
    from harness.show.console import columns, console
    from harness.show.report import WIDTH, headline

    out = console()
    rows, styles = [], []
    for number, answer in enumerate(answers, 1):
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
            rows.append((str(number), asked, str(walk.cpu.cpl), *told, seen))
            styles.append(style)
    headings = ("", "access", "CPL", "predicted", "rule", "level, entry", "observed")
    columns(out, headings, rows, styles)
    for number, answer in enumerate(answers, 1):
        for name, (observation, verdict) in answer.observed.items():
            if verdict.difference is not None:
                facts = [f"{name}: {verdict.difference.sentence}"]
                facts += [f"known as {known.name}: {known.reason}" for known in verdict.known]
            elif observation.reason is not None:
                facts = [f"{name}: {observation.reason}"]
            else:
                continue
            out.print(Text(f"{number}: {headline(answer.walk)}", style="bold"))
            for fact in facts:
                for line in wrap(fact, WIDTH - 3):
                    out.print(Text(f"   {line}"))


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
    from harness.show.report import index_of

    if walk.level is None:
        return ""
    pages = [walk] if walk.second is None else [walk.second, walk]
    steps = [step for page in pages for step in page.steps if step.level == walk.level]
    where = f" {index_of(steps[0])}" if steps else ""
    return f"{walk.level}, {entry_name(walk.level)}{where}"


def _outcome(answer: Walk | Observation) -> str:
    from harness.address import format_address

    word = _SHORT.get(answer.outcome, str(answer.outcome))
    if answer.error_code is not None:
        return f"{word} {answer.error_code:#x}"
    return word if answer.pa is None else f"{word} {format_address(answer.pa)}"
