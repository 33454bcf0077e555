"""Groups of cases: one address space, a few CPU states, sixteen accesses.

Making an address space and a CPU state costs more than asking about them, so consecutive cases
share them. The case with number n is the access ``n % 16`` of group ``n // 16``, and depends on
the seed, the number and the knobs alone::

    >>> one = case(7, 1234, DEFAULTS)
    >>> one == group(7, 1234 // SIZE, DEFAULTS).question(1234 % SIZE)
    True

Each case stands alone nevertheless: its words are those of the whole space, of which shrinking
leaves the few that matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.check.question import Question
from harness.cpu import CpuState
from harness.fuzz.aims import random_access, random_address
from harness.fuzz.dice import Dice
from harness.fuzz.spaces import RAM, Space
from harness.fuzz.states import random_state
from harness.fuzz.steer import DEFAULTS
from harness.outcome import Access

__all__ = ["SIZE", "Ask", "Group", "case", "generate", "group"]

SIZE: Final = 16
"""Cases in a group."""

_STATES: Final = 4
_ALL = (1 << 64) - 1


class Ask(NamedTuple):
    """One access.

    ``features`` names the knobs that had a part in it, beside those of its group.
    """

    cpu: CpuState
    va: int
    access: Access
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Group:
    """What a group's cases share, and the cases.

    :ivar words: the address space, physical address → entry.
    :ivar features: names the knobs that had a part in it.
    :ivar asks: the accesses, in the order of their numbers.
    """

    words: dict[int, int]
    features: frozenset[str]
    asks: tuple[Ask, ...]

    def question(self, place: int) -> Question:
        """Return one of its cases.

        :param place: 0 to 15.
        """
        ask = self.asks[place]
        return Question.of_access(ask.cpu, RAM, self.words, ask.va, ask.access)


def group(seed: int, number: int, knobs: Mapping[str, float]) -> Group:
    """Make a group.

    :param seed: names the sequence; 0 or more.
    :param number: its place in the sequence, 0 or more.
    :param knobs: how often each feature occurs (:mod:`harness.fuzz.steer`).
    """
    dice = Dice(seed, number)
    space = Space(dice, knobs)
    asks = []
    for _ in range(_STATES):
        features: set[str] = set()
        cpu = random_state(dice, knobs, levels=space.levels, root=space.root, features=features)
        for _ in range(SIZE // _STATES):
            own = set(features)
            access = random_access(dice, knobs, own)
            va = random_address(dice, knobs, space, access.size, own)
            space.reach(va)
            if (va & 0xFFF) + access.size > 0x1000:
                space.reach((va | 0xFFF) + 1 & _ALL)
            asks.append(Ask(cpu, va, access, frozenset(own)))
    return Group(space.words, frozenset(space.features), tuple(asks))


def case(seed: int, number: int, knobs: Mapping[str, float]) -> Question:
    """Make the case of a number.

    :param seed: names the sequence; 0 or more.
    :param number: its place in the sequence, 0 or more.
    :param knobs: how often each feature occurs.
    """
    return group(seed, number // SIZE, knobs).question(number % SIZE)


def generate(
    seed: int, count: int, *, start: int = 0, knobs: Mapping[str, float] = DEFAULTS
) -> Iterator[Question]:
    """Make cases one after another.

    :param seed: names the sequence; 0 or more.
    :param count: how many.
    :param start: the number of the first one in the sequence.
    :param knobs: how often each feature occurs.
    """
    made = -1
    for number in range(start, start + count):
        if number // SIZE != made:
            made = number // SIZE
            shared = group(seed, made, knobs)
        yield shared.question(number % SIZE)
