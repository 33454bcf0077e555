"""A range cut into the largest pages that fit, table by table.

A page of a size fits where the virtual and the physical address are both aligned to it and enough
of the range is left. Neighbouring pages of one size whose entries lie in one table are one
:class:`Run`, so that a mapper can write them together:

>>> for run in runs(0x1ff000, 0x1ff000, 0x401000, PageSize.Size2MiB):
...     print(f"{run.va:#x} {run.size.letter} x {run.pages}")
0x1ff000 4K x 1
0x200000 2M x 2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.address import PageSize

__all__ = ["Run", "runs"]

_DESCENDING = sorted(PageSize, reverse=True)


class Run(NamedTuple):
    """Pages of one size, side by side, whose entries are in one table.

    :ivar va: the first virtual address.
    :ivar pa: the first physical address.
    :ivar size: of each page.
    :ivar pages: how many, 1 to 512.
    """

    va: int
    pa: int
    size: PageSize
    pages: int


def runs(va: int, pa: int, length: int, largest: PageSize) -> Iterator[Run]:
    """Cut a range into runs of the largest pages that fit, in ascending order.

    :param va: the first virtual address, a multiple of 4 KiB; as are ``pa`` and ``length``.
    :param length: in bytes.
    :param largest: no page is bigger than this.
    """
    end = va + length
    while va < end:
        size = next(
            size
            for size in _DESCENDING
            if size <= largest and not (va | pa) % size and va + size <= end
        )
        # A bigger page can begin to fit only where a table ends.
        table_end = (va // (512 * size) + 1) * 512 * size
        pages = (min(end, table_end) - va) // size
        yield Run(va, pa, size, pages)
        va += pages * size
        pa += pages * size
