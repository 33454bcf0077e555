"""Flaws of accesses that span two pages: which is translated, stored to and reported first.

They break SPLIT.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from harness.planted.flaws.answers import faults
from harness.planted.flaws.flaw import Flaw
from harness.planted.query import Answer, Query

__all__ = ["FLAWS"]

_MASK: Final = (1 << 64) - 1


def _in_lower(q: Query) -> int:
    """Return how many bytes of the lower page follow the first byte, with it."""
    return 0x1000 - (q.va & 0xFFF)


def _upper_first(q: Query, a: Answer) -> None:
    if len(q.pages) < 2:
        return
    size = q.access.size - _in_lower(q)
    upper = q.ask(
        va=(q.va | 0xFFF) + 1 & _MASK,
        access=dataclasses.replace(q.access, size=1 << size.bit_length() - 1),
    )
    a.take(faults(upper), upper)


def _lower_alone(q: Query, a: Answer) -> None:
    if len(q.pages) < 2 or q.access.implicit:
        return
    size = 1 << _in_lower(q).bit_length() - 1
    lower = q.ask(access=dataclasses.replace(q.access, size=size))
    a.take(np.ones(len(a.outcome), np.bool_), lower)


def _stored(q: Query, a: Answer) -> None:
    spans = len(q.pages) > 1 and q.access.is_write and not a.stored
    # The lower page was fine: the address is the upper one's.
    if spans and faults(a)[0] and int(a.cr2[0]) != q.va:
        a.stored = _in_lower(q)


FLAWS: Final = (
    Flaw(
        "SPLIT_UPPER_FIRST",
        "SPLIT",
        "the upper page's fault is reported first",
        answer=_upper_first,
    ),
    Flaw("SPLIT_UPPER_IGNORED", "SPLIT", "the upper page is not translated", answer=_lower_alone),
    Flaw(
        "SPLIT_STORED",
        "SPLIT",
        "the lower page is written although the upper one faults",
        answer=_stored,
    ),
)
