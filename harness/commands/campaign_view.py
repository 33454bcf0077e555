"""From what a campaign counted to what its reports show.

:func:`report_of` asks nobody but the walker: it takes the case of each finding through it again, so
that a reader sees the walk that the engine did not make. What the registry says of the engine
comes from :func:`ask_registry`, which opens the engine and therefore runs in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.address import format_address
from harness.cpu import ErrorCode
from harness.errors import HarnessError
from harness.show.campaign import (
    CampaignReport,
    Coverage,
    FindingReport,
    Planted,
    Registered,
    outcome_rows,
)

if TYPE_CHECKING:
    from harness.campaign.runner import CampaignResult
    from harness.check.findings.finding import Finding
    from harness.describe.walks import WalkRow
    from harness.planted.row import Row

__all__ = ["Registry", "ask_registry", "finding_report", "planted_rows", "report_of"]

_WORST: Final = ("broke", "diverge")


@dataclass(frozen=True, slots=True)
class Registry:
    """An engine, and what is registered of it.

    :ivar name: its name.
    :ivar version: its version.
    :ivar known: name, rule and reason of each registered divergence.
    :ivar stale: names of those that no longer occur.
    """

    name: str
    version: str
    known: tuple[tuple[str, str, str], ...] = ()
    stale: frozenset[str] = frozenset()


def ask_registry(engine: str) -> Registry:
    """Open an engine and look up what is registered of it; run this in a process of its own.

    :param engine: its name.
    :raises EngineError: when it is missing or broken.
    """
    from harness.check.registered.registry import REGISTRY, stale_registrations
    from harness.engine.loading import opener
    from harness.memory import PhysicalMemory

    opened = opener(engine)
    cpu = opened(PhysicalMemory(1 << 20))
    try:
        covering = [known for known in REGISTRY if known.covers(cpu)]
        name, version = cpu.name, cpu.version
    finally:
        cpu.close()
    return Registry(
        name,
        version,
        tuple((known.name, known.rule, known.reason) for known in covering),
        frozenset(known.name for known in stale_registrations(opened, covering)),
    )


def report_of(
    result: CampaignResult,
    registry: Registry,
    *,
    cases: int | None,
    findings: Sequence[FindingReport],
    facts: Iterable[tuple[str, str]] = (),
    command: str = "",
    reachable: frozenset[str] | None = None,
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
    # One scenario is played once, and its key ends with what became of it.
    scenarios = [(name, became) for key in sorted(tally.scenarios)
                 for name, _, became in [key.rpartition(": ")]]  # fmt: skip
    known = [
        Registered(name, rule, reason, tally.known[name], name in registry.stale)
        for name, rule, reason in registry.known
    ]
    return CampaignReport(
        name=result.name,
        engine=f"{registry.name} {registry.version}",
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
        coverage=Coverage(dict(tally.coverage), reachable),
        findings=tuple(findings),
        registered=tuple(known),
        unsupported=tuple(tally.unsupported.most_common()),
        scenarios=tuple(scenarios),
        replayed=tuple(replayed),
        notes=tuple(notes),
    )


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
    details = finding.details
    headline, rows, predicted = _walked(_question(finding.case))
    predicted = (*_steps(finding), *predicted)
    notes = [
        (label, str(details[name]))
        for label, name in (("as if", "as_if"), ("shrinking", "shrinking"), ("why", "why"))
        if details.get(name) and str(details[name]) != finding.sentence
    ]
    if former:
        notes.append(("former", "an earlier campaign found it, and it was asked again first"))
    return FindingReport(
        key=finding.key,
        judgement=finding.judgement,
        rule=finding.rule,
        level=finding.level,
        sentence=finding.sentence,
        count=finding.count,
        first=finding.first,
        headline=headline,
        walk=rows,
        predicted=predicted,
        observed=_observed(details.get("observed")),
        notes=tuple(notes),
        known=finding.known,
        command=command,
        files=tuple(files),
        case="" if finding.case is None else json.dumps(finding.case),
        details=details,
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


def _question(case: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the one access of a case, or the last one of a scenario that is nothing but accesses.

    In any other scenario it depends on the other steps what the walker sees.
    """
    if case is None or "steps" not in case:
        return None if case is None else dict(case)
    steps = case["steps"]
    if not steps or any("access" not in step for step in steps):
        return None
    question = {key: value for key, value in case.items() if key != "steps"}
    cpu = dict(question.get("cpu", {}))
    cpu.update({"cpl": steps[-1]["cpl"]} if "cpl" in steps[-1] else {})
    return {**question, "cpu": cpu, "access": steps[-1]["access"]}


