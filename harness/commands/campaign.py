"""What ``harness matrix`` and ``harness fuzz`` have in common: options, running, reports.

A campaign goes through the same steps whatever it asks: every path that will be written is tried
first, the engine is opened once, the findings of former campaigns are asked again, the work is
run, what it found is kept, and the reports are written. A file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import shlex
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from harness.errors import InputError
from harness.isolate import Ended, isolated, isolated_all

if TYPE_CHECKING:
    from harness.campaign.progress import CampaignProgress
    from harness.campaign.runner import CampaignResult
    from harness.check.findings.finding import Finding
    from harness.check.work import Work
    from harness.show.campaign import CampaignReport, FindingReport

__all__ = [
    "Campaign",
    "Settings",
    "campaign_options",
    "command_line",
    "run_campaign",
]

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""

_DATABASE: Final = ".harness/findings"
_REPRODUCERS: Final = ".harness/reproducers"
_ADDRESS: Final = re.compile(r"(tcp|tls)://\S+:[0-9]{1,5}")
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options that every campaign has; see :func:`campaign_options`."""

    engine: str = "unicorn"
    workers: int | None = None
    journal: Path | None = None
    scheduler: str | None = None
    seconds: float = 300.0
    as_json: bool = False
    junit: Path | None = None
    html: Path | None = None
    reproducers: Path = Path(_REPRODUCERS)
    database: Path = Path(_DATABASE)
    no_database: bool = False

    @property
    def processes(self) -> int:
        """Return how many processes to run: as many as there are CPUs unless told otherwise."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is to be run.

    :ivar work: its cases.
    :ivar settings: how.
    :ivar facts: what was asked, for the reports.
    :ivar command: the command line that does it again.
    :ivar minutes: when to stop, asked or not; None for at the end.
    :ivar planted: see afterwards whether campaigns find engines with one flaw each.
    :ivar modes: endings of the CPU modes that its coverage has: ``4``, ``5``.
    :ivar case_command: the command line that shows the case of a number, if there is one.
    """

    work: Work
    settings: Settings
    facts: tuple[tuple[str, str], ...]
    command: str
    minutes: float | None = None
    planted: bool = False
    modes: tuple[str, ...] = ("4", "5")
    case_command: Callable[[int], str] | None = None


def campaign_options(function: _F) -> _F:
    """Add the options that every campaign has; they come as one ``settings`` argument."""

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:
        names = [field.name for field in fields(Settings)]
        return function(settings=Settings(**{name: values.pop(name) for name in names}), **values)

    path = click.Path(path_type=Path)
    options = [
        click.option(
            "--engine",
            default="unicorn",
            show_default=True,
            help="The CPU that judges, or package.module:function for one of your own.",
        ),
        click.option(
            "--workers", type=click.IntRange(1, 1024), help="How many processes; one for each CPU."
        ),
        click.option(
            "--journal", type=path, help="Keep what is done in this file, and go on from there."
        ),
        click.option("--scheduler", help="Run on a Dask cluster: tcp://host:port."),
        click.option(
            "--seconds",
            type=click.FloatRange(1, 86400),
            default=300.0,
            show_default=True,
            help="How long a worker may be silent before it is said to hang.",
        ),
        click.option("--json", "as_json", is_flag=True, help="End with one JSON object."),
        click.option("--junit", type=path, help="Write the report as JUnit XML."),
        click.option("--html", type=path, help="Write the report as one page."),
        click.option(
            "--reproducers",
            type=path,
            default=_REPRODUCERS,
            show_default=True,
            help="Write a case and a test for each finding here.",
        ),
        click.option(
            "--database",
            type=path,
            default=_DATABASE,
            show_default=True,
            help="Keep findings here, and ask them again first.",
        ),
        click.option("--no-database", is_flag=True, help="Do not keep findings."),
    ]
    result: Any = gathered
    for option in reversed(options):
        result = option(result)
    return result  # type: ignore[no-any-return]


def command_line(*words: object) -> str:
    """Return a command line that a shell takes as it is.

    :param words: the command's words after ``harness``; a None is left out.
    """
    return shlex.join(["harness", *(str(word) for word in words if word is not None)])


def settings_words(settings: Settings) -> list[object]:
    """Return the options that what is found depends on, and the journal, as words."""
    words: list[object] = []
    if settings.engine != "unicorn":
        words += ["--engine", settings.engine]
    if settings.scheduler is not None:
        words += ["--scheduler", settings.scheduler]
    if settings.journal is not None:
        words += ["--journal", settings.journal]
    return words


def run_campaign(campaign: Campaign) -> int:
    """Run a campaign, print and write its reports, and return the exit code.

    :raises InputError: for a path that cannot be written, or a journal of another campaign.
    :raises EngineError: when the engine is missing or dies on nearly everything.
    """
    try:
        return _run(campaign)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return INTERRUPTED


