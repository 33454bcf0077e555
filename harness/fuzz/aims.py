"""Where a random access is aimed, and what it does there.

An address is made of the few indices that its address space has, so that it passes through entries
that other addresses pass through, recursive ones among them; its offset is often that of one of
those entries, so that an access to a page that is a table hits what it was translated by (rule
``SELF``). Otherwise it lies at a page's end, so that the access spans two pages, at an edge of the
canonical halves, or anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from harness.fuzz.dice import Dice
from harness.fuzz.spaces import Space
from harness.outcome import Access, AccessKind

__all__ = ["random_access", "random_address"]

_ALL = (1 << 64) - 1
_SIZES: Final = (1, 1, 2, 4, 8, 8)
_WIDE: Final = {AccessKind.READ: (6, 10, 16), AccessKind.WRITE: (10, 16, 28)}
_NO_INSTRUCTION: Final = (3, 12, 32, 64)
"""Sizes that the default engine must own up to not having."""
_FETCH: Final = Access(AccessKind.FETCH)
_IMPLICIT: Final = Access(AccessKind.READ, 8, implicit=True)
_ACCESSES: Final = {
    (kind, size, stack): Access(kind, size, stack=stack)
    for kind, wide in _WIDE.items()
    for size in (*_SIZES, *wide, *_NO_INSTRUCTION)
    for stack in (False, True)
}


def random_access(dice: Dice, knobs: Mapping[str, float], features: set[str]) -> Access:
    """Choose what an access does.

    :param dice: what decides.
    :param knobs: how often each kind occurs.
    :param features: takes in the knobs that had a part in it.
    """
    roll = dice.roll
    if roll() < knobs["fetch"]:
        features.add("fetch")
        return _FETCH
    if roll() < knobs["implicit"]:
        features.add("implicit")
        return _IMPLICIT
    kind = AccessKind.READ
    if roll() < knobs["write"]:
        kind = AccessKind.WRITE
        features.add("write")
    size = dice.pick(_SIZES)
    if roll() < knobs["wide"]:
        features.add("wide")
        size = dice.pick(_WIDE[kind])
    elif roll() < knobs["no-instruction"]:
        features.add("no-instruction")
        size = dice.pick(_NO_INSTRUCTION)
    stack = roll() < knobs["stack"]
    if stack:
        features.add("stack")
    return _ACCESSES[kind, size, stack]


def random_address(
    dice: Dice, knobs: Mapping[str, float], space: Space, size: int, features: set[str]
) -> int:
    """Choose an address.

    :param dice: what decides.
    :param knobs: how often each kind occurs.
    :param space: in which it shall mean something.
    :param size: bytes of the access.
    :param features: takes in the knobs that had a part in it.
    """
    roll, indices = dice.roll, space.indices
    bits = 9 * space.levels + 12
    va = 0
    for _ in range(space.levels):
        index = indices[int(roll() * len(indices))] if roll() < 0.9 else int(roll() * 512)
        va = va << 9 | index
    how = roll()
    if size > 1 and roll() < knobs["span"]:
        features.add("span")
        va = va << 12 | 0xFFF
        if roll() < knobs["span-tables"]:
            features.add("span-tables")
            va |= (1 << 12 + 9 * int(roll() * (space.levels + 1))) - 1
        va = va - int(roll() * (size - 1)) & (1 << bits) - 1
    elif how < knobs["entry"]:
        features.add("entry")
        va = va << 12 | indices[int(roll() * len(indices))] << 3
    else:
        va = va << 12 | int(roll() * 0x1000)
    if roll() < knobs["edge-address"]:
        features.add("edge-address")
        # The first and the last bytes of both halves, and what lies over the edge.
        va = ((1 << bits - 1) * int(roll() * 2)) - int(roll() * (2 * size)) & (1 << bits) - 1
    if va >> bits - 1:
        va |= -1 << bits & _ALL
    if roll() < knobs["not-canonical"]:
        features.add("not-canonical")
        va ^= 1 << bits - 1 + int(roll() * (65 - bits))
    return va
