"""Hold what a CPU did against what the walker said it would do.

:func:`compare` takes one :class:`~harness.walk.Walk` and one
:class:`~harness.outcome.Observation` of the same access. Where the manual leaves the CPU a choice
(A bits of an access that faults) every permitted observation agrees. The answer is an
:class:`Agreement`, or a :class:`Difference`: every field that differs, the rule that the first of
them is about, a sentence, and the :class:`~harness.check.case.Case` that asks the question again::

    match compare(walk(memory, cpu, va, "write"), engine.probe(cpu, va, "write")):
        case Difference() as difference:
            print(difference.sentence)

:func:`judge` goes one step further: it knows the registered divergences (``known.py``), and what
an engine could not run is neither agreement nor difference.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from harness.address import format_address
from harness.check.case import Case, observation_to_json, prediction_to_json
from harness.cpu import ErrorCode
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = [
    "Agreement",
    "Difference",
    "Field",
    "Judgement",
    "case_of",
    "compare",
    "excess",
    "permitted",
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
    """What became of one probe: the four words by which every report counts."""

    AGREE = "agree"
    KNOWN = "known"
    DIVERGE = "diverge"
    UNSUPPORTED = "unsupported"


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
    :ivar case: the question, able to run alone; None until somebody asks for it.
    """

    walk: Walk
    observation: Observation
    fields: tuple[Field, ...]
    rule: str
    sentence: str
    case: Case | None = field(default=None, compare=False)

    @property
    def kind(self) -> tuple[object, ...]:
        """Tell what makes two differences the same one: what a shrunk case must keep."""
        seen = self.observation
        return self.fields, self.rule, self.walk.outcome, seen.outcome, self.walk.rule

    def to_json(self) -> dict[str, Any]:
        """Return the difference as one JSON object."""
        return {
            "rule": self.rule,
            "fields": [str(name) for name in self.fields],
            "sentence": self.sentence,
            "predicted": prediction_to_json(self.walk),
            "observed": observation_to_json(self.observation),
            "case": None if self.case is None else self.case.to_json(),
        }


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
        if walk.error_code != observation.error_code:
            differing.append(Field.ERROR_CODE)
        if walk.cr2 != observation.cr2:
            differing.append(Field.CR2)
        if observation.pa is not None and walk.pa != observation.pa:
            differing.append(Field.PA)
    if not permitted(walk, observation.changed):
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


def case_of(memory: PhysicalMemory, walk: Walk) -> Case:
    """Return the question behind a walk as a case that runs alone.

    It holds the entries that the walk read, and nothing else of the memory; its RAM has the
    regions of ``memory``.

    :param memory: the memory that was walked.
    :param walk: the walk.
    """
    words = {step.address: step.raw for step in walk.steps}
    if walk.second is not None:
        words |= {step.address: step.raw for step in walk.second.steps}
    return Case(walk.cpu, memory.regions, words, walk.va, walk.access)
