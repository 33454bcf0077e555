"""Random scenarios: instructions.

:func:`generate` makes the scenario of a number in the sequence that a seed names, the same one
every time, on RAM of :data:`RAM`::

    answer = ask(engine, generate(seed=1, number=0))

Nothing here fails.
"""

from __future__ import annotations

from typing import Final

from harness.check.scenario import Scenario
from harness.cpu import CpuState
from harness.engine.steps import AccessStep
from harness.outcome import Access

__all__ = ["RAM", "generate"]

RAM: Final = ((0, 0x10_0000),)
"""Of every scenario made here."""


def generate(seed: int, number: int) -> Scenario:
    """Make one random scenario.

    :param seed: names the sequence; 0 or more.
    :param number: its place in the sequence, 0 or more.
    """
    return Scenario(CpuState(cr3=0x1000), RAM, {}, [AccessStep(seed + number, Access())])
