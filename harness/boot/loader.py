"""The bootloader's work: put a kernel into a machine's memory, with page tables, ready to run.

`load` does on the host what bootloader 0.9 does before it jumps to a kernel, and leaves the same
machine behind, down to which frame holds which table:

- page tables in frames from 0x1000 up, with the bootloader itself and the text screen at 0xb8000
  identity-mapped;
- the kernel's file at 4 MiB, its segments mapped in 4 KiB pages, each with its own rights
  (PRESENT, WRITABLE if writable, NO_EXECUTE if not executable), .bss in zeroed frames of its own;
- a stack with an unmapped guard page below it;
- a page with the `BootInfo`, whose address RDI has;
- with `map_physical_memory`, all physical addresses up to the end of the memory map in 2 MiB pages,
  PRESENT and WRITABLE and executable; with `recursive_page_table`, a slot that maps the table;
- EFER.NXE and CR0.WP on.

The machine is a `Firmware`, or a `BootInfo` that a kernel printed: then the printout's memory map
is taken as it is, with page tables in its PageTable regions, the kernel in its Kernel regions, the
stack in its KernelStack regions, and its `physical_memory_offset` honoured.

A kernel or a configuration that does not fit is a `BootError`.

    >>> state = load(flat_kernel(b"\\xf4", name="halt"), BootConfig(map_physical_memory=True))
    >>> hex(state.boot_info.physical_memory_offset)
    '0x18000000000'
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.address import ENTRIES_PER_TABLE, PageSize
from harness.boot.bootinfo import FRAME_SIZE, BootInfo, FrameRange, MemoryRegionType
from harness.boot.config import BootConfig
from harness.boot.firmware import (
    BootloaderFrames,
    Firmware,
    FrameSource,
    PrintoutFrames,
    ram_of,
)
from harness.boot.kernel import KernelImage, Segment
from harness.boot.layout import SCRATCH_PAGE, VGA_TEXT, Area, VirtualLayout, plan, recursive_address
from harness.boot.tables import TableBuilder
from harness.cpu import CR0, CR4, CpuState
from harness.entry import PageTableEntry, PageTableFlags
from harness.errors import BootError
from harness.memory import PhysicalMemory

__all__ = ["DEFAULT_MEMORY", "BootedState", "Level4Slot", "level_4_listing", "load"]

DEFAULT_MEMORY = 128 << 20
"""Bytes of RAM when nothing else is asked for, which is QEMU's default too."""

# bootloader 0.9's linker script: its page tables, then its own code and data.
_FIRST_TABLES = FrameRange(0x1000, 0x5000)
_BOOTLOADER = FrameRange(0x5000, 0x1_5000)

# bootloader 0.9, stage_3.s: null, 64-bit code (selector 8) and data (selector 16). A kernel's first
# interrupt handlers rely on it, before the kernel has a GDT of its own.
_GDT = struct.pack("<3Q", 0, 0x0020_9A00_0000_0000, 0x0000_9200_0000_0000)

_MOST_PAGES = 1 << 20
_TABLE_FLAGS = int(PageTableFlags.PRESENT | PageTableFlags.WRITABLE)
_CR0 = int(CR0.PE | CR0.ET | CR0.WP | CR0.PG)
_CR4 = int(CR4.PAE)
_CR0_SSE = int(CR0.MP)
_CR4_SSE = int(CR4.OSFXSR | CR4.OSXMMEXCPT)
_Type = MemoryRegionType


@dataclass(frozen=True, slots=True)
class Level4Slot:
    """One used entry of the level 4 table, as the lecture's loop prints it, with its purpose."""

    index: int
    entry: PageTableEntry
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BootedState:
    """A machine at the first instruction of its kernel.

    :param memory: physical memory with the page tables and all that was loaded
    :param cpu: the control registers, paging on
    :param rip: virtual address of the kernel's first instruction
    :param rsp: the stack pointer; as after the bootloader's ``call``, a return address (0) lies
        there
    :param rdi: virtual address of the BootInfo, the kernel's argument
    :param gdt: address and limit of the bootloader's GDT, whose selector 8 is 64-bit code; (0, 0)
        when a printout has no Bootloader region for it
    :param boot_info: what lies there
    :param layout: what is mapped where
    :param image: the kernel
    :param config: what it asked for
    """

    memory: PhysicalMemory = field(repr=False)
    cpu: CpuState
    rip: int
    rsp: int
    rdi: int
    gdt: tuple[int, int]
    boot_info: BootInfo = field(repr=False)
    layout: VirtualLayout = field(repr=False)
    image: KernelImage
    config: BootConfig


