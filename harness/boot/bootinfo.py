"""What the bootloader tells the kernel: `BootInfo`, in words, as text and as bytes.

A kernel started by the Rust crate `bootloader` 0.9 finds in RDI the address of a `BootInfo`: the
map of physical memory, and, each only with its cargo feature, where the bootloader put the
complete physical memory (`physical_memory_offset`) and the recursive page table
(`recursive_page_table_addr`).  The same information exists in three forms here:

- as objects, with the crate's names, to ask questions of;
- as the text that `println!("{:?}", boot_info)` prints: `BootInfo.debug` writes it, and
  `harness.boot.debug_text.parse_boot_info` reads it;
- as the bytes of the crate's ``repr(C)`` structure, which `harness.boot.loader` writes into guest
  memory: `BootInfo.to_bytes` and `BootInfo.from_bytes`.  `docs/boot.md` has the table of offsets.

The bytes do not say which features they were made with, so a reader of bytes must.  All forms are
refused with a `BootError` of one sentence when they do not describe a BootInfo: an unaligned
range, a region type that 0.9 does not have, more than 64 regions.

    >>> region = MemoryRegion(FrameRange(0x1000, 0x5000), MemoryRegionType.PageTable)
    >>> BootInfo((region,), physical_memory_offset=0x180_0000_0000).debug()[:58]
    'BootInfo { memory_map: [MemoryRegion { range: FrameRange(0'
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.errors import BootError

__all__ = [
    "FRAME_SIZE",
    "MAX_REGIONS",
    "BootInfo",
    "FrameRange",
    "MemoryRegion",
    "MemoryRegionType",
    "TlsTemplate",
]

FRAME_SIZE = 4096
"""Bytes in a frame; a memory map counts in frames."""

MAX_REGIONS = 64
"""Regions that bootloader 0.9's `MemoryMap` has room for."""

_U64_END = 1 << 64
_REGION = struct.Struct("<QQI4x")
_WORD = struct.Struct("<Q")
_TLS = struct.Struct("<QQQ")
_TAIL = struct.Struct("<B7x")


class MemoryRegionType(enum.IntEnum):
    """Say who owns a region of physical memory (bootloader 0.9, `MemoryRegionType`)."""

    Usable = 0
    """Free for the kernel."""
    InUse = 1
    """In use already, by whom is not said."""
    Reserved = 2
    """Reserved by the hardware or the firmware."""
    AcpiReclaimable = 3
    """ACPI tables, free once the kernel has read them."""
    AcpiNvs = 4
    """ACPI memory that must survive sleep."""
    BadMemory = 5
    """Memory that the firmware found to be broken."""
    Kernel = 6
    """The kernel's file, and the frames of its .bss."""
    KernelStack = 7
    """The kernel's stack."""
    PageTable = 8
    """The page tables that the bootloader made."""
    Bootloader = 9
    """The bootloader's own code and data."""
    FrameZero = 10
    """The frame at address 0, kept out of use because null pointers point to it."""
    Empty = 11
    """No region: a free place in the memory map."""
    BootInfo = 12
    """The BootInfo itself."""
    Package = 13
    """A package that was given to the bootloader beside the kernel."""


