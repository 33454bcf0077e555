"""Flaws of caching: what an invalidation leaves, and which edits are seen.

They break STALE, INVLPG, CR3_LOAD and BIG, and show in sequences alone
(:mod:`harness.planted.sequences` plays them).
"""

from __future__ import annotations

from typing import Final

from harness.planted import sequences
from harness.planted.flaws.flaw import Flaw

__all__ = ["FLAWS"]

FLAWS: Final = (
    Flaw(
        "STALE",
        "STALE",
        "the later of two edits is seen before the earlier one: a mixture that was never there",
        steps=sequences.edits_out_of_order,
    ),
    Flaw("INVLPG", "INVLPG", "INVLPG invalidates nothing", steps=sequences.without_invlpg),
    Flaw(
        "CR3_LOAD",
        "CR3_LOAD",
        "a load of CR3 with the value that it has invalidates nothing",
        steps=sequences.without_cr3,
    ),
    Flaw(
        "CR3_LOAD_PGE",
        "CR3_LOAD",
        "a change of CR4.PGE invalidates nothing",
        steps=sequences.without_pge,
    ),
    Flaw(
        "BIG",
        "BIG",
        "INVLPG of one part of a big page leaves its other parts",
        steps=sequences.parts_of_big_pages,
    ),
)
