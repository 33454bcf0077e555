"""Make a differing question of one access small: fewer words and bits, lower addresses.

:func:`shrink_access` tries one simplification after another and keeps those under which the two
sides still differ for the same cause (:mod:`.reduce`). It ends when a whole round has changed
nothing: every word and every bit that is left is needed::

    small = shrink_access(question, lambda question: wanted in causes(question))
    print(small.line())

Tables move to 0x1000, 0x2000, ..., indices to 0, RAM becomes the default one. Nothing is random:
the same question and the same answers give the same result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, cast

from harness.check.model.words import words_of
from harness.check.question import DEFAULT_RAM, Question
from harness.check.shrink.reduce import Reducer
from harness.cpu import CR4
from harness.entry import ADDRESS_MASK
from harness.errors import InputError
from harness.memory import PhysicalMemory
from harness.outcome import AccessKind
from harness.walker import Walk, walk

__all__ = ["shrink_access"]

_TABLE: Final = 0x1000
_NEAR: Final = 0xFF_FFFF_F000


def shrink_access(
    question: Question, differs: Callable[[Question], bool], *, tries: int = 2000
) -> Question:
    """Return the smallest question of one access found that still differs.

    :param question: one that differs.
    :param differs: says whether a question still differs for the same cause; it must not raise.
    :param tries: how many questions to try at most.
    """
    return _AccessReducer(question, differs, _identity, tries).run()


class _AccessReducer(Reducer[Question]):
    def round(self) -> None:
        self._memory()
        self._cpu()
        self._access()
        self._address()
        self._frames()
        self._bits()
        self.take(_with(self.question, ram=DEFAULT_RAM))

    def _memory(self) -> None:
        read = {step.address for page in _pages(self.question) for step in page.steps}
        words = self.question.memory
        self.take(_with(self.question, memory={at: words[at] for at in words if at in read}))
        words = self.question.memory
        self.drop(
            list(words),
            lambda kept: _with(self.question, memory={at: words[at] for at in kept}),
        )

    def _bits(self) -> None:
        # Where a table lies is not a matter of bits: without one it would be another table.
        frames = {at & ~0xFFF for at in self.question.memory}
        leaves = {page.leaf.address for page in _pages(self.question) if page.leaf is not None}
        left = {
            at: word & _NEAR if word & _NEAR in frames and at not in leaves else 0
            for at, word in self.question.memory.items()
        }
        bits = [
            (at, bit)
            for at, word in self.question.memory.items()
            for bit in range(63, -1, -1)
            if (word & ~left[at]) >> bit & 1
        ]

        def build(kept: list[tuple[int, int]]) -> Question | None:
            words = dict(left)
            for at, bit in kept:
                words[at] |= 1 << bit
            return _with(self.question, memory=words)

        self.drop(bits, build)

    def _cpu(self) -> None:
        if self.question.cpu.levels == 5:
            self.take(self._without_a_level())
        self.plainer_cpu(lambda: self.question.cpu, lambda cpu: _with(self.question, cpu=cpu))

    def _without_a_level(self) -> Question | None:
        question = self.question
        entry = question.memory.get(question.cpu.root | question.va >> 45 & 0xFF8, 0)
        low = question.va & (1 << 48) - 1
        va = low | (-1 << 48 & (1 << 64) - 1 if low >> 47 else 0)
        try:
            cpu = question.cpu.replace(
                cr4=question.cpu.cr4 & ~int(CR4.LA57), cr3=entry & ADDRESS_MASK
            )
        except InputError:
            return None
        return _with(question, cpu=cpu, va=va)

    def _access(self) -> None:
        access = self.question.access
        for size in (1, 2, 4, 8, 16, 32):
            if size < access.size and self.take(self._with_access(size=size)):
                break
        for name in ("stack", "implicit"):
            if getattr(self.question.access, name):
                self.take(self._with_access(**{name: False}))
        if self.question.access.kind is AccessKind.WRITE:
            self.take(self._with_access(kind=AccessKind.READ))

    def _with_access(self, **changes: object) -> Question | None:
        try:
            access = dataclasses.replace(self.question.access, **changes)  # type: ignore[arg-type]
        except InputError:
            return None
        return _with(self.question, access=access)

    def _address(self) -> None:
        """Lower the address, index by index, and move the entries with it."""
        self.take(_moved(self.question, 0))
        levels = self.question.cpu.levels
        for level in range(levels, 0, -1):
            shift = 9 * level + 3
            mask = 0x1FF << shift
            if level == levels:
                mask = (1 << 64) - (1 << shift)
            if self.question.va & mask:
                self.take(_moved(self.question, self.question.va & ~mask))
        offset = self.question.va & 0xFFF
        if offset:
            self.take(_with(self.question, va=self.question.va & ~0xFFF))
            end = 0x1000 - self.question.access.size // 2 if self.question.access.size > 1 else 0
            if end and offset != end:
                self.take(_with(self.question, va=self.question.va & ~0xFFF | end))

    def _frames(self) -> None:
        """Put tables at 0x1000, 0x2000, ..."""
        question = self.question
        tables = list(dict.fromkeys(_tables(question)))
        homes = {table: _TABLE * number for number, table in enumerate(tables, 1)}
        self.take(_rehoused(question, homes))
        for old, new in homes.items():
            if old != new:
                self.take(_rehoused(self.question, {old: new}))


def _identity(question: Question) -> Hashable:
    words = frozenset(question.memory.items())
    return question.cpu, question.ram, words, question.va, question.access


def _pages(question: Question) -> Iterator[Walk]:
    memory = cast(PhysicalMemory, words_of(question))
    first = walk(memory, question.cpu, question.va, question.access)
    yield first
    if first.second is not None:
        yield first.second


def _tables(question: Question) -> Iterator[int]:
    # An engine may go on where the walk ends: whatever a word points to may be a table.
    yield question.cpu.root
    for page in _pages(question):
        for step in page.steps:
            yield step.address & ~0xFFF
    frames = {at & ~0xFFF for at in question.memory}
    yield from sorted(frames)


def _moved(question: Question, va: int) -> Question | None:
    """Return the question at another address; its entries move to the new indices."""
    words = dict(question.memory)
    for page in _pages(question):
        for step in page.steps:
            offset = page.va - question.va
            at = step.address & ~0xFFF | (va + offset) >> 9 * step.level & 0xFF8
            if at != step.address:
                words.pop(step.address, None)
                words[at] = step.raw
    # Below the entry that ended the walk nothing was read; an engine may have gone on there.
    read = {step.address for page in _pages(question) for step in page.steps}
    for at, word in question.memory.items():
        if at in read:
            continue
        levels = [
            level
            for level in range(1, question.cpu.levels)
            if _index(question.va, level) == at >> 3 & 511
        ]
        if levels:
            words.pop(at, None)
            words[at & ~0xFFF | _index(va, levels[0]) << 3] = word
    return _with(question, va=va, memory=words)


def _index(va: int, level: int) -> int:
    return va >> 9 * level + 3 & 511


def _rehoused(question: Question, homes: dict[int, int]) -> Question | None:
    """Return the question with frames at other addresses."""
    words: dict[int, int] = {}
    for at, word in question.memory.items():
        frame = word & ADDRESS_MASK
        if frame in homes:
            word = word & ~ADDRESS_MASK | homes[frame]
        words[homes.get(at & ~0xFFF, at & ~0xFFF) | at & 0xFFF] = word
    if len(words) != len(question.memory):
        return None
    root = homes.get(question.cpu.root, question.cpu.root)
    try:
        cpu = question.cpu.replace(cr3=root | question.cpu.cr3 & 0xFFF)
    except InputError:
        return None
    return _with(question, cpu=cpu, memory=words)


def _with(question: Question, **changes: Any) -> Question | None:
    values = {name: getattr(question, name) for name in ("cpu", "ram", "memory")}
    values |= {"va": question.va, "access": question.access}
    try:
        return Question.of_access(**{**values, **changes})
    except InputError:
        return None
