"""The verdict on one access: agree, open, known, diverge or unsupported.

>>> prediction = walk(memory, cpu, 0x4000)
>>> verdict_of_access(engine, memory, prediction, engine.probe(cpu, 0x4000)).judgement
<Judgement.AGREE: 'agree'>
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.check.judge.compare import Agreement, Difference, Judgement, compare
from harness.check.judge.explain import explain
from harness.check.judge.open_points import OpenWay
from harness.check.registered.model import EngineIdentity, KnownAccess
from harness.check.registered.registry import of_accesses
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = ["AccessVerdict", "verdict_of_access", "verdict_of_difference"]


@dataclass(frozen=True, slots=True)
class AccessVerdict:
    """What became of one access, and why.

    :ivar judgement: agree, open, known, diverge or unsupported.
    :ivar difference: how prediction and observation differ, when they do.
    :ivar known: the registered divergences that explain it.
    :ivar open: names of the open points that explain it.
    """

    judgement: Judgement
    difference: Difference | None = None
    known: tuple[KnownAccess, ...] = ()
    open: tuple[str, ...] = ()


_AGREES: Final = AccessVerdict(Judgement.AGREE)
_CANNOT: Final = AccessVerdict(Judgement.UNSUPPORTED)


def verdict_of_access(
    engine: EngineIdentity, memory: PhysicalMemory, walk: Walk, observation: Observation
) -> AccessVerdict:
    """Say whether an observation agrees, and if not whether that is open or known.

    :param engine: who observed.
    :param memory: the memory in which both were made, as it was then.
    :param walk: the prediction.
    :param observation: what the engine saw.
    """
    if observation.outcome is Outcome.UNSUPPORTED:
        return _CANNOT
    result = compare(walk, observation)
    if isinstance(result, Agreement):
        return _AGREES
    return verdict_of_difference(engine, memory, result)


def verdict_of_difference(
    engine: EngineIdentity, memory: PhysicalMemory, difference: Difference
) -> AccessVerdict:
    """Say whether a difference is open, known, or a divergence.

    :param engine: who observed.
    :param memory: the memory in which it happened.
    :param difference: how prediction and observation differ.
    """
    reasons = explain(of_accesses(engine), memory, difference.walk, difference.observation)
    points = tuple(reason.name for reason in reasons if isinstance(reason, OpenWay))
    known = tuple(reason for reason in reasons if isinstance(reason, KnownAccess))
    judgement = Judgement.KNOWN if known else Judgement.OPEN if points else Judgement.DIVERGE
    return AccessVerdict(judgement, difference, known, points)
