"""One variation of a question: another entry, another CPU state, another access.

Under it the walker is asked again; where it then predicts what was observed, the variation explains
the observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from harness.address import entry_name, format_address
from harness.check.model.words import Words
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.errors import InputError, NoMemory
from harness.memory import PhysicalMemory
from harness.outcome import Access
from harness.walker import Step, Walk, walk

__all__ = [
    "Edit",
    "Variation",
    "bit_words",
    "clearing",
    "deciding",
    "entry_words",
    "setting",
    "spans",
    "steps_of",
    "with_registers",
]

_P = int(PageTableFlags.PRESENT)
_RW = int(PageTableFlags.WRITABLE)
_US = int(PageTableFlags.USER_ACCESSIBLE)
_PS = int(PageTableFlags.HUGE_PAGE)
_XD = int(PageTableFlags.NO_EXECUTE)
_NAMES: Final = {_P: "P", _RW: "R/W", _US: "U/S", _PS: "PS", _XD: "XD"}


Edit = Callable[[int], int]


class _Edited:
    """Memory in which the entries that one walk reads are changed, by their level."""

    def __init__(self, words: Words, levels: int, edits: Mapping[int, Edit], root: Edit) -> None:
        self.words = words
        self.levels = self.level = levels
        self.edits = edits
        self.root = root

    def read_u64(self, pa: int) -> int:
        level = self.level
        raw = self.words.read_u64(self.root(pa) if level == self.levels else pa)
        edit = self.edits.get(level)
        if edit is not None:
            raw = edit(raw)
        # After a leaf, the page above begins at the root again.
        self.level = self.levels if level == 1 or raw & _PS else level - 1
        return raw

    def offset(self, pa: int) -> int:
        return self.words.offset(pa)


def _same(value: int) -> int:
    return value


@dataclass(frozen=True, slots=True)
class Variation:
    """One thing that is otherwise.

    :ivar rules: the rules that it may be about: the broken one is that which decided before, or
        else that which decides now, or else the first.
    :ivar how: a word for it, to name the cause with.
    :ivar words: what is otherwise: "CR0.WP were 0".
    :ivar level: when it is about one level.
    :ivar also: rule, word, level of other causes that would show in the same way.
    :ivar by_rules: it explains nothing unless one of ``rules`` decides now.
    :ivar decides: the rules that must decide now, with ``by_rules``, where they are others.
    :ivar tier: 0 for what is likely; those of a higher tier are tried when none of a lower one
        predicts what was observed.
    """

    rules: tuple[str, ...]
    how: str
    words: str
    level: int | None = None
    also: tuple[tuple[str, str, int | None], ...] = ()
    tier: int = 0
    cpu: CpuState | None = None
    access: Access | None = None
    va: int | None = None
    edits: Mapping[int, Edit] = field(default_factory=dict)
    root: Edit = _same
    by_rules: bool = False
    decides: tuple[str, ...] = ()

    def walk(self, words: Words, before: Walk) -> Walk | None:
        """Ask the walker with this change; None when it cannot be asked so.

        :param words: the memory.
        :param before: the walk without the change.
        """
        cpu = self.cpu or before.cpu
        try:
            return walk(
                cast(PhysicalMemory, self.memory(words, before)),
                cpu,
                before.va if self.va is None else self.va,
                self.access or before.access,
            )
        except (InputError, NoMemory):
            return None

    def memory(self, words: Words, before: Walk) -> Words:
        """Return the memory as one walk under this change reads it.

        :param words: the memory.
        :param before: the walk without the change.
        """
        return _Edited(words, (self.cpu or before.cpu).levels, self.edits, self.root)

    def moved(self, after: Walk, bits: dict[int, int]) -> dict[int, int]:
        """Return the bits of entries, at the addresses where this change has the entries.

        :param after: the walk under the change.
        :param bits: address of an entry → bits.
        """
        if self.root is _same or not after.steps:
            return bits
        top = after.steps[0].address
        return {self.root(at) if at == top else at: word for at, word in bits.items()}

    def rule(self, before: Walk, after: Walk) -> str:
        """Name the rule that an engine breaks that acts so."""
        for decided in (before.rule, after.rule):
            if decided in self.rules:
                return decided
        return self.rules[0]


def steps_of(walk: Walk) -> tuple[Step, ...]:
    """List the entries of both pages, those of the lower one first."""
    return walk.steps if walk.second is None else (*walk.steps, *walk.second.steps)


def setting(mask: int) -> Edit:
    return lambda raw: raw | mask


def clearing(mask: int) -> Edit:
    return lambda raw: raw & ~mask


def entry_words(walk: Walk, level: int) -> str:
    """Name the entry of a level: the deciding page's when there are two."""
    pages = (walk.second, walk) if walk.second is not None else (walk,)
    for page in pages:
        for step in page.steps if page is not None else ():
            if step.level == level:
                return f"the {entry_name(level)} at {format_address(step.address)}"
    return f"the {entry_name(level)}"


def bit_words(walk: Walk, level: int, mask: int, value: int) -> str:
    return f"bit {_NAMES[mask]} of {entry_words(walk, level)} were {value}"


def spans(walk: Walk) -> bool:
    return (walk.va & 0xFFF) + walk.access.size > 0x1000


def deciding(walk: Walk) -> Walk:
    return walk.second if walk.second is not None and not walk.completed else walk


def with_registers(walk: Walk, **registers: object) -> CpuState | None:
    try:
        return walk.cpu.replace(**registers)
    except InputError:
        return None
