"""Bit layouts described as data: which bit, what it is called, what it means.

A layout is an ``enum.IntFlag`` whose members are written as ``NAME = bit, meaning``. Its values
are ints, immutable and hashable; ``repr`` evaluates to an equal value, ``str`` is the short form
for people, ``describe`` the long one::

    >>> from harness.registers import ErrorCode
    >>> ErrorCode(0x15)
    ErrorCode.P | ErrorCode.U | ErrorCode.I
    >>> print(ErrorCode(0x15))
    P U I

A :class:`Layout` keeps bits that it has no name for. A :class:`StrictLayout` (a control register)
refuses them with :class:`~harness.errors.CpuStateError`, because the CPU would.

Every distinct value is cached by ``enum``: make layouts for people and for APIs, not one for each
entry of a table in an inner loop.
"""

from __future__ import annotations

import enum
from typing import Self

from harness.errors import CpuStateError

__all__ = ["Layout", "StrictLayout"]


class Layout(enum.IntFlag, boundary=enum.KEEP):
    """A set of named bits that keeps the bits it has no name for."""

    meaning: str

    # Only the members of a class come through here; ``CR4(0x20)`` is a look-up, for which the
    # default keeps type checkers content.
    def __new__(cls, bit: int, meaning: str = "") -> Self:
        member = int.__new__(cls, 1 << bit)
        member._value_ = 1 << bit
        member.meaning = meaning
        return member

    @classmethod
    def mask(cls) -> int:
        """Return all the bits that have a name."""
        return cls._flag_mask_  # type: ignore[attr-defined, no-any-return]

    @property
    def members(self) -> list[Self]:
        """Give the named bits that are set, lowest first."""
        return [member for member in type(self) if int(member) & int(self)]

    @property
    def unknown(self) -> int:
        """Give the bits that are set and have no name."""
        return int(self) & ~self.mask()

    def __repr__(self) -> str:
        cls = type(self).__name__
        parts = [f"{cls}.{member.name}" for member in self.members]
        if self.unknown or not parts:
            parts.append(f"{cls}({self.unknown:#x})")
        return " | ".join(parts)

    def __str__(self) -> str:
        parts = [str(member.name) for member in self.members]
        if self.unknown:
            parts.append(f"{self.unknown:#x}")
        return " ".join(parts) or "0"

    def describe(self) -> str:
        """Return one line for each bit that is set: its number, its name and its meaning."""
        lines = [
            f"bit {int(member).bit_length() - 1:<2} {member.name:<10} {member.meaning}"
            for member in self.members
        ]
        if self.unknown:
            lines.append(f"bits with no name: {self.unknown:#_x}")
        return "\n".join(lines) or "no bit is set"


class StrictLayout(Layout, boundary=enum.STRICT):
    """A register whose other bits are reserved: setting one is an error of rule ``MODE``."""

    @classmethod
    def _missing_(cls, value: object) -> StrictLayout:
        if isinstance(value, int) and value & ~cls.mask():
            raise CpuStateError(
                f"reserved bits of {cls.__name__} must be 0, "
                f"not {value & ~cls.mask():#_x} (in {value:#_x})",
                rule="MODE",
            )
        member: StrictLayout = super()._missing_(value)
        return member