def _run(campaign: Campaign) -> int:
    from harness.campaign.runner import run
    from harness.commands.campaign_view import ask_registry
    from harness.engine.loading import opener

    settings = campaign.settings
    _check_paths(settings)
    if settings.scheduler is not None and not _ADDRESS.fullmatch(settings.scheduler):
        raise InputError(
            "--scheduler must be tcp://host:port or tls://host:port, such as "
            f"tcp://127.0.0.1:8786, not {settings.scheduler!r}"
        )
    opener(settings.engine)
    registry = isolated(ask_registry, settings.engine)
    former = _replayed(settings)
    over = _Deadline(campaign.minutes)
    with _progress() as bar:
        result = run(
            campaign.work,
            workers=settings.processes,
            journal=settings.journal,
            seconds=settings.seconds,
            scheduler=settings.scheduler,
            on_progress=None if bar is None else bar.campaign,
            stop=over,
        )
    if over.reached and result.interrupted:
        result = _in_time(campaign, result)
    report = _report(campaign, registry, result, former)
    if campaign.planted and not result.interrupted:
        report = _with_planted(settings, report)
    code = _told_everywhere(settings, report)
    if result.interrupted:
        click.echo(_how_to_resume(campaign), err=True)
        return INTERRUPTED
    return code


def _with_planted(settings: Settings, report: CampaignReport) -> CampaignReport:
    """Add what became of the planted bugs; what was counted so far is not lost by Ctrl-C."""
    from harness.commands.campaign_view import planted_rows
    from harness.planted.table import not_here, run_table

    try:
        with _progress() as bar:
            told = None if bar is None else bar.planted
            rows = run_table(workers=settings.processes, progress=told)
    except KeyboardInterrupt:
        note = "interrupted before the table of planted bugs was made"
        return replace(report, complete=False, notes=(*report.notes, note))
    return replace(report, planted=planted_rows([*rows, *not_here()]))


def _told_everywhere(settings: Settings, report: CampaignReport) -> int:
    """Print and write a report, and return the exit code that goes with it."""
    _write_reports(settings, report)
    if settings.as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        from harness.show.campaign_text import print_campaign
        from harness.show.console import console

        print_campaign(console(), report)
    return 0 if report.good else 1


class _Deadline:
    """Ends a campaign when its time is over.

    :param minutes: from now; None never ends it.
    """

    def __init__(self, minutes: float | None) -> None:
        self._at = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.reached = False

    def __call__(self) -> bool:
        self.reached = self.reached or time.monotonic() >= self._at
        return self.reached


def _in_time(campaign: Campaign, result: CampaignResult) -> CampaignResult:
    """Return the result of a campaign whose time was over, with its findings made small."""
    from harness.check.findings.tally import Tally

    tally = Tally() + result.tally
    found = list(tally.findings.values())
    tally.findings.clear()
    for finding in _made_small(campaign, found):
        tally.add(finding)
    return replace(result, tally=tally, complete=True, interrupted=False)


def _made_small(campaign: Campaign, found: Sequence[Finding]) -> list[Finding]:
    """Make findings small, each in a process of its own; what does not get small stays."""
    settings = campaign.settings
    small = list(found)
    which = [number for number, finding in enumerate(found) if finding.case is not None]
    for event in isolated_all(
        [(campaign.work.shrunk, (found[number],), {}) for number in which],
        workers=settings.processes,
        seconds=settings.seconds,
    ):
        if isinstance(event, Ended) and event.error is None:
            old = found[which[event.number]]
            # What shrinking found out about one case does not change how many there were.
            small[which[event.number]] = replace(event.value, count=old.count, first=old.first)
    return small


def _causes(campaign: Campaign, result: CampaignResult) -> list[Finding]:
    """Return as few findings as explain everything that fails the campaign."""
    from harness.check.cause import root_causes
    from harness.commands.campaign_view import by_weight, serious

    causes = serious(root_causes(serious(result.tally.findings.values())))
    if not result.interrupted:
        # One that might have had several causes was made small for another one of them.
        chosen = [finding for finding in causes if finding.key not in result.tally.findings]
        small = {finding.key: finding for finding in _made_small(campaign, chosen)}
        causes = [small.get(finding.key, finding) for finding in causes]
    return by_weight(causes)


def _how_to_resume(campaign: Campaign) -> str:
    if campaign.settings.journal is not None:
        return f"interrupted; to go on: {campaign.command}"
    return "interrupted; nothing was kept to go on from: name a --journal FILE next time"


def _is_ours(settings: Settings) -> bool:
    from harness.engine import ENGINES

    return settings.engine in ENGINES


def _replayed(settings: Settings) -> list[Finding]:
    """Ask what former campaigns found."""
    from harness.check.findings.database import Database

    if settings.no_database or not _is_ours(settings):
        return []
    return Database(settings.database).replay(settings.engine, workers=settings.processes)


