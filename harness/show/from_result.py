"""From what a campaign counted to what its reports show.

:func:`report_of` and :func:`finding_report` make the plain model of the four reports
(:mod:`harness.show.campaign`) from the objects of a result; nothing is asked again. What the
registry says of the engine comes from :func:`ask_registry`, which opens the engine and therefore
runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.check.bench import Bench, EngineId
from harness.check.codec import prediction_to_json
from harness.check.findings.story import observation_words, step_lines
from harness.check.judge.compare import Judgement
from harness.check.registered.model import Registration
from harness.check.registered.registry import covering
from harness.check.registered.stale import stale_registrations
from harness.describe.walks import (
    WalkRow,
    headline,
    index_of,
    rights_lines,
    verdict_lines,
    walk_rows,
)
from harness.show.campaign import CampaignReport, FindingReport, Planted, Registered, outcome_rows
from harness.show.coverage import Coverage
from harness.walker import RULE_TEXT, Walk
from harness.walker.open_points import OPEN_POINTS

if TYPE_CHECKING:
    from harness.campaign.runner import CampaignResult
    from harness.check.findings.finding import Finding
    from harness.check.findings.tally import Cell, Tally
    from harness.planted.row import Row

__all__ = [
    "Registry",
    "ask_registry",
    "by_weight",
    "finding_report",
    "planted_rows",
    "report_of",
    "serious",
]

_WORST: Final = ("broke", "diverge")
_WITNESS: Final = {
    Judgement.AGREE: "agrees with",
    Judgement.OPEN: "differs, where the manual leaves it open, from",
    Judgement.KNOWN: "differs, as registered, from",
    Judgement.DIVERGE: "differs from",
    Judgement.UNSUPPORTED: "cannot be asked beside",
    Judgement.DELIVERED: "agrees, delivered by harness, with",
}


@dataclass(frozen=True, slots=True)
class Registry:
    """An engine, and what is registered of it.

    :ivar engine: which.
    :ivar known: its registered divergences.
    :ivar stale: those of them that no longer occur.
    """

    engine: EngineId
    known: tuple[Registration, ...] = ()
    stale: tuple[Registration, ...] = ()


def ask_registry(engine: str) -> Registry:
    """Open an engine and look up what is registered of it; run this in a process of its own.

    :param engine: its spec.
    :raises EngineError: when it is missing or broken.
    """
    with Bench(1 << 20, engine) as bench:
        known = covering(bench.engine)
        identity = bench.engine_id
    return Registry(identity, known, tuple(stale_registrations(engine, known)))


def report_of(
    result: CampaignResult,
    registry: Registry,
    *,
    cases: int | None,
    findings: Sequence[FindingReport],
    facts: Iterable[tuple[str, str]] = (),
    command: str = "",
    reachable: frozenset[Cell] | None = None,
    replayed: Iterable[tuple[str, str]] = (),
    notes: Iterable[str] = (),
) -> CampaignReport:
    """Return the report of a campaign.

    :param result: what it counted.
    :param registry: of its engine.
    :param cases: how many there are; None when it is open-ended.
    :param findings: what to tell of each cause.
    :param facts: what was asked.
    :param command: the command line that does it again.
    :param reachable: the cells of coverage that any case can meet.
    :param replayed: what became of former findings.
    :param notes: sentences for the end.
    """
    tally = result.tally
    known = [
        Registered(one.name, one.rule, one.reason, tally.known[one.name], one in registry.stale)
        for one in registry.known
    ]
    return CampaignReport(
        name=result.name,
        engine=registry.engine.title,
        facts=tuple(facts),
        command=command,
        cases=tally.cases,
        of_cases=cases,
        resumed_cases=result.resumed_cases,
        judgements=dict(tally.judgements),
        seconds=result.seconds,
        workers=result.workers,
        deaths=result.deaths,
        complete=result.complete,
        interrupted=result.interrupted,
        outcomes=outcome_rows(tally.outcomes),
        coverage=_coverage(tally, reachable),
        findings=tuple(findings),
        registered=tuple(known),
        open_points=tuple(
            (name, OPEN_POINTS[name].text, count) for name, count in sorted(tally.open.items())
        ),
        unsupported=tuple(tally.unsupported.most_common()),
        scenarios=tuple(sorted(tally.scenarios.items())),
        replayed=tuple(replayed),
        notes=tuple(notes),
    )


def _coverage(tally: Tally, reachable: frozenset[Cell] | None) -> Coverage:
    names = None if reachable is None else frozenset(cell.name for cell in reachable)
    return Coverage({cell.name: count for cell, count in tally.coverage.items()}, names)


def planted_rows(rows: Iterable[Row]) -> tuple[Planted, ...]:
    """Return the table of planted bugs.

    :param rows: what became of each.
    """
    return tuple(
        Planted(
            flaw=row.flaw,
            rule=row.rule,
            level=row.level,
            sentence=row.sentence,
            campaign=row.campaign,
            cases=row.cases,
            words=row.shrunk_entries,
            bound=row.walk_entries,
            named=_place(row.named_rule, row.named_level),
            right=row.right,
            note=row.note,
        )
        for row in rows
    )


def finding_report(
    finding: Finding, *, command: str = "", files: Iterable[str] = (), former: bool = False
) -> FindingReport:
    """Return what to tell of a finding.

    :param command: the command line that shows it again.
    :param files: what was written for it.
    :param former: it was found by an earlier campaign, and not by this one.
    """
    asked, rows, predicted = _walked(finding)
    question, answer = finding.question, finding.answer
    if question is not None and answer is not None and question.single is None:
        predicted = (*step_lines(question, answer), *predicted)
    notes = [
        (label, text)
        for label, text in (("as if", finding.as_if), ("why", finding.why))
        if text and text != finding.sentence
    ]
    notes += [
        ("witness", f"{one.engine.title} {_WITNESS[one.judgement]} this package's walker")
        for one in finding.witnesses
    ]
    if former:
        notes.append(("former", "an earlier campaign found it, and it was asked again first"))
    verdict = finding.verdict
    return FindingReport(
        key=finding.key,
        judgement=finding.judgement,
        rule=finding.rule,
        level=finding.level,
        sentence=finding.sentence,
        count=finding.count,
        first=finding.first,
        headline=asked,
        walk=rows,
        predicted=predicted,
        observed="" if verdict is None else observation_words(verdict.result.seen),
        notes=tuple(notes),
        known=finding.known,
        command=command,
        files=tuple(files),
        case="" if finding.question is None else finding.question.line(),
        details=_details(finding),
    )


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Order findings for reports: deaths, then divergences by how many cases they have."""
    return sorted(
        findings,
        key=lambda finding: (
            finding.judgement != "broke", -finding.count, finding.first, finding.key
        ),
    )  # fmt: skip


