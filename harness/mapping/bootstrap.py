"""What only the bootloader can do: write page tables before there is a way to reach them.

Each of the kernel's tricks needs mappings that the trick itself would be needed to make. The
bootloader has no such problem: it makes the tables before it turns paging on, when every address is
a physical one. :class:`BootPageTable` is a mapper with that privilege, and the functions make what
each trick starts from. A kernel's mapper never uses any of this.

>>> memory = PhysicalMemory(1 << 21)
>>> frames = BitmapFrameAllocator([(0x1000, 1 << 21)])
>>> boot = BootPageTable.create(memory, CpuState(), frames)
>>> map_physical_memory(boot, 10 << 40, 1 << 21, frames)
>>> OffsetPageTable(boot.address_space(), 10 << 40).translate_addr((10 << 40) + 0x1000)
PhysAddr(0x1000)
"""

from __future__ import annotations

from typing import Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.errors import NoMemory
from harness.frames import EmptyFrameAllocator, FrameAllocator
from harness.mapping.errors import InvalidRequest, MapToError
from harness.mapping.flush import Invalidator
from harness.mapping.mapper import Mapper
from harness.mapping.space import AddressSpace
from harness.mapping.table_access import TableAccess
from harness.memory import PhysicalMemory

__all__ = [
    "BootPageTable",
    "make_recursive",
    "make_temporary_table",
    "make_window",
    "map_physical_memory",
]

_FLAGS = PageTableFlags.PRESENT | PageTableFlags.WRITABLE


class _PhysicalTable:
    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def __enter__(self) -> _PhysicalTable:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, raw: int) -> None:
        self._words[index] = raw

    def load(self, first: int, count: int) -> NDArray[np.uint64]:
        return self._words[first : first + count].copy()

    def store(self, first: int, words: NDArray[np.uint64]) -> None:
        self._words[first : first + len(words)] = words


class _NoTlb:
    # With paging off nothing is translated, and so nothing cached.
    def invlpg(self, va: int) -> None:
        return None

    def flush_all(self) -> None:
        return None


class _PhysicalAccess(TableAccess):
    def __init__(self, memory: PhysicalMemory, cpu: CpuState) -> None:
        self.memory = memory
        self._cpu = cpu

    @property
    def cpu(self) -> CpuState:
        return self._cpu

    @property
    def tlb(self) -> Invalidator:
        return _NoTlb()

    def open(self, frame: PhysFrame, level: int, va: int) -> _PhysicalTable:
        return _PhysicalTable(self.memory.frame(int(frame.start_address)))


class BootPageTable(Mapper):
    """A mapper that reaches page tables by physical address, as only a bootloader may.

    :param memory: that holds the tables.
    :param cpu: that the tables are for; its CR3 is not used.
    :param root: the top-level table.
    """

    def __init__(self, memory: PhysicalMemory, cpu: CpuState, root: PhysFrame) -> None:
        self.memory = memory
        self.cpu = cpu.replace(cr3=int(root.start_address))
        super().__init__(_PhysicalAccess(memory, self.cpu), root)

    @classmethod
    def create(cls, memory: PhysicalMemory, cpu: CpuState, frames: FrameAllocator) -> Self:
        """Begin a new, empty address space in a frame of its own.

        :raises InvalidRequest: there is no frame.
        :raises NoMemory: the frame is not in RAM.
        """
        root = frames.allocate_frame()
        if root is None:
            raise InvalidRequest("a frame must be left for the top-level table, got none")
        if not memory.contains(int(root.start_address), root.size.value):
            raise NoMemory(int(root.start_address))
        memory.frame(int(root.start_address))[:] = 0
        return cls(memory, cpu, root)

    def address_space(self, tlb: Invalidator | None = None) -> AddressSpace:
        """Turn paging on: give what a kernel sees with these tables active."""
        return AddressSpace(self.memory, self.cpu, tlb)


