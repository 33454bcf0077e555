"""The conformance suite: right engines do every duty, each broken one fails the one it breaks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from harness.cpu import CpuState
from harness.engine import Engine
from harness.engine.capabilities import Capabilities
from harness.engine.conformance import DUTIES, prove
from harness.engine.steps import AccessStep, InvlpgStep, Step, StepResult
from harness.engine.unicorn import UnicornEngine
from harness.errors import EngineMissing
from harness.memory import PhysicalMemory
from harness.outcome import Access, EntryObservations, Observation, Observations, Outcome


@pytest.mark.parametrize("spec", ["unicorn", "harness.planted.engines:NONE"])
def test_a_right_engine_does_every_duty(spec: str) -> None:
    proofs = list(prove(spec))

    assert [proof.duty for proof in proofs] == [duty.name for duty in DUTIES]
    assert [(proof.duty, proof.failure) for proof in proofs if not proof.done] == []
    assert [proof.duty for proof in proofs if proof.skipped] == []


def test_a_right_walker_does_every_duty_but_sequences() -> None:
    proofs = list(prove("walker:harness.walker:walk"))

    assert [(proof.duty, proof.failure) for proof in proofs if not proof.done] == []
    assert [proof.duty for proof in proofs if proof.skipped] == ["sequences"]


# Engines that are broken on purpose, each at one duty.


def probing(change: Callable[[Any, Any, Any, Observation], Observation]) -> Callable[..., Engine]:
    """An engine whose probes show something else."""

    class Broken(UnicornEngine):
        def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
            seen = super().probe(cpu, va, access)
            return change(cpu, int(va), Access.of(access), seen)

        def probe_many(self, cpu: Any, vas: Any, access: Any = "read") -> Observations:
            return Engine.probe_many(self, cpu, vas, access)

        def probe_entries(self, *args: Any, **kwargs: Any) -> EntryObservations:
            return Engine.probe_entries(self, *args, **kwargs)

    return Broken


def shown(**changes: Any) -> Callable[..., Observation]:
    def change(cpu: Any, va: int, access: Access, seen: Observation) -> Observation:
        return dataclasses.replace(seen, **changes)

    return change


def where(
    holds: Callable[[CpuState, Access, Observation], bool], **changes: Any
) -> Callable[..., Engine]:
    def change(cpu: CpuState, va: int, access: Access, seen: Observation) -> Observation:
        return dataclasses.replace(seen, **changes) if holds(cpu, access, seen) else seen

    return probing(change)


def fault(code: int) -> Callable[[CpuState, Access, Observation], bool]:
    return lambda cpu, access, seen: seen.error_code == code and seen.cr2 is not None


class LeavesMemory(UnicornEngine):
    """A write is not taken back."""

    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        seen = super().probe(cpu, va, access)
        if Access.of(access).is_write and seen.pa is not None:
            self.memory.write_u64(seen.pa & ~7, 0xA5)
        return seen


class Remembers(UnicornEngine):
    """What was seen of an address once is seen of it for ever."""

    def __init__(self, memory: PhysicalMemory) -> None:
        super().__init__(memory)
        self._seen: dict[Any, Observation] = {}

    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        key = (cpu, int(va), Access.of(access).is_write)
        if key not in self._seen:
            self._seen[key] = super().probe(cpu, va, access)
        return self._seen[key]


class Answers(UnicornEngine):
    """It answers what it refuses."""

    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        seen = super().probe(cpu, va, access)
        return Observation(Outcome.MAPPED) if seen.outcome is Outcome.UNSUPPORTED else seen


class RefusesNothing(UnicornEngine):
    """It does not refuse what it cannot do."""

    def refuses(self, cpu: CpuState, steps: Sequence[Step] = ()) -> str | None:
        return None


class Claims(UnicornEngine):
    """It claims a width that it does not have."""

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, reads=frozenset({1, 2, 3}))


class KeepsStale(UnicornEngine):
    """invlpg does nothing."""

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        kept = [step for step in steps if not isinstance(step, InvlpgStep)]
        results = iter(super().play(cpu, kept))
        nothing = StepResult(Observation(Outcome.MAPPED))
        return [nothing if isinstance(s, InvlpgStep) else next(results) for s in steps]


class LosesSteps(UnicornEngine):
    """A result is missing."""

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        return super().play(cpu, steps)[:-1]


class IgnoresCpl(UnicornEngine):
    """A step's own CPL does not count."""

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        plain = [
            dataclasses.replace(step, cpl=None) if isinstance(step, AccessStep) else step
            for step in steps
        ]
        return super().play(cpu, plain)


class WrongColumns(UnicornEngine):
    """A batch loses CR2."""

    def probe_many(self, cpu: Any, vas: Any, access: Any = "read") -> Observations:
        out = super().probe_many(cpu, vas, access)
        out.cr2[:] = 0
        return out


