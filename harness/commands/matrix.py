"""``harness matrix``: every combination of entries, CPU state and access, asked of the CPU."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from harness.commands.campaign import Campaign, run_campaign
from harness.commands.campaign_options import (
    Settings,
    campaign_options,
    command_line,
    engine_words,
    settings_words,
)
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.check.findings.finding import Finding
    from harness.check.matrix.spaces import Space
    from harness.check.matrix.work import MatrixWork

__all__ = ["matrix"]

_SLICE: Final = re.compile(r"1/([1-9][0-9]{0,11})")
_LEVELS: Final = (4, 5)


@click.command()
@click.argument("matrix", metavar="[classic|full]", default="classic")
@click.option("--levels", multiple=True, type=int, help="4 or 5, or both, one at a time.")
@click.option("--first", type=int, default=0, metavar="N", help="The first case's number.")
@click.option("--count", type=int, metavar="N", help="How many cases from there on.")
@click.option("--slice", "part", metavar="1/N", help="One case of every N, spread over all.")
@click.option("--case", type=int, metavar="N", help="Show this one case, and run no others.")
@click.option("--describe", is_flag=True, help="Say what the matrix holds, and run nothing.")
@campaign_options
def matrix(
    matrix: str,
    levels: tuple[int, ...],
    first: int,
    count: int | None,
    part: str | None,
    case: int | None,
    describe: bool,
    settings: Settings,
) -> None:
    """Ask the CPU every combination of a matrix, and hold each answer against the walker's.

    classic is what kvm-unit-tests' access test enumerates; full is what that leaves out as well.
    Both have 4 and 5 levels; without --levels both are asked.
    """
    from harness.check.matrix.work import MatrixWork

    asked = _Asked(matrix, levels or _LEVELS, first, count, part)
    work = MatrixWork(
        matrix,
        asked.levels,
        settings.subject,
        settings.witnesses,
        asked.sample,
        first=first,
        count=count,
    )
    if describe:
        _describe(work, as_json=settings.as_json)
        return
    if case is not None:
        raise SystemExit(_show(work, case, as_json=settings.as_json))
    campaign = Campaign(
        work=work,
        settings=settings,
        facts=asked.facts(),
        command=command_line(*asked.words(), *settings_words(settings)),
        modes=tuple(str(each) for each in asked.levels),
        case_command=lambda number: command_line(
            *asked.place(), *engine_words(settings), "--case", number
        ),
    )
    raise SystemExit(run_campaign(campaign))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which cases are asked."""

    matrix: str
    levels: tuple[int, ...]
    first: int
    count: int | None
    part: str | None

    @property
    def sample(self) -> int:
        if self.part is None:
            return 1
        found = _SLICE.fullmatch(self.part)
        if found is None:
            raise InputError(f"a slice must be 1/N, such as 1/100, not {self.part!r}")
        return int(found[1])

    def place(self) -> list[object]:
        """Return the words that say which matrix it is."""
        words: list[object] = ["matrix", self.matrix]
        for each in self.levels:
            words += ["--levels", each]
        return words

    def words(self) -> list[object]:
        """Return the words of the command line."""
        words = self.place()
        if self.first:
            words += ["--first", self.first]
        if self.count is not None:
            words += ["--count", self.count]
        if self.part is not None:
            words += ["--slice", self.part]
        return words

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Say for a report what was asked."""
        facts = [("levels", " and ".join(str(each) for each in self.levels))]
        if self.first or self.count is not None:
            end = "on" if self.count is None else f"to {self.first + self.count - 1:,}"
            facts.append(("cases", f"{self.first:,} {end}"))
        if self.part is not None:
            facts.append(("slice", f"{self.part}, always the same"))
        return tuple(facts)


def _show(work: MatrixWork, number: int, *, as_json: bool) -> int:
    """Show one case: its bits, the walk, what the engine does."""
    from harness.check.findings.reproducer import reproduce
    from harness.isolate import isolated

    bits = work.bits(number)
    question = work.block(number).question(0)
    found = isolated(reproduce, question, work.engine)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "case": number,
                    "bits": list(bits),
                    "judgement": str(found.judgement),
                    "question": question.to_json(),
                    "explanation": found.story,
                    "finding": None if found.finding is None else _finding(found.finding),
                }
            )
        )
    else:
        from harness.show.console import console

        out = console()
        out.print(f"case {number:,} of {work.name}: {found.judgement}", style="bold", markup=False)
        out.print(" ".join(bits) or "no bit is set", markup=False)
        out.print()
        out.print(found.story, markup=False, soft_wrap=True)
        out.print()
        out.print(f"as a question: {question.line()}", markup=False, soft_wrap=True, style="dim")
    return int(found.judgement == "diverge")


def _finding(finding: Finding) -> dict[str, Any]:
    from harness.show.from_result import finding_report

    return finding_report(finding).to_json()


def _describe(work: MatrixWork, *, as_json: bool) -> None:
    """Say what a matrix holds: its groups and how far they go, what is pruned and why, its bits."""
    described = [_description(space) for space in work.spaces]
    if as_json:
        click.echo(json.dumps({"name": work.name, "cases": work.total, "spaces": described}))
        return
    from rich.text import Text

    from harness.show.console import columns, console

    out = console()
    for each in described:
        title = f"{work.name}, {each['levels']} levels: {each['cases']:,} cases"
        out.print(Text(title, style="bold"))
        out.print()
        rows = [
            (group["name"], f"{group['cases']:>12,}", group["strength"], group["sentence"])
            for group in each["groups"]
        ]
        columns(out, ("group", f"{'cases':>12}", "strength", ""), rows, [""] * len(rows))
        out.print()
        if each["pruned"]:
            out.print(f"left out, of {each['combinations']:,} combinations", style="bold")
            left = [(f"{count:>14,}", reason) for reason, count in each["pruned"].items()]
            columns(out, (f"{'combinations':>14}", "reason"), left, [""] * len(left))
            out.print()
    out.print("bits", style="bold")
    meanings = {name: text for each in described for name, text in each["bits"].items()}
    columns(out, ("bit", "meaning"), list(meanings.items()), [""] * len(meanings))


def _description(space: Space) -> dict[str, Any]:
    return {
        "levels": space.levels,
        "cases": len(space),
        "combinations": space.total,
        "groups": [group._asdict() for group in space.groups],
        "pruned": space.pruned(),
        "bits": {
            bit.name: bit.meaning
            for fields in space.fields.values()
            for field in fields
            for option in field.options
            for bit in option
        },
    }
