"""The kinds of groups: plain cases, and what takes several steps on one CPU.

Which kind a group is of depends on the seed, its number and the knobs. A kind of scenarios is a
function from seed and number to a :class:`~harness.check.question.Question`, the RAM of all that it
makes, and a knob of the same name: one line of :data:`SCENARIOS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from harness.check.question import Question
from harness.engine.steps import AccessStep, DeliverStep, ExecuteStep, Step
from harness.fuzz import deliveries, instructions, sequences
from harness.fuzz.dice import Dice

__all__ = ["SCENARIOS", "STEPS", "Scenarios", "kind_of", "step_kind"]


class Scenarios(NamedTuple):
    """A kind of scenarios: what makes the one of a seed and a number, and their RAM."""

    generate: Callable[[int, int], Question]
    ram: tuple[tuple[int, int], ...]


SCENARIOS: Final[Mapping[str, Scenarios]] = MappingProxyType(
    {
        "sequences": Scenarios(sequences.generate, sequences.RAM),
        "instructions": Scenarios(instructions.generate, instructions.RAM),
        "deliveries": Scenarios(deliveries.generate, deliveries.RAM),
    }
)
"""Every kind of scenarios, by its knob."""

STEPS: Final = ("sequence", "instruction", "delivery")
"""Kinds of access in the cells of scenarios."""

_CHOICE = 1 << 63


def kind_of(seed: int, number: int, knobs: Mapping[str, float]) -> str | None:
    """Name the kind of scenarios that a group is of, or None when its cases are plain.

    :param seed: names the campaign's sequence.
    :param number: the group's number, below 2^63.
    :param knobs: the shares.
    """
    at = Dice(seed, _CHOICE | number).roll()
    for name in SCENARIOS:
        at -= knobs[name]
        if at < 0:
            return name
    return None


def step_kind(step: Step) -> str | None:
    """Name the kind of access that a step counts as, or None when it makes none."""
    match step:
        case AccessStep():
            return "sequence"
        case ExecuteStep():
            return "instruction"
        case DeliverStep():
            return "delivery"
    return None
