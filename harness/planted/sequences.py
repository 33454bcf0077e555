"""How sequences are broken: steps that a CPU does not take, and faults that it does not forget.

Each function plays steps on a right engine, but not all of them: what it leaves out had no effect
on the broken CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from harness.cpu import CR4, CpuState
from harness.engine.protocol import Engine
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    ExecuteStep,
    InvlpgStep,
    Step,
    StepResult,
)
from harness.outcome import Observation, Outcome

__all__ = [
    "faults_again",
    "parts_of_big_pages",
    "without_cr3",
    "without_invlpg",
    "without_pge",
]

_DONE: Final = StepResult(Observation(Outcome.MAPPED))
_PGE: Final = int(CR4.PGE)


def without_invlpg(engine: Engine, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
    """Leave out every INVLPG."""
    return _without(engine, cpu, steps, lambda step, place: isinstance(step, InvlpgStep))


def without_cr3(engine: Engine, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
    """Leave out loads of CR3 that do not change it."""
    now = _values("cr3", cpu.cr3, steps)
    return _without(
        engine,
        cpu,
        steps,
        lambda step, place: (
            isinstance(step, ControlStep) and step.register == "cr3" and step.value == now[place]
        ),
    )


def without_pge(engine: Engine, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
    """Leave out loads of CR4 that change PGE alone."""
    now = _values("cr4", cpu.cr4, steps)
    return _without(
        engine,
        cpu,
        steps,
        lambda step, place: (
            isinstance(step, ControlStep)
            and step.register == "cr4"
            and step.value ^ now[place] == _PGE
        ),
    )


def parts_of_big_pages(engine: Engine, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
    """Leave out an INVLPG of 4 KiB that no access has been to: for them nothing is cached."""
    return _without(
        engine,
        cpu,
        steps,
        lambda step, place: (
            isinstance(step, InvlpgStep)
            and not any(
                isinstance(other, AccessStep) and _meets(other, step.va) for other in steps[:place]
            )
        ),
    )


def faults_again(engine: Engine, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
    """Repeat a page fault as long as nothing but memory changes."""
    again: dict[int, StepResult] = {}
    while True:
        results = _without(engine, cpu, steps, lambda step, place: place in again)
        results = [again.get(place, result) for place, result in enumerate(results)]
        place = _mended(steps, results, again)
        if place is None:
            return results
        again[place] = results[_first_fault(steps, results, place)]


def _mended(
    steps: Sequence[Step], results: Sequence[StepResult], again: dict[int, StepResult]
) -> int | None:
    """Return the first access that does not fault although it did before."""
    for place, result in enumerate(results):
        if place in again or result.seen.outcome is Outcome.PAGE_FAULT or result.unsupported:
            continue
        if isinstance(steps[place], AccessStep) and _first_fault(steps, results, place) >= 0:
            return place
    return None


def _first_fault(steps: Sequence[Step], results: Sequence[StepResult], place: int) -> int:
    """Return the earlier access like this one that faulted, -1 when there is none."""
    step = steps[place]
    for earlier in range(place - 1, -1, -1):
        other = steps[earlier]
        if isinstance(other, InvlpgStep | ControlStep | ExecuteStep):
            return -1
        if other == step and results[earlier].seen.outcome is Outcome.PAGE_FAULT:
            return earlier
    return -1


def _without(
    engine: Engine,
    cpu: CpuState,
    steps: Sequence[Step],
    left_out: Callable[[Step, int], bool],
) -> list[StepResult]:
    """Play all steps but some, which come to nothing."""
    dropped = [left_out(step, place) for place, step in enumerate(steps)]
    played = [step for step, gone in zip(steps, dropped, strict=True) if not gone]
    results = iter(engine.play(cpu, played) if played else [])
    return [_DONE if gone else next(results) for gone in dropped]


def _values(register: str, value: int, steps: Sequence[Step]) -> list[int]:
    """Return what a register holds before each step."""
    found = []
    for step in steps:
        found.append(value)
        if isinstance(step, ControlStep) and step.register == register:
            value = step.value
    return found


def _meets(step: AccessStep, va: int) -> bool:
    last = step.va + step.access.size - 1
    return step.va >> 12 <= va >> 12 <= last >> 12
