"""Each flaw as an engine that can be opened by name: ``harness.planted.engines:PRESENT_2``.

>>> open_engine("harness.planted.engines:PRESENT_2", memory).flaw.level
2

``NONE`` is the wrapper without a flaw, which must agree wherever the right engine does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from harness.engine import open_engine
from harness.memory import PhysicalMemory
from harness.planted.engine import PlantedEngine
from harness.planted.flaws import FLAWS

__all__ = ["name_of", "open_planted"]


def name_of(flaw: str) -> str:
    """Return what a flaw's engine is called by whoever opens engines by name."""
    return f"{__name__}:{flaw}"


def open_planted(memory: PhysicalMemory, *, flaw: str, inner: str = "unicorn") -> PlantedEngine:
    """Open an engine with one flaw over a memory.

    :param memory: the guest's RAM.
    :param flaw: a key of :data:`~harness.planted.flaws.FLAWS`, or ``NONE``.
    :param inner: the right engine's name.
    """
    return PlantedEngine(open_engine(inner, memory), FLAWS[flaw] if flaw != "NONE" else None)


def __getattr__(name: str) -> Callable[[PhysicalMemory], PlantedEngine]:
    if name == "NONE" or name in FLAWS:
        return partial(open_planted, flaw=name)
    raise AttributeError(f"there must be a flaw of that name, and {name!r} is none")