def serious(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that fail a campaign, not those that are registered."""
    return [finding for finding in findings if finding.judgement in _WORST]


def _place(rule: str, level: int | None) -> str:
    return rule if level is None else f"{rule}, level {level}"


def _walked(finding: Finding) -> tuple[str, tuple[WalkRow, ...], tuple[str, ...]]:
    """Tell the walk that the engine did not make: what is asked, the entries, the verdict."""
    found = None if finding.verdict is None else finding.verdict.walk
    if found is None:
        return "", (), ()
    rows = tuple(row for page in _pages(found) for row in walk_rows(page))
    asked = f"{headline(found)}, CPL {found.cpu.cpl}, {found.cpu.levels} levels"
    return asked, rows, (*rights_lines(found), *verdict_lines(found))


def _pages(walk: Walk) -> list[Walk]:
    return [walk] if walk.second is None else [walk, walk.second]


def _details(finding: Finding) -> dict[str, Any]:
    """Return what a program may want to know of a finding, as JSON values."""
    details: dict[str, Any] = {
        "as_if": finding.as_if,
        "rule_text": RULE_TEXT.get(finding.rule, ""),
        "explained": finding.explained,
        "explanations": [one.to_json() for one in finding.explanations],
        "levels": list(finding.levels),
    }
    if finding.engine is not None:
        details["engine"] = finding.engine.to_json()
    if finding.why:
        details["why"] = finding.why
    if finding.witnesses:
        details["witnesses"] = {one.engine.spec: str(one.judgement) for one in finding.witnesses}
    if finding.answer is None or finding.question is None:
        return details
    if finding.question.single is None:
        return details | {"steps": finding.answer.steps_to_json()}
    verdict = finding.answer.decisive
    assert verdict.walk is not None
    if finding.known:
        details["sources"] = [known.source for known in verdict.known]
    if finding.rule != verdict.walk.rule:
        rule = verdict.walk.rule
        details["decided_by"] = {"rule": rule, "text": RULE_TEXT.get(rule, "")}
    return details | {
        "asked": headline(verdict.walk),
        "fields": list(verdict.fields),
        "predicted": prediction_to_json(verdict.walk),
        "observed": verdict.result.seen.to_json(),
        "walk": _entries(verdict.walk),
    }


def _entries(walk: Walk) -> list[dict[str, Any]]:
    """Return the entries that a walk read as JSON values, those of the lower page first."""
    return [
        {
            "page": number,
            "level": step.level,
            "name": row.name,
            "index": index_of(step),
            "address": f"{step.address:#x}",
            "raw": f"{step.raw:#x}",
            "leads_to": row.leads_to,
            "bits": row.bits,
            "decides": row.decides,
        }
        for number, page in enumerate(_pages(walk))
        for step, row in zip(page.steps, walk_rows(page), strict=True)
    ]
