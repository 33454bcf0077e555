"""``harness check``: the main job. Kernels run, real page tables are asked about, one table."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import click

from harness.commands.sentence import sentence
from harness.errors import EngineError, HarnessError
from harness.isolate import Ended, Progress, isolated, isolated_all

if TYPE_CHECKING:
    from rich.console import Console

    from harness.check.kernels import KernelVerdict
    from harness.check.set_report import SetReport

__all__ = ["check"]

_COUNTS: Final = ("probes", "agree", "known", "diverge", "unsupported")
_WORKERS: Final = 2
_SECONDS: Final = 3600.0
# Narrower terminals are shown fewer columns.
_WIDE: Final = 95


@click.command()
@click.argument("sets", metavar="[SET]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Ask about every leaf, not a sample.")
@click.option(
    "--engine",
    default="unicorn",
    show_default=True,
    help="The CPU that is asked, or package.module:attribute for one of your own.",
)
@click.option(
    "--walker",
    metavar="MODULE:FUNCTION",
    help="Judge your own walker instead, on page tables alone.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")
def check(
    sets: tuple[Path, ...], every: bool, engine: str, walker: str | None, as_json: bool
) -> None:
    """Hold walker, CPU and QEMU's answers against one another on real page tables.

    Each SET is the folder of a page-table set, or the name of one that ships. Without any, all the
    sets of fixtures/ are checked and all the kernels of asm/ are run. Each runs in a process of its
    own: one that dies is reported, and the others go on.
    """
    # What cannot be opened is told once, and not by every job.
    isolated(openable, engine if walker is None else f"walker:{walker}")
    started = time.perf_counter()
    jobs = _jobs(sets, engine, walker, every=every)
    for event in _run(jobs):
        job = jobs[event.number]
        job.value, job.error = event.value, event.error
    seconds = time.perf_counter() - started
    if as_json:
        click.echo(json.dumps(_json(jobs, seconds)))
    elif any(job.error is None for job in jobs):
        from harness.show.console import console

        _print(console(), jobs, seconds)
    for job in jobs:
        if job.error is not None:
            click.echo(f"Error: {_named(job)}", err=True)
    raise SystemExit(max(job.exit_code for job in jobs))


def _named(job: _Job) -> str:
    """Give a job's error, with its name unless the sentence begins with it."""
    assert job.error is not None
    text = sentence(job.error)
    return text if text.startswith(f"{job.name}:") else f"{job.name}: {text}"


def openable(spec: str) -> None:
    """Open an engine and close it again.

    :raises HarnessError: when it cannot be opened.
    """
    from harness.engine import open_engine
    from harness.memory import PhysicalMemory

    open_engine(spec, PhysicalMemory(0x20_0000)).close()


@dataclass(slots=True)
class _Job:
    """One thing to check, and what came of it."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any = None
    error: BaseException | None = field(default=None)

    @property
    def report(self) -> SetReport | None:
        return self.value if hasattr(self.value, "tallies") else None

    @property
    def kernel(self) -> KernelVerdict | None:
        return self.value if hasattr(self.value, "passed") else None

    @property
    def exit_code(self) -> int:
        if isinstance(self.error, EngineError):
            return 3
        if isinstance(self.error, HarnessError):
            return 2
        if self.error is not None:
            raise self.error  # a bug of ours, and its traceback should be seen
        report, kernel = self.report, self.kernel
        bad = report is not None and bool(report.diverge or report.wrong)
        return int(bad or (kernel is not None and not kernel.passed))


def _jobs(sets: Sequence[Path], engine: str, walker: str | None, *, every: bool) -> list[_Job]:
    from harness.check.kernels import check_kernel, kernel_files
    from harness.check.sets import check_set
    from harness.resources import find_data, page_table_sets

    jobs = []
    if walker is not None:
        engine = f"walker:{walker}"
    elif not sets:
        jobs = [
            _Job(path.stem, check_kernel, (path,), {"engine": engine}) for path in kernel_files()
        ]
    # The longest first, or the last one would run alone; which that is, the file sizes tell.
    by_size = sorted([*map(find_data, sets)] or page_table_sets(), key=_size, reverse=True)
    jobs += [
        _Job(path.resolve().name, check_set, (path,), {"every": every, "engine": engine})
        for path in by_size
    ]
    return jobs


def _size(path: Path) -> int:
    try:
        return (path / "truth.csv.xz").stat().st_size
    except OSError:
        return 0


def _run(jobs: Sequence[_Job]) -> Iterator[Ended]:
    """Run the jobs in workers; show progress on a terminal."""
    calls = [(job.function, job.args, job.kwargs) for job in jobs]
    # The set that takes longest must not wait for the kernels.
    order = sorted(range(len(jobs)), key=lambda number: jobs[number].name in _kernels(jobs))
    with _progress() as bars:
        for event in isolated_all(
            [calls[number] for number in order], workers=_WORKERS, seconds=_SECONDS
        ):
            number = order[event.number]
            if isinstance(event, Progress):
                bars.update(jobs[number].name, event)
            else:
                bars.remove(jobs[number].name)
                yield Ended(number, event.value, event.error)


def _kernels(jobs: Sequence[_Job]) -> set[str]:
    return {job.name for job in jobs if job.function.__name__ == "check_kernel"}


class _NoBars:
    """Progress that nobody sees."""

    def update(self, name: str, event: Progress) -> None:
        """Take note of nothing."""

    def remove(self, name: str) -> None:
        """Take note of nothing."""


class _Bars(_NoBars):
    """One bar for each worker, on stderr."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def update(self, name: str, event: Progress) -> None:
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = self._progress.add_task(event.what, total=None)
        self._progress.update(task, description=event.what, completed=event.done, total=event.total)

    def remove(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)


