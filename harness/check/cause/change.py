"""Causes that are one change: under it, the walker predicts what was observed.

What can be changed is in :mod:`harness.check.cause.variations`. A change explains an observation
exactly; or with open points and registered divergences beside it (:class:`Reasons`); or loosely,
apart from A and D::

    if explains(change, memory, walk, after, observation, reasons):
        causes += explanations(change, walk, after)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from harness.check.cause.explanation import Explanation
from harness.check.cause.variation import Variation
from harness.check.cause.variations import variations
from harness.check.judge.compare import Difference, Field, compare
from harness.check.judge.explain import Reason, amended, explain
from harness.check.judge.open_points import OPEN_WAYS
from harness.check.model.words import Words
from harness.check.registered.model import EngineIdentity
from harness.check.registered.registry import of_accesses
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.walker import Walk
from harness.walker.scalar import error_code

__all__ = ["Reasons", "explains", "explanations", "of_another_entry"]


class Reasons:
    """The open points and one engine's registered divergences, which may stand beside a cause.

    What is registered of an engine is no new cause: it is taken off an observation before the rest
    of it is explained.

    :param engine: which; None when nothing is registered.
    """

    def __init__(self, engine: EngineIdentity | None) -> None:
        self._known = () if engine is None else of_accesses(engine)
        self._all: tuple[Reason, ...] = (*OPEN_WAYS, *self._known)

    def explains(self, memory: Words, walk: Walk, seen: Observation) -> bool:
        """Say whether they alone explain an observation."""
        result = compare(walk, seen)
        if not isinstance(result, Difference):
            return False
        return bool(explain(self._known, cast(PhysicalMemory, memory), walk, seen))

    def without_bits(self, memory: Words, walk: Walk, seen: Observation) -> Observation:
        """Return an observation without the bits that one of them has changed."""
        for reason in self._all:
            left = amended(reason, cast(PhysicalMemory, memory), walk, seen)
            if left is not None and isinstance(compare(walk, left), Difference):
                seen = left
        return seen

    def instead(self, memory: Words, walk: Walk) -> Walk | None:
        """Return the walk that the engine is known to make in the place of the right one."""
        for known in self._known:
            if known.instead is not None:
                return known.instead(cast(PhysicalMemory, memory), walk)
        return None


def explains(
    change: Variation,
    memory: Words,
    before: Walk,
    after: Walk,
    seen: Observation,
    reasons: Reasons,
    *,
    loosely: bool = False,
) -> bool:
    """Say whether one change explains an observation.

    :param change: what is changed.
    :param memory: of both walks.
    :param before: the walk without the change.
    :param after: the walk with it.
    :param seen: the observation.
    :param reasons: what may stand beside the change.
    :param loosely: whether other accessed and dirty bits than were seen will do.
    """
    if change.by_rules and after.rule not in (change.decides or change.rules):
        return False
    if not _answers(change, before, after, seen):
        return not loosely and reasons.explains(change.memory(memory, before), after, seen)
    if loosely or _exactly(change, after, seen):
        return True
    return reasons.explains(change.memory(memory, before), after, seen)


def _exactly(change: Variation, after: Walk, seen: Observation) -> bool:
    if Field.CHANGED in seen.untold:
        return True
    if not after.completed:
        may = change.moved(after, after.may_set)
        return all(not bits & ~may.get(at, 0) for at, bits in seen.changed.items())
    return change.moved(after, after.sets) == seen.changed


def _answers(change: Variation, before: Walk, after: Walk, seen: Observation) -> bool:
    """Say whether a walk under a change answers what was seen, apart from A and D."""
    if after.outcome is not seen.outcome:
        return False
    if seen.outcome is Outcome.PAGE_FAULT:
        # A right may be lost or found, and the access still be reported for what it is.
        codes = (after.error_code, error_code(before.cpu, before.access, after.rule))
        addresses = (after.cr2, before.va if change.rules[0] == "CANONICAL" else after.cr2)
        return seen.error_code in codes and (seen.cr2 in addresses or Field.CR2 in seen.untold)
    if after.error_code != seen.error_code:
        return False
    return seen.pa is None or seen.pa == after.pa


def explanations(change: Variation, before: Walk, after: Walk) -> Iterator[Explanation]:
    """Put a change that explains into words."""
    rule = change.rule(before, after)
    sentence = f"the CPU acted as if {change.words}"
    yield Explanation.of(rule, change.how, change.level, sentence)
    for other, how, level in change.also:
        yield Explanation.of(other, how, level, sentence)
    stopped = before.rule.startswith("RSVD_") and change.how == "ignored"
    if stopped and after.outcome is Outcome.PAGE_FAULT:
        words = f"the CPU looked at the reserved bits of level {before.level} after what is below"
        yield Explanation.of("ORDER", "reserved-late", None, words)


def of_another_entry(
    memory: Words, walk: Walk, seen: Observation, reasons: Reasons
) -> Iterator[Explanation]:
    """Explain bits by a walk that ends in the same way at another entry."""
    for change in variations(walk):
        after = change.walk(memory, walk) if change.tier == 0 else None
        if after is not None and explains(change, memory, walk, after, seen, reasons):
            yield from explanations(change, walk, after)
