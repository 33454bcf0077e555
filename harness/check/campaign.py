"""Thousands of cases in one memory: walk, probe, compare, count, and shrink what differs.

All cases of a campaign share one RAM and one engine: a case's words are written, asked about, and
cleared again. The :class:`Campaign` that comes back counts the four judgements, how often each
rule was exercised and each registered divergence met; a difference that is not registered is
shrunk to a case that runs alone, and says which line reproduces it::

    campaign = run_campaign(generate(seed=1, count=20_000))
    assert not campaign.differences, campaign.report()

From the command line, ``python -m harness.check.campaign SEED COUNT`` does the same. It raises
:class:`~harness.errors.EngineError` when the engine is missing or breaks.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.check.case import Case
from harness.check.cause import cause_of, finding_of, told_as
from harness.check.compare import Difference, Judgement
from harness.check.finding import Finding
from harness.check.generate import RAM, generate
from harness.check.known import EngineIdentity, Verdict, judge
from harness.check.shrink import shrink
from harness.check.words import words_of
from harness.engine import Engine, open_engine
from harness.errors import EngineError
from harness.memory import PhysicalMemory, Region
from harness.outcome import Observation
from harness.walk import Walk, walk

__all__ = [
    "Bench",
    "Campaign",
    "Opener",
    "exercised",
    "run_campaign",
    "shrink_difference",
    "shrink_finding",
]

Opener: TypeAlias = Callable[[PhysicalMemory], Engine]
"""What opens an engine over a memory."""

_RW, _US, _A, _D, _PS, _PAT_BIG = 0x2, 0x4, 0x20, 0x40, 0x80, 0x1000
_ENOUGH = 10


@dataclass(slots=True)
class Campaign:
    """What a campaign found.

    :ivar cases: how many were asked.
    :ivar judgements: by the four words.
    :ivar rules: how often each rule was exercised.
    :ivar known: how often each registered divergence was met, by its name.
    :ivar differences: the unexplained ones, one of each kind, shrunk.
    """

    cases: int = 0
    judgements: Counter[Judgement] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def report(self) -> str:
        """Return the counts, and for each difference its sentence and its reproducer."""
        counts = ", ".join(f"{self.judgements[word]} {word}" for word in Judgement)
        lines = [f"{self.cases} cases: {counts}"]
        lines.append("rules: " + ", ".join(f"{r} {n}" for r, n in self.rules.most_common()))
        if self.known:
            lines.append("known: " + ", ".join(f"{k} {n}" for k, n in self.known.most_common()))
        for difference in self.differences:
            assert difference.case is not None
            lines += [
                f"{difference.rule}: {difference.sentence}",
                f"  harness probe with this line: {difference.case.line()}",
            ]
        return "\n".join(lines)


class Bench:
    """One RAM and one engine, for any number of cases with that RAM.

    :param ram: the regions that every case must have.
    :param engine: the engine's name, or what opens one over a memory.
    :raises EngineError: when it is missing or broken.
    """

    def __init__(self, ram: Iterable[tuple[int, int]], engine: str | Opener = "unicorn") -> None:
        self.memory = PhysicalMemory(ram)
        self.engine: Engine = (
            open_engine(self.memory, engine) if isinstance(engine, str) else engine(self.memory)
        )

    def close(self) -> None:
        """Give back the engine."""
        self.engine.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, case: Case) -> tuple[Walk, Observation, Verdict]:
        """Ask one case of the walker and of the engine, and leave the memory as it was.

        :param case: its RAM must be the bench's.
        :raises EngineError: when the engine did not put the memory back.
        """
        memory = self.memory
        for address, word in case.memory.items():
            memory.write_u64(address, word)
        try:
            prediction = walk(memory, case.cpu, case.va, case.access)
            seen = self.engine.probe(case.cpu, case.va, case.access)
            verdict = judge(self.engine, memory, prediction, seen)
            if verdict.difference is not None:
                verdict = dataclasses.replace(
                    verdict, difference=dataclasses.replace(verdict.difference, case=case)
                )
        finally:
            for address in case.memory:
                memory.write_u64(address, 0)
        return prediction, seen, verdict

    def shrink(self, difference: Difference, key: str | None = None) -> Difference:
        """Return a difference of the same cause on the smallest case that shows it.

        :param difference: one that has its case.
        :param key: the cause to keep; the likeliest one when it is left out.
        """
        return shrink_difference(difference, self._benches, self.engine, key)

    def _benches(self, case: Case) -> Bench | None:
        return self if case.ram == self.memory.regions else None


def shrink_difference(
    difference: Difference,
    bench_of: Callable[[Case], Bench | None],
    engine: EngineIdentity,
    key: str | None = None,
) -> Difference:
    """Return a difference of the same cause on the smallest case that shows it.

    :param difference: one that has its case.
    :param bench_of: gives the bench with a case's RAM; None where such a case shall not be tried.
    :param engine: who observed.
    :param key: the cause to keep; the likeliest one when it is left out.
    """
    assert difference.case is not None
    case, found = difference.case, difference
    wanted = key or cause_of(words_of(case), found.walk, found.observation, engine).keys[0]

    def differs(case: Case) -> bool:
        nonlocal found
        bench = bench_of(case)
        if bench is None:
            return False
        prediction, seen, verdict = bench.ask(case)
        if verdict.judgement is not Judgement.DIVERGE or verdict.difference is None:
            return False
        same = wanted in cause_of(words_of(case), prediction, seen, engine).keys
        if same:
            found = verdict.difference
        return same

    shrink(case, differs)
    return found


def shrink_finding(finding: Finding, engine: str | Opener = "unicorn") -> Finding:
    """Return a finding with the smallest case that shows its cause.

    What has no case of one access, or no longer differs, comes back as it is. Key, count and first
    stay; sentence, level and details are those of the small case.

    :param finding: of :func:`~harness.check.cause.finding_of` or
        :func:`~harness.check.cause.root_causes`.
    :param engine: the engine's name, or what opens one over a memory.
    :raises EngineError: when the engine is missing or breaks.
    """
    if finding.case is None or "access" not in finding.case:
        return finding
    benches: dict[tuple[Region, ...], Bench] = {}
    with ExitStack() as stack:

        def bench_of(case: Case) -> Bench:
            if case.ram not in benches:
                benches[case.ram] = stack.enter_context(Bench(case.ram, engine))
            return benches[case.ram]

        case = Case.from_json(finding.case)
        bench = bench_of(case)
        _, _, verdict = bench.ask(case)
        if verdict.judgement is not Judgement.DIVERGE or verdict.difference is None:
            return finding
        key = finding.key.partition("|")[0]
        try:
            difference = shrink_difference(verdict.difference, bench_of, bench.engine, key)
        except EngineError:
            return finding
        small = finding_of(difference, Verdict(Judgement.DIVERGE, difference), bench.engine)
    return told_as(small, finding)


def run_campaign(
    cases: Iterable[Case],
    *,
    ram: Iterable[tuple[int, int]] = RAM,
    engine: str = "unicorn",
    shrinking: bool = True,
) -> Campaign:
    """Ask cases one after another.

    After ten different unexplained differences it stops: more would not help anybody.

    :param cases: the questions; all must have this RAM.
    :param ram: the regions.
    :param engine: who judges.
    :param shrinking: make the differences small.
    :raises EngineError: when the engine is missing or breaks.
    """
    result = Campaign()
    kinds: set[tuple[object, ...]] = set()
    with Bench(ram, engine) as bench:
        for case in cases:
            prediction, _, verdict = bench.ask(case)
            result.cases += 1
            result.judgements[verdict.judgement] += 1
            result.rules.update(exercised(prediction))
            result.known.update(known.name for known in verdict.known)
            difference = verdict.difference
            if verdict.judgement is not Judgement.DIVERGE or difference is None:
                continue
            if difference.kind not in kinds:
                kinds.add(difference.kind)
                result.differences.append(bench.shrink(difference) if shrinking else difference)
                if len(kinds) >= _ENOUGH:
                    break
    return result


def exercised(walk: Walk) -> set[str]:
    """Name the rules that a walk put to the test: the one that decided, and those around it.

    :param walk: a prediction that an engine is asked to confirm.
    """
    rules = {walk.rule}
    if walk.cpu.cr3 & 0xFFF:
        rules.add("CR3")
    if walk.error_code is not None:
        rules.add("ERR")
    for page in (walk, walk.second):
        if page is not None:
            rules |= _exercised_by_page(page)
    if walk.second is not None:
        rules.add("SPLIT")
    if walk.completed:
        for bits in walk.sets.values():
            rules |= {name for name, bit in (("A", _A), ("D", _D)) if bits & bit}
    elif walk.may_set:
        rules.add("A_ON_FAULT")
    return rules


def _exercised_by_page(page: Walk) -> set[str]:
    rules = set()
    steps = page.steps
    if len({step.address for step in steps}) < len(steps):
        rules.add("SELF")
    leaf = page.leaf
    if leaf is not None:
        rules.add("COMBINE")
        if leaf.raw & (_PS if leaf.level == 1 else _PAT_BIG):
            rules.add("PAT")
        if leaf.entry.key:
            rules.add("KEY")
    elif page.error_code is not None and steps:
        withheld = (_RW if page.access.is_write else 0) | (_US if page.cpu.user else 0)
        # Present so far, and some right was already lost when the walk ended otherwise.
        if any(withheld & ~step.raw for step in steps[:-1]):
            rules.add("ORDER")
    return rules


def main(arguments: list[str]) -> int:
    """Run a campaign from the command line: ``SEED COUNT``."""
    seed, count = (int(argument) for argument in arguments)
    campaign = run_campaign(generate(seed, count))
    print(campaign.report())
    return 1 if campaign.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
