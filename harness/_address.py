"""Arithmetic on 64-bit addresses, and what the two kinds of address share.

:mod:`harness.address` is the chapter on this; it hands out these names too.
"""

from __future__ import annotations

import enum
from operator import index
from typing import Any, NoReturn, Self, SupportsIndex

from harness.errors import AddressError

__all__ = [
    "ADDRESS_BITS",
    "ENTRIES_PER_TABLE",
    "LEVEL_NAMES",
    "Address",
    "PageSize",
    "align_down",
    "align_up",
    "entry_name",
    "format_address",
    "is_canonical",
    "sign_extend",
    "table_name",
]

ENTRIES_PER_TABLE = 512

# SDM volume 3A, 4.5: the structures of 4- and 5-level paging, by the level that indexes them.
LEVEL_NAMES = {5: "PML5E", 4: "PML4E", 3: "PDPTE", 2: "PDE", 1: "PTE"}

_U64 = (1 << 64) - 1
ADDRESS_BITS = {4: 48, 5: 57}


def entry_name(level: int) -> str:
    """Return what the manual calls an entry of a table of that level, such as ``PDPTE``.

    :param level: 1 to 5.
    """
    return LEVEL_NAMES[level]


def table_name(level: int) -> str:
    """Return what the manual calls a table of that level, such as ``PDPT``.

    :param level: 1 to 5.
    """
    return LEVEL_NAMES[level].removesuffix("E")


def format_address(value: SupportsIndex) -> str:
    """Return the number in hex with an underscore every four digits."""
    return f"{index(value):#_x}"


def sign_extend(value: int, levels: int = 4) -> int:
    """Return the canonical address that has the low 48 (5 levels: 57) bits of ``value``.

    :param levels: 4 or 5.
    """
    bits = _bits(levels)
    sign = 1 << (bits - 1)
    return (((value & ((1 << bits) - 1)) ^ sign) - sign) & _U64


def is_canonical(value: int, levels: int = 4) -> bool:
    """Say whether ``value`` is a virtual address in canonical form (rule ``CANONICAL``).

    :param levels: 4 or 5.
    """
    return sign_extend(value, levels) == value


def align_down(value: int, align: int) -> int:
    """Return the greatest multiple of ``align`` that is not above ``value``.

    :param align: a power of two, in bytes.
    :raises AddressError: when ``align`` is not a power of two.
    """
    align = index(align)
    if align <= 0 or align & (align - 1):
        raise AddressError(f"an alignment must be a power of two, not {align!r}")
    return value & -align


def align_up(value: int, align: int) -> int:
    """Return the least multiple of ``align`` that is not below ``value``.

    :param align: a power of two, in bytes.
    :raises AddressError: when ``align`` is not a power of two, or the result exceeds 64 bits.
    """
    result = align_down(value + align - 1, align)
    if result > _U64:
        raise AddressError(
            f"aligning up must stay within 64 bits, not {value:#_x} to a multiple of {align:#_x}"
        )
    return result


def _bits(levels: int) -> int:
    try:
        return ADDRESS_BITS[levels]
    except KeyError:
        raise AddressError(f"levels must be 4 or 5, not {levels!r}") from None


class PageSize(enum.IntEnum):
    """The three sizes of pages, in bytes."""

    Size4KiB = 1 << 12
    Size2MiB = 1 << 21
    Size1GiB = 1 << 30

    @classmethod
    def of_level(cls, level: int) -> PageSize:
        """Return the size of the pages that an entry of that level maps.

        :param level: 1, 2 or 3.
        :raises AddressError: for a level whose entries map no pages.
        """
        if level not in (1, 2, 3):
            raise AddressError(f"a page is mapped at level 1, 2 or 3, not {level!r}")
        return cls(1 << (3 + 9 * level))

    @property
    def level(self) -> int:
        """Give the level of the entry that maps a page of this size: 1, 2 or 3."""
        return (self.bit_length() - 4) // 9

    @property
    def letter(self) -> str:
        """Give the short name: ``4K``, ``2M`` or ``1G``."""
        return {1: "4K", 2: "2M", 3: "1G"}[self.level]

    def __repr__(self) -> str:
        return f"PageSize.{self.name}"


