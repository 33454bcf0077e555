"""The flaws: each breaks one rule, at one level where the rule is about levels.

==================  ==============================================================================
``flaw``            what a flaw is
``walk``            flaws of the address, the entries, reserved bits and what comes first
``rights``          flaws of U/S, R/W, XD, WP, SMEP, SMAP and protection keys
``codes``           flaws of the error code and CR2
``split``           flaws of accesses that span two pages
``accessed_dirty``  flaws of the A and D bits
``caching``         flaws of the TLB, which show in sequences
``edits``           how a broken CPU takes entries: what several of these are made of
``answers``         which rows of an answer are faults, and of what kind
==================  ==============================================================================

:data:`FLAWS` has them all by name::

    FLAWS["PRESENT_2"].sentence   # "a PDE is taken as present, whatever its P"

What cannot be planted in an engine that the right one cannot show is in :data:`NOT_HERE`, with the
reason. An unknown name is a ``KeyError``.
"""

from __future__ import annotations

from typing import Final

from harness.planted.flaws import accessed_dirty, caching, codes, rights, split, walk
from harness.planted.flaws.flaw import Flaw

__all__ = ["FLAWS", "NOT_HERE", "Flaw"]


def _place(flaw: Flaw) -> int:
    """Put flaws of no level first, then those of the levels from the root down."""
    return 0 if flaw.level is None else 6 - flaw.level


FLAWS: Final[dict[str, Flaw]] = {
    flaw.name: flaw
    for flaw in sorted(
        (
            *walk.FLAWS,
            *rights.FLAWS,
            *codes.FLAWS,
            *split.FLAWS,
            *accessed_dirty.FLAWS,
            *caching.FLAWS,
        ),
        key=_place,
    )
}
"""Every flaw by its name."""

NOT_HERE: Final[tuple[tuple[str, int | None, str], ...]] = (
    ("MODE", None, "an illegal combination is refused when the state is built: no engine is asked"),
    ("CR3", None, "bits 51:MAXPHYADDR of CR3 are refused when the state is built"),
    ("RSVD_PS", 3, "Unicorn offers 1 GiB pages, and cannot be asked as a CPU without them"),
    ("PKS", None, "Unicorn does not implement CR4.PKS: its cases are counted as unsupported"),
)
"""Rule, level and reason of what cannot be planted in a wrapped Unicorn."""
