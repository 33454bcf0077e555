"""A bench: one RAM and one engine, for case after case; and what makes a difference small on it.

A case's words are written, asked about, and cleared again::

    with Bench(case.ram) as bench:
        prediction, seen, verdict = bench.ask(case)

A difference that is not registered is shrunk to a case that runs alone. Whole campaigns are
:class:`~harness.check.matrix.work.MatrixWork` and :class:`~harness.fuzz.work.FuzzWork`. It raises
:class:`~harness.errors.EngineError` when the engine is missing or breaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TypeAlias

from harness.check.case import Case
from harness.check.cause import cause_of, finding_of, told_as
from harness.check.findings.finding import Finding
from harness.check.judge.compare import Difference, Judgement
from harness.check.model.words import words_of
from harness.check.registered.access import EngineIdentity, Verdict, judge
from harness.check.shrink.case import shrink
from harness.engine import Engine, open_engine
from harness.errors import EngineError
from harness.memory import PhysicalMemory, Region
from harness.outcome import Observation
from harness.walker import Walk, walk

__all__ = [
    "Bench",
    "Opener",
    "shrink_difference",
    "shrink_finding",
]

Opener: TypeAlias = Callable[[PhysicalMemory], Engine]
"""What opens an engine over a memory."""


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

    What has no case, or no longer differs, comes back as it is. Key, count and first stay;
    sentence, level and details are those of the small case.

    :param finding: of :func:`~harness.check.cause.finding_of` or
        :func:`~harness.check.cause.root_causes`.
    :param engine: the engine's name, or what opens one over a memory.
    :raises EngineError: when the engine is missing or breaks.
    """
    if finding.case is None:
        return finding
    if "steps" in finding.case:
        return _shrink_steps(finding, engine)
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


def _shrink_steps(finding: Finding, engine: str | Opener) -> Finding:
    # Imported here: most findings are one access, and reproducer.py needs this module.
    from harness.check.findings.reproducer import judge_json
    from harness.check.scenario import Scenario, ask
    from harness.check.shrink.sequence import shrink_scenario

    scenario = Scenario.from_json(finding.case)
    with Bench(scenario.ram, engine) as bench:
        answer = ask(bench.engine, scenario)
        if answer.judgement is not Judgement.DIVERGE:
            return finding
        wanted = answer.kind

        def differs(candidate: Scenario) -> bool:
            try:
                found = ask(bench.engine, candidate)
            except EngineError:
                return False
            return found.judgement is Judgement.DIVERGE and found.kind == wanted

        small = shrink_scenario(scenario, differs)
    told = judge_json(small.to_json(), engine).finding
    return finding if told is None else told_as(told, finding)
