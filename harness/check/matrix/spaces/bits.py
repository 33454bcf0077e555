"""The named bits that the cases of a matrix are made of, and what combinations make no sense.

A :class:`Bit` has a name such as ``pte.rw``, ``pkru.wd3`` or ``write``, a meaning, and one of three
things that it sets: a bit of an entry at a level, a bit of a register, or a property of the
access. Bits that are chosen together make a :class:`Field`: most fields are one bit, on or off,
but the size of the page or the key of the leaf are one choice among several::

    >>> entry_bit(1, 7).name, entry_bit(2, 7).name, entry_bit(LEAF, 59).name
    ('pte.pat', 'pde.pse', 'leaf.bit59')
    >>> Field.of(CPU_BITS["cr0.wp"]).options
    ((), (Bit('cr0.wp'),))

A combination that is not worth asking is pruned by an :class:`Illegal`, which gives the reason in
words. An unknown name is a KeyError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.address import entry_name
from harness.cpu import CR0, CR4, EFER, RFLAGS
from harness.entry import PageTableFlags

__all__ = [
    "ACCESS_BITS",
    "CPU_BITS",
    "LEAF",
    "TABLES_ABOVE",
    "Bit",
    "Field",
    "Illegal",
    "On",
    "entry_bit",
    "entry_bits",
    "unread",
]

LEAF: Final = 0
"""As the level of a bit: the entry that maps the page, whichever it is."""
TABLES_ABOVE: Final = -1
"""As the level of a bit: every entry above the leaf."""

On: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""For each bit's name: in which of many combinations it is set."""


@dataclass(frozen=True, slots=True, repr=False)
class Bit:
    """One named bit of a case.

    :ivar name: how reports call it.
    :ivar meaning: one line for people.
    :ivar level: of the entry that it is set in: 1 to 5, :data:`LEAF`, :data:`TABLES_ABOVE`; None
        for a bit that is in no entry.
    :ivar register: the field of ``CpuState`` that it is set in, or None.
    :ivar mask: what is set there; 0 when it is a property of the access.
    """

    name: str
    meaning: str = field(compare=False)
    level: int | None = None
    register: str | None = None
    mask: int = 0

    def __repr__(self) -> str:
        return f"Bit({self.name!r})"


@dataclass(frozen=True, slots=True)
class Field:
    """A choice: exactly one of the options holds in each case.

    :ivar name: what is chosen.
    :ivar options: the bits that each option sets; the first option is the plainest.
    """

    name: str
    options: tuple[tuple[Bit, ...], ...]

    @classmethod
    def of(cls, bit: Bit) -> Self:
        """Return the choice between a bit clear and the bit set."""
        return cls(bit.name, ((), (bit,)))

    @classmethod
    def always(cls, name: str, bits: Iterable[Bit]) -> Self:
        """Return no choice at all: bits that are set in every case."""
        return cls(name, (tuple(bits),))

    @property
    def bits(self) -> tuple[Bit, ...]:
        """Give every bit of every option, each once."""
        return tuple(dict.fromkeys(bit for option in self.options for bit in option))


@dataclass(frozen=True, slots=True)
class Illegal:
    """Combinations that are left out.

    :ivar reason: why, in words.
    :ivar where: tells which of many combinations these are.
    """

    reason: str
    where: Callable[[On], NDArray[np.bool_]]


# The bits of an entry whose name does not depend on the level.
_PLAIN: Final = {
    PageTableFlags.PRESENT: "p",
    PageTableFlags.WRITABLE: "rw",
    PageTableFlags.USER_ACCESSIBLE: "us",
    PageTableFlags.WRITE_THROUGH: "pwt",
    PageTableFlags.NO_CACHE: "pcd",
    PageTableFlags.ACCESSED: "a",
    PageTableFlags.DIRTY: "d",
    PageTableFlags.GLOBAL: "g",
    PageTableFlags.NO_EXECUTE: "nx",
}
_SHORT: Final = {int(flag).bit_length() - 1: name for flag, name in _PLAIN.items()}
_MEANING: Final = {int(flag).bit_length() - 1: flag.meaning for flag in _PLAIN}


