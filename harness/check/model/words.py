"""Memory as a walk sees it: words at physical addresses, and where there is RAM at all.

A walk of a question needs four or ten words. :func:`words_of` gives them without the RAM of a whole
machine, so that thousands of variations of a question can be walked. A read outside RAM raises
:class:`~harness.errors.NoMemory`, as that of a :class:`~harness.memory.PhysicalMemory` does.
"""

from __future__ import annotations

from typing import Protocol

from harness.check.question import Question
from harness.errors import NoMemory

__all__ = ["Words", "words_of"]


class Words(Protocol):
    """Memory as a walk sees it: a PhysicalMemory, or the words of a question."""

    def read_u64(self, pa: int, /) -> int:
        """Return a word; raises NoMemory outside RAM."""

    def offset(self, pa: int, /) -> int:
        """Return something negative when the address is not RAM."""


class _QuestionWords:
    """The memory of a question, without its RAM."""

    def __init__(self, question: Question) -> None:
        self.question = question

    def read_u64(self, pa: int) -> int:
        if self.offset(pa) < 0:
            raise NoMemory(pa)
        word = self.question.memory.get(pa, 0)
        if pa & 7:
            low, shift = pa & ~7, 8 * (pa & 7)
            both = self.question.memory.get(low + 8, 0) << 64 | self.question.memory.get(low, 0)
            word = both >> shift & (1 << 64) - 1
        return word

    def offset(self, pa: int) -> int:
        return pa if any(region.base <= pa < region.end for region in self.question.ram) else -1


def words_of(question: Question) -> Words:
    """Return the memory of a question as a walk sees it, without allocating its RAM.

    :param question: whose words are set; all others are zero.
    """
    return _QuestionWords(question)