@dataclass(frozen=True, slots=True, order=True)
class FrameRange:
    """A range of whole frames.

    :param start: byte address of the first frame
    :param end: byte address behind the last frame (exclusive)
    :raises BootError: when an address is not a frame's, or the end lies before the start
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        for name, address in (("start", self.start), ("end", self.end)):
            if address % FRAME_SIZE or not 0 <= address < _U64_END:
                raise BootError(
                    f"a FrameRange must {name} at a multiple of 0x1000 below 2**64, "
                    f"not {address:#x}"
                )
        if self.end < self.start:
            raise BootError(
                f"a FrameRange must not end before it starts: {self.start:#x}..{self.end:#x}"
            )

    def __len__(self) -> int:
        """Count the frames."""
        return (self.end - self.start) // FRAME_SIZE

    def __contains__(self, address: object) -> bool:
        """Say whether a byte address lies in the range."""
        return isinstance(address, int) and self.start <= address < self.end

    def __str__(self) -> str:
        return f"FrameRange({self.start:#x}..{self.end:#x})"

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.end - self.start

    def frames(self) -> Iterator[int]:
        """Iterate over the byte addresses of the frames."""
        return iter(range(self.start, self.end, FRAME_SIZE))


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A range of physical memory and what it is used for."""

    range: FrameRange
    region_type: MemoryRegionType

    @property
    def start(self) -> int:
        """Byte address of the first frame."""
        return self.range.start

    @property
    def end(self) -> int:
        """Byte address behind the last frame."""
        return self.range.end

    def __str__(self) -> str:
        return (
            f"MemoryRegion {{ range: {self.range!s}, "
            f"region_type: {MemoryRegionType(self.region_type).name} }}"
        )


@dataclass(frozen=True, slots=True)
class TlsTemplate:
    """The kernel's thread local storage segment; all zeros when it has none.

    :param start_addr: virtual address of the template
    :param file_size: bytes with an initial value (.tdata)
    :param mem_size: bytes in all (.tdata and .tbss)
    """

    start_addr: int = 0
    file_size: int = 0
    mem_size: int = 0

    def __post_init__(self) -> None:
        for name in ("start_addr", "file_size", "mem_size"):
            _check_u64(f"TlsTemplate.{name}", getattr(self, name))

    def __str__(self) -> str:
        return (
            f"TlsTemplate {{ start_addr: {self.start_addr}, file_size: {self.file_size}, "
            f"mem_size: {self.mem_size} }}"
        )


