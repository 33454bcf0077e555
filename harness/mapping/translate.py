"""What a translation finds: the words of the crate's ``Translate``.

:meth:`Translate.translate` never fails, since that an address is not mapped is an answer:

>>> match mapper.translate(VirtAddr(0xb8000)):  # doctest: +SKIP
...     case TranslateResult.Mapped(frame=frame, offset=offset):
...         print(frame.start_address + offset)
...     case TranslateResult.NotMapped():
...         print("a page fault")

An entry with P = 0 maps nothing, whatever its other bits hold; the CPU ignores them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, SupportsIndex

from harness.address import PhysAddr, PhysFrame
from harness.entry import PageTableFlags
from harness.walker import Step

__all__ = ["Translate", "TranslateResult"]


class TranslateResult:
    """The answer of ``translate``: one of its three variants."""

    Mapped: ClassVar[type[_Mapped]]
    NotMapped: ClassVar[type[_NotMapped]]
    InvalidFrameAddress: ClassVar[type[_InvalidFrameAddress]]


@dataclass(frozen=True, slots=True)
class _Mapped(TranslateResult):
    """The address is mapped.

    :ivar frame: the frame of its page, of whatever size.
    :ivar offset: of the address in that frame, in bytes.
    :ivar flags: of the leaf entry, PAT among them (``HUGE_PAGE`` of a 4 KiB page is its PAT bit).
    """

    __qualname__ = "TranslateResult.Mapped"

    frame: PhysFrame
    offset: int
    flags: PageTableFlags

    @property
    def address(self) -> PhysAddr:
        """The physical address."""
        return self.frame.start_address + self.offset


@dataclass(frozen=True, slots=True)
class _NotMapped(TranslateResult):
    """An entry on the way is not present.

    :ivar entry: the entry that ended the way: level, physical address, raw value.
    """

    __qualname__ = "TranslateResult.NotMapped"

    entry: Step


@dataclass(frozen=True, slots=True)
class _InvalidFrameAddress(TranslateResult):
    """A present entry on the way has reserved bits set.

    :ivar address: its bits 51:12.
    :ivar entry: the entry: level, physical address, raw value.
    """

    __qualname__ = "TranslateResult.InvalidFrameAddress"

    address: PhysAddr
    entry: Step


TranslateResult.Mapped = _Mapped
TranslateResult.NotMapped = _NotMapped
TranslateResult.InvalidFrameAddress = _InvalidFrameAddress


class Translate(Protocol):
    """Can translate virtual addresses."""

    def translate(self, va: SupportsIndex) -> TranslateResult:
        """Say which frame an address lies in, at which offset, with which flags."""

    def translate_addr(self, va: SupportsIndex) -> PhysAddr | None:
        """Give the physical address of a virtual one, or None."""