def _walked(question: dict[str, Any] | None) -> tuple[str, tuple[WalkRow, ...], tuple[str, ...]]:
    """Walk a case: what is asked, the entries, the verdict."""
    from harness.check.case import Case
    from harness.describe.walks import headline, rights_lines, verdict_lines, walk_rows
    from harness.walker import walk

    if question is None:
        return "", (), ()
    try:
        case = Case.from_json(question)
        found = walk(case.build(), case.cpu, case.va, case.access)
    except (HarnessError, MemoryError):
        return "", (), ()
    pages = [found] if found.second is None else [found, found.second]
    rows = tuple(row for page in pages for row in walk_rows(page))
    asked = f"{headline(found)}, CPL {found.cpu.cpl}, {found.cpu.levels} levels"
    return asked, rows, (*rights_lines(found), *verdict_lines(found))


def _steps(finding: Finding) -> tuple[str, ...]:
    """Tell a scenario step by step."""
    if finding.case is None or "steps" not in finding.case:
        return ()
    lines = []
    answered = finding.details.get("steps", [])
    for number, step in enumerate(finding.case["steps"], 1):
        lines.append(f"step {number}: {json.dumps(step)}")
        if number <= len(answered) and isinstance(answered[number - 1], Mapping):
            answer = answered[number - 1]
            lines += [f"  permitted: {json.dumps(one)}" for one in answer.get("predicted") or ()]
            lines += [
                f"  {name} did: {json.dumps(seen)}"
                for name, seen in (answer.get("observed") or {}).items()
            ]
    return tuple(lines)


def _observed(seen: object) -> str:
    """Say in words what an engine saw, from its JSON form."""
    if not isinstance(seen, Mapping):
        return ""
    parts = [str(seen.get("outcome", "")).replace("-", " ")]
    code = _number(seen.get("error_code"))
    if code is not None:
        bits = ErrorCode(code)
        parts.append(f"error code {code:#x}{f' = {bits}' if bits else ''}: {bits.sentence()}")
    for word, name in (("CR2", "cr2"), ("physical address", "pa")):
        value = _number(seen.get(name))
        if value is not None:
            parts.append(f"{word} {format_address(value)}")
    parts += _changes(seen.get("changed"))
    if seen.get("reason"):
        parts.append(str(seen["reason"]))
    return "; ".join(parts)


def _changes(changed: object) -> list[str]:
    """Say which bits changed, and in which entries."""
    entries: dict[int, list[str]] = {}
    for address, mask in changed.items() if isinstance(changed, Mapping) else ():
        at, bits = _number(address), _number(mask)
        if at is not None and bits is not None:
            entries.setdefault(bits, []).append(format_address(at))
    return [
        f"{_bits(bits)} changed in the entr{'y' if len(where) == 1 else 'ies'} at "
        f"{', '.join(where)}"
        for bits, where in entries.items()
    ]


def _number(value: object) -> int | None:
    if isinstance(value, int):
        return value
    try:
        return int(str(value), 0) if value is not None else None
    except ValueError:
        return None


def _bits(mask: int) -> str:
    names = [name for name, bit in (("A", 0x20), ("D", 0x40)) if mask & bit]
    rest = mask & ~0x60
    return " and ".join([*names, *([f"bits {rest:#x}"] if rest else [])])