def map_physical_memory(
    boot: Mapper,
    offset: SupportsIndex,
    size: int,
    frames: FrameAllocator,
    *,
    page_size: PageSize = PageSize.Size2MiB,
    flags: PageTableFlags = _FLAGS,
) -> None:
    """Map physical memory from address 0 on to a virtual offset, as ``map_physical_memory`` does.

    :param offset: where address 0 appears, a multiple of ``page_size``.
    :param size: of the physical memory, in bytes; rounded up to whole pages.
    :param page_size: of all the pages; ``bootloader`` 0.9 uses 2 MiB.
    :param flags: ``bootloader`` 0.9 sets PRESENT and WRITABLE, and leaves the pages executable.
    :raises MapToError: something is mapped there, or frames ran out.
    :raises InvalidRequest: the offset is not aligned.
    """
    if int(offset) % page_size:
        raise InvalidRequest(
            f"the offset must be a multiple of the page size {page_size.letter}, got "
            f"{int(offset):#x}"
        )
    length = -(-size // page_size) * page_size
    boot.map_range(offset, 0, length, flags, frames, largest=page_size).ignore()


def make_recursive(boot: BootPageTable, slot: int) -> None:
    """Point an entry of the top-level table back at it, as the ``recursive_page_table`` feature.

    :param slot: the index of the entry, 0 to 511.
    :raises InvalidRequest: the entry is in use.
    """
    table = boot.memory.frame(int(boot.root.start_address))
    if not 0 <= slot < 512 or table[slot]:
        raise InvalidRequest(
            f"the recursive slot must be a free entry of the top-level table, got {slot}"
        )
    table[slot] = int(boot.root.start_address) | int(_FLAGS)


def make_window(
    boot: BootPageTable, offset: SupportsIndex, size: int, frames: FrameAllocator
) -> None:
    """Make the tables of a fixed-offset window, and show in it all tables that exist.

    For offset 0 this is what an identity-mapped kernel starts from.

    :param offset: where frame 0 would appear, a multiple of 2 MiB.
    :param size: of the physical memory whose frames may become tables, in bytes.
    :raises MapToError: something else is mapped there, frames ran out, or a table lies outside.
    """
    base = int(offset)
    for start in range(base, base + size, PageSize.Size2MiB):
        # A page mapped and unmapped again leaves its tables behind.
        page = Page.from_start_address(VirtAddr(start, boot.levels))
        try:
            boot.map_to(page, PhysFrame(PhysAddr(0)), _FLAGS, frames).ignore()
        except MapToError.PageAlreadyMapped:
            continue
        boot.unmap(page)[1].ignore()
    for table in list(boot.tables()):
        start = base + int(table.frame.start_address)
        page = Page.from_start_address(VirtAddr(start, boot.levels))
        boot.map_to(page, table.frame, _FLAGS, EmptyFrameAllocator()).ignore()


def make_temporary_table(
    boot: BootPageTable, va: SupportsIndex, frames: FrameAllocator
) -> VirtAddr:
    """Make the level-1 table of an address map itself, and give the page at which it appears.

    When the entry for the table's own physical address lies in its 2 MiB, as in the lecture, that
    entry is used, and the table is identity mapped; otherwise the entry of ``va``.

    :param va: a page that is not mapped.
    :raises MapToError: the page is mapped, or frames ran out.
    """
    page = Page.containing_address(VirtAddr(int(va), boot.levels))
    boot.map_to(page, PhysFrame(PhysAddr(0)), _FLAGS, frames).ignore()
    boot.unmap(page)[1].ignore()
    region = int(page.start_address.align_down(PageSize.Size2MiB))
    table = next(
        table for table in boot.tables() if table.level == 1 and int(table.first) == region
    )
    if int(table.frame.start_address) & -PageSize.Size2MiB == region:
        page = Page.from_start_address(VirtAddr(int(table.frame.start_address), boot.levels))
    boot.map_to(page, table.frame, _FLAGS, frames).ignore()
    return page.start_address
