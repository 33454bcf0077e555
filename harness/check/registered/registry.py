"""The registry: every divergence that is understood.

A registration is keyed by engine, range of versions and rule, and has its reason and its source
(:class:`~harness.check.registered.model.Registration`). A divergence that is registered is counted
as known. One that no longer occurs is named by
:func:`~harness.check.registered.stale.stale_registrations`, at the end of a campaign and in a test:
it must go, or its range of versions must end::

    >>> [known.rule for known in REGISTRY]
    ['A_ON_FAULT', 'CANONICAL', 'SMAP', 'STALE', 'PKU']
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from harness.check.registered.model import EngineIdentity, KnownAccess, KnownSequence
from harness.check.registered.unicorn import UNICORN

__all__ = ["REGISTRY", "covering", "of_accesses", "of_bounds"]

REGISTRY: Final[tuple[KnownAccess | KnownSequence, ...]] = UNICORN
"""Every registered divergence."""


def covering(engine: EngineIdentity) -> tuple[KnownAccess | KnownSequence, ...]:
    """Return what is registered of an engine in its version."""
    return _covering(engine.name, engine.version)


def of_accesses(engine: EngineIdentity) -> tuple[KnownAccess, ...]:
    """Return what is registered of an engine and shows in one access."""
    return tuple(known for known in covering(engine) if isinstance(known, KnownAccess))


def of_bounds(engine: EngineIdentity, bounds: tuple[str, ...]) -> tuple[KnownSequence, ...]:
    """Return the registered divergences that together explain what an engine acted without.

    :param engine: who observed.
    :param bounds: as in :attr:`~harness.check.judge.verdict.StepVerdict.acted`.
    :returns: none when one of the bounds is not registered.
    """
    known = {one.acted: one for one in covering(engine) if isinstance(one, KnownSequence)}
    return tuple(known[each] for each in bounds) if all(each in known for each in bounds) else ()


@lru_cache(maxsize=64)
def _covering(name: str, version: str) -> tuple[KnownAccess | KnownSequence, ...]:
    engine = _Named(name, version)
    return tuple(known for known in REGISTRY if known.covers(engine))


class _Named:
    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version
