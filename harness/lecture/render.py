"""Print a chapter for a projector: 100 columns, colour only on a terminal.

The pictures and the values are plain text; what they mean decides the colour: addresses, octal
indices, the names of tables, ``✓``, ``✗`` and ``↺`` look the same wherever they appear.

>>> print_report(console, tell(chapter))  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.describe.diagram import WIDTH
from harness.lecture.chapter import Check, Note, Picture, Report, Run
from harness.show.console import console as safe_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["make_console", "print_list", "print_report"]

_EVENTS = 4
_STYLES = (
    (r"0x[0-9a-f_]+", "cyan"),
    (r"0o[0-7_]+", "magenta"),
    (r"\b(?:PML[45]|PDPT|PD|PT|CR[234])\b", "bold"),
    (r"[↺▼►]|─►", "bold yellow"),
    (r"✓", "bold green"),
    (r"✗.*", "bold red"),
    (r"#(?:PF|GP|DF|UD|BP)\b", "bold red"),
)


def make_console() -> Console:
    """Open the standard output, at most 100 columns wide, and exactly that when it is no terminal.

    :returns: a console that finds nothing to colour by itself.
    """
    made = safe_console(file=sys.stdout, markup=False, emoji=False)
    if made.width > WIDTH:
        made = safe_console(file=sys.stdout, markup=False, emoji=False, width=WIDTH)
    return made


def print_report(console: Console, report: Report, *, code: bool = False, number: int = 0) -> None:
    """Print a chapter.

    :param code: print the code of its kernels too.
    :param number: the chapter's place in the lecture, from 1; 0 prints none.
    """
    from rich.padding import Padding
    from rich.rule import Rule
    from rich.text import Text

    head = f"{number}. {report.title}" if number else report.title
    console.print(Rule(Text(head, style="bold reverse"), characters="━"))
    for line in report.lecture:
        console.print(Padding(Text(f"» {line}", style="italic"), (0, 0, 0, 2)))
    console.print()
    console.print(_hanging("claim", report.claim, "bold"))
    for item in report.items:
        console.print()
        _print_item(console, item, code)
    console.print()
    if report.passed:
        console.print(_hanging("✓", report.conclusion, "bold green"))
    else:
        console.print(_hanging("✗", "not shown:", "bold red"))
        for failure in report.failures:
            console.print(Padding(Text(failure, style="red"), (0, 0, 0, 3)))
    console.print()


def print_list(console: Console, chapters: list[tuple[str, str]]) -> None:
    """Print the chapters' names and titles."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for number, (name, title) in enumerate(chapters, 1):
        table.add_row(f"{number:2}", Text(name, style="bold"), title)
    console.print(table)


def _print_item(console: Console, item: Note | Picture | Run | Check, code: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if isinstance(item, Note):
        console.print(_coloured(item.text))
    elif isinstance(item, Picture):
        console.print(Text(item.title, style="bold underline"))
        for line in item.text.splitlines():
            # Never broken: half a picture on a narrow terminal is worse than a cut one.
            console.print(_coloured(line), no_wrap=True, overflow="crop", crop=True)
    elif isinstance(item, Run):
        _print_run(console, item, code)
    else:
        mark = "✓" if item.holds else "✗"
        console.print(_hanging(mark, item.claim, "bold green" if item.holds else "bold red"))
        console.print(Padding(_coloured(str(item)), (0, 0, 0, 3)))


def _print_run(console: Console, run: Run, code: bool) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console.print(
        Text.assemble(("kernel ", "bold underline"), (run.path, "bold underline"), f"  {run.title}")
    )
    if code:
        console.print(Padding(Text(" ".join(run.prose.split()), style="dim"), (0, 0, 0, 2)))
        for line in run.code:
            console.print(Text(f"  │ {line}", style="dim"), no_wrap=True, overflow="ellipsis")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for said in run.said:
        mark = Text("✓", style="bold green") if said.holds else Text("✗", style="bold red")
        meaning = said.meaning if said.holds else f"must be {said.wanted}; {said.meaning}"
        grid.add_row(mark, said.name, _coloured(f"= {said.value}"), _coloured(meaning))
    if run.said:
        console.print(Padding(grid, (0, 0, 0, 2)))
    for event in run.events[:_EVENTS]:
        console.print(Padding(_hanging("event", event), (0, 0, 0, 2)))
    if len(run.events) > _EVENTS:
        console.print(f"  ... and {len(run.events) - _EVENTS} more events")
    for line in run.serial.splitlines():
        console.print(Padding(_hanging("wrote", line), (0, 0, 0, 2)))
    console.print(Padding(_hanging("ended", run.ended), (0, 0, 0, 2)))
    for failure in run.failures:
        console.print(Padding(_hanging("✗", failure, "bold red"), (0, 0, 0, 2)))


def _hanging(label: str, text: str, style: str = "bold") -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(Text(label, style=style), _coloured(text))
    return grid


def _coloured(text: str) -> Text:
    from rich.text import Text

    coloured = Text(text)
    for pattern, style in _STYLES:
        coloured.highlight_regex(pattern, style)
    return coloured