class WrongVersions(UnicornEngine):
    """A loop over entries does not tell what is left of them."""

    def probe_entries(self, *args: Any, **kwargs: Any) -> EntryObservations:
        out = super().probe_entries(*args, **kwargs)
        out.after[:] = np.asarray(args[4])
        return out


class Nameless(UnicornEngine):
    """It has no version."""

    version = ""


class Leaks(UnicornEngine):
    """Each one leaves a file open."""

    def __init__(self, memory: PhysicalMemory) -> None:
        super().__init__(memory)
        LEAKED.append(os.open("/dev/null", os.O_RDONLY))


class Shares(UnicornEngine):
    """All look at the memory of the last one that was opened."""

    last: ClassVar[list[UnicornEngine]] = []

    def __init__(self, memory: PhysicalMemory) -> None:
        super().__init__(memory)
        self.last[:] = [self]

    def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
        last = self.last[0] if not self.last[0]._closed else self
        return UnicornEngine.probe(last, cpu, va, access)


LEAKED: list[int] = []

BROKEN: dict[str, tuple[Callable[..., Engine], set[str]]] = {
    "mapped": (where(lambda c, a, s: s.pa is not None, pa=0x7123), {"mapped", "large pages"}),
    "not present": (where(fault(0), error_code=1), {"not present"}),
    "read-only": (where(fault(3), outcome=Outcome.MAPPED), {"read-only"}),
    "supervisor page": (where(fault(5), error_code=4), {"supervisor page", "independent"}),
    "no execute": (where(fault(0x15), error_code=5), {"no execute"}),
    "reserved bits": (where(fault(9), error_code=1), {"reserved bits", "large pages"}),
    "canonical": (
        where(lambda c, a, s: s.outcome is Outcome.GENERAL_PROTECTION, cr2=1 << 47),
        {"canonical"},
    ),
    "five levels": (
        where(lambda c, a, s: c.levels == 5, outcome=Outcome.NO_MEMORY),
        {"five levels"},
    ),
    "values": (where(lambda c, a, s: s.value is not None, value=1), {"values"}),
    "accessed": (where(lambda c, a, s: not a.is_write, changed={}), {"accessed"}),
    "dirty": (
        where(lambda c, a, s: a.is_write, changed={}),
        {"dirty"},
    ),
    "memory put back": (LeavesMemory, {"memory put back"}),
    "independent": (Remembers, {"independent"}),
    "refusals": (Answers, {"refusals"}),
    "refuses nothing": (RefusesNothing, {"refusals"}),
    "capabilities": (Claims, {"capabilities"}),
    "stale": (KeepsStale, {"sequences"}),
    "a result is missing": (LosesSteps, {"sequences"}),
    "CPL of a step": (IgnoresCpl, {"sequences"}),
    "probe_many": (WrongColumns, {"probe_many"}),
    "probe_entries": (WrongVersions, {"probe_entries"}),
    "identity": (Nameless, {"identity"}),
    "several": (Shares, {"several"}),
    "closed": (Leaks, {"closed"}),
}
# What may fail beside the duty that was broken, for it rests on it.
BESIDE = {
    "mapped": {"probe_many", "five levels", "independent", "sequences", "values"},
    "not present": {"independent", "several", "five levels"},
    "canonical": {"probe_many"},
    "memory put back": {
        *("mapped", "read-only", "supervisor page", "independent", "dirty", "probe_many"),
        *("values", "capabilities", "probe_entries"),
    },
    "independent": {
        *("not present", "read-only", "supervisor page", "no execute", "reserved bits", "values"),
        *("accessed", "large pages", "probe_entries", "five levels"),
    },
    "capabilities": {"large pages"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_engine_fails_the_duty_that_it_breaks(name: str) -> None:
    make, duties = BROKEN[name]

    failed = {proof.duty: proof.failure for proof in prove(make) if not proof.done}

    assert duties <= set(failed), failed
    assert set(failed) <= duties | BESIDE.get(name, set()), failed
    assert all("\n" not in sentence for sentence in failed.values())


def test_every_duty_has_an_engine_that_breaks_it() -> None:
    broken = set().union(*(duties for _, duties in BROKEN.values()))
    assert broken == {duty.name for duty in DUTIES}


def test_an_engine_that_raises_fails_in_a_sentence() -> None:
    class Raises(UnicornEngine):
        def probe(self, cpu: Any, va: Any, access: Any = "read") -> Observation:
            raise ZeroDivisionError("oh")

    failures = [proof.failure for proof in prove(Raises) if not proof.done]
    assert "it raised ZeroDivisionError: oh" in failures


def test_an_engine_that_is_not_there_has_no_proof() -> None:
    with pytest.raises(EngineMissing):
        list(prove("kvm"))
