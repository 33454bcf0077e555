"""Each registered divergence of a sequence still occurs, and has its source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from packaging.specifiers import SpecifierSet

from harness.check import known_steps as module
from harness.check.known import KNOWN
from harness.check.known_steps import KNOWN_STEPS, KnownStep, stale_step_registrations
from harness.check.reproducer import judge_json
from harness.cpu import CpuState
from harness.engine import Engine
from harness.engine.steps import ControlStep, Step, StepResult
from harness.engine.unicorn import UnicornEngine
from harness.memory import PhysicalMemory


@pytest.mark.parametrize("known", KNOWN_STEPS, ids=lambda known: known.name)
def test_the_example_still_diverges(known: KnownStep) -> None:
    judged = judge_json(known.example)

    assert judged.judgement == "known", judged.explanation
    assert judged.finding is not None
    assert judged.finding.known == (known.name,)


def test_registrations_say_where_the_reason_can_be_read() -> None:
    names = [*(known.name for known in KNOWN), *(known.name for known in KNOWN_STEPS)]
    assert len(set(names)) == len(names)
    for known in KNOWN_STEPS:
        assert known.reason.endswith(".")
        assert known.source.endswith(".")
        assert list(known.versions)


def test_nothing_that_is_registered_is_stale() -> None:
    assert stale_step_registrations() == []


class Mended(UnicornEngine):
    """Unicorn, but a change of CR4 empties the TLB: what a load of CR3 does, after it."""

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        mended: list[Step] = []
        for step in steps:
            mended.append(step)
            if isinstance(step, ControlStep):
                mended.append(ControlStep("cr3", cpu.cr3))
        results = iter(super().play(cpu, mended))
        kept = []
        for step in mended:
            result = next(results)
            if any(step is asked for asked in steps):
                kept.append(result)
        return kept


def mended(memory: PhysicalMemory) -> Engine:
    return Mended(memory)


def test_what_no_longer_occurs_is_stale() -> None:
    assert [known.name for known in stale_step_registrations(mended)] == ["pke-of-cached"]


def test_another_version_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    others = tuple(dataclasses.replace(k, versions=SpecifierSet("<2")) for k in KNOWN_STEPS)
    monkeypatch.setattr(module, "KNOWN_STEPS", others)

    assert stale_step_registrations(mended) == []
    assert judge_json(KNOWN_STEPS[0].example).judgement == "diverge"
