"""Bounds of what may be stale: the events that invalidate, and which bound each of them sets.

An engine that is wrong acts without one of these bounds; a sequence is told by which.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from harness.entry import PageTableFlags
from harness.walker import Walk

__all__ = [
    "BOUND_OF",
    "LIFTED",
    "Bound",
    "Event",
    "Kind",
    "Segment",
    "TooMany",
    "kills_page",
    "survives",
]

_A, _D, _G = (
    int(bit) for bit in (PageTableFlags.ACCESSED, PageTableFlags.DIRTY, PageTableFlags.GLOBAL)
)


class Kind(enum.Enum):
    """What an event invalidates."""

    INVLPG = "invlpg"
    ROOT = "a load of CR3"
    ALL = "a change of CR4.PGE"
    FAULT = "a page fault"


class Bound(enum.Enum):
    """What bounds the memories that a CPU may see; each can be lifted."""

    INVLPG = "invlpg had invalidated nothing"
    CR3_LOAD = "a load of CR3 or CR4 had invalidated nothing"
    FAULT = "a page fault had invalidated nothing"
    PKE = "CR4.PKE had not changed"
    CONTROL = "no control bit had changed"
    ORDER = "old and new entries were read together that never stood there together"


LIFTED: Final = tuple(
    frozenset(bounds)
    for bounds in (
        {Bound.INVLPG},
        {Bound.CR3_LOAD},
        {Bound.FAULT},
        {Bound.PKE},
        {Bound.CONTROL},
        {Bound.FAULT, Bound.PKE},
        {Bound.INVLPG, Bound.FAULT},
        {Bound.CR3_LOAD, Bound.FAULT},
        {Bound.ORDER},
        {Bound.INVLPG, Bound.CR3_LOAD, Bound.FAULT, Bound.ORDER},
    )
)
"""In which order a broken bound is looked for."""


BOUND_OF = {
    Kind.INVLPG: Bound.INVLPG,
    Kind.ROOT: Bound.CR3_LOAD,
    Kind.ALL: Bound.CR3_LOAD,
    Kind.FAULT: Bound.FAULT,
}


@dataclass(frozen=True, slots=True)
class Event:
    """An invalidation: when, of what, and the CR3 and NXE that were in force from then on."""

    time: int
    kind: Kind | None
    va: int
    spares_global: bool
    cr3: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time between two invalidations of the paging-structure caches."""

    first: int
    last: int
    cr3: int
    after: tuple[Event, ...]


class TooMany(Exception):
    """A sequence whose possible memories are not worth enumerating."""


def kills_page(event: Event, va: int) -> bool:
    """Whether no translation of an address from before an event is left."""
    if event.kind is Kind.INVLPG or event.kind is Kind.FAULT:
        return event.va >> 12 == va >> 12
    return not event.spares_global


def survives(found: Walk, after: tuple[Event, ...], lifted: frozenset[Bound]) -> bool:
    """Whether a translation made long ago is still cached after what happened since."""
    leaf = found.leaf
    if leaf is None:
        return False  # only translations are cached
    for event in after:
        if event.kind is Kind.INVLPG:
            shift = 9 * leaf.level + 3
            if event.va >> shift == found.va >> shift and leaf.level > 1:  # BIG
                return False
        elif event.kind is Kind.ROOT and not leaf.raw & _G:
            return False
    return True
