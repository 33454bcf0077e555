"""A campaign's report for a terminal.

First the verdict's numbers, then what was predicted, what was covered, what differs. In the table
of coverage a digit is a level at which a rule was met, ``-`` stands for no entry, ``·`` for a level
that could be met and was not; what cannot be met is blank. Kinds of access that look the same
share a row::

    print_campaign(console(), report)

It is drawn for 80 to 100 columns; what is longer is wrapped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from harness.show.campaign import (
    JUDGEMENTS,
    CampaignReport,
    FindingReport,
    duration,
    percent,
    printable,
)
from harness.show.coverage import Coverage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["coverage_rows", "print_campaign"]

_STYLES: Final = {
    "agree": "green",
    "open": "cyan",
    "known": "yellow",
    "delivered_by_harness": "cyan",
    "diverge": "bold red",
    "unsupported": "yellow",
    "broke": "bold red",
}
_MISSING: Final = "·"


def print_campaign(out: Console, report: CampaignReport) -> None:
    """Print a campaign's report.

    :param out: where to.
    """
    _print_asked(out, report)
    _print_counts(out, report)
    _print_outcomes(out, report)
    _print_coverage(out, report.coverage)
    _print_open(out, report)
    _print_registered(out, report)
    _print_planted(out, report)
    for number, finding in enumerate(report.findings, 1):
        _print_finding(out, number, finding)
    _print_scenarios(out, report)
    for sentence, now in report.replayed:
        mark, style = ("✓", "green") if now == "fixed" else ("✗", "red")
        _wrapped(out, f"{mark} a former finding, now {now}: ", sentence, style)
    for note in report.notes:
        _wrapped(out, "", note, "dim")
    _print_verdict(out, report)


def coverage_rows(coverage: Coverage) -> list[tuple[str, tuple[str, ...], tuple[str, ...], int]]:
    """Return the rows of the table of coverage.

    Rules of which no cell was met have none.

    :returns: rule; the kinds of access that share the row; by mode, the levels as text of one
        length in each column; how many cases met it.
    """
    rows = []
    unmet = coverage.unmet
    for rule in coverage.rules:
        if rule in unmet:
            continue
        groups: dict[tuple[str, ...], list[str]] = {}
        for kind in coverage.kinds:
            cells = tuple(_levels(coverage, rule, kind, mode) for mode in coverage.modes)
            if any(cell.strip() for cell in cells):
                groups.setdefault(cells, []).append(kind)
        for cells, kinds in groups.items():
            count = sum(
                n for cell, n in coverage.cells.items() if cell.rule == rule and cell.kind in kinds
            )
            rows.append((rule, tuple(kinds), cells, count))
    return rows


def _levels(coverage: Coverage, rule: str, kind: str, mode: str) -> str:
    marks = ""
    for level in coverage.levels(mode=mode):
        count = coverage.count(rule, level, kind, mode)
        marks += " " if count is None else level if count else _MISSING
    return marks


def _print_asked(out: Console, report: CampaignReport) -> None:
    from rich.text import Text

    title = Text(printable(report.name), style="bold")
    title.append(f" on {printable(report.engine)}", style="not bold")
    out.print(title)
    for name, value in report.facts:
        _wrapped(out, f"  {name:<10} ", value, "")
    out.print()


def _print_counts(out: Console, report: CampaignReport) -> None:
    from rich.text import Text

    asked = f"{report.cases:,}"
    if report.of_cases is not None and report.of_cases != report.cases:
        asked += f" of {report.of_cases:,}"
    line = Text(f"{asked} cases", style="bold")
    line.append(f" in {duration(report.seconds)}", style="not bold")
    workers = f"{report.workers} worker{'' if report.workers == 1 else 's'}"
    line.append(f": {report.rate:,.0f} a second with {workers}", style="not bold")
    out.print(line)
    if report.resumed_cases:
        out.print(Text(f"  {report.resumed_cases:,} of them from the journal of earlier runs"))
    if report.deaths:
        out.print(Text(f"  workers that died or hung: {report.deaths}", style="red"))
    out.print()
    counts = {word: report.judged(word) for word in JUDGEMENTS}
    width = max(len(f"{count:,}") for count in counts.values())
    for word, count in counts.items():
        share = percent(count, report.cases)
        style = _STYLES[word] if count else "dim"
        name = word.replace("_", " ")
        out.print(Text(f"  {name:<20}  {count:>{width},}  {share:>8}".rstrip(), style=style))
    for reason, count in report.unsupported:
        _wrapped(out, f"    {count:>{width},} ", reason, "dim")
    out.print()


def _print_outcomes(out: Console, report: CampaignReport) -> None:
    if not report.outcomes:
        return
    table = _table("predicted", "cases", "", "the error code says")
    for row in report.outcomes:
        table.add_row(
            _text(row.name),
            _text(f"{row.cases:,}"),
            _text(percent(row.cases, report.cases), "dim"),
            _text(row.meaning),
        )
    out.print(table)
    out.print()


def _print_coverage(out: Console, coverage: Coverage) -> None:
    if not coverage.met:
        return
    possible = coverage.possible
    known = "cells" if possible is None else f"of {possible:,} cells that can be met"
    out.print(_text(f"coverage: {coverage.met:,} {known}", "bold"))
    table = _table("rule", "access", *coverage.modes, "cases")
    before = None
    for rule, kinds, cells, count in coverage_rows(coverage):
        table.add_row(
            _text("" if rule == before else rule, "bold"),
            _text(" ".join(kinds)),
            *(_marks(cell) for cell in cells),
            _text(f"{count:,}" if count else "none", "" if count else "red"),
        )
        before = rule
    out.print(table)
    legend = "digits: the levels that were met; -: no entry decided"
    if coverage.missing:
        legend += f"; {_MISSING}: never met; blank: cannot be met"
    _wrapped(out, "", legend, "dim")
    if coverage.unmet:
        _wrapped(out, "rules that no case met: ", ", ".join(coverage.unmet), "")
    out.print()


def _marks(cell: str) -> Text:
    from rich.text import Text

    text = Text(printable(cell))
    for at, mark in enumerate(cell):
        if mark == _MISSING:
            text.stylize("bold red", at, at + 1)
    return text


def _print_open(out: Console, report: CampaignReport) -> None:
    if not report.open_points:
        return
    out.print(_text("open points: the manual leaves the choice to the CPU (docs/rules.md)", "bold"))
    for name, meaning, count in report.open_points:
        line = _text(f"  {name}: ", "")
        line.append(f"{count:,} case{'' if count == 1 else 's'}", style="cyan")
        out.print(line)
        _wrapped(out, "    ", meaning, "dim")
    out.print()


def _print_registered(out: Console, report: CampaignReport) -> None:
    if not report.registered:
        return
    out.print(_text("registered divergences of this engine", "bold"))
    for row in report.registered:
        if row.cases:
            line = _text(f"  {row.name} ({row.rule}): ")
            line.append(f"{row.cases:,} case{'' if row.cases == 1 else 's'}", style="yellow")
            out.print(line)
            _wrapped(out, "    ", row.reason, "dim")
    not_met = [row.name for row in report.registered if not row.cases]
    if not_met:
        _wrapped(out, "  not met: ", ", ".join(not_met), "dim")
    for row in report.stale:
        _wrapped(
            out,
            "  ✗ ",
            f"{row.name} no longer occurs: its own example agrees, and the registration must go",
            "bold red",
        )
    out.print()


def _print_planted(out: Console, report: CampaignReport) -> None:
    if not report.planted:
        return
    out.print(_text(report.planted_words, "bold"))
    table = _table("", "flaw", "rule", "found after", "words", "named", "by")
    for row in report.planted:
        if not row.campaign:
            continue
        style = "" if row.good else "bold red"
        table.add_row(
            _text(row.mark, "green" if row.right else style),
            _text(row.flaw, style),
            _text(row.rule if row.level is None else f"{row.rule}, level {row.level}"),
            _text("not found" if row.cases is None else f"{row.cases:,}", style),
            _text("" if row.words is None else f"{row.words} of {row.bound}"),
            _text(row.named, style),
            _text(row.campaign),
        )
    out.print(table)
    for row in report.planted:
        if not row.campaign:
            _wrapped(out, "  –   ", f"{row.rule}: {row.note}", "dim")
    out.print()


def _print_finding(out: Console, number: int, finding: FindingReport) -> None:
    cases = f"{finding.count:,} case{'' if finding.count == 1 else 's'}"
    kind = "the engine broke" if finding.judgement == "broke" else finding.where
    head = _text(f"✗ {number}. {kind}", "bold red")
    head.append(f"  {cases}, the first is case {finding.first:,}", style="not bold")
    out.print(head)
    _wrapped(out, "   ", finding.sentence, "bold")
    if finding.rule_text:
        _wrapped(out, f"   {finding.rule}: ", finding.rule_text, "dim")
    if finding.headline:
        _wrapped(out, "   asked        ", finding.headline, "")
    rows = [row.cells for row in finding.walk]
    if rows:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in finding.walk:
            cells = [f"{cell:<{width}}" for cell, width in zip(row.cells, widths, strict=True)]
            line = f"   {'✗' if row.decides else ' '} {'  '.join(cells).rstrip()}"
            out.print(_text(line, "bold" if row.decides else ""), soft_wrap=True)
    for at, line in enumerate(finding.predicted):
        _wrapped(out, "   walker says  " if at == 0 else " " * 16, line, "")
    if finding.observed:
        _wrapped(out, "   engine did   ", finding.observed, "red")
    for name, note in finding.notes:
        _wrapped(out, f"   {name:<12} ", note, "")
    for name in finding.known:
        _wrapped(out, "   beside       ", f"the registered divergence {name}", "yellow")
    if finding.command:
        # Never broken: it is there to be copied.
        out.print(_text(f"   again with   {finding.command}", "cyan"), soft_wrap=True)
    for file in finding.files:
        out.print(_text(f"   written      {file}", "dim"), soft_wrap=True)
    out.print()


def _print_scenarios(out: Console, report: CampaignReport) -> None:
    agree = sum(became == "agree" for _, became in report.scenarios)
    if agree:
        out.print(_text(f"✓ scenarios that agree: {agree} of {len(report.scenarios)}", "green"))
    for name, became in report.scenarios:
        if became != "agree":
            mark = "·" if became in ("unsupported", "known", "open") else "✗"
            out.print(_text(f"{mark} scenario {name}: {became}", _STYLES.get(became, "")))


def _print_verdict(out: Console, report: CampaignReport) -> None:
    good = report.good and report.complete
    mark, style = ("✓", "bold green") if good else ("✗", "bold red")
    if report.good and not report.complete:
        mark, style = "…", "bold yellow"
    text = _text(f"{mark} {report.verdict}", style)
    text.append(f" in {duration(report.seconds)}", style="not bold dim")
    out.print(text)


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _wrapped(out: Console, label: str, text: str, style: str) -> None:
    """Print a text behind a label, its further lines under its first."""
    body = " ".join(printable(text).split())
    indent = len(label) if len(label) <= 24 else 4
    lines = textwrap.wrap(
        body,
        max(40, out.width - 1),
        initial_indent=printable(label),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        out.print(_text(line, style), soft_wrap=True)


def _table(*headings: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="bold")
    wrapping = ("the error code says", "access", "by")
    for heading in headings:
        table.add_column(
            printable(heading),
            justify="right" if heading in _NUMBERS else "left",
            no_wrap=heading not in wrapping,
        )
    return table


_NUMBERS: Final[Sequence[str]] = ("cases", "", "found after", "words")
