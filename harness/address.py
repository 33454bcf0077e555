"""Addresses, pages and frames: the words of the `x86_64` crate, in Python.

A :class:`VirtAddr` is always canonical and a :class:`PhysAddr` always fits in 52 bits, so both
constructors can fail; ``new_truncate`` cannot, because it forces the number into shape. The two
never mix: adding, comparing or converting one with the other is a TypeError. Both are immutable,
hashable and ordered, and become ints wherever Python asks for an index (``hex(va)``, ``int(va)``).

:class:`Page` and :class:`PhysFrame` are aligned pieces of the two address spaces. The name of the
constructor states the invariant: ``containing_address`` rounds down, ``from_start_address``
refuses. The page size is a value (:class:`PageSize`), not a type.

Steps jump the canonical gap, as the crate's ``Step`` does; plain ``+`` and ``-`` do not, and
raise when they land in it::

    >>> top = VirtAddr(0x7fff_ffff_f000)
    >>> top.forward_checked(0x1000)
    VirtAddr(0xffff_8000_0000_0000)
    >>> top + 0x1000
    Traceback (most recent call last):
    harness.errors.VirtAddrNotValid: bits 63:47 of a virtual address must be equal with 4 levels, \
not those of 0x8000_0000_0000
    >>> Page.containing_address(VirtAddr(0x20_1234), PageSize.Size2MiB)
    Page(VirtAddr(0x20_0000), PageSize.Size2MiB)

Where the crate differs: its ``new`` panics and its ``try_new`` returns an error (here both
raise); it has no 57-bit addresses; ``a - b`` panics when ``b > a`` (here it is a negative int);
its page ranges panic at the gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import index
from typing import Any, ClassVar, Generic, Self, SupportsIndex, TypeGuard, TypeVar

from harness._address import (
    ADDRESS_BITS,
    ENTRIES_PER_TABLE,
    LEVEL_NAMES,
    Address,
    PageSize,
    align_down,
    align_up,
    entry_name,
    format_address,
    is_canonical,
    sign_extend,
    table_name,
)
from harness.errors import AddressError, AddressNotAligned, PhysAddrNotValid, VirtAddrNotValid

__all__ = [
    "ENTRIES_PER_TABLE",
    "LEVEL_NAMES",
    "Page",
    "PageRange",
    "PageSize",
    "PhysAddr",
    "PhysFrame",
    "VirtAddr",
    "align_down",
    "align_up",
    "entry_name",
    "format_address",
    "is_canonical",
    "sign_extend",
    "table_name",
]


class VirtAddr(Address):
    """A canonical virtual address.

    :param value: the address.
    :param levels: 4 for 48-bit addresses, 5 for 57-bit ones. It takes no part in comparisons.
    :raises VirtAddrNotValid: when ``value`` is not canonical.
    """

    __slots__ = ("_levels",)
    _levels: int

    def __init__(self, value: SupportsIndex, levels: int = 4) -> None:
        number = self._number(value)
        if not is_canonical(number, levels):
            raise VirtAddrNotValid(number, levels)
        object.__setattr__(self, "_value", number)
        object.__setattr__(self, "_levels", levels)

    @classmethod
    def new(cls, value: SupportsIndex, levels: int = 4) -> Self:
        """Return the address; the same as calling the class.

        :raises VirtAddrNotValid: when ``value`` is not canonical.
        """
        return cls(value, levels)

    @classmethod
    def try_new(cls, value: SupportsIndex, levels: int = 4) -> Self:
        """Return the address; the crate returns the error that is raised here.

        :raises VirtAddrNotValid: when ``value`` is not canonical.
        """
        return cls(value, levels)

    @classmethod
    def new_truncate(cls, value: SupportsIndex, levels: int = 4) -> Self:
        """Return the canonical address with the low 48 (or 57) bits of ``value``."""
        return cls(sign_extend(cls._number(value), levels), levels)

    def _like(self, value: int) -> Self:
        return type(self)(value, self._levels)

    def _truncated_like(self, value: int) -> Self:
        return self.new_truncate(value, self._levels)

    def _dense_bits(self) -> int:
        return ADDRESS_BITS[self._levels]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._value, self._levels)

    def __repr__(self) -> str:
        levels = "" if self._levels == 4 else f", levels={self._levels}"
        return f"VirtAddr({self._value:#_x}{levels})"

    @property
    def levels(self) -> int:
        """Give the number of levels whose canonical form this is: 4 or 5."""
        return self._levels

    def align_up(self, align: SupportsIndex) -> Self:
        """Return the least aligned address that is not below this one, past the gap.

        :param align: a power of two, in bytes.
        :raises AddressError: when that exceeds 64 bits.
        """
        return self._truncated_like(align_up(self._value, index(align)))

    @property
    def page_offset(self) -> int:
        """Give bits 11:0, the offset in a 4 KiB page."""
        return self._value & 0xFFF

    def page_table_index(self, level: int) -> int:
        """Return the index in the table of that level.

        :param level: 1 to 5.
        """
        if level not in LEVEL_NAMES:
            raise AddressError(f"a table's level must be 1 to 5, not {level!r}")
        return (self._value >> (3 + 9 * level)) & 0x1FF

    @property
    def p1_index(self) -> int:
        """Give bits 20:12, the index in the level 1 table (PT)."""
        return (self._value >> 12) & 0x1FF

    @property
    def p2_index(self) -> int:
        """Give bits 29:21, the index in the level 2 table (PD)."""
        return (self._value >> 21) & 0x1FF

    @property
    def p3_index(self) -> int:
        """Give bits 38:30, the index in the level 3 table (PDPT)."""
        return (self._value >> 30) & 0x1FF

    @property
    def p4_index(self) -> int:
        """Give bits 47:39, the index in the level 4 table (PML4)."""
        return (self._value >> 39) & 0x1FF

    @property
    def p5_index(self) -> int:
        """Give bits 56:48, the index in the level 5 table (PML5)."""
        return (self._value >> 48) & 0x1FF


class PhysAddr(Address):
    """A physical address of at most 52 bits, the architecture's limit.

    What one CPU offers (MAXPHYADDR) may be less; that is the walker's business.

    :param value: the address.
    :raises PhysAddrNotValid: when ``value`` is negative or has a bit above bit 51.
    """

    __slots__ = ()
    BITS: ClassVar[int] = 52

    def __init__(self, value: SupportsIndex) -> None:
        number = self._number(value)
        if number >> self.BITS:
            raise PhysAddrNotValid(number)
        object.__setattr__(self, "_value", number)

    @classmethod
    def new(cls, value: SupportsIndex) -> Self:
        """Return the address; the same as calling the class.

        :raises PhysAddrNotValid: when ``value`` has a bit above bit 51.
        """
        return cls(value)

    @classmethod
    def try_new(cls, value: SupportsIndex) -> Self:
        """Return the address; the crate returns the error that is raised here.

        :raises PhysAddrNotValid: when ``value`` has a bit above bit 51.
        """
        return cls(value)

    @classmethod
    def new_truncate(cls, value: SupportsIndex) -> Self:
        """Return the address with the low 52 bits of ``value``."""
        return cls(cls._number(value) & ((1 << cls.BITS) - 1))

    def _like(self, value: int) -> Self:
        return type(self)(value)

    def _truncated_like(self, value: int) -> Self:
        return self.new_truncate(value)

    def _dense_bits(self) -> int:
        return self.BITS

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._value,)

    def __repr__(self) -> str:
        return f"PhysAddr({self._value:#_x})"

    def align_up(self, align: SupportsIndex) -> Self:
        """Return the least aligned address that is not below this one.

        :param align: a power of two, in bytes.
        :raises PhysAddrNotValid: when that exceeds 52 bits.
        """
        return type(self)(align_up(self._value, index(align)))


_A = TypeVar("_A", VirtAddr, PhysAddr)


class _Chunk(Generic[_A]):
    # What pages and frames share: an aligned start and a size.
    __slots__ = ("_size", "_start")
    _kind: ClassVar[type[Address]]
    _start: _A
    _size: PageSize

    def __init__(self, start: _A, size: PageSize = PageSize.Size4KiB) -> None:
        if not isinstance(start, self._kind):
            raise TypeError(
                f"a {type(self).__name__} starts at a {self._kind.__name__}, not at {start!r}"
            )
        size = PageSize(size)
        if int(start) & (size - 1):
            raise AddressNotAligned(start, size)
        object.__setattr__(self, "_start", start)
        object.__setattr__(self, "_size", size)

    __setattr__ = Address.__setattr__
    __delattr__ = Address.__delattr__

    @classmethod
    def from_start_address(cls, start: _A, size: PageSize = PageSize.Size4KiB) -> Self:
        """Return the piece that starts at ``start``.

        :raises AddressNotAligned: when ``start`` is not a multiple of ``size``.
        """
        return cls(start, size)

    @classmethod
    def containing_address(cls, address: _A, size: PageSize = PageSize.Size4KiB) -> Self:
        """Return the piece that ``address`` lies in."""
        return cls(address.align_down(size), size)

    @classmethod
    def range(cls, start: Self, end: Self) -> PageRange[Self]:
        """Return the pieces from ``start`` up to, but without, ``end``."""
        return PageRange(start, end)

    @classmethod
    def range_inclusive(cls, start: Self, end: Self) -> PageRange[Self]:
        """Return the pieces from ``start`` up to and with ``end``."""
        return PageRange(start, end, inclusive=True)

    @property
    def start_address(self) -> _A:
        """Give the first address."""
        return self._start

    @property
    def size(self) -> PageSize:
        """Give the size, in bytes."""
        return self._size

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._start, self._size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._start!r}, {self._size!r})"

    def __eq__(self, other: object) -> bool:
        if type(other) is type(self):
            return self._start == other._start and self._size == other._size
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._start, self._size))

    def _comparable(self, other: object) -> TypeGuard[Self]:
        return isinstance(other, type(self)) and other._size == self._size

    def __lt__(self, other: Self) -> bool:
        return self._start < other._start if self._comparable(other) else NotImplemented

    def __le__(self, other: Self) -> bool:
        return self._start <= other._start if self._comparable(other) else NotImplemented

    def __gt__(self, other: Self) -> bool:
        return self._start > other._start if self._comparable(other) else NotImplemented

    def __ge__(self, other: Self) -> bool:
        return self._start >= other._start if self._comparable(other) else NotImplemented

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, self._kind):
            raise TypeError(
                f"a {type(self).__name__} contains a {self._kind.__name__}, not {address!r}"
            )
        return 0 <= int(address) - int(self._start) < self._size

    def __add__(self, count: SupportsIndex) -> Self:
        if isinstance(count, (Address, _Chunk)) or not hasattr(count, "__index__"):
            return NotImplemented
        return type(self)(self._start + index(count) * self._size, self._size)

    def __sub__(self, other: Any) -> Any:
        if self._comparable(other):
            return (self._start - other._start) // self._size
        if isinstance(other, (Address, _Chunk)) or not hasattr(other, "__index__"):
            return NotImplemented
        return type(self)(self._start - index(other) * self._size, self._size)

    def forward_checked(self, count: int) -> Self | None:
        """Return the piece ``count`` pieces later, past the gap, or None beyond the last.

        :param count: how many to step over, 0 or more.
        """
        start = self._start.forward_checked(count * self._size)
        return None if start is None else type(self)(start, self._size)

    def backward_checked(self, count: int) -> Self | None:
        """Return the piece ``count`` pieces earlier, past the gap, or None below 0.

        :param count: how many to step over, 0 or more.
        """
        return self.forward_checked(-count)

    def steps_between(self, end: Self) -> int | None:
        """Return how many steps lead from here to ``end``, or None when it lies below.

        :param end: a piece of the same type and size.
        """
        if not self._comparable(end):
            raise TypeError(
                f"steps lead to another {self._size.letter} {type(self).__name__}, not to {end!r}"
            )
        steps = self._start.steps_between(end._start)
        return None if steps is None else steps // self._size


class Page(_Chunk[VirtAddr]):
    """A page: an aligned piece of virtual memory.

    :param start: its first address.
    :param size: its size.
    :raises AddressNotAligned: when ``start`` is not a multiple of ``size``.
    """

    __slots__ = ()
    _kind = VirtAddr

    @classmethod
    def from_page_table_indices(
        cls,
        p4: int,
        p3: int,
        p2: int | None = None,
        p1: int | None = None,
        *,
        p5: int | None = None,
    ) -> Self:
        """Return the page that the indices select, sign-extended.

        Without ``p1`` it is a 2 MiB page, without ``p2`` a 1 GiB page.

        :param p5: the index in the PML5; its presence makes the address a 5-level one.
        :raises AddressError: when an index is not below 512, or ``p1`` comes without ``p2``.
        """
        if p2 is None and p1 is not None:
            raise AddressError(f"p1 must come with p2, not alone as {p1!r}")
        value = 0
        for name, number in (("p5", p5), ("p4", p4), ("p3", p3), ("p2", p2), ("p1", p1)):
            if number is not None and not 0 <= number < ENTRIES_PER_TABLE:
                raise AddressError(f"{name} must be an index below 512, not {number!r}")
            value = value << 9 | (number or 0)
        level = 3 if p2 is None else 2 if p1 is None else 1
        start = VirtAddr.new_truncate(value << 12, 4 if p5 is None else 5)
        return cls(start, PageSize.of_level(level))

    def page_table_index(self, level: int) -> int:
        """Return the page's index in the table of that level.

        :param level: 1 to 5.
        """
        return self._start.page_table_index(level)


class PhysFrame(_Chunk[PhysAddr]):
    """A frame: an aligned piece of physical memory.

    :param start: its first address.
    :param size: its size.
    :raises AddressNotAligned: when ``start`` is not a multiple of ``size``.
    """

    __slots__ = ()
    _kind = PhysAddr


_P = TypeVar("_P", bound="_Chunk[Any]")


class PageRange(Generic[_P]):
    """A run of pages, or of frames, of one size; iteration jumps the canonical gap.

    :param start: the first.
    :param end: the first that no longer belongs to it, or with ``inclusive`` the last that does.
    :param inclusive: whether ``end`` belongs to it. Only an inclusive range holds the last page.
    :raises TypeError: when the two differ in type or size.
    """

    __slots__ = ("_length", "end", "inclusive", "start")

    def __init__(self, start: _P, end: _P, *, inclusive: bool = False) -> None:
        self.start = start
        self.end = end
        self.inclusive = inclusive
        steps = start.steps_between(end)
        self._length = 0 if steps is None else steps + inclusive

    def __len__(self) -> int:
        return self._length

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is in it."""
        return not self._length

    @property
    def size(self) -> int:
        """Give the number of bytes in it."""
        return self._length * int(self.start.size)

    def __iter__(self) -> Iterator[_P]:
        for count in range(self._length):
            step = self.start.forward_checked(count)
            assert step is not None  # it lies between start and end
            yield step

    def __contains__(self, item: object) -> bool:
        if not self.start._comparable(item):
            return False
        steps = self.start.steps_between(item)
        return steps is not None and steps < self._length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageRange):
            return NotImplemented
        return (self.start, self.end, self.inclusive) == (other.start, other.end, other.inclusive)

    def __hash__(self) -> int:
        return hash((self.start, self.end, self.inclusive))

    def __repr__(self) -> str:
        inclusive = ", inclusive=True" if self.inclusive else ""
        return f"PageRange({self.start!r}, {self.end!r}{inclusive})"
