"""What a broken CPU is asked and answers, in columns: one access under any number of entries.

A flaw sees an access as a :class:`Query`: its CPU state, its kind, and for each page that it
touches the entries on the way down, which are followed by their address bits from CR3. It says
which other question the right engine shall be asked instead, and what becomes of the answer, an
:class:`Answer`. A single probe is a query of one row, a block of the matrix one of thousands, so
that each flaw is written once.

Nothing here judges an access: what an entry's rights and reserved bits lead to is the right
engine's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.outcome import Access

__all__ = ["Answer", "Column", "Edit", "Entry", "Page", "Query", "Rows", "u64"]

Column: TypeAlias = NDArray[np.uint64]
Rows: TypeAlias = NDArray[np.bool_]

u64 = np.uint64
_PS = u64(int(PageTableFlags.HUGE_PAGE))


@dataclass(frozen=True, slots=True)
class Entry:
    """The entries of one level, one for each row.

    :ivar level: 1 to 5.
    :ivar raw: as they stand in memory.
    :ivar above: those of the levels above, the root's first.
    :ivar cpu: the state in which they are walked.
    :ivar access: how.
    """

    level: int
    raw: Column
    above: tuple[Column, ...]
    cpu: CpuState
    access: Access

    @property
    def leaf(self) -> Rows:
        """Say which of them end the walk by their size."""
        if self.level == 1:
            return np.ones(len(self.raw), np.bool_)
        if self.level > 3:
            return np.zeros(len(self.raw), np.bool_)
        return np.asarray(self.raw & _PS != 0, np.bool_)


Edit: TypeAlias = Callable[[Entry], Column]
"""Gives the entries as the broken CPU takes them."""


@dataclass(slots=True)
class Page:
    """The way down to one page, the root's entry first.

    :ivar at: the physical address of each level's entry.
    :ivar raw: the entries as they stand.
    :ivar taken: the entries as the broken CPU takes them.
    :ivar there: which rows come so far down: those whose entries above are present and no leaves.
    :ivar home: where the broken CPU reads the root's entry; ``at[0]``, if it is right about CR3.
    """

    at: list[int]
    raw: list[Column]
    taken: list[Column]
    there: list[Rows]
    home: int

    def leaf(self, depth: int, levels: int) -> Rows:
        """Say which rows have their leaf at a depth."""
        level = levels - depth
        if level > 3:
            return np.zeros(len(self.there[depth]), np.bool_)
        if level == 1:
            return self.there[depth]
        return np.asarray(self.there[depth] & (self.raw[depth] & _PS != 0), np.bool_)


@dataclass(slots=True)
class Answer:
    """What came of it, a row for each question.

    :ivar outcome: the codes of :class:`~harness.outcome.Outcome`.
    :ivar error_code: of a fault.
    :ivar cr2: of a page fault.
    :ivar pa: the physical address reached, or that none was learnt.
    :ivar changed: address of an entry → the bits that changed.
    :ivar stored: bytes that are stored although the access faulted; for one row alone.
    """

    outcome: NDArray[np.uint8]
    error_code: NDArray[np.uint32]
    cr2: Column
    pa: Column
    changed: dict[int, Column]
    stored: int = 0

    def take(self, where: Rows, other: Answer) -> None:
        """Take over some rows of another answer to the same question."""
        for name in ("outcome", "error_code", "cr2", "pa"):
            np.copyto(getattr(self, name), getattr(other, name), where=where)
        for at in {*self.changed, *other.changed}:
            mine = self.changed.setdefault(at, np.zeros(len(where), u64))
            theirs = other.changed.get(at)
            np.copyto(mine, u64(0) if theirs is None else theirs, where=where)
        if where.all():
            self.stored = other.stored


class Query(Protocol):
    """One question, and the right engine to ask others."""

    @property
    def cpu(self) -> CpuState:
        """The state in which it is asked."""

    @property
    def va(self) -> int:
        """The address of the first byte."""

    @property
    def access(self) -> Access:
        """How it is accessed."""

    @property
    def pages(self) -> list[Page]:
        """The way down to each page that it touches, the lower one first."""

    def ask(
        self,
        *,
        cpu: CpuState | None = None,
        va: int | None = None,
        access: Access | None = None,
        edit: Edit | None = None,
    ) -> Answer:
        """Ask the right engine the same question with something changed.

        The answer's ``changed`` is what changed of the entries as they stand.
        """