def _report(
    campaign: Campaign, registry: Any, result: CampaignResult, former: list[Finding]
) -> CampaignReport:
    from harness.commands.campaign_view import report_of, serious
    from harness.fuzz.coverage import reachable

    settings = campaign.settings
    found = _causes(campaign, result)
    keys = {finding.key for finding in found}
    again = [each for each in serious(former) if each.key not in keys]
    notes = _kept(settings, found)
    told = [_told(campaign, finding, former=finding in again) for finding in [*found, *again]]
    kinds = {name.rsplit("/", 3)[2] for name in result.tally.coverage if name.count("/") >= 3}
    cells = frozenset(
        name
        for name in reachable()
        if name.endswith(campaign.modes)
        and name.split("/")[2] in kinds | {"read", "write", "fetch"}
    )
    return report_of(
        result,
        registry,
        cases=campaign.work.cases,
        findings=told,
        facts=campaign.facts,
        command=campaign.command,
        reachable=cells,
        replayed=[(each.sentence, each.judgement) for each in former],
        notes=notes,
    )


def _told(campaign: Campaign, finding: Finding, *, former: bool) -> FindingReport:
    from harness.check.findings.reproducer import write_reproducers
    from harness.commands.campaign_view import finding_report

    files = [str(path) for path in write_reproducers([finding], campaign.settings.reproducers)]
    case = next((file for file in files if file.endswith(".jsonl")), None)
    command = "" if case is None else command_line("probe", case)
    # An engine of one's own is not one that `harness probe` asks.
    if (
        campaign.case_command is not None
        and not former
        and (case is None or not _is_ours(campaign.settings))
    ):
        command = campaign.case_command(finding.first)
    return finding_report(finding, command=command, files=files, former=former)


def _kept(settings: Settings, found: Sequence[Finding]) -> list[str]:
    from harness.check.findings.database import Database

    if settings.no_database or not _is_ours(settings):
        return []
    database = Database(settings.database)
    kept = [finding for finding in found if database.save(finding) is not None]
    if not kept:
        return []
    return [f"kept in {settings.database}, to be asked first next time: {len(kept)}"]


def _write_reports(settings: Settings, report: CampaignReport) -> None:
    if settings.junit is not None:
        from harness.show.campaign_junit import junit_xml

        write_whole(settings.junit, junit_xml(report))
    if settings.html is not None:
        from harness.show.campaign_html import campaign_html

        write_whole(settings.html, campaign_html(report).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole, or leave what was there.

    :raises InputError: when it cannot be written.
    """
    try:
        if _special(path):
            path.write_bytes(data)
            return
        handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path.resolve())
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"{path}: the report must be writable: {error.strerror}") from None


def _special(path: Path) -> bool:
    """Say whether a path is a device or a pipe, which no other file can take the place of."""
    return path.exists() and not stat.S_ISREG(path.stat().st_mode)


def _check_paths(settings: Settings) -> None:
    """Refuse now what could not be written in an hour."""
    files = {"--junit": settings.junit, "--html": settings.html, "--journal": settings.journal}
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} must name different files, not both {path}")
        _check_file(option, path)
    folders = {"--reproducers": settings.reproducers}
    if not settings.no_database:
        folders["--database"] = settings.database
    for option, folder in folders.items():
        _check_folder(option, folder)


def _check_file(option: str, path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{option} must name a file, and {path} is a directory")
    parent = path.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{option} must name a file in a directory that is there or can be made, not {path}: "
            f"{error.strerror}"
        ) from None
    if not os.access(path if _special(path) else parent, os.W_OK):
        raise InputError(f"{option} must name a file that can be written, not {path}")


def _check_folder(option: str, folder: Path) -> None:
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise InputError(f"{option} must name a directory, and {folder} is none")
    at = folder.absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK):
        raise InputError(f"{option} must name a directory that can be written, not {folder}")


class _Bar:
    """One bar on a terminal's stderr.

    :param bars: of rich.
    """

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=None, told="")

    def campaign(self, now: CampaignProgress) -> None:
        """Show how far a campaign is."""
        self._show(now.what, now.cases, now.of_cases, progress_words(now))

    def planted(self, flaw: str, done: int, total: int) -> None:
        """Show how many planted bugs are done."""
        self._show("planted bugs", done, total, f"{done} of {total}, {flaw}")

    def _show(self, what: str, done: int, total: int | None, told: str) -> None:
        self._bars.update(self._task, description=what, completed=done, total=total, told=told)


@contextlib.contextmanager
def _progress() -> Iterator[_Bar | None]:
    """Show a bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars)


def progress_words(now: CampaignProgress) -> str:
    """Say in a line how far a campaign is, how fast, and how long the rest takes."""
    from harness.show.campaign import duration, short_count

    parts = [f"{short_count(now.cases)} cases"]
    if now.of_cases:
        share = min(100.0, 100 * now.cases / now.of_cases)
        parts = [f"{share:.0f} %", f"{short_count(now.cases)} of {short_count(now.of_cases)}"]
    parts.append(f"{short_count(round(now.rate))}/s")
    if now.left is not None:
        parts.append(f"{duration(now.left)} left")
    if now.findings:
        parts.append(f"{now.findings} cause{'' if now.findings == 1 else 's'}")
    if now.deaths:
        parts.append(f"{now.deaths} died")
    return ", ".join(parts)
