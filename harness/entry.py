"""One page-table entry: 64 bits whose meaning depends on the level of the table it is in.

:class:`PageTableFlags` names the bits with the `x86_64` crate's words and keeps the rest.
:class:`PageTableEntry` reads a raw entry at its level. It never fails: it decodes what is there,
and leaves the judgement (reserved bits, MAXPHYADDR, rights) to the walker.

The three things that depend on the level: bit 7 makes a PDE or a PDPTE map a page, but is PAT in
a PTE (rule ``PAT``) and reserved above; PAT moves to bit 12 when the page is big; and a big page's
address begins at bit 21 or 30. Address and flags together always give back the raw entry::

    >>> entry = PageTableEntry(0x8000_0000_0020_11e3, level=2)
    >>> entry.address, entry.page_size, entry.pat, entry.letters
    (PhysAddr(0x20_0000), PageSize.Size2MiB, True, 'XGPDA---W')
    >>> entry.address.as_u64() | entry.flags == entry.raw
    True
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from harness.address import PageSize, PhysAddr, PhysFrame, entry_name, format_address
from harness.errors import AddressNotAligned
from harness.layout import Layout

__all__ = ["ADDRESS_MASK", "PageTableEntry", "PageTableFlags"]

ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
"""Bits 51:12, where an entry holds a frame's address (SDM volume 3A, tables 4-15 to 4-20)."""


class PageTableFlags(Layout, boundary=enum.KEEP):
    """The bits of an entry that are not its address."""

    PRESENT = 0, "the entry is in use; when clear the CPU ignores all its other bits"
    WRITABLE = 1, "writes are allowed (R/W)"
    USER_ACCESSIBLE = 2, "code at CPL 3 may use it (U/S)"
    WRITE_THROUGH = 3, "write-through caching (PWT)"
    NO_CACHE = 4, "no caching (PCD)"
    ACCESSED = 5, "the CPU has used the entry in a translation"
    DIRTY = 6, "the CPU has written to the page"
    HUGE_PAGE = 7, "a PDE or PDPTE maps a page (PS); in a PTE this bit is PAT"
    GLOBAL = 8, "the translation survives a load of CR3, given CR4.PGE"
    BIT_9 = 9, "free for software"
    BIT_10 = 10, "free for software"
    BIT_11 = 11, "free for software"
    HUGE_PAGE_PAT = 12, "PAT of a 2 MiB or 1 GiB page; elsewhere an address bit"
    BIT_52 = 52, "free for software"
    BIT_53 = 53, "free for software"
    BIT_54 = 54, "free for software"
    BIT_55 = 55, "free for software"
    BIT_56 = 56, "free for software"
    BIT_57 = 57, "free for software"
    BIT_58 = 58, "free for software"
    BIT_59 = 59, "bit 0 of the protection key, given CR4.PKE or CR4.PKS"
    BIT_60 = 60, "bit 1 of the protection key"
    BIT_61 = 61, "bit 2 of the protection key"
    BIT_62 = 62, "bit 3 of the protection key"
    NO_EXECUTE = 63, "no instruction may be fetched (XD), given EFER.NXE"


_PRESENT = int(PageTableFlags.PRESENT)
_BIT_7 = int(PageTableFlags.HUGE_PAGE)
_BIT_12 = int(PageTableFlags.HUGE_PAGE_PAT)

# The columns of QEMU's `info tlb`. Its P is bit 7, which it clears first for a 4 KiB page.
_LETTERS = tuple(zip("XGPDACTUW", (63, 8, 7, 6, 5, 4, 3, 2, 1), strict=True))

# Where the address of a page starts, by level.
_PAGE_ADDRESS_MASK = {level: ADDRESS_MASK & -PageSize.of_level(level) for level in (1, 2, 3)}


