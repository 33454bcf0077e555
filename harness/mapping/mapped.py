"""The general mapper: page tables seen wherever a function of their frame says.

Every trick in which the virtual address of a table depends only on the table's frame is a
:class:`PageTableFrameMapping`: identity mapping (the frame's address itself), a fixed offset, the
full physical map. :class:`MappedPageTable` works with any of them.

>>> class Shifted:
...     def frame_to_pointer(self, frame):
...         return VirtAddr(int(frame.start_address) + (10 << 40))
>>> mapper = MappedPageTable(space, Shifted())  # doctest: +SKIP

Whether the tables really are there is not the mapping's promise but the CPU's: where they are not,
an operation raises :class:`TableNotVisible`.
"""

from __future__ import annotations

from typing import Protocol

from harness.address import PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.mapping.mapper import Mapper
from harness.mapping.space import AddressSpace
from harness.mapping.table_access import TableAccess, VirtualTable

__all__ = ["MappedAccess", "MappedPageTable", "PageTableFrameMapping"]


class PageTableFrameMapping(Protocol):
    """Says at which virtual address the page table in a frame appears."""

    def frame_to_pointer(self, frame: PhysFrame) -> VirtAddr:
        """Give the first address of the virtual page that shows the frame."""


class MappedAccess(TableAccess):
    """Reach a table at the virtual address that a mapping computes from its frame.

    :param space: in which the tables are mapped.
    :param mapping: from frame to virtual address.
    """

    def __init__(self, space: AddressSpace, mapping: PageTableFrameMapping) -> None:
        self.space = space
        self.mapping = mapping

    @property
    def cpu(self) -> CpuState:
        """The CPU that the space is seen with."""
        return self.space.cpu

    @property
    def tlb(self) -> AddressSpace:
        """The space, which passes invalidations on."""
        return self.space

    def open(self, frame: PhysFrame, level: int, va: int) -> VirtualTable:
        """Bring a table into view."""
        return VirtualTable(self.space, int(self.mapping.frame_to_pointer(frame)), frame, level)


class MappedPageTable(Mapper):
    """A mapper whose tables appear where a :class:`PageTableFrameMapping` says.

    :param space: in which the tables are mapped.
    :param mapping: from frame to virtual address.
    :param root: the top-level table to work on, of this address space or of another one; by default
        the active one, from CR3.
    """

    def __init__(
        self, space: AddressSpace, mapping: PageTableFrameMapping, root: PhysFrame | None = None
    ) -> None:
        super().__init__(MappedAccess(space, mapping), space.root if root is None else root)
