"""Wrong walkers to find causes for, and a CPU to ask for one cause.

Flaws are planted in a copy of the walker's source, one line changed, so that what is explained
never comes from the code that explains.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator

import pytest

from harness.check.case import Case
from harness.check.cause import Cause, cause_of, finding_of
from harness.check.findings.finding import Finding
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.model.words import words_of
from harness.check.registered.access import EngineIdentity, Verdict
from harness.cpu import CpuState
from harness.fuzz.groups import generate
from harness.outcome import Access, Observation, Outcome
from harness.walker import walk

_SOURCE = inspect.getsource(sys.modules["harness.walker.scalar"])
_CASES = tuple(generate(7, 1500))
_TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5007}


class Planted:
    """An engine of which no divergence is registered: a walker, with one line changed or none."""

    name = "planted"
    version = "1.0"

    def differences(
        self, answer: Callable[[Case], Observation]
    ) -> Iterator[tuple[int, Difference]]:
        """Compare answers with the walker's; what differs comes with the number of its case."""
        for number, case in enumerate(_CASES):
            prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
            result = compare(prediction, answer(case))
            if isinstance(result, Difference):
                yield number, dataclasses.replace(result, case=case)

    def findings(self, answer: Callable[[Case], Observation]) -> list[Finding]:
        """Return the findings of all cases, those of one key merged."""
        found: dict[str, Finding] = {}
        for number, difference in self.differences(answer):
            verdict = Verdict(Judgement.DIVERGE, difference)
            finding = finding_of(difference, verdict, self, number)
            old = found.get(finding.key)
            found[finding.key] = finding if old is None else old.merged(finding)
        return list(found.values())

    @staticmethod
    def flawed(*changes: tuple[str, str]) -> Callable[[Case], Observation]:
        """Return what answers for a walker with some lines changed."""
        text = _SOURCE
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        module = types.ModuleType("mutant")
        exec(compile(text, "mutant", "exec"), module.__dict__)

        def observed(case: Case) -> Observation:
            answer = module.walk(words_of(case), case.cpu, case.va, case.access)
            return Observation(
                answer.outcome, answer.error_code, answer.cr2, answer.pa, None, dict(answer.sets)
            )

        return observed


@pytest.fixture
def planted() -> Planted:
    return Planted()


class Asked:
    """One page of 4 KiB at 0x5000, accessed at 0x123, and what may be seen of it."""

    CPU = CpuState(cr3=0x1000)
    USER = CPU.replace(cpl=3)
    TABLES = _TABLES
    ALL_A = dict.fromkeys(_TABLES, 0x20)
    MAPPED = Observation(Outcome.MAPPED, pa=0x5123, changed=ALL_A)
    WRITTEN = Observation(Outcome.MAPPED, pa=0x5123, changed={**ALL_A, 0x4000: 0x60})

    @staticmethod
    def fault(code: int, cr2: int = 0x123, changed: dict[int, int] | None = None) -> Observation:
        return Observation(Outcome.PAGE_FAULT, code, cr2, changed=changed or {})

    @staticmethod
    def cause(
        memory: dict[int, int],
        cpu: CpuState,
        access: str | Access,
        seen: Observation,
        engine: EngineIdentity | None = None,
    ) -> Cause:
        """Give the cause of what was seen, with some words of the tables changed."""
        case = Case(cpu, 0x10000, {**_TABLES, **memory}, 0x123, Access.of(access))
        prediction = walk(case.build(), case.cpu, case.va, case.access)
        return cause_of(words_of(case), prediction, seen, engine)


@pytest.fixture
def asked() -> Asked:
    return Asked()