class Address:
    """What virtual and physical addresses share; not to be made itself."""

    # Both count their addresses without holes in a "dense" number (a canonical address without
    # its sign extension), and step in that.
    __slots__ = ("_value",)
    _value: int

    @classmethod
    def new_truncate(cls, value: int) -> Self:
        raise NotImplementedError

    @classmethod
    def zero(cls) -> Self:
        """Return address 0."""
        return cls.new_truncate(0)

    def _like(self, value: int) -> Self:  # checked, of the same kind as self
        raise NotImplementedError

    def _truncated_like(self, value: int) -> Self:
        raise NotImplementedError

    def _dense_bits(self) -> int:
        raise NotImplementedError

    def _dense(self) -> int:
        return self._value & ((1 << self._dense_bits()) - 1)

    @classmethod
    def _number(cls, value: SupportsIndex) -> int:
        if isinstance(value, Address) and not isinstance(value, cls):
            raise TypeError(f"a {cls.__name__} is never made from {value!r}: use int() to mean it")
        return index(value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} is immutable: it has no settable {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} is immutable: it has no deletable {name!r}")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __index__(self) -> int:
        return self._value

    __int__ = __index__

    def as_u64(self) -> int:
        """Return the address as a plain int."""
        return self._value

    @property
    def is_null(self) -> bool:
        """Say whether this is address 0."""
        return self._value == 0

    def __eq__(self, other: object) -> bool:
        if type(other) is type(self):
            return self._value == other._value
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __lt__(self, other: Self) -> bool:
        return self._value < other._value if type(other) is type(self) else NotImplemented

    def __le__(self, other: Self) -> bool:
        return self._value <= other._value if type(other) is type(self) else NotImplemented

    def __gt__(self, other: Self) -> bool:
        return self._value > other._value if type(other) is type(self) else NotImplemented

    def __ge__(self, other: Self) -> bool:
        return self._value >= other._value if type(other) is type(self) else NotImplemented

    def __add__(self, count: SupportsIndex) -> Self:
        if isinstance(count, Address) or not hasattr(count, "__index__"):
            return NotImplemented
        return self._like(self._value + index(count))

    def __sub__(self, other: Any) -> Any:
        if type(other) is type(self):
            return self._value - other._value
        if isinstance(other, Address) or not hasattr(other, "__index__"):
            return NotImplemented
        return self._like(self._value - index(other))

    def align_down(self, align: SupportsIndex) -> Self:
        """Return the greatest aligned address that is not above this one.

        :param align: a power of two, in bytes.
        """
        return self._truncated_like(align_down(self._value, index(align)))

    def is_aligned(self, align: SupportsIndex) -> bool:
        """Say whether the address is a multiple of ``align``.

        :param align: a power of two, in bytes.
        """
        return align_down(self._value, index(align)) == self._value

    def forward_checked(self, count: int) -> Self | None:
        """Return the address ``count`` addresses later, past the gap, or None beyond the last.

        :param count: how many addresses to step over, 0 or more.
        """
        dense = self._dense() + count
        return None if dense >> self._dense_bits() else self._truncated_like(dense)

    def backward_checked(self, count: int) -> Self | None:
        """Return the address ``count`` addresses earlier, past the gap, or None below 0.

        :param count: how many addresses to step over, 0 or more.
        """
        return self.forward_checked(-count)

    def steps_between(self, end: Self) -> int | None:
        """Return how many steps lead from here to ``end``, or None when it lies below.

        :param end: an address of the same type.
        """
        if type(end) is not type(self):
            raise TypeError(f"steps lead to another {type(self).__name__}, not to {end!r}")
        steps = end._dense() - self._dense()
        return steps if steps >= 0 else None
