"""The registered divergences of one engine, which may stand beside a cause.

What harness.check.registered.access says of an engine is no new cause: it is taken away from an
observation before the rest of it is explained. Nothing here fails::

    registered = Registered(engine)
    registered.explains(memory, walk, observation)  # nothing is left to explain
"""

from __future__ import annotations

from typing import cast

from harness.check.judge.compare import Difference, compare
from harness.check.model.words import Words
from harness.check.registered.access import KNOWN, EngineIdentity, explain
from harness.memory import PhysicalMemory
from harness.outcome import Observation
from harness.walker import Walk

__all__ = ["Registered"]


class Registered:
    """What is registered of one engine.

    :param engine: which; None when nothing is.
    """

    def __init__(self, engine: EngineIdentity | None) -> None:
        self._engine = engine
        self._known = [known for known in KNOWN if engine is not None and known.covers(engine)]

    def explains(self, memory: Words, walk: Walk, seen: Observation) -> bool:
        """Say whether registered divergences alone explain an observation."""
        if self._engine is None:
            return False
        result = compare(walk, seen)
        return isinstance(result, Difference) and bool(
            explain(self._engine, cast(PhysicalMemory, memory), result)
        )

    def without_bits(self, memory: Words, walk: Walk, seen: Observation) -> Observation:
        """Return an observation without the bits that a registered divergence has changed."""
        for known in self._known:
            amended = known.amend(cast(PhysicalMemory, memory), walk, seen)
            if amended is not None and isinstance(compare(walk, amended), Difference):
                seen = amended
        return seen

    def instead(self, memory: Words, walk: Walk) -> Walk | None:
        """Return the walk that the engine is known to make in the place of the right one."""
        for known in self._known:
            if known.instead is not None:
                return known.instead(cast(PhysicalMemory, memory), walk)
        return None
