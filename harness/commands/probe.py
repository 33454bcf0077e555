"""``harness probe``: answer the questions of a file, by the walker and by CPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.isolate import doing, isolated

if TYPE_CHECKING:
    from harness.check.bench import Answer

__all__ = ["answer_questions", "probe"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="Who answers beside the walker: a spec, several, all, or none.  [default: unicorn]",
)
@click.option(
    "--walker",
    metavar="MODULE:FUNCTION",
    help="Judge your own walker, beside the engines.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a question.")
def probe(file: Path, engines: tuple[str, ...], walker: str | None, as_json: bool) -> None:
    """Answer each line of FILE, a .jsonl file with one question to the MMU a line.

    A question is one access or several steps on one CPU. The walker predicts, the engines observe,
    and the two are compared. Exit code 1 means that they differ in a way that is not registered as
    known, and that the manual does not leave open.
    """
    from harness.engine import ENGINES

    specs: tuple[str, ...] = engines or ("unicorn",)
    if "all" in specs:
        specs = (*ENGINES, *(each for each in specs if each not in ("all", *ENGINES)))
    specs = tuple(each for each in dict.fromkeys(specs) if each != "none")
    if walker is not None:
        specs = (f"walker:{walker}", *specs)
    # Without an engine there is nothing that could take this process down.
    answers: list[Answer] = (
        isolated(answer_questions, file, specs) if specs else answer_questions(file, ())
    )
    if as_json:
        for answer in answers:
            click.echo(json.dumps(answer.to_json()))
    else:
        from harness.show.probe import print_answers

        print_answers(answers)
    if any(answer.judgement == "diverge" for answer in answers):
        raise SystemExit(1)


def answer_questions(path: Path, engines: tuple[str, ...]) -> list[Answer]:
    """Answer the questions of a file in this process.

    :param engines: specs.
    :raises CaseError: for the first line that is no question.
    :raises EngineError: when an engine is missing or breaks.
    """
    from harness.check.bench import Bench
    from harness.check.question import read_questions

    # Reading them all first means that a bad line is told before anything was asked.
    questions = list(read_questions(path))
    answers = []
    bench: Bench | None = None
    try:
        for number, question in enumerate(questions, 1):
            if bench is None or bench.memory.regions != question.ram:
                if bench is not None:
                    bench.close()
                bench = Bench(question.ram, *engines)
            doing(f"asking question {number} of {path.name}", number, len(questions))
            answers.append(bench.ask(question))
    finally:
        if bench is not None:
            bench.close()
    return answers
