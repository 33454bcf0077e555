"""What ``harness matrix`` and ``harness fuzz`` have in common: running a campaign, and its reports.

A campaign goes through the same steps whatever it asks: every path that will be written is tried
first, the engine is opened once, the findings of former campaigns are asked again, the work is
run, what it found is kept, and the reports are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from harness.commands.campaign_options import Settings, command_line, engine_words
from harness.commands.files import check_file, check_folder, write_whole
from harness.commands.progress import campaign_bar
from harness.errors import InputError
from harness.isolate import isolated

if TYPE_CHECKING:
    from harness.campaign.runner import CampaignResult
    from harness.check.findings.finding import Finding
    from harness.check.findings.reproducer import Written
    from harness.check.work import Work
    from harness.show.campaign import CampaignReport, FindingReport
    from harness.show.from_result import Registry

__all__ = ["Campaign", "run_campaign"]

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""

_ADDRESS: Final = re.compile(r"(tcp|tls)://\S+:[0-9]{1,5}")


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
    from harness.show.from_result import ask_registry

    settings = campaign.settings
    _check_paths(settings)
    if settings.scheduler is not None and not _ADDRESS.fullmatch(settings.scheduler):
        raise InputError(
            "--scheduler must be tcp://host:port or tls://host:port, such as "
            f"tcp://127.0.0.1:8786, not {settings.scheduler!r}"
        )
    registry = isolated(ask_registry, settings.subject)
    former = _replayed(settings)
    with campaign_bar() as bar:
        result = run(
            campaign.work,
            workers=settings.processes,
            journal=settings.journal,
            seconds=settings.seconds,
            scheduler=settings.scheduler,
            on_progress=None if bar is None else bar.campaign,
            minutes=campaign.minutes,
        )
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
    from harness.planted.table import not_here, run_table
    from harness.show.from_result import planted_rows

    try:
        with campaign_bar() as bar:
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
    return _exit_code(report)


def _exit_code(report: CampaignReport) -> int:
    """Tell a divergence from an engine that broke, and say of the latter on stderr how it did."""
    if report.good:
        return 0
    broke = [finding for finding in report.findings if finding.judgement == "broke"]
    if not broke or len(broke) < len(report.findings) or report.judged("diverge"):
        return 1
    for finding in broke:
        click.echo(f"Error: {finding.sentence}", err=True)
    return 3


def _causes(result: CampaignResult) -> list[Finding]:
    """Return as few findings as explain everything that fails the campaign."""
    from harness.check.findings.roots import root_causes
    from harness.show.from_result import by_weight, serious

    found = serious(result.tally.findings.values())
    # A campaign that came to its end has found the root causes already.
    return by_weight(root_causes(found) if result.interrupted else found)


def _how_to_resume(campaign: Campaign) -> str:
    if campaign.settings.journal is not None:
        return f"interrupted; to go on: {campaign.command}"
    return "interrupted; nothing was kept to go on from: name a --journal FILE next time"


def _replayed(settings: Settings) -> list[Finding]:
    """Ask what former campaigns found on this engine."""
    from harness.check.findings.database import Database

    if settings.no_database:
        return []
    return Database(settings.database).replay(settings.subject, workers=settings.processes)


def _report(
    campaign: Campaign, registry: Registry, result: CampaignResult, former: list[Finding]
) -> CampaignReport:
    from harness.fuzz.coverage import reachable
    from harness.show.from_result import report_of, serious

    found = _causes(result)
    keys = {finding.key for finding in found}
    again = [each for each in serious(former) if each.key not in keys]
    written = _reproducers(campaign, [*found, *again])
    notes = _kept(campaign.settings, found)
    notes += [
        f"no reproducer of {one.finding.key}: {one.why_not}" for one in written if one.why_not
    ]
    told = [_told(campaign, one, former=one.finding in again) for one in written]
    kinds = {cell.kind for cell in result.tally.coverage} | {"read", "write", "fetch"}
    cells = frozenset(
        cell for cell in reachable() if cell.mode.endswith(campaign.modes) and cell.kind in kinds
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


def _reproducers(campaign: Campaign, findings: Sequence[Finding]) -> list[Written]:
    from harness.check.findings.reproducer import write_reproducers

    settings = campaign.settings
    return write_reproducers(findings, settings.reproducers, settings.subject)


def _told(campaign: Campaign, written: Written, *, former: bool) -> FindingReport:
    from harness.show.from_result import finding_report

    finding = written.finding
    command = ""
    if written.question is not None:
        words = engine_words(campaign.settings)
        command = command_line("probe", written.question, *words)
    elif campaign.case_command is not None and not former:
        command = campaign.case_command(finding.first)
    files = map(str, written.files)
    return finding_report(finding, command=command, files=files, former=former)


def _kept(settings: Settings, found: Sequence[Finding]) -> list[str]:
    from harness.check.findings.database import Database

    if settings.no_database:
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
        check_file(option, path)
    folders = {"--reproducers": settings.reproducers}
    if not settings.no_database:
        folders["--database"] = settings.database
    for option, folder in folders.items():
        check_folder(option, folder)
