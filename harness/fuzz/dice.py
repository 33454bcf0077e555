"""Random numbers that are the same on every machine, and cheap to seed once for several cases.

Only :meth:`random.Random.random` is used: the one method of which the standard library promises
that a seed gives the same sequence in every version of Python::

    >>> dice = Dice(7, 1234)
    >>> dice.below(6) == Dice(7, 1234).below(6)
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

__all__ = ["Dice"]

_T = TypeVar("_T")


class Dice:
    """A sequence of random numbers.

    :param seed: names the sequences of a campaign; 0 or more.
    :param number: names one of them; 0 or more, below 2^64.

    ``roll()`` gives a float from 0 up to 1.
    """

    __slots__ = ("roll",)

    def __init__(self, seed: int, number: int) -> None:
        self.roll = Random(seed << 64 | number).random

    def chance(self, share: float) -> bool:
        """Say yes with a probability."""
        return self.roll() < share

    def below(self, end: int) -> int:
        """Return an int from 0 up to ``end``, which is 2^52 at most."""
        return int(self.roll() * end)

    def pick(self, items: Sequence[_T]) -> _T:
        """Return one of some things."""
        return items[int(self.roll() * len(items))]

    def bits(self, count: int) -> int:
        """Return ``count`` random bits, 64 at most."""
        if count <= 32:
            return int(self.roll() * (1 << count))
        return int(self.roll() * (1 << count - 32)) << 32 | int(self.roll() * (1 << 32))
