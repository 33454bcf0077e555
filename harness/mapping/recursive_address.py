"""The arithmetic of a recursive slot: which address shows which table.

When slot ``r`` of the top-level table points at the top-level table itself, each pass through the
slot uses up one of the CPU's levels without going down, so that the walk ends one level early and
a page table comes out as if it were the page. An address whose first *n* table indices are ``r``
therefore shows a level-*n* table; the indices that are left over select which one, and the offset
in the page selects the entry. For 4 levels, in the octal form of the lecture's blog, where ``RRR``
is the slot and ``AAA BBB CCC DDD`` are the level 4, 3, 2 and 1 indices of the address asked about::

    page            0o_SSSSSS_AAA_BBB_CCC_DDD_EEEE
    level 1 table   0o_SSSSSS_RRR_AAA_BBB_CCC_0000      its entry: ..._(DDD * 8)
    level 2 table   0o_SSSSSS_RRR_RRR_AAA_BBB_0000      its entry: ..._(CCC * 8)
    level 3 table   0o_SSSSSS_RRR_RRR_RRR_AAA_0000      its entry: ..._(BBB * 8)
    level 4 table   0o_SSSSSS_RRR_RRR_RRR_RRR_0000      its entry: ..._(AAA * 8)

``SSSSSS`` is the sign extension: all ones for a slot of 256 and up, or the CPU raises #GP. With 5
levels there is one index more, and the same rule holds. These are pure functions; nothing is read.

>>> from harness.mapping.recursive_address import shown_by, table_address
>>> table_address(0x1234_5678, level=4, slot=511)
VirtAddr(0xffff_ffff_ffff_f000)
>>> shown_by(0xffff_ffff_ffff_f000, slot=511).level
4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import SupportsIndex

from harness.address import VirtAddr, is_canonical, sign_extend

__all__ = [
    "Shown",
    "entry_address",
    "octal",
    "recursive_region",
    "shown_by",
    "table_address",
]

_INDEX_BITS = 9
_OFFSET_BITS = 12
_ENTRIES = 512


@dataclass(frozen=True, slots=True)
class Shown:
    """What a recursive address shows: one entry of one table.

    :ivar level: of the table that appears as the page, 1 up to the number of levels.
    :ivar indices: the table indices that lead to that table, from the top; none for the top itself.
    :ivar index: of the entry, within that table, that the address lies in.
    :ivar first: the first address that the table translates.
    :ivar last: the last address (inclusive) that the table translates.
    """

    level: int
    indices: tuple[int, ...]
    index: int
    first: VirtAddr
    last: VirtAddr


def table_address(va: SupportsIndex, level: int, slot: int, levels: int = 4) -> VirtAddr:
    """Give the address at which slot ``slot`` shows the level-``level`` table of ``va``.

    :param va: a canonical address; only its table indices above ``level`` matter.
    :param level: 1 (the page table) to ``levels`` (the top-level table, the same for every ``va``).
    :param slot: index of the recursive entry in the top-level table, 0 to 511.
    :param levels: 4, or 5 with CR4.LA57.
    :raises ValueError: a level or a slot that does not exist, an address that is not canonical.
    """
    _check(slot, levels)
    if not 1 <= level <= levels:
        raise ValueError(f"level must lie between 1 and {levels}, got {level}")
    value = _canonical(va, levels)
    index_field = ((1 << (levels * _INDEX_BITS)) - 1) << _OFFSET_BITS
    # Every pass through the slot pushes the address's own indices one place to the right.
    indices = (value & index_field) >> (level * _INDEX_BITS) & index_field
    for passed in range(level):
        indices |= slot << (_OFFSET_BITS + (levels - 1 - passed) * _INDEX_BITS)
    return VirtAddr(sign_extend(indices, levels), levels)


def entry_address(va: SupportsIndex, level: int, slot: int, levels: int = 4) -> VirtAddr:
    """Give the address at which slot ``slot`` shows the level-``level`` entry of ``va``.

    :raises ValueError: as :func:`table_address`.
    """
    table = table_address(va, level, slot, levels)
    index = int(va) >> (_OFFSET_BITS + (level - 1) * _INDEX_BITS) & (_ENTRIES - 1)
    return table + index * 8


def shown_by(va: SupportsIndex, slot: int, levels: int = 4) -> Shown | None:
    """Say which table entry the address ``va`` shows, or None outside the slot's region.

    Where an address can be read in two ways (the level-1 table of an address that is itself in the
    recursive region is also a level-2 table), the reading with the higher level is given.

    :raises ValueError: a slot that does not exist, an address that is not canonical.
    """
    _check(slot, levels)
    value = _canonical(va, levels)
    indices = [
        value >> (_OFFSET_BITS + place * _INDEX_BITS) & (_ENTRIES - 1)
        for place in reversed(range(levels))
    ]
    level = 0
    while level < levels and indices[level] == slot:
        level += 1
    if level == 0:
        return None
    path = tuple(indices[level:])
    span = 1 << (_OFFSET_BITS + level * _INDEX_BITS)
    start = 0
    for index in path:
        start = start << _INDEX_BITS | index
    start *= span
    return Shown(
        level=level,
        indices=path,
        index=(value & 0xFFF) // 8,
        first=VirtAddr(sign_extend(start, levels), levels),
        last=VirtAddr(sign_extend(start + span - 1, levels), levels),
    )


def recursive_region(slot: int, levels: int = 4) -> tuple[VirtAddr, VirtAddr]:
    """Give the first and last (inclusive) address of the region that a recursive slot costs.

    It is 512 GiB with 4 levels and 256 TiB with 5: one entry of the top-level table.
    """
    _check(slot, levels)
    span = 1 << (_OFFSET_BITS + (levels - 1) * _INDEX_BITS)
    return (
        VirtAddr(sign_extend(slot * span, levels), levels),
        VirtAddr(sign_extend(slot * span + span - 1, levels), levels),
    )


def octal(va: SupportsIndex, levels: int = 4) -> str:
    """Write an address in the octal form that keeps its table indices apart.

    >>> octal(0xffff_ffff_ffff_f000)
    '0o_177777_777_777_777_777_0000'
    """
    value = int(va) & (1 << 64) - 1
    above = _OFFSET_BITS + levels * _INDEX_BITS
    indices = [
        f"{value >> (_OFFSET_BITS + place * _INDEX_BITS) & (_ENTRIES - 1):03o}"
        for place in reversed(range(levels))
    ]
    sign_digits = -(-(64 - above) // 3)
    return "_".join(["0o", f"{value >> above:0{sign_digits}o}", *indices, f"{value & 0xFFF:04o}"])


def _check(slot: int, levels: int) -> None:
    if levels not in (4, 5):
        raise ValueError(f"levels must be 4 or 5, got {levels}")
    if not 0 <= slot < _ENTRIES:
        raise ValueError(f"a slot must lie between 0 and 511, got {slot}")


def _canonical(va: SupportsIndex, levels: int) -> int:
    value = va.__index__()
    if not is_canonical(value, levels):
        raise ValueError(f"an address must be canonical for {levels} levels, got {value:#x}")
    return value
