"""What a flaw is: data that says how a CPU is broken.

A :class:`Flaw` may ask the right engine something else (another state, another address, other
entries), change the answer, or change a sequence::

    Flaw("PKU", "PKU", "CR4.PKE is ignored: keys deny nothing", state=without("cr4", CR4.PKE))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Final, TypeAlias

from harness.cpu import CpuState
from harness.engine.base import Engine
from harness.engine.steps import Step, StepResult
from harness.outcome import Access
from harness.planted.query import Answer, Edit, Query

__all__ = ["LEVELS", "Change", "Flaw", "State"]

LEVELS: Final = (5, 4, 3, 2, 1)
"""The levels of entries, the root's first."""

Change: TypeAlias = Callable[[Query, Answer], None]
"""Changes the answer to a question."""

State: TypeAlias = Callable[[CpuState, Access], CpuState]
"""Gives the state in which the right engine is asked instead."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One way to be wrong.

    :ivar name: ``PRESENT_2``.
    :ivar rule: the rule of docs/rules.md that it breaks.
    :ivar sentence: what the broken CPU does.
    :ivar level: the level at which it does; None when it is not about one level.
    :ivar state: the state in which the right engine is asked instead.
    :ivar address: the address that it is asked for instead.
    :ivar entry: the entries as the broken CPU takes them.
    :ivar root: where the broken CPU reads the root's entry.
    :ivar answer: changes the answer.
    :ivar steps: plays a sequence.
    """

    name: str
    rule: str
    sentence: str
    _: KW_ONLY
    level: int | None = None
    state: State | None = None
    address: Callable[[CpuState, int], int] | None = None
    entry: Edit | None = None
    root: Callable[[CpuState, int], int] | None = None
    answer: Change | None = None
    steps: Callable[[Engine, CpuState, Sequence[Step]], list[StepResult]] | None = None

    @property
    def probed(self) -> bool:
        """Say whether it shows in a single access."""
        return self.steps is None