@contextlib.contextmanager
def _progress() -> Iterator[_NoBars]:
    if not sys.stderr.isatty():
        yield _NoBars()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bars(progress)


def _json(jobs: Sequence[_Job], seconds: float) -> dict[str, Any]:
    reports = [job.report for job in jobs if job.report is not None]
    kernels = [job.kernel for job in jobs if job.kernel is not None]
    return {
        **{name: sum(getattr(report, name) for report in reports) for name in _COUNTS},
        "seconds": round(seconds, 3),
        "open": sum(report.open for report in reports),
        "sets": [report.to_json() for report in reports],
        "kernels": [kernel.to_json() for kernel in kernels],
        "errors": [
            {"what": job.name, "sentence": sentence(job.error), "exit_code": job.exit_code}
            for job in jobs
            if job.error is not None
        ],
    }


def _print(console: Console, jobs: Sequence[_Job], seconds: float) -> None:
    from rich.text import Text

    kernels = [job for job in jobs if job.name in _kernels(jobs)]
    sets = sorted((job for job in jobs if job not in kernels), key=lambda job: job.name)
    if kernels:
        _print_kernels(console, kernels)
    _print_sets(console, sets)
    for job in (*kernels, *sets):
        if job.kernel is not None:
            for failure in job.kernel.failures:
                console.print(Text(f"✗ {job.name}: {failure}", style="red"))
        if job.report is not None:
            _print_findings(console, job.report)
    _print_sum(console, jobs, seconds)


def _print_kernels(console: Console, jobs: Sequence[_Job]) -> None:
    from rich.text import Text

    table = _table("kernel", "", "what it shows")
    for job in jobs:
        kernel = job.kernel
        good = job.exit_code == 0
        mark = Text("✓", "green") if good else Text("✗", "bold red")
        if kernel is None:
            shows = "the worker broke"
        else:
            shows = kernel.title.removeprefix(f"{job.name}: ") if good else kernel.detail
        table.add_row(job.name, mark, shows)
    console.print(table)
    console.print()


def _print_sets(console: Console, jobs: Sequence[_Job]) -> None:
    from rich.text import Text

    narrow = console.width < _WIDE
    facts = () if narrow else ("levels", "leaves")
    table = _table("page tables", *facts, *_COUNTS, "seconds")
    totals = dict.fromkeys(_COUNTS, 0)
    for job in jobs:
        report = job.report
        if report is None:
            table.add_row(Text(job.name, "red"))
            continue
        counts = {name: getattr(report, name) for name in _COUNTS}
        totals = {name: totals[name] + count for name, count in counts.items()}
        table.add_row(
            job.name,
            *(() if narrow else (str(report.levels), f"{report.leaves:,}")),
            *(_count(name, count) for name, count in counts.items()),
            f"{report.seconds:.1f}",
        )
    if len(jobs) > 1:
        table.add_section()
        table.add_row("all", *[""] * len(facts), *(_count(*total) for total in totals.items()))
    console.print(table)


def _count(name: str, count: int) -> Any:
    from rich.text import Text

    style = {"diverge": "bold red", "known": "yellow", "unsupported": "yellow", "agree": "green"}
    return Text(f"{count:,}", style.get(name, "") if count else "dim")


def _table(*headings: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="bold")
    for number, heading in enumerate(headings):
        right = number and heading not in ("", "what it shows")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading != "what it shows"
        )
    return table


def _print_findings(console: Console, report: SetReport) -> None:
    from rich.text import Text

    for fault in report.faults:
        console.print(Text(f"✗ {report.name}: {fault}", style="red"))
    for finding in report.findings:
        where = (
            finding.rule if finding.level is None else f"{finding.rule} at level {finding.level}"
        )
        count = f"{finding.count:,} probe{'' if finding.count == 1 else 's'}"
        console.print(Text(f"✗ {report.name}: {where}, {count}", style="red"))
        for fact in (finding.sentence, finding.as_if):
            console.print(Text(f"  {fact}"))
        if finding.question is not None:
            console.print(Text(f"  harness probe with this line: {finding.question.line()}"))
    for note in report.notes:
        for line in wrap(f"{report.name}: {note}", console.width - 1):
            console.print(Text(line, style="dim"))


def _print_sum(console: Console, jobs: Sequence[_Job], seconds: float) -> None:
    from rich.text import Text

    codes = [job.exit_code for job in jobs]
    good = sum(code == 0 for code in codes)
    if good == len(jobs):
        text = Text(f"✓ all {len(jobs)} agree", style="bold green")
    else:
        text = Text(f"✗ {len(jobs) - good} of {len(jobs)} do not agree", style="bold red")
    console.print(text, Text(f"in {seconds:.1f} s", style="dim"))