class PageTableEntry(NamedTuple):
    """A raw entry and the level of the table that it is in.

    :ivar raw: the 64 bits.
    :ivar level: 1 (PT) to 5 (PML5).
    """

    raw: int
    level: int

    @classmethod
    def build(
        cls, address: PhysAddr | PhysFrame, flags: int, level: int, *, page: bool | None = None
    ) -> PageTableEntry:
        """Return the entry of that level with an address and flags.

        :param address: the frame of the page or of the next table.
        :param flags: :class:`PageTableFlags` or an int; bit 7 makes it a page at levels 2 and 3.
        :raises AddressNotAligned: when the address does not fit the page's size.
        """
        start = address.start_address if isinstance(address, PhysFrame) else address
        entry = cls(int(flags), level)
        size = entry.page_size or PageSize.Size4KiB
        if not start.is_aligned(size):
            raise AddressNotAligned(start, size)
        return cls(int(start) | int(flags), level)

    def __repr__(self) -> str:
        return f"PageTableEntry({self.raw:#_x}, level={self.level})"

    @property
    def _maps_page(self) -> bool:  # by form, present or not
        return self.level == 1 or (self.level in (2, 3) and bool(self.raw & _BIT_7))

    @property
    def is_present(self) -> bool:
        """Say whether bit 0 is set."""
        return bool(self.raw & _PRESENT)

    @property
    def is_unused(self) -> bool:
        """Say whether all 64 bits are zero, which is the crate's meaning of unused."""
        return self.raw == 0

    @property
    def is_page(self) -> bool:
        """Say whether the entry is present and maps a page."""
        return self.is_present and self._maps_page

    @property
    def is_table(self) -> bool:
        """Say whether the entry is present and leads to the next table."""
        return self.is_present and not self._maps_page

    @property
    def page_size(self) -> PageSize | None:
        """Give the size of the page that it maps (present or not), None when it is a table's."""
        return PageSize.of_level(self.level) if self._maps_page else None

    @property
    def _address_mask(self) -> int:
        return _PAGE_ADDRESS_MASK[self.level] if self._maps_page else ADDRESS_MASK

    @property
    def address(self) -> PhysAddr:
        """Give the address of the page's frame or of the next table."""
        return PhysAddr(self.raw & self._address_mask)

    @property
    def flags(self) -> PageTableFlags:
        """Give every bit that is not the address, reserved ones of a big page among them."""
        return PageTableFlags(self.raw & ~self._address_mask)

    def frame(self) -> PhysFrame:
        """Return the page's frame, or the 4 KiB frame of the next table."""
        return PhysFrame(self.address, self.page_size or PageSize.Size4KiB)

    @property
    def pat(self) -> bool:
        """Give the PAT bit: bit 7 of a PTE, bit 12 of a big page; a table has none."""
        if not self._maps_page:
            return False
        return bool(self.raw & (_BIT_7 if self.level == 1 else _BIT_12))

    @property
    def key(self) -> int:
        """Give bits 62:59, the protection key when this is a leaf (rule ``KEY``)."""
        return self.raw >> 59 & 0xF

    @property
    def letters(self) -> str:
        """Give the flags in the letters of QEMU's ``info tlb``: ``XGPDACTUW``, ``-`` when clear.

        The entry's own bits; ``P`` (a big page) is never shown at level 1, where bit 7 is PAT.
        """
        raw = self.raw & ~_BIT_7 if self.level == 1 else self.raw
        return "".join(letter if raw >> bit & 1 else "-" for letter, bit in _LETTERS)

    def describe(self) -> str:
        """Return one line for people: what it is, where it leads, which bits are set."""
        name = entry_name(self.level)
        if self.is_unused:
            return f"{name} 0x0: unused"
        if self.is_present and self._maps_page:
            size = PageSize.of_level(self.level)
            what = f"{size.letter} page at {format_address(self.address)}"
        elif self.is_present:
            what = f"table at {format_address(self.address)}"
        else:
            what = "not present"
        flags = self.flags
        if self.level == 1 and self.pat:
            flags ^= PageTableFlags.HUGE_PAGE
            return f"{name} {self.raw:#_x}: {what}, {flags} PAT"
        return f"{name} {self.raw:#_x}: {what}, {flags}"
