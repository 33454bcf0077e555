"""Which open points and registered divergences together explain a difference.

Each takes its own part off an observation (``amend``). Flaws that occur together are taken off one
after another, and what is left must agree: anything else that is wrong stays a divergence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from harness.check.judge.compare import Agreement, compare
from harness.check.judge.open_points import OPEN_WAYS, OpenWay
from harness.check.registered.model import KnownAccess
from harness.memory import PhysicalMemory
from harness.outcome import Observation
from harness.walker import Walk

__all__ = ["Reason", "amended", "explain"]

Reason: TypeAlias = OpenWay | KnownAccess
"""What can explain a difference without being a divergence."""


def explain(
    registered: Iterable[KnownAccess], memory: PhysicalMemory, walk: Walk, observation: Observation
) -> tuple[Reason, ...]:
    """Return the reasons that together explain a difference; none if they do not.

    :param registered: the divergences that are registered of the engine.
    :param memory: the memory in which it happened.
    :param walk: the prediction.
    :param observation: what the engine saw.
    """
    return _explain((*OPEN_WAYS, *registered), memory, walk, observation)


def _explain(
    candidates: Sequence[Reason], memory: PhysicalMemory, walk: Walk, observation: Observation
) -> tuple[Reason, ...]:
    # One flaw can hide another, so each applicable one is tried first.
    for reason in candidates:
        left = amended(reason, memory, walk, observation)
        if left is None:
            continue
        if isinstance(compare(walk, left), Agreement):
            return (reason,)
        others = [other for other in candidates if other is not reason]
        more = _explain(others, memory, walk, left)
        if more:
            return (reason, *more)
    return ()


def amended(
    reason: Reason, memory: PhysicalMemory, walk: Walk, observation: Observation
) -> Observation | None:
    """Return an observation without what one reason explains; None when it has no part in it."""
    if isinstance(reason, OpenWay):
        return reason.amend(walk, observation)
    return reason.amend(memory, walk, observation)
