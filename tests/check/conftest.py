"""Wrong walkers to find causes for, and a CPU to ask for one cause.

Flaws are planted in a copy of the walker's source, one line changed, so that what is explained
never comes from the code that explains.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.check.bench import EngineId, judged
from harness.check.cause import Cause, cause_of
from harness.check.findings.finding import Finding, finding_of
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.model.words import words_of
from harness.check.question import Question
from harness.check.registered.model import EngineIdentity
from harness.cpu import CpuState
from harness.engine.steps import StepResult
from harness.fuzz.groups import generate
from harness.outcome import Access, Observation, Outcome
from harness.walker import walk

_SOURCE = inspect.getsource(sys.modules["harness.walker.scalar"])
_CASES = tuple(generate(7, 1500))
_MEMORY: Any = words_of
_TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5007}


class Planted:
    """An engine of which no divergence is registered: a walker, with one line changed or none."""

    ENGINE = EngineId("planted", "1.0", "planted")

    def differences(
        self, answer: Callable[[Question], Observation]
    ) -> Iterator[tuple[int, Question, Observation]]:
        """Compare answers with the walker's; what differs comes with the number of its case."""
        for number, case in enumerate(_CASES):
            prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
            seen = answer(case)
            if isinstance(compare(prediction, seen), Difference):
                yield number, case, seen

    def findings(self, answer: Callable[[Question], Observation]) -> list[Finding]:
        """Return the findings of all cases, those of one key merged."""
        found: dict[str, Finding] = {}
        for number, case, seen in self.differences(answer):
            told = judged(self.ENGINE, _MEMORY(case), case, [StepResult(seen)])
            if told.judgement is not Judgement.DIVERGE:
                continue  # an open point
            finding = finding_of(case, told, number)
            old = found.get(finding.key)
            found[finding.key] = finding if old is None else old.merged(finding)
        return list(found.values())

    @staticmethod
    def flawed(*changes: tuple[str, str]) -> Callable[[Question], Observation]:
        """Return what answers for a walker with some lines changed."""
        text = _SOURCE
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        module = types.ModuleType("mutant")
        exec(compile(text, "mutant", "exec"), module.__dict__)

        def observed(case: Question) -> Observation:
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
        case = Question.of_access(cpu, 0x10000, {**_TABLES, **memory}, 0x123, Access.of(access))
        prediction = walk(case.build(), case.cpu, case.va, case.access)
        return cause_of(words_of(case), prediction, seen, engine)


@pytest.fixture
def asked() -> Asked:
    return Asked()
