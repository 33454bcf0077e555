"""From a seed and a number to a question of several steps: the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from harness.check.question import Question

__all__ = ["Generate", "generator"]

Generate: TypeAlias = Callable[[int, int], Question]
"""Makes the question of a seed and a number, both 0 or more."""


def generator(make: Callable[[Random], Question]) -> Generate:
    """Return what makes the question of a seed and a number.

    :param make: makes one question of one source of randomness.
    """

    def generate(seed: int, number: int) -> Question:
        return make(Random(seed << 40 | number))

    return generate