@dataclass(frozen=True, slots=True)
class BootInfo:
    """Everything that bootloader 0.9 tells its kernel.

    :param memory_map: the regions of physical memory, in the order in which they were found
    :param physical_memory_offset: virtual address of physical address 0 in the map of the complete
        physical memory; None without the feature `map_physical_memory`
    :param recursive_page_table_addr: virtual address of the level 4 table through the recursive
        slot; None without the feature `recursive_page_table`
    :param tls_template: the kernel's thread local storage segment
    :raises BootError: when there are more regions than 0.9 has room for, or a number is not a u64
    """

    memory_map: tuple[MemoryRegion, ...]
    physical_memory_offset: int | None = None
    recursive_page_table_addr: int | None = None
    tls_template: TlsTemplate = field(default_factory=TlsTemplate)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory_map", tuple(self.memory_map))
        if len(self.memory_map) > MAX_REGIONS:
            raise BootError(
                f"a memory map must have at most {MAX_REGIONS} regions, not {len(self.memory_map)}"
            )
        for name in ("physical_memory_offset", "recursive_page_table_addr"):
            value = getattr(self, name)
            if value is not None:
                _check_u64(name, value)

    def __str__(self) -> str:
        return self.debug()

    @property
    def recursive_index(self) -> int | None:
        """Slot of the level 4 table that maps the table itself (bits 20:12 of the address)."""
        address = self.recursive_page_table_addr
        return None if address is None else (address >> 12) & 0x1FF

    def regions(self, region_type: MemoryRegionType) -> tuple[MemoryRegion, ...]:
        """Select the regions of one type, in the map's order."""
        return tuple(r for r in self.memory_map if r.region_type == region_type)

    def debug(self, *, pretty: bool = False) -> str:
        """Write what Rust prints for ``{:?}``.

        :param pretty: write what Rust prints for ``{:#?}``, over many lines
        """
        text = f"BootInfo {{ memory_map: [{', '.join(map(str, self.memory_map))}], "
        if self.recursive_page_table_addr is not None:
            text += f"recursive_page_table_addr: {self.recursive_page_table_addr}, "
        if self.physical_memory_offset is not None:
            text += f"physical_memory_offset: {self.physical_memory_offset}, "
        text += f"tls_template: {self.tls_template!s}, _non_exhaustive: 0 }}"
        return _indented(text) if pretty else text

    @staticmethod
    def size_in_memory(*, map_physical_memory: bool, recursive_page_table: bool) -> int:
        """Count the bytes of a BootInfo in memory, which depends on the features."""
        words = 1 + map_physical_memory + recursive_page_table
        return MAX_REGIONS * _REGION.size + words * _WORD.size + _TLS.size + _TAIL.size

    def to_bytes(self) -> bytes:
        """Lay the structure out as bootloader 0.9 does (``repr(C)``, little-endian).

        The optional fields that are not None are the features that the bytes are made with.
        """
        parts = [
            _REGION.pack(r.range.start // FRAME_SIZE, r.range.end // FRAME_SIZE, r.region_type)
            for r in self.memory_map
        ]
        empty = _REGION.pack(0, 0, MemoryRegionType.Empty)
        parts += [empty] * (MAX_REGIONS - len(parts))
        parts.append(_WORD.pack(len(self.memory_map)))
        for optional in (self.recursive_page_table_addr, self.physical_memory_offset):
            if optional is not None:
                parts.append(_WORD.pack(optional))
        tls = self.tls_template
        parts.append(_TLS.pack(tls.start_addr, tls.file_size, tls.mem_size))
        parts.append(_TAIL.pack(0))
        return b"".join(parts)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, map_physical_memory: bool, recursive_page_table: bool
    ) -> BootInfo:
        """Read a structure that bootloader 0.9, or `to_bytes`, laid out.

        :param data: the bytes, from the structure's start; what follows it is not looked at
        :param map_physical_memory: whether the structure was made with that feature
        :param recursive_page_table: whether the structure was made with that feature
        :raises BootError: when the bytes are too few, or are no BootInfo
        """
        size = cls.size_in_memory(
            map_physical_memory=map_physical_memory, recursive_page_table=recursive_page_table
        )
        if len(data) < size:
            raise BootError(
                f"a BootInfo with these features must have {size} bytes, not {len(data)}"
            )
        position = MAX_REGIONS * _REGION.size
        (count,) = _WORD.unpack_from(data, position)
        if count > MAX_REGIONS:
            raise BootError(f"a memory map must have at most {MAX_REGIONS} regions, not {count}")
        memory_map = tuple(_region_at(data, index) for index in range(count))
        optional: dict[str, int] = {}
        for name, present in (
            ("recursive_page_table_addr", recursive_page_table),
            ("physical_memory_offset", map_physical_memory),
        ):
            if present:
                position += _WORD.size
                (optional[name],) = _WORD.unpack_from(data, position)
        tls = TlsTemplate(*_TLS.unpack_from(data, position + _WORD.size))
        return cls(memory_map, tls_template=tls, **optional)


def _region_at(data: bytes, index: int) -> MemoryRegion:
    start, end, number = _REGION.unpack_from(data, index * _REGION.size)
    if number >= len(MemoryRegionType):
        raise BootError(
            f"the type of memory region {index} must be 0 to {len(MemoryRegionType) - 1}, "
            f"not {number}"
        )
    return MemoryRegion(FrameRange(start * FRAME_SIZE, end * FRAME_SIZE), MemoryRegionType(number))


def _check_u64(name: str, value: int) -> None:
    if not 0 <= value < _U64_END:
        raise BootError(f"{name} must be 0 or more and below 2**64, not {value:#x}")


def _indented(text: str) -> str:
    # Rust's {:#?} breaks the line behind each opening and before each closing brace, and ends
    # every element with a comma; FrameRange writes itself in one piece.
    text = text.replace("[]", "\0")
    out: list[str] = []
    depth = 0
    for token in text.replace("{ ", "{").replace(" }", "}").replace(", ", ","):
        if token in "{[":
            depth += 1
            out.append(token + "\n" + "    " * depth)
        elif token in "}]":
            depth -= 1
            out.append(",\n" + "    " * depth + token)
        elif token == ",":
            out.append(",\n" + "    " * depth)
        else:
            out.append(token)
    return "".join(out).replace("\0", "[]")
