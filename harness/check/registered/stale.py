"""Registrations that no longer occur: each one's example is asked again."""

from __future__ import annotations

from collections.abc import Iterable

from harness.check.bench import Bench, EngineSource
from harness.check.judge.compare import Judgement
from harness.check.registered.model import Registration
from harness.check.registered.registry import REGISTRY

__all__ = ["stale_registrations"]


def stale_registrations(
    engine: EngineSource = "unicorn", among: Iterable[Registration] = REGISTRY
) -> list[Registration]:
    """Return the registrations for this engine and version whose divergence no longer occurs.

    Where the engine cannot run the example, the registration is not stale.

    :param engine: a spec, or what opens an engine over a memory.
    :param among: the registrations to look at.
    :raises EngineError: when the engine is missing or breaks.
    """
    with Bench(1 << 20, engine) as bench:
        covering = [known for known in among if known.covers(bench.engine)]
    return [known for known in covering if not _occurs(known, engine)]


def _occurs(known: Registration, engine: EngineSource) -> bool:
    with Bench(known.question.ram, engine) as bench:
        answer = bench.ask(known.question).engines[0]
    return answer.judgement is Judgement.UNSUPPORTED or known in answer.known
