"""Make a differing case small: fewer words, fewer bits, a plainer CPU, lower addresses.

:func:`shrink` tries one simplification after another and keeps those under which the two sides
still differ for the same cause (:mod:`.reduce`). It ends when a whole round has changed nothing:
every word and every bit that is left is needed::

    small = shrink(case, lambda case: wanted in causes(case))
    print(small.line())

Tables move to 0x1000, 0x2000, ..., indices to 0, RAM becomes the default one. Nothing is random:
the same case and the same answers give the same result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Final, cast

from harness.check.case import DEFAULT_RAM, Case
from harness.check.model.words import words_of
from harness.check.shrink.reduce import Reducer
from harness.cpu import CR4
from harness.entry import ADDRESS_MASK
from harness.errors import InputError
from harness.memory import PhysicalMemory
from harness.outcome import AccessKind
from harness.walker import Walk, walk

__all__ = ["shrink"]

_TABLE: Final = 0x1000
_NEAR: Final = 0xFF_FFFF_F000


def shrink(case: Case, differs: Callable[[Case], bool], *, tries: int = 2000) -> Case:
    """Return the smallest case found that still differs.

    :param case: one that differs.
    :param differs: says whether a case still differs for the same cause; it must not raise.
    :param tries: how many cases to try at most.
    """
    shrinker = _Shrinker(case, differs, _identity, tries)
    return shrinker.run(shrinker.round)


class _Shrinker(Reducer[Case]):
    """The smallest case so far."""

    def round(self) -> None:
        """Try every kind of simplification once."""
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

        def build(kept: list[tuple[int, int]]) -> Case | None:
            words = dict(left)
            for at, bit in kept:
                words[at] |= 1 << bit
            return _with(self.question, memory=words)

        self.drop(bits, build)

    def _cpu(self) -> None:
        if self.question.cpu.levels == 5:
            self.take(self._without_a_level())
        self.plainer_cpu(lambda: self.question.cpu, lambda cpu: _with(self.question, cpu=cpu))

    def _without_a_level(self) -> Case | None:
        case = self.question
        entry = case.memory.get(case.cpu.root | case.va >> 45 & 0xFF8, 0)
        low = case.va & (1 << 48) - 1
        va = low | (-1 << 48 & (1 << 64) - 1 if low >> 47 else 0)
        try:
            cpu = case.cpu.replace(cr4=case.cpu.cr4 & ~int(CR4.LA57), cr3=entry & ADDRESS_MASK)
        except InputError:
            return None
        return _with(case, cpu=cpu, va=va)

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

    def _with_access(self, **changes: object) -> Case | None:
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
        case = self.question
        tables = list(dict.fromkeys(_tables(case)))
        homes = {table: _TABLE * number for number, table in enumerate(tables, 1)}
        self.take(_rehoused(case, homes))
        for old, new in homes.items():
            if old != new:
                self.take(_rehoused(self.question, {old: new}))


def _identity(case: Case) -> Hashable:
    return case.cpu, case.ram, frozenset(case.memory.items()), case.va, case.access


def _pages(case: Case) -> Iterator[Walk]:
    memory = cast(PhysicalMemory, words_of(case))
    first = walk(memory, case.cpu, case.va, case.access)
    yield first
    if first.second is not None:
        yield first.second


def _tables(case: Case) -> Iterator[int]:
    # An engine may go on where the walk ends: whatever a word points to may be a table.
    yield case.cpu.root
    for page in _pages(case):
        for step in page.steps:
            yield step.address & ~0xFFF
    frames = {at & ~0xFFF for at in case.memory}
    yield from sorted(frames)


def _moved(case: Case, va: int) -> Case | None:
    """Return the case at another address; its entries move to the new indices."""
    words = dict(case.memory)
    for page in _pages(case):
        for step in page.steps:
            offset = page.va - case.va
            at = step.address & ~0xFFF | (va + offset) >> 9 * step.level & 0xFF8
            if at != step.address:
                words.pop(step.address, None)
                words[at] = step.raw
    # Below the entry that ended the walk nothing was read; an engine may have gone on there.
    read = {step.address for page in _pages(case) for step in page.steps}
    for at, word in case.memory.items():
        if at in read:
            continue
        levels = [
            level for level in range(1, case.cpu.levels) if _index(case.va, level) == at >> 3 & 511
        ]
        if levels:
            words.pop(at, None)
            words[at & ~0xFFF | _index(va, levels[0]) << 3] = word
    return _with(case, va=va, memory=words)


def _index(va: int, level: int) -> int:
    return va >> 9 * level + 3 & 511


def _rehoused(case: Case, homes: dict[int, int]) -> Case | None:
    """Return the case with frames at other addresses."""
    words: dict[int, int] = {}
    for at, word in case.memory.items():
        frame = word & ADDRESS_MASK
        if frame in homes:
            word = word & ~ADDRESS_MASK | homes[frame]
        words[homes.get(at & ~0xFFF, at & ~0xFFF) | at & 0xFFF] = word
    if len(words) != len(case.memory):
        return None
    root = homes.get(case.cpu.root, case.cpu.root)
    try:
        cpu = case.cpu.replace(cr3=root | case.cpu.cr3 & 0xFFF)
    except InputError:
        return None
    return _with(case, cpu=cpu, memory=words)


def _with(case: Case, **changes: object) -> Case | None:
    values = {name: getattr(case, name) for name in ("cpu", "ram", "memory", "va", "access")}
    try:
        return Case(**{**values, **changes})
    except InputError:
        return None
