"""Hold what a CPU did against what the walker said it would do.

:func:`compare` takes one :class:`~harness.walk.Walk` and one
:class:`~harness.outcome.Observation` of the same access. Where the manual leaves the CPU a choice
(A bits of an access that faults) every permitted observation agrees. The answer is an
:class:`Agreement`, or a :class:`Difference`: every field that differs, the rule that the first of
them is about, and a sentence::

    match compare(walk(memory, cpu, va, "write"), engine.probe(cpu, va, "write")):
        case Difference() as difference:
            print(difference.sentence)

What an answerer does not tell (``Observation.untold``) is not compared.
:mod:`harness.check.judge.access` goes one step further: it knows the open points and the registered
divergences, and what an engine could not run is neither agreement nor difference.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from harness.address import format_address
from harness.cpu import ErrorCode
from harness.entry import PageTableFlags
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = [
    "Agreement",
    "Difference",
    "Field",
    "Judgement",
    "compare",
    "excess",
    "permitted",
    "worst",
]

_ACCESSED = int(PageTableFlags.ACCESSED)
_DIRTY = int(PageTableFlags.DIRTY)


class Field(enum.StrEnum):
    """What can differ between a prediction and an observation, in the order of importance."""

    OUTCOME = "outcome"
    ERROR_CODE = "error_code"
    CR2 = "cr2"
    PA = "pa"
    CHANGED = "changed"
    STORED = "stored"


class Judgement(enum.StrEnum):
    """What became of one step: the words by which every report counts."""

    AGREE = "agree"
    OPEN = "open"
    """It differs where the manual leaves the choice to the CPU (:mod:`.open_points`)."""
    KNOWN = "known"
    DIVERGE = "diverge"
    UNSUPPORTED = "unsupported"
    DELIVERED = "delivered_by_harness"
    """It is as the model says, and it was this package that delivered, not the CPU."""


_WORST_FIRST = (
    Judgement.DIVERGE,
    Judgement.UNSUPPORTED,
    Judgement.KNOWN,
    Judgement.OPEN,
    Judgement.DELIVERED,
)


def worst(judgements: Iterable[Judgement]) -> Judgement:
    """Return the judgement of a whole by those of its parts: the worst of them.

    What cannot be judged counts for worse than what is known, and for better than a divergence.
    """
    there = set(judgements)
    return next((each for each in _WORST_FIRST if each in there), Judgement.AGREE)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The CPU did what the walker said, or one of the things that the rules permit."""

    walk: Walk
    observation: Observation


@dataclass(frozen=True, slots=True)
class Difference:
    """The CPU did something else.

    :ivar walk: the prediction.
    :ivar observation: what the engine saw.
    :ivar fields: what differs, the most important first.
    :ivar rule: the rule that the first of ``fields`` is about.
    :ivar sentence: the difference in words.
    """

    walk: Walk
    observation: Observation
    fields: tuple[Field, ...]
    rule: str
    sentence: str

    @property
    def kind(self) -> tuple[object, ...]:
        """Tell what makes two differences the same one: what a shrunk case must keep."""
        seen = self.observation
        return self.fields, self.rule, self.walk.outcome, seen.outcome, self.walk.rule


def compare(walk: Walk, observation: Observation) -> Agreement | Difference:
    """Compare a prediction with an observation of the same access.

    What the engine did not learn (a ``pa`` of None) is not compared.

    :param walk: the prediction.
    :param observation: what an engine saw; not an ``unsupported`` one.
    """
    differing = []
    if walk.outcome is not observation.outcome:
        differing.append(Field.OUTCOME)
    else:
        told = Field.ERROR_CODE not in observation.untold
        if told and walk.error_code != observation.error_code:
            differing.append(Field.ERROR_CODE)
        if walk.cr2 != observation.cr2 and Field.CR2 not in observation.untold:
            differing.append(Field.CR2)
        if observation.pa is not None and walk.pa != observation.pa:
            differing.append(Field.PA)
    if Field.CHANGED not in observation.untold and not permitted(walk, observation.changed):
        differing.append(Field.CHANGED)
    if observation.stored and not walk.completed:
        differing.append(Field.STORED)
    if not differing:
        return Agreement(walk, observation)
    first = differing[0]
    return Difference(
        walk,
        observation,
        tuple(differing),
        _rule(walk, observation, first),
        _sentence(walk, observation, first),
    )