def entry_bit(level: int, position: int) -> Bit:
    """Return the bit of an entry.

    :param level: 1 to 5, :data:`LEAF` or :data:`TABLES_ABOVE`.
    :param position: 0 to 63.
    """
    where = {LEAF: "leaf", TABLES_ABOVE: "tables"}.get(level) or entry_name(level).lower()
    short, meaning = _SHORT.get(position), _MEANING.get(position)
    if position == 7:
        short = "pat" if level == 1 else "pse"
        meaning = "bit 0x4 of the memory type" if level == 1 else "the entry maps a page"
    return Bit(
        f"{where}.{short or f'bit{position}'}",
        f"{where.upper()}: {meaning or f'bit {position}'}",
        level=level,
        mask=1 << position,
    )


def entry_bits(levels: Iterable[int], *positions: int) -> tuple[Bit, ...]:
    """Return the bits at some positions of the entries of some levels.

    :param levels: as in :func:`entry_bit`, in the order wanted.
    :param positions: 0 to 63.
    """
    return tuple(entry_bit(level, position) for level in levels for position in positions)


def _switch(name: str, member: CR0 | CR4 | EFER | RFLAGS) -> Bit:
    return Bit(name, member.meaning, register=name.partition(".")[0], mask=int(member))


_SWITCHES = (
    _switch("cr0.wp", CR0.WP),
    _switch("cr4.smep", CR4.SMEP),
    _switch("cr4.smap", CR4.SMAP),
    _switch("cr4.pke", CR4.PKE),
    _switch("cr4.pge", CR4.PGE),
    _switch("efer.nxe", EFER.NXE),
    _switch("rflags.ac", RFLAGS.AC),
    Bit("user", "the access is made at CPL 3", register="cpl", mask=3),
    *(
        Bit(
            f"pkru.{name}{key}", f"PKRU: {what} of key {key}", register="pkru", mask=mask << 2 * key
        )
        for key in range(16)
        for name, what, mask in (("ad", "no access to pages", 1), ("wd", "no write to pages", 2))
    ),
)
_ACCESSES = (
    Bit("write", "the access is a write"),
    Bit("fetch", "the access fetches an instruction"),
    Bit("twice", "a supervisor has read the address just before"),
    Bit("implicit", "the CPU itself reads 8 bytes, as it does a descriptor: a supervisor always"),
    *(Bit(f"size{size}", f"the access is {size} bytes wide") for size in (2, 4, 8)),
)

CPU_BITS: Final[Mapping[str, Bit]] = MappingProxyType({bit.name: bit for bit in _SWITCHES})
"""The bits of registers, by name."""
ACCESS_BITS: Final[Mapping[str, Bit]] = MappingProxyType({bit.name: bit for bit in _ACCESSES})
"""The properties of an access, by name; one without any is a read of one byte."""


def unread(fields: Iterable[Field]) -> Illegal:
    """Return what prunes variations of entries that the walk does not read.

    Below a big page the entries stay as in each field's first option.

    :param fields: the choices about entries; the sizes of pages are ``pde.pse`` and ``pdpte.pse``.
    """
    varying = [field for field in fields if len(field.options) > 1]
    usual = {bit: bit in field.options[0] for field in varying for bit in field.bits}

    def where(on: On) -> NDArray[np.bool_]:
        result = np.asarray(False)
        for ps, lower in (("pde.pse", (1,)), ("pdpte.pse", (1, 2))):
            if ps in on:
                for bit, value in usual.items():
                    if bit.level in lower and bit.name != "pde.pse":
                        result = result | (on[ps] & (on[bit.name] != value))
        return result

    return Illegal("what lies below the entry that maps the page is not read", where)
