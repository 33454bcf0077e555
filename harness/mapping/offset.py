"""The full physical map: all of physical memory at an offset, as ``map_physical_memory`` makes it.

The bootloader maps the complete physical memory to an otherwise unused virtual range, with 4 KiB,
2 MiB or 1 GiB pages, and tells the kernel where in ``physical_memory_offset``. The kernel then
reaches any frame, and so any page table of any address space, by adding the offset:

>>> active_level_4_table(space, boot_info.physical_memory_offset)  # doctest: +SKIP
VirtAddr(0x180_0000_1000)
>>> mapper = OffsetPageTable(space, boot_info.physical_memory_offset)  # doctest: +SKIP
>>> mapper.translate_addr(0xb8000)  # doctest: +SKIP
PhysAddr(0xb_8000)

A wrong offset is found out by the first access, which raises :class:`TableNotVisible`.
"""

from __future__ import annotations

from typing import SupportsIndex

from harness.address import PhysFrame, VirtAddr
from harness.mapping.mapped import MappedPageTable
from harness.mapping.space import AddressSpace

__all__ = ["OffsetPageTable", "PhysOffset", "active_level_4_table"]


class PhysOffset:
    """The mapping of frame to virtual address by adding an offset.

    :param offset: the virtual address at which physical address 0 appears.
    :param levels: 4, or 5 with CR4.LA57.
    """

    def __init__(self, offset: SupportsIndex, levels: int = 4) -> None:
        self.offset = VirtAddr(int(offset), levels)

    def frame_to_pointer(self, frame: PhysFrame) -> VirtAddr:
        """Give the virtual address that shows the frame.

        :raises VirtAddrNotValid: the frame lies so high that the sum is not canonical.
        """
        return self.offset + int(frame.start_address)


class OffsetPageTable(MappedPageTable):
    """A mapper that finds page tables in a map of all physical memory.

    :param space: in which physical memory is mapped.
    :param phys_offset: the virtual address at which physical address 0 appears.
    :param root: as for :class:`MappedPageTable`.
    """

    def __init__(
        self, space: AddressSpace, phys_offset: SupportsIndex, root: PhysFrame | None = None
    ) -> None:
        mapping = PhysOffset(phys_offset, space.cpu.levels)
        self.phys_offset = mapping.offset
        super().__init__(space, mapping, root)


def active_level_4_table(space: AddressSpace, phys_offset: SupportsIndex) -> VirtAddr:
    """Give the virtual address of the active top-level table: the lecture's first function."""
    return PhysOffset(phys_offset, space.cpu.levels).frame_to_pointer(space.root)
