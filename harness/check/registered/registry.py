"""The registry: every divergence that is understood, and whether it still occurs.

A registration is keyed by engine, range of versions and rule, and has its reason and its source
(:class:`~harness.check.registered.model.Registration`). A divergence that is registered is counted
as known. One that no longer occurs is named by :func:`stale_registrations`, at the end of a
campaign and in a test: it must go, or its range of versions must end::

    >>> [known.rule for known in REGISTRY]
    ['A_ON_FAULT', 'CANONICAL', 'D', 'SMAP', 'SPLIT', 'STALE', 'PKU']
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

from harness.check.bench import Opener
from harness.check.findings.reproducer import judge_json
from harness.check.judge.compare import Judgement
from harness.check.registered.access import KNOWN
from harness.check.registered.model import Registration
from harness.check.registered.sequence import KNOWN_STEPS
from harness.engine import open_engine
from harness.memory import PhysicalMemory

__all__ = ["REGISTRY", "stale_registrations"]

REGISTRY: Final[tuple[Registration, ...]] = (*KNOWN, *KNOWN_STEPS)
"""Every registered divergence."""


def stale_registrations(
    engine: str | Opener = "unicorn", among: Iterable[Registration] = REGISTRY
) -> list[Registration]:
    """Return the registrations for this engine and version whose divergence no longer occurs.

    Each one's example is asked again; where the engine cannot run it, the registration is not
    stale.

    :param engine: a name, or what opens an engine over a memory.
    :param among: the registrations to look at.
    :raises EngineError: when the engine is missing or breaks.
    """
    memory = PhysicalMemory(1 << 20)
    with contextlib.closing(
        open_engine(memory, engine) if isinstance(engine, str) else engine(memory)
    ) as cpu:
        covering = [known for known in among if known.covers(cpu)]
    return [known for known in covering if not _occurs(known, engine)]


def _occurs(known: Registration, engine: str | Opener) -> bool:
    judged = judge_json(known.example, engine)
    if judged.judgement == Judgement.UNSUPPORTED:
        return True
    return judged.finding is not None and known.name in judged.finding.known
