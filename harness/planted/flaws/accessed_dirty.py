"""Flaws of the accessed and dirty bits: left out, set too often, set in the wrong entry.

They break A, D, A_ON_FAULT and SELF. A flaw of one level shows where an entry serves that level
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from harness.address import entry_name
from harness.cpu import ErrorCode
from harness.entry import PageTableFlags
from harness.outcome import AccessKind
from harness.planted.flaws.answers import denied, faults, mapped
from harness.planted.flaws.flaw import LEVELS, Change, Flaw
from harness.planted.query import Answer, Column, Query, Rows, u64

__all__ = ["FLAWS"]

_P, _A, _D = (
    u64(int(flag))
    for flag in (PageTableFlags.PRESENT, PageTableFlags.ACCESSED, PageTableFlags.DIRTY)
)


@dataclass(frozen=True, slots=True)
class _Place:
    """An entry of the walk: what changed of it, what it is, where it was read, where a leaf."""

    bits: Column
    raw: Column
    there: Rows
    leaf: Rows

    def set(self, bit: u64, where: Rows | np.bool_) -> None:
        """Set a bit that was clear, in some rows."""
        np.copyto(self.bits, self.bits | bit & ~self.raw, where=where)


_OfPlace: TypeAlias = Callable[[Query, Answer, _Place], None]


def _bits(level: int | None, change: _OfPlace) -> Change:
    """Change what became of the A and D bits of the entries of a level."""

    def changed(q: Query, a: Answer) -> None:
        for page in q.pages:
            for depth, at in enumerate(page.at):
                if level in (None, q.cpu.levels - depth) and _alone(q, at):
                    bits = a.changed.setdefault(at, np.zeros(len(a.outcome), u64))
                    leaf = page.leaf(depth, q.cpu.levels)
                    change(q, a, _Place(bits, page.raw[depth], page.there[depth], leaf))

    return changed


def _alone(q: Query, at: int) -> bool:
    """Say whether an entry serves one level only."""
    depths = {depth for page in q.pages for depth, other in enumerate(page.at) if other == at}
    return len(depths) == 1


def _not_set(mask: u64) -> _OfPlace:
    def change(q: Query, a: Answer, place: _Place) -> None:
        place.bits[:] &= ~mask

    return change


def _cleared(q: Query, a: Answer, place: _Place) -> None:
    np.copyto(place.bits, place.bits | _A & place.raw, where=mapped(a) & place.there)


def _dirty_table(q: Query, a: Answer, place: _Place) -> None:
    place.set(_D, mapped(a) & place.there & ~place.leaf & q.access.is_write)


def _dirty_by_read(q: Query, a: Answer, place: _Place) -> None:
    place.set(_D, mapped(a) & place.leaf & (q.access.kind is AccessKind.READ))


def _dirty_on_fault(q: Query, a: Answer, place: _Place) -> None:
    place.set(_D, denied(a) & place.leaf & q.access.is_write & (len(q.pages) == 1))


def _accessed_last(q: Query, a: Answer, place: _Place) -> None:
    ended = faults(a, lacking=ErrorCode.P | ErrorCode.RSVD)
    absent = ended & place.there & (place.raw & _P == 0)
    place.set(_A, (absent | denied(a) & place.leaf) & (len(q.pages) == 1))


def _of_shared(mask: u64) -> Change:
    """Lose bits of an entry that serves several levels."""

    def change(q: Query, a: Answer) -> None:
        for page in q.pages:
            for at in page.at:
                if page.at.count(at) > 1 and at in a.changed:
                    a.changed[at] &= ~mask

    return change


# The list.


def _at_levels() -> Iterator[Flaw]:
    for level in LEVELS:
        name = entry_name(level)
        yield Flaw(
            f"A_{level}",
            "A",
            f"A of a {name} is not set",
            level=level,
            answer=_bits(level, _not_set(_A)),
        )
        if level < 4:
            yield Flaw(
                f"D_{level}",
                "D",
                f"D of a {name} that maps a page is not set",
                level=level,
                answer=_bits(level, _not_set(_D)),
            )
            yield Flaw(
                f"D_BY_READ_{level}",
                "D",
                f"a read sets D of a {name} that maps the page",
                level=level,
                answer=_bits(level, _dirty_by_read),
            )
            yield Flaw(
                f"D_ON_FAULT_{level}",
                "D",
                f"a write that faults sets D of the {name} that maps the page",
                level=level,
                answer=_bits(level, _dirty_on_fault),
            )
        if level > 1:
            yield Flaw(
                f"D_IN_TABLE_{level}",
                "D",
                f"a write sets D of a {name} that maps no page",
                level=level,
                answer=_bits(level, _dirty_table),
            )
        yield Flaw(
            f"A_ON_FAULT_{level}",
            "A_ON_FAULT",
            f"an access that ends at a {name} with a fault sets A in it",
            level=level,
            answer=_bits(level, _accessed_last),
        )


FLAWS: Final = (
    Flaw("A_CLEARED", "A", "A is cleared where it was set", answer=_bits(None, _cleared)),
    Flaw(
        "SELF_A",
        "SELF",
        "A of an entry that serves several levels is not set",
        answer=_of_shared(_A),
    ),
    Flaw(
        "SELF_D",
        "SELF",
        "D of an entry that serves several levels is not set",
        answer=_of_shared(_D),
    ),
    *_at_levels(),
)
