"""Footprints: which words of memory steps may read and change, what changed, and the way back.

:func:`table_words` follows address bits alone and decides nothing: it lists the words that any walk
of an address could read. A :class:`Footprint` watches such words over several steps, tells what
each step changed, and puts everything back at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from harness.engine.guest.slots import SHIFTS
from harness.memory import PhysicalMemory

__all__ = ["Footprint", "table_words"]

_TABLE = 0x000F_FFFF_FFFF_F000


def table_words(
    words: memoryview, offset: Callable[[int], int], root: int, levels: int, va: int
) -> list[int]:
    """Return the indices of the words that any walk of an address could read.

    A page's frame is followed like a table's, so the list may be longer than the walk.

    :param words: all of RAM.
    :param offset: says where a physical address is in RAM, in bytes; negative when it is not.
    """
    found = []
    table = root
    for shift in SHIFTS[levels]:
        at = offset(table | (va >> shift & 511) << 3)
        if at < 0:
            break
        found.append(at >> 3)
        table = words[at >> 3] & _TABLE
    return found


class Footprint:
    """What steps change of one memory.

    :param memory: the guest's RAM.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.words = memory.words.data
        """All of RAM as words; an engine writes through it."""
        self.watched: dict[int, int] = {}
        """Index of a word → its value when it was last looked at."""
        self._original: dict[int, int] = {}
        self._photo: NDArray[np.uint64] | None = None
        self.root = 0
        self.levels = 4

    def release(self) -> None:
        """Let go of the memory."""
        self.words.release()

    @property
    def photographed(self) -> bool:
        """Say whether all of RAM is compared, and not what is watched alone."""
        return self._photo is not None

    def chain(self, va: int) -> list[int]:
        """Return the indices of the words that any walk of an address could read."""
        return table_words(self.words, self._memory.offset, self.root, self.levels, va)

    def remember(self, index: int) -> None:
        """Note a word's value, to put it back at the end."""
        self._original.setdefault(index, self.words[index])

    def watch(self, index: int) -> None:
        """Watch a word, if it is not watched yet."""
        if index not in self.watched:
            self.watched[index] = word = self.words[index]
            self._original.setdefault(index, word)

    def look_around(self, vas: Iterable[int]) -> None:
        """Watch every entry that a walk of an address could read now, and take its value."""
        words, original, watched = self.words, self._original, self.watched
        for va in vas:
            for index in self.chain(va):
                watched[index] = 0
        for index in watched:
            watched[index] = word = words[index]
            original.setdefault(index, word)

    def changes(self) -> dict[int, int]:
        """Return what has changed of the words that are watched: physical address → bits."""
        words, watched = self.words, self.watched
        found = {}
        for index, old in watched.items():
            new = words[index]
            if new != old:
                found[self._memory.address(index << 3)] = old ^ new
                watched[index] = new
        return found

    def photograph(self) -> None:
        """Keep all of RAM, to see whatever changes."""
        self._photo = self._memory.words.copy()

    def all_changes(self) -> dict[int, int]:
        """Return all that has changed since the photograph: physical address → bits."""
        before, now = self._photo, self._memory.words
        assert before is not None
        found = {}
        for index in np.nonzero(before != now)[0].tolist():
            old = int(before[index])
            self._original.setdefault(index, old)
            found[self._memory.address(index << 3)] = old ^ self.words[index]
        self._photo = None
        return found

    def take_back(self, changed: Mapping[int, int]) -> None:
        """Undo changes of words, which may be made anew."""
        for pa, bits in changed.items():
            index = self._memory.offset(pa) >> 3
            self.words[index] ^= bits
            self.watched[index] = self.words[index]

    def put_back(self) -> None:
        """Put back all that has changed, and watch nothing any more."""
        if self._photo is not None:
            self._memory.words[:] = self._photo
            self._photo = None
        for index, word in self._original.items():
            self.words[index] = word
        self._original.clear()
        self.watched.clear()