def permitted(walk: Walk, changed: dict[int, int]) -> bool:
    """Say whether the rules let an access change these bits of its entries, and no others.

    :param walk: the prediction.
    :param changed: address of an entry → the bits that changed.
    """
    if walk.completed:
        return walk.sets == changed
    if not changed:
        return True
    may = walk.may_set
    return all(not bits & ~may.get(entry, 0) for entry, bits in changed.items())


def excess(walk: Walk, observation: Observation) -> dict[int, int]:
    """Return the bits of each entry that are not as the rules say: set or left clear wrongly.

    :param walk: the prediction.
    :param observation: what an engine saw.
    """
    if Field.CHANGED in observation.untold:
        return {}
    changed = observation.changed
    if walk.completed:
        wanted = walk.sets
        wrong = {at: changed.get(at, 0) ^ wanted.get(at, 0) for at in {*changed, *wanted}}
    else:
        may = walk.may_set
        wrong = {at: bits & ~may.get(at, 0) for at, bits in changed.items()}
    return {at: bits for at, bits in sorted(wrong.items()) if bits}


def _rule(walk: Walk, observation: Observation, first: Field) -> str:
    if first in (Field.ERROR_CODE, Field.CR2):
        return "ERR"
    if first is Field.STORED:
        return "SPLIT"
    if first is not Field.CHANGED:
        return walk.rule
    bits = 0
    for wrong in excess(walk, observation).values():
        bits |= wrong
    if not walk.completed:
        return "A_ON_FAULT" if bits & _ACCESSED else "D"
    return "D" if bits & _DIRTY else "A"


def _sentence(walk: Walk, observation: Observation, first: Field) -> str:
    what = f"a {walk.access.kind} of {format_address(walk.va)} at CPL {walk.cpu.cpl}"
    if first is Field.OUTCOME:
        return (
            f"{what} was predicted to end as {_outcome(walk)} (rule {walk.rule}), "
            f"and ended as {_outcome(observation)}"
        )
    if first is Field.CHANGED:
        wrong = ", ".join(
            f"{PageTableFlags(bits)} of the entry at {format_address(at)}"
            for at, bits in excess(walk, observation).items()
        )
        verb = "completed" if walk.completed else f"faulted (rule {walk.rule})"
        return f"{what} {verb}, and the CPU treated {wrong} otherwise than the rules permit"
    if first is Field.STORED:
        count = observation.stored
        return f"{what} faulted (rule {walk.rule}), and {count} bytes were stored all the same"
    predicted, observed = getattr(walk, first), getattr(observation, first)
    if first is Field.ERROR_CODE:
        predicted, observed = _code(predicted), _code(observed)
    else:
        predicted, observed = _address(predicted), _address(observed)
    name = {"error_code": "the error code", "cr2": "CR2", "pa": "the physical address"}[first]
    return f"{what}: {name} was predicted to be {predicted}, and was {observed}"


def _outcome(answer: Walk | Observation) -> str:
    if answer.outcome is Outcome.PAGE_FAULT:
        return f"{answer.outcome} {_code(answer.error_code)}"
    if answer.pa is not None:
        return f"{answer.outcome} at {format_address(answer.pa)}"
    return str(answer.outcome)


def _code(code: int | None) -> str:
    return "none" if code is None else f"{code:#x} ({ErrorCode(code)})"


def _address(address: int | None) -> str:
    return "none" if address is None else format_address(address)
