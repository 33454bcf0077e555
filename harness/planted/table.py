"""The table of planted bugs: which campaign finds each, after how many cases, under which name.

:func:`run_table` sends each flaw through the same campaigns: a slice of the matrix, then random
cases. A row says how many cases it took, how many root causes were reported (there is one), which
rule and level the report named, and how many words the shrunk case has::

    for row in run_table(["PRESENT_2"]):
        print(row.flaw, row.campaign, row.cases, row.named_rule, row.named_level)

It raises what an engine raises that is missing or breaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from harness.check.findings.finding import Finding
from harness.check.findings.roots import root_causes
from harness.check.findings.tally import Tally
from harness.check.matrix.work import MatrixWork
from harness.check.work import Shard
from harness.engine.steps import AccessStep
from harness.fuzz.kinds import SCENARIOS
from harness.fuzz.steer import DEFAULTS
from harness.fuzz.work import FuzzWork
from harness.isolate import Ended, Progress, isolated_all
from harness.planted.engines import name_of
from harness.planted.flaws import FLAWS, NOT_HERE, Flaw
from harness.planted.row import Row

__all__ = ["CASES", "SAMPLE", "Row", "not_here", "run_flaw", "run_table"]

CASES: Final = 20_000
"""Random cases for each flaw, at most."""

ENOUGH: Final = 10_000
"""Cases after which a campaign that has found something ends."""

SAMPLE: Final = 1009
"""One case of so many of the classic matrix is asked."""

SEED: Final = 1
"""Of the random cases."""

_SHARD: Final = 2_000
_SEQUENCES: Final = {**DEFAULTS, **dict.fromkeys(SCENARIOS, 0.0), "sequences": 1.0}


def run_table(
    names: Iterable[str] | None = None,
    *,
    workers: int = 1,
    cases: int = CASES,
    enough: int = ENOUGH,
    sample: int = SAMPLE,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Run campaigns against planted bugs, and return a row for each.

    :param names: which flaws; all of them when it is left out.
    :param workers: how many processes at once.
    :param cases: see :func:`run_flaw`.
    :param enough: see :func:`run_flaw`.
    :param sample: see :func:`run_flaw`.
    :param progress: is told the name of a flaw that is done, how many are, and of how many.
    :raises KeyError: for an unknown name.
    """
    flaws = [FLAWS[name] for name in (FLAWS if names is None else names)]
    rows: dict[int, Row] = {}
    options = {"cases": cases, "enough": enough, "sample": sample}
    calls = ((run_flaw, (flaw.name,), options) for flaw in flaws)
    for event in isolated_all(calls, workers=workers):
        if isinstance(event, Progress):
            continue
        assert isinstance(event, Ended)
        if event.error is not None:
            raise event.error
        rows[event.number] = event.value
        if progress is not None:
            progress(flaws[event.number].name, len(rows), len(flaws))
    return [rows[number] for number in range(len(flaws))]


def not_here() -> list[Row]:
    """Return a row for each thing that cannot be planted, whose note says why."""
    return [
        Row(flaw="", rule=rule, level=level, sentence="", note=f"cannot be planted here: {why}")
        for rule, level, why in NOT_HERE
    ]


def run_flaw(name: str, *, cases: int = CASES, enough: int = ENOUGH, sample: int = SAMPLE) -> Row:
    """Send one flaw through the campaigns.

    :param name: of the flaw.
    :param cases: random ones, at most.
    :param enough: how many cases a campaign asks that has found something.
    :param sample: how thin the slice of the matrix is.
    """
    flaw = FLAWS[name]
    engine = name_of(name)
    row = Row(flaw=name, rule=flaw.rule, level=flaw.level, sentence=flaw.sentence)
    findings: list[Finding] = []
    counts: dict[str, int | None] = {}
    for campaign, work in _works(flaw, engine, cases, sample):
        tally = _run(work, enough, sequences=flaw.steps is not None)
        found = [one for one in tally.findings.values() if _differs(one)]
        first = min((one.first for one in found), default=None)
        counts[campaign] = None if first is None else _asked(work, first)
        if found and not findings:
            row = _told(row, flaw, work, campaign, found, counts[campaign])
            findings = found
    return dataclasses.replace(row, counts=counts)


def _works(
    flaw: Flaw, engine: str, cases: int, sample: int
) -> Iterator[tuple[str, MatrixWork | FuzzWork]]:
    random = FuzzWork(seed=SEED, cases=cases, engine=engine)
    if flaw.steps is not None:
        yield "fuzz, sequences alone", random
    else:
        yield "fuzz", random
        yield "matrix classic", MatrixWork("classic", engine=engine, sample=sample)


def _run(work: MatrixWork | FuzzWork, enough: int, *, sequences: bool = False) -> Tally:
    """Ask until something was found and enough cases were asked, or all were."""
    tally = Tally()
    for shard in _shards(work):
        if sequences:
            shard = dataclasses.replace(shard, spec={**shard.spec, "knobs": _SEQUENCES})
        tally += work.run(shard)
        if tally.cases >= enough and any(map(_differs, tally.findings.values())):
            break
    return tally


def _shards(work: MatrixWork | FuzzWork) -> Iterator[Shard]:
    """Cut a work's first round, which no finding steers, into small shards."""
    for shard in work.plan(0, Tally()):
        for start in range(shard.first, shard.first + shard.count, _SHARD):
            count = min(_SHARD, shard.first + shard.count - start)
            yield dataclasses.replace(shard, first=start, count=count)


def _differs(finding: Finding) -> bool:
    return finding.judgement == "diverge"


def _asked(work: MatrixWork | FuzzWork, first: int) -> int:
    """Return how many cases were asked up to and with the one of a number."""
    return first // (work.sample if isinstance(work, MatrixWork) else 1) + 1


def _told(
    row: Row,
    flaw: Flaw,
    work: MatrixWork | FuzzWork,
    campaign: str,
    found: list[Finding],
    cases: int | None,
) -> Row:
    causes = root_causes(found)
    main = max(causes, key=lambda one: one.count)
    small = work.shrunk(main)
    words, bound = _sizes(small)
    named = (small.rule, small.level) == (flaw.rule, flaw.level)
    others = ", ".join(f"{_cause(one)} ({one.count})" for one in causes if one is not main)
    return dataclasses.replace(
        row,
        found=True,
        campaign=campaign,
        cases=cases,
        causes=len(causes),
        shrunk_entries=words,
        walk_entries=bound,
        named_rule=small.rule,
        named_level=small.level,
        key=_cause(small),
        right=named and len(causes) == 1 and (words or 0) <= (bound or 0),
        note=f"also reported: {others}" if others else "",
    )


def _cause(finding: Finding) -> str:
    """Name the likeliest cause."""
    return str(finding.explanations[0].key) if finding.explanations else finding.key


def _sizes(finding: Finding) -> tuple[int | None, int | None]:
    """Return how many words a question has, and how many the walks of its accesses read at most."""
    question = finding.question
    if question is None:
        return None, None
    pages = {
        address >> 12
        for step in question.steps
        if isinstance(step, AccessStep)
        for address in (step.va, step.va + step.access.size - 1)
    }
    return len(question.memory), question.cpu.levels * len(pages)
