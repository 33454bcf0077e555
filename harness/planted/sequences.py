"""How sequences are broken: steps without an effect, and edits that are seen in another order.

Each function plays steps on a right engine, but not all of them or not in their order, and gives a
result for each step as if it had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from harness.cpu import CR4, CpuState
from harness.engine.base import Engine
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    InvlpgStep,
    Step,
    StepResult,
    WriteStep,
)
from harness.outcome import Observation, Outcome

__all__ = [
    "edits_out_of_order",
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


def edits_out_of_order(engine: Engine, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
    """See the later of two edits before the earlier one, where an access follows them directly."""
    for place in range(len(steps) - 2):
        first, second, access = steps[place : place + 3]
        if not isinstance(first, WriteStep) or not isinstance(second, WriteStep):
            continue
        if not isinstance(access, AccessStep) or first.words.keys() & second.words.keys():
            continue
        played = [*steps[:place], second, access, first, *steps[place + 3 :]]
        results = engine.play(cpu, played)
        if results[place + 1].seen.changed.keys() & first.words.keys():
            break  # the late edit would undo what the access did
        late = results[place + 2]
        return [*results[:place], late, *results[place : place + 2], *results[place + 3 :]]
    return engine.play(cpu, steps)


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
