"""Each of the lecture's tricks, set up and ready to use in a memory of its own.

What the bootloader has to prepare differs from trick to trick; :func:`set_up` does it, so that a
test, a lesson or a comparison can ask for a trick by its name and get the same surroundings:

>>> lab = set_up(Flavour.RECURSIVE)
>>> lab.mapper.translate_addr(0xffff_ff7f_bfdf_e000) == lab.boot.root.start_address
True
>>> [str(flavour) for flavour in Flavour][:3]
['identity', 'fixed-offset', 'offset-4k']
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.address import PageSize
from harness.cpu import CpuState
from harness.frames import BitmapFrameAllocator
from harness.mapping.bootstrap import (
    BootPageTable,
    make_recursive,
    make_temporary_table,
    make_window,
    map_physical_memory,
)
from harness.mapping.fixed_offset import FixedOffsetPageTable
from harness.mapping.flush import Invalidator
from harness.mapping.identity import IdentityPageTable
from harness.mapping.mapper import Mapper
from harness.mapping.offset import OffsetPageTable
from harness.mapping.recursive import RecursivePageTable
from harness.mapping.space import AddressSpace
from harness.mapping.temporary import TemporaryPageTable
from harness.memory import PhysicalMemory

__all__ = ["OFFSET", "SLOT", "Flavour", "Lab", "set_up"]

OFFSET = 10 << 40
"""Where the lecture puts its offset maps: 10 TiB."""

SLOT = 510
"""The recursive slot of :func:`set_up`, unless another is asked for."""


class Flavour(enum.StrEnum):
    """The ways to reach page tables, by name."""

    IDENTITY = "identity"
    FIXED_OFFSET = "fixed-offset"
    OFFSET_4K = "offset-4k"
    OFFSET_2M = "offset-2m"
    OFFSET_1G = "offset-1g"
    TEMPORARY = "temporary"
    RECURSIVE = "recursive"


_PHYSICAL_MAPS = {
    Flavour.OFFSET_4K: PageSize.Size4KiB,
    Flavour.OFFSET_2M: PageSize.Size2MiB,
    Flavour.OFFSET_1G: PageSize.Size1GiB,
}


@dataclass(frozen=True, slots=True)
class Lab:
    """A trick with everything around it.

    :ivar flavour: which trick.
    :ivar memory: the RAM.
    :ivar frames: gives out the frames below ``table_memory`` of :func:`set_up`.
    :ivar boot: the bootloader's view of the same tables, for checking behind the mapper's back.
    :ivar space: virtual memory with these tables active.
    :ivar mapper: the trick's mapper.
    """

    flavour: Flavour
    memory: PhysicalMemory
    frames: BitmapFrameAllocator
    boot: BootPageTable
    space: AddressSpace
    mapper: Mapper


def set_up(
    flavour: Flavour,
    *,
    cpu: CpuState | None = None,
    ram: int = 16 << 20,
    table_memory: int | None = None,
    slot: int = SLOT,
    tlb: Invalidator | None = None,
) -> Lab:
    """Make a memory, the tables that a trick starts from, and the trick's mapper.

    In the virtual address space the tricks use: the first ``ram`` bytes (identity), the same
    length (for 1 GiB pages, rounded up) from :data:`OFFSET` on (fixed offset, full map), the first
    2 MiB (temporary), and the top-level entry ``slot`` (recursive).

    :param cpu: its state but for CR3, which is set; by default 4 levels, NXE and WP on.
    :param ram: in bytes, a multiple of 2 MiB.
    :param table_memory: the part of RAM, from 4 KiB up to this address, that ``frames`` has.
    :param slot: of the recursive entry.
    :param tlb: told of invalidations.
    """
    memory = PhysicalMemory(ram)
    frames = BitmapFrameAllocator([(0x1000, ram if table_memory is None else table_memory)])
    boot = BootPageTable.create(memory, CpuState() if cpu is None else cpu, frames)
    space = boot.address_space(tlb)
    return Lab(
        flavour, memory, frames, boot, space, _prepare(flavour, boot, space, frames, ram, slot)
    )


def _prepare(
    flavour: Flavour,
    boot: BootPageTable,
    space: AddressSpace,
    frames: BitmapFrameAllocator,
    ram: int,
    slot: int,
) -> Mapper:
    if flavour is Flavour.IDENTITY:
        make_window(boot, 0, ram, frames)
        return IdentityPageTable(space)
    if flavour is Flavour.FIXED_OFFSET:
        make_window(boot, OFFSET, ram, frames)
        return FixedOffsetPageTable(space, OFFSET)
    if flavour is Flavour.TEMPORARY:
        return TemporaryPageTable(space, make_temporary_table(boot, 0, frames))
    if flavour is Flavour.RECURSIVE:
        make_recursive(boot, slot)
        return RecursivePageTable.from_slot(space, slot)
    map_physical_memory(boot, OFFSET, ram, frames, page_size=_PHYSICAL_MAPS[flavour])
    return OffsetPageTable(space, OFFSET)
