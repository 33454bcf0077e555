"""The spare slot: a top-level entry that neither a walk nor an access can read or write.

An engine's own code must be mapped while the tables under test are in force. It borrows one entry
of the top-level table. Which ones are taken, the addresses alone tell: the indices of each level,
since a table may serve several, and the words of a page that an access reaches, since that page may
be the table itself::

    >>> spare_slot(slots_of(4, 0x1E0 << 39))
    479
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIGHEST", "LOWEST", "SHIFTS", "needs_slot", "slots_of", "spare_slot", "words_of_page"]

SHIFTS: Final = {4: (39, 30, 21, 12), 5: (48, 39, 30, 21, 12)}
"""Where the indices of each number of levels are in an address, the root's first."""

HIGHEST: Final = 0x1E0
LOWEST: Final = 0x101
"""Slots from here to :data:`HIGHEST` are tried: those of the upper half of the addresses."""


def slots_of(levels: int, va: int) -> list[int]:
    """Return the index of each level of an address, and the word of its page."""
    return [*(va >> shift & 511 for shift in SHIFTS[levels]), (va & 0xFFF) >> 3]


def words_of_page(first: int, last: int) -> range:
    """Return the words of its page that an access reaches.

    :param first: the first byte's address.
    :param last: the last byte's address.
    """
    return range((first & 0xFFF) >> 3, ((last & 0xFFF) >> 3) + 1)


def spare_slot(used: Container[int], *, also: Iterable[int] = ()) -> int | None:
    """Return the highest slot that is not used, or None when there is none.

    :param used: the slots that may be read or written.
    :param also: slots below :data:`LOWEST` to try at last.
    """
    for slot in range(HIGHEST, LOWEST - 1, -1):
        if slot not in used:
            return slot
    return next((slot for slot in also if slot not in used), None)


def needs_slot(vas: NDArray[np.uint64], slot: int, levels: int, size: int) -> NDArray[np.bool_]:
    """Say which of many accesses could read the top-level entry of a slot.

    :param vas: the addresses; no access spans two pages.
    :param size: the width of each access.
    """
    # The words at slot * 8 of a page: from the first byte that reaches it to its last.
    needed = (vas & np.uint64(0xFFF)) - np.uint64(8 * slot - size + 1) < np.uint64(7 + size)
    for level in range(levels):
        shift = np.uint64(12 + 9 * level)
        needed |= vas & (np.uint64(511) << shift) == np.uint64(slot) << shift
    return np.asarray(needed, np.bool_)
