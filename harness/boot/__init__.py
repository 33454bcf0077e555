"""The bootloader's part: from a kernel's file to a machine at its first instruction.

    from harness.boot import BootConfig, load, read_kernel

    state = load(read_kernel("kernel.elf"), BootConfig(map_physical_memory=True))

See `docs/boot.md`, and the modules: `bootinfo` and `debug_text` (what the kernel is told),
`config` (what it asks for), `kernel` (what can be booted), `firmware` (the machine), `layout` and
`loader` (the work), `tables` (page tables from nothing).
"""

from harness.boot.bootinfo import (
    BootInfo,
    FrameRange,
    MemoryRegion,
    MemoryRegionType,
    TlsTemplate,
)
from harness.boot.config import BootConfig, parse_cargo_toml, read_cargo_toml
from harness.boot.debug_text import parse_boot_info
from harness.boot.firmware import BootloaderFrames, Firmware, PrintoutFrames
from harness.boot.kernel import (
    KernelImage,
    Segment,
    assembly_kernel,
    elf_kernel,
    flat_kernel,
    read_kernel,
)
from harness.boot.layout import Area, VirtualLayout
from harness.boot.loader import BootedState, Level4Slot, level_4_listing, load
from harness.boot.tables import TableBuilder

__all__ = [
    "Area",
    "BootConfig",
    "BootInfo",
    "BootedState",
    "BootloaderFrames",
    "Firmware",
    "FrameRange",
    "KernelImage",
    "Level4Slot",
    "MemoryRegion",
    "MemoryRegionType",
    "PrintoutFrames",
    "Segment",
    "TableBuilder",
    "TlsTemplate",
    "VirtualLayout",
    "assembly_kernel",
    "elf_kernel",
    "flat_kernel",
    "level_4_listing",
    "load",
    "parse_boot_info",
    "parse_cargo_toml",
    "read_cargo_toml",
    "read_kernel",
]
