"""``harness lecture``: the lecture on page tables, each approach proved on the CPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.lecture import Report

__all__ = ["lecture", "tell_chapters"]


@click.command()
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("--list", "listed", is_flag=True, help="List the chapters.")
@click.option("--code", is_flag=True, help="Print the kernels' code too.")
@click.option("--pause", is_flag=True, help="Wait for a key after each chapter.")
@click.option("--engine", default="unicorn", show_default=True, help="The CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def lecture(
    chapters: tuple[str, ...],
    *,
    listed: bool,
    code: bool,
    pause: bool,
    engine: str,
    as_json: bool,
) -> None:
    """Walk through the lecture "Page Tables", or only through some CHAPTERs of it.

    Each chapter shows what the lecture says, a diagram of the tables that are in memory, the
    kernel that proves the claim, and what the CPU said when it ran just now. Exit code 1 means
    that a claim did not hold.
    """
    from harness.lecture import CHAPTERS, find_chapter
    from harness.lecture.render import make_console, print_list, print_report

    names = [find_chapter(name).name for name in chapters] or list(CHAPTERS)
    if listed:
        if as_json:
            click.echo(json.dumps([{"chapter": n, "title": CHAPTERS[n].title} for n in names]))
        else:
            print_list(make_console(), [(name, CHAPTERS[name].title) for name in names])
        return
    numbers = {name: number for number, name in enumerate(CHAPTERS, 1)}
    reports = _told(names, engine)
    if not as_json:
        console = make_console()
        for report in reports:
            print_report(console, report, code=code, number=numbers[report.name])
            if pause and report is not reports[-1]:
                click.pause()
    passed = all(report.passed for report in reports)
    if as_json:
        chapters_json = [report.to_json() for report in reports]
        click.echo(json.dumps({"chapters": chapters_json, "passed": passed}))
    if not passed:
        raise SystemExit(1)


def tell_chapters(names: list[str], engine: str) -> list[Report]:
    """Tell chapters in this process.

    :raises InputError: when there is none of a name.
    """
    from harness.isolate import doing
    from harness.lecture import find_chapter, tell

    reports = []
    for number, name in enumerate(names):
        doing(f"telling {name}", number, len(names))
        reports.append(tell(find_chapter(name), engine=engine))
    return reports


def _told(names: list[str], engine: str) -> list[Report]:
    # In one worker: most of a chapter's time would go into starting one.
    from rich.console import Console

    from harness.isolate import Progress, isolated_all

    console = Console(stderr=True)
    with console.status("telling the lecture") as status:
        for event in isolated_all([(tell_chapters, (names, engine), {})]):
            if isinstance(event, Progress):
                status.update(f"{event.what}, {event.done + 1} of {event.total}")
            elif event.error is not None:
                raise event.error
            else:
                reports: list[Report] = event.value
                return reports
    raise AssertionError("every call ends")