def load(
    image: KernelImage,
    config: BootConfig | None = None,
    machine: Firmware | BootInfo | None = None,
) -> BootedState:
    """Boot a kernel up to its first instruction.

    :param image: the kernel
    :param config: what the kernel asks for; None for no features and all defaults
    :param machine: a machine, or the BootInfo that was printed on one; None for a PC with 128 MiB.
        A BootInfo also decides the features, the physical memory offset, the recursive slot and
        the stack's size
    :raises BootError: when kernel and configuration do not fit together, or not into the memory
    """
    config = config or BootConfig()
    machine = machine or Firmware.pc(DEFAULT_MEMORY)
    if isinstance(machine, BootInfo):
        return _Loader.from_printout(image, config, machine).load()
    return _Loader.from_firmware(image, config, machine).load()


def level_4_listing(state: BootedState) -> list[Level4Slot]:
    """List the used entries of the level 4 table with what each is for.

    :param state: the machine, before or after it ran
    """
    table = state.memory.frame(state.cpu.root)
    return [
        Level4Slot(index, PageTableEntry(int(table[index]), 4), state.layout.names(index))
        for index in range(ENTRIES_PER_TABLE)
        if table[index]
    ]


class _Loader:
    """The steps of one boot, in bootloader 0.9's order, which decides which frame gets what."""

    def __init__(
        self,
        image: KernelImage,
        config: BootConfig,
        ram: tuple[tuple[int, int], ...],
        frames: FrameSource,
        first_tables: Iterator[int],
        bootloader: list[FrameRange],
    ) -> None:
        identity = [Area("the bootloader", r.start, r.end) for r in bootloader]
        identity.append(Area("the text screen", VGA_TEXT, VGA_TEXT + FRAME_SIZE))
        end = max(region.end for region in frames.memory_map)
        self.image = image
        self.config = config
        self.frames = frames
        self.first_tables = first_tables
        self.identity = identity
        self.layout = plan(image, config, physical_end=end, identity=tuple(identity))
        self.memory = PhysicalMemory(ram)

    @classmethod
    def from_firmware(cls, image: KernelImage, config: BootConfig, machine: Firmware) -> _Loader:
        frames = BootloaderFrames(machine.memory_map)
        frames.mark(FrameRange(0, FRAME_SIZE), _Type.FrameZero)
        frames.mark(_FIRST_TABLES, _Type.PageTable)
        frames.mark(_BOOTLOADER, _Type.Bootloader)
        bootloader = [FrameRange(_FIRST_TABLES.start, _BOOTLOADER.end)]
        return cls(image, config, machine.ram, frames, _FIRST_TABLES.frames(), bootloader)

    @classmethod
    def from_printout(cls, image: KernelImage, config: BootConfig, printout: BootInfo) -> _Loader:
        if printout.recursive_page_table_addr is not None:
            index = printout.recursive_index
            if printout.recursive_page_table_addr != recursive_address(index or 0):
                raise BootError(
                    "recursive_page_table_addr must have the same slot in bits 47:39, 38:30, 29:21 "
                    f"and 20:12, not be {printout.recursive_page_table_addr:#_x}"
                )
        stack = sum(len(r.range) for r in printout.regions(_Type.KernelStack))
        config = dataclasses.replace(
            config,
            map_physical_memory=printout.physical_memory_offset is not None,
            physical_memory_offset=printout.physical_memory_offset,
            recursive_page_table=printout.recursive_page_table_addr is not None,
            recursive_index=printout.recursive_index,
            kernel_stack_size=stack or config.kernel_stack_size,
        )
        low = [r.range for r in printout.regions(_Type.PageTable) if r.end <= 1 << 20]
        low += [r.range for r in printout.regions(_Type.Bootloader) if r.end <= 1 << 20]
        frames = PrintoutFrames(printout.memory_map)
        return cls(image, config, ram_of(printout.memory_map), frames, iter(()), low)

    def load(self) -> BootedState:
        self._check_sizes()
        pages = self._place_file()
        self.tables = TableBuilder(self.memory, self._table_frame)
        self._map_identity()
        layout = self.layout
        if layout.recursive_index is not None:
            self.tables.link(layout.recursive_index, self.tables.root)
        boot_info_frame = self.frames.allocate(_Type.BootInfo)
        self._map(layout.boot_info, [boot_info_frame], _TABLE_FLAGS)
        for segment in self.image.segments:
            self._map_segment(segment, pages)
        self._map_stack()
        if layout.physical_map is not None:
            area = layout.physical_map
            size = area.end - area.start
            self.tables.map(area.start, 0, size, _TABLE_FLAGS, PageSize.Size2MiB)
        boot_info = self._boot_info()
        self.memory.write(boot_info_frame, boot_info.to_bytes())
        sse = self.config.sse
        return BootedState(
            memory=self.memory,
            cpu=CpuState(
                cr0=_CR0 | (_CR0_SSE if sse else 0),
                cr3=self.tables.root,
                cr4=_CR4 | (_CR4_SSE if sse else 0),
            ),
            rip=self.image.entry,
            rsp=layout.stack_end - 8,
            rdi=layout.boot_info,
            gdt=self._place_gdt(),
            boot_info=boot_info,
            layout=layout,
            image=self.image,
            config=self.config,
        )

    def _check_sizes(self) -> None:
        # Says so before a loop over 2**40 pages of .bss begins.
        for name, pages, region_type in (
            ("kernel", self.image.pages, _Type.Kernel),
            ("kernel stack", self.config.kernel_stack_size, _Type.KernelStack),
        ):
            free = self.frames.available(region_type)
            if pages > free:
                raise BootError(
                    f"the {name} must fit into the memory that is free for it, "
                    f"{free * FRAME_SIZE:#_x} bytes: it has {pages * FRAME_SIZE:#_x}"
                )
            if pages > _MOST_PAGES:
                raise BootError(
                    f"the {name} must have at most 4 GiB: it has {pages * FRAME_SIZE:#_x}"
                )

    def _table_frame(self) -> int:
        frame = next(self.first_tables, None)
        return self.frames.allocate(_Type.PageTable) if frame is None else frame

    def _place_file(self) -> dict[int, int]:
        # Puts the pages of the kernel's file into frames; returns the frame of each page.
        file = self.image.file
        needed = sorted(
            {
                page // FRAME_SIZE
                for s in self.image.segments
                if s.data
                for page in range(s.offset & -FRAME_SIZE, s.offset + len(s.data), FRAME_SIZE)
            }
        )
        frames = self.frames.kernel_file(needed, -(-len(file) // FRAME_SIZE))
        for page, frame in frames.items():
            self.memory.write(frame, file[page * FRAME_SIZE : (page + 1) * FRAME_SIZE])
        return frames

    def _map_identity(self) -> None:
        self.tables.table(0, 1)
        for area in self.identity:
            self.tables.map(area.start, area.start, area.end - area.start, _TABLE_FLAGS)

    def _map_segment(self, segment: Segment, file_pages: dict[int, int]) -> None:
        flags = int(PageTableFlags.PRESENT)
        if segment.writable:
            flags |= PageTableFlags.WRITABLE
        if not segment.executable:
            flags |= PageTableFlags.NO_EXECUTE
        frames = [
            self._segment_frame(segment, page, file_pages)
            for page in range(segment.first_page, segment.end_page, FRAME_SIZE)
        ]
        self._map(segment.first_page, frames, flags)

    def _segment_frame(self, segment: Segment, page: int, file_pages: dict[int, int]) -> int:
        file_end = segment.vaddr + len(segment.data)
        if not segment.data or page >= file_end:
            return self.frames.allocate(_Type.Kernel)
        frame = file_pages[(segment.offset - segment.vaddr + page) // FRAME_SIZE]
        zeros = min(segment.end, page + FRAME_SIZE) - file_end
        if zeros <= 0:
            return frame
        # The rest of the file's page may be another segment's: zero a copy.
        copy = self.frames.allocate(_Type.Kernel)
        self.memory.write(copy, self.memory.read(frame, FRAME_SIZE))
        self.memory.write(copy + file_end % FRAME_SIZE, bytes(zeros))
        if any(area.start == SCRATCH_PAGE for area in self.layout.areas):
            self.tables.table(SCRATCH_PAGE, 1)
        return copy

    def _place_gdt(self) -> tuple[int, int]:
        home = [r for r in self.frames.memory_map if r.region_type == _Type.Bootloader]
        if not home or not any(area.start <= home[0].start < area.end for area in self.identity):
            return 0, 0
        self.memory.write(home[0].start, _GDT)
        return home[0].start, len(_GDT) - 1

    def _map_stack(self) -> None:
        start, end = self.layout.stack_start, self.layout.stack_end
        pages = (end - start) // FRAME_SIZE
        frames = [self.frames.allocate(_Type.KernelStack) for _ in range(pages)]
        self._map(start, frames, _TABLE_FLAGS)

    def _map(self, va: int, frames: list[int], flags: int) -> None:
        # Runs of neighbouring frames are mapped in one stroke.
        first = 0
        for index in range(1, len(frames) + 1):
            if index == len(frames) or frames[index] != frames[index - 1] + FRAME_SIZE:
                size = (index - first) * FRAME_SIZE
                self.tables.map(va + first * FRAME_SIZE, frames[first], size, flags)
                first = index

    def _boot_info(self) -> BootInfo:
        area, index = self.layout.physical_map, self.layout.recursive_index
        return BootInfo(
            self.frames.memory_map,
            physical_memory_offset=None if area is None else area.start,
            recursive_page_table_addr=None if index is None else recursive_address(index),
            tls_template=self.image.tls,
        )
