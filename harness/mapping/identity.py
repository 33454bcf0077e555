"""Identity mapping: each page table at its own physical address, and what that costs.

:class:`IdentityPageTable` is the fixed offset 0, with the same two costs, and with a third of its
own: the virtual pages that show tables lie in the midst of the address space.

* They break it up. :func:`find_free_region` looks for room between them. The lecture's example: a
  region of 1000 KiB cannot begin at 28 KiB, since the page at 1004 KiB shows a table; 1008 KiB is
  the first place where it can.
* A region in use rules frames out. A table in such a frame would have to appear inside of the
  region (:func:`frames_ruled_out`), and a mapper that is handed one raises :class:`AddressTaken`.

>>> KIB = 1024
>>> tables = [(at * KIB, (at + 4) * KIB) for at in (4, 8, 12, 16, 24, 1004)]
>>> find_free_region(tables, 1000 * KIB, start=28 * KIB) // KIB
1008
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.address import PageRange, PhysAddr, PhysFrame
from harness.mapping.fixed_offset import FixedOffsetPageTable
from harness.mapping.space import AddressSpace

__all__ = ["IdentityPageTable", "find_free_region", "frames_ruled_out"]

_PAGE = 4096


class IdentityPageTable(FixedOffsetPageTable):
    """A mapper whose page tables, and only they, are identity mapped.

    :param space: whose active tables hold the identity mappings.
    :param root: the top-level table to work on; by default the active one.
    """

    def __init__(self, space: AddressSpace, root: PhysFrame | None = None) -> None:
        super().__init__(space, 0, root)


def find_free_region(
    mapped: Iterable[tuple[int, int]],
    size: int,
    *,
    start: int = 0,
    end: int = 1 << 47,
    align: int = _PAGE,
) -> int | None:
    """Find the lowest address at which a region of virtual memory is free.

    :param mapped: what is in use, as (first address, address after the last), in any order.
    :param size: of the region, in bytes.
    :param start: the first address that may be used.
    :param end: the address after the last that may be used; by default the end of the lower half.
    :param align: what the address must be a multiple of, a power of two.
    :returns: the address, or None when nowhere is room.
    :raises ValueError: a size of less than one byte, or an alignment that is not a power of two.
    """
    if size < 1:
        raise ValueError(f"a region must have at least one byte, got a size of {size}")
    if align < 1 or align & (align - 1):
        raise ValueError(f"an alignment must be a power of two, got {align}")
    at = -(-start // align) * align
    for used_start, used_end in sorted(mapped):
        if used_start >= at + size:
            break
        if used_end > at and used_end > used_start:
            at = -(-used_end // align) * align
    return at if at + size <= end else None


def frames_ruled_out(start: int, size: int) -> PageRange[PhysFrame]:
    """Give the frames that cannot hold a page table while a virtual region is in use.

    They are those with the region's own addresses. (The lecture says 'between 1000 KiB and
    2008 KiB' for the region of 1000 KiB at 1008 KiB; exactly, it is 1008 KiB to 2008 KiB.)

    :param start: the first address of the region.
    :param size: in bytes.
    """
    first = PhysFrame.containing_address(PhysAddr(start))
    return PhysFrame.range(first, PhysFrame.containing_address(PhysAddr(start + size + _PAGE - 1)))
