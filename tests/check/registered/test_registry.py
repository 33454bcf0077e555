"""The registry: each divergence has its reason and source, still occurs, or is called stale."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from harness.check.findings.reproducer import reproduce
from harness.check.registered.model import KnownAccess, KnownSequence, Registration
from harness.check.registered.registry import REGISTRY, covering
from harness.check.registered.stale import stale_registrations
from harness.cpu import CpuState
from harness.engine import Engine
from harness.engine.steps import ControlStep, Step, StepResult
from harness.engine.unicorn import UnicornEngine
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.walker import RULES, walk

KNOWN = tuple(known for known in REGISTRY if isinstance(known, KnownAccess))


@pytest.mark.parametrize("known", REGISTRY, ids=lambda known: known.name)
def test_the_example_still_diverges(known: Registration) -> None:
    found = reproduce(known.example)

    assert found.judgement == "known", found.story
    assert found.answer.known == (known,)
    assert found.finding is not None
    assert found.finding.known == (known.name,)


def test_registrations_say_which_rule_why_and_who_says_so() -> None:
    assert {type(known) for known in REGISTRY} == {KnownAccess, KnownSequence}
    assert len({known.name for known in REGISTRY}) == len(REGISTRY)
    for known in REGISTRY:
        assert known.rule in RULES
        assert known.reason.endswith(".")
        assert known.source.endswith(".")
        assert list(known.versions)


def test_an_engine_is_covered_by_its_name_and_version() -> None:
    class Other:
        name, version = "unicorn", "1.0"

    class Ours:
        name, version = "unicorn", "2.1.4"

    assert covering(Ours()) == REGISTRY
    assert covering(Other()) == ()


def test_nothing_that_is_registered_is_stale() -> None:
    assert stale_registrations() == []


class Mended(UnicornEngine):
    """Unicorn, without the flaws that are registered for it."""

    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        right = walk(self.memory, cpu, va, access)
        return Observation(
            right.outcome, right.error_code, right.cr2, right.pa, None, dict(right.sets)
        )

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
    pke = REGISTRY[-1]
    assert pke.name == "pke-of-cached"
    assert stale_registrations(mended) == [*KNOWN, pke]
    assert stale_registrations(mended, among=[KNOWN[1]]) == [KNOWN[1]]


def test_another_version_is_not_looked_at() -> None:
    others = [dataclasses.replace(known, versions=SpecifierSet("<2")) for known in REGISTRY]

    assert stale_registrations(mended, others) == []


class Worse(UnicornEngine):
    """Wrong in another way."""

    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        return Observation(Outcome.DOUBLE_FAULT, 0)


def test_what_is_wrong_in_another_way_no_longer_occurs() -> None:
    def worse(memory: PhysicalMemory) -> Engine:
        return Worse(memory)

    assert KNOWN[0] in stale_registrations(worse)
