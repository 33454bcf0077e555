"""The words of a walk's answer: the verdicts to match on, the entries read, the page's rights.

>>> match walk(memory, cpu, 0x4123).verdict:  # doctest: +SKIP
...     case Mapped(pa):
...         print(f"byte {pa:#x}")
...     case PageFault(error_code, cr2):
...         print(ErrorCode(error_code).sentence())
"""

from typing import NamedTuple

from harness.entry import PageTableEntry

__all__ = [
    "GeneralProtection",
    "Mapped",
    "OutsideRam",
    "PageFault",
    "Rights",
    "StackFault",
    "Step",
    "Verdict",
]


class Mapped(NamedTuple):
    """The access reaches the physical address ``pa``."""

    pa: int


class PageFault(NamedTuple):
    """The access raises #PF with this error code, and leaves ``cr2`` in CR2."""

    error_code: int
    cr2: int


class GeneralProtection(NamedTuple):
    """The access raises #GP."""

    error_code: int = 0


class StackFault(NamedTuple):
    """The access, made through SS, raises #SS."""

    error_code: int = 0


class OutsideRam(NamedTuple):
    """Nothing answers at ``pa``: a table entry, or the byte itself, lies outside the RAM."""

    pa: int


Verdict = Mapped | PageFault | GeneralProtection | StackFault | OutsideRam


class Step(NamedTuple):
    """One entry that a walk read: its level (5 to 1), its physical address, its value."""

    level: int
    address: int
    raw: int

    @property
    def entry(self) -> PageTableEntry:
        """Decode the entry."""
        return PageTableEntry(self.raw, self.level)


class Rights(NamedTuple):
    """What all the levels together allow on a page, and the leaf's protection key."""

    user: bool
    writable: bool
    executable: bool
    key: int
