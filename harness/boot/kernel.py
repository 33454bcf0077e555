"""Kernels to boot: ELF64 executables, flat binaries and assembly.

`read_kernel` turns a file into a `KernelImage`: the bytes of the file, where execution starts, and
the segments, each with its own virtual address and its own rights.  Three kinds of file are told
apart by what they are:

- **ELF64**, static and not position-independent, as ``ld`` or a Rust ``x86_64-unknown-none`` kernel
  linked at a fixed address gives it.  Every PT_LOAD segment keeps its address and its R, W and X;
  PT_TLS becomes the TLS template.
- **flat**: any other file is code and data in one, at `FLAT_ADDRESS` unless told otherwise, and
  readable, writable and executable.  Execution starts at its first byte.
- **.asm** is assembled first (`harness.asm`), and is then flat.

The bootloader maps the pages *of the file*, as bootloader 0.9 does: a segment's file offset and
virtual address must therefore agree modulo 4 KiB (the ELF specification demands it), and no two
segments may touch one page, since a page has one set of rights.  What cannot be loaded is refused
with a `BootError`; `harness.boot.loader` finds out whether the kernel fits into the memory.

    >>> image = flat_kernel(b"\\xf4", name="halt")
    >>> hex(image.entry), image.segments[0].executable
    ('0x200000', True)
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.address import format_address, is_canonical
from harness.boot.bootinfo import TlsTemplate
from harness.boot.strip import strip_debug
from harness.errors import BootError

__all__ = [
    "FLAT_ADDRESS",
    "KernelImage",
    "Segment",
    "assembly_kernel",
    "elf_kernel",
    "flat_kernel",
    "read_kernel",
]

FLAT_ADDRESS = 0x20_0000
"""Virtual address of a flat kernel, where a Rust kernel's linker puts its first segment too."""

_PAGE = 4096
_ELF_MAGIC = b"\x7fELF"
_ELFCLASS64, _ELFDATA2LSB, _EV_CURRENT = 2, 1, 1
_ET_EXEC, _ET_DYN = 2, 3
_EM_X86_64 = 62
_PT_LOAD, _PT_INTERP, _PT_TLS = 1, 3, 7
_PF_X, _PF_W = 1, 2
_CLASSES = {1: "32-bit"}
_MACHINES = {3: "Intel 80386", 40: "Arm", 183: "AArch64", 243: "RISC-V", 8: "MIPS", 21: "PowerPC64"}
_TYPES = {
    0: "no type",
    1: "a relocatable object: link it",
    3: "a shared object or position-independent executable: link it with -no-pie",
    4: "a core dump",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the kernel with one set of rights.

    :param vaddr: virtual address of its first byte
    :param data: the bytes that the file has for it
    :param memsize: bytes in memory; what lies behind `data` is zero (.bss)
    :param writable: whether it may be written
    :param executable: whether it may be executed
    :param offset: where `data` begins in the kernel's file
    """

    vaddr: int
    data: bytes = field(repr=False)
    memsize: int
    writable: bool
    executable: bool
    offset: int = 0

    @property
    def end(self) -> int:
        """Virtual address behind the last byte."""
        return self.vaddr + self.memsize

    @property
    def first_page(self) -> int:
        """Virtual address of the first page that the segment touches."""
        return self.vaddr & -_PAGE

    @property
    def end_page(self) -> int:
        """Virtual address behind the last page that the segment touches."""
        return (self.end + _PAGE - 1) & -_PAGE

    @property
    def rights(self) -> str:
        """The rights in the letters of readelf: R, RW, RX or RWX."""
        return "R" + "W" * self.writable + "X" * self.executable


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel that can be loaded.

    :param name: the file's name, for reports
    :param file: the bytes of the file, whose pages the bootloader maps
    :param entry: virtual address of the first instruction
    :param segments: what to map, in ascending order of address
    :param tls: the thread local storage segment
    :param symbols: addresses of labels, where the kind of file has them
    :raises BootError: when the segments are empty, overlap, touch one page, or wrap around; when
        a segment's file offset and address disagree; when the entry is not executable
    """

    name: str
    file: bytes = field(repr=False)
    entry: int
    segments: tuple[Segment, ...]
    tls: TlsTemplate = field(default_factory=TlsTemplate)
    symbols: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.segments, key=lambda segment: segment.vaddr))
        object.__setattr__(self, "segments", ordered)
        if not ordered:
            raise BootError(f"{self.name} must have a segment to load, and has none")
        for segment in ordered:
            self._check_segment(segment)
        for before, after in itertools.pairwise(ordered):
            self._check_apart(before, after)
        if not any(s.executable and s.vaddr <= self.entry < s.end for s in ordered):
            raise BootError(
                f"{self.name} must have its entry point inside an executable segment: "
                f"{format_address(self.entry & (1 << 64) - 1)}"
            )

    @property
    def pages(self) -> int:
        """Count the pages that the segments touch."""
        return sum((s.end_page - s.first_page) // _PAGE for s in self.segments)

    def _check_segment(self, segment: Segment) -> None:
        where = f"{self.name}: the segment at {format_address(segment.vaddr)}"
        if segment.memsize < max(1, len(segment.data)):
            raise BootError(
                f"{where} must have as many bytes in memory as in the file, and at least one: "
                f"{segment.memsize} in memory, {len(segment.data)} in the file"
            )
        last = segment.end - 1
        if last >= 1 << 64 or not is_canonical(segment.vaddr, 4) or not is_canonical(last, 4):
            raise BootError(
                f"{where} must begin and end at a canonical address (bits 63:47 all equal): "
                f"it has {segment.memsize:#x} bytes"
            )
        if (segment.vaddr ^ last) >> 47:
            raise BootError(f"{where} must not span the gap of non-canonical addresses: it does")
        if segment.data and (segment.vaddr - segment.offset) % _PAGE:
            raise BootError(
                f"{where} must have a file offset that agrees with it modulo 0x1000: "
                f"{segment.offset:#x}; link without -N and -n"
            )

    def _check_apart(self, before: Segment, after: Segment) -> None:
        pair = f"{format_address(before.vaddr)} and {format_address(after.vaddr)}"
        if after.vaddr < before.end:
            raise BootError(f"{self.name}: segments must not overlap: those at {pair} do")
        if after.first_page < before.end_page:
            raise BootError(
                f"{self.name}: segments must not share a page, which has one set of rights: those "
                f"at {pair} do; link with -z separate-code -z max-page-size=0x1000"
            )


def read_kernel(path: str | Path, *, address: int = FLAT_ADDRESS) -> KernelImage:
    """Read a kernel from a file, whatever kind it is of.

    :param path: an ELF64 executable, an .asm file, or a flat binary
    :param address: virtual address of a flat binary and of assembly
    :raises BootError: when the file cannot be read, or is no kernel that can be loaded
    :raises AssemblyError: when an .asm file cannot be assembled
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BootError(f"the file must be readable: {error.strerror}", path=path) from None
    if data.startswith(_ELF_MAGIC):
        return elf_kernel(data, name=path.name)
    if path.suffix in (".asm", ".s", ".S"):
        return assembly_kernel(path, address=address)
    return flat_kernel(data, name=path.name, address=address)


def flat_kernel(data: bytes, *, name: str, address: int = FLAT_ADDRESS) -> KernelImage:
    """Make a kernel of bytes that are code and data in one.

    :param data: the bytes, of which the first is the first instruction's
    :param name: what to call the kernel in reports
    :param address: virtual address of the first byte, a multiple of 4 KiB
    :raises BootError: when there are no bytes, or the address is not one for them
    """
    if not data:
        raise BootError(f"{name} must have at least one byte of code: it is empty")
    _check_flat_address(name, address)
    segment = Segment(address, data, len(data), writable=True, executable=True)
    return KernelImage(name, data, address, (segment,))


def assembly_kernel(path: str | Path, *, address: int = FLAT_ADDRESS) -> KernelImage:
    """Assemble a kernel, which starts at its label ``_start`` or ``start``, or at its first byte.

    :param path: the source
    :param address: virtual address to assemble it for, a multiple of 4 KiB
    :raises AssemblyError: when a statement cannot be assembled
    :raises BootError: as `flat_kernel`
    """
    from harness.asm import assemble_file  # imports Keystone and Capstone
    from harness.asm.gnu import SUFFIXES, assemble_gnu

    base = _check_flat_address(str(path), address)
    gnu = Path(path).suffix in SUFFIXES
    program = assemble_gnu(Path(path), base=base) if gnu else assemble_file(path, base=base)
    name = Path(path).name
    if not program.code:
        raise BootError(f"{name} must have at least one statement that makes bytes: it has none")
    segment = Segment(program.base, program.code, len(program.code), writable=True, executable=True)
    return KernelImage(name, program.code, program.entry, (segment,), symbols=dict(program.labels))


def _check_flat_address(name: str, address: int) -> int:
    if not 0 <= address < 1 << 64 or address % _PAGE:
        raise BootError(
            f"{name} must be loaded at a multiple of 0x1000 below 2**64, not {address:#x}"
        )
    return address


class _ElfHeader(NamedTuple):
    # The ELF64 header behind e_ident (ELF-64 object file format 1.5, figure 2).
    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class _ProgramHeader(NamedTuple):
    # ELF-64 object file format 1.5, figure 6.
    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


_IDENT_SIZE = 16
_EHDR = struct.Struct("<HHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")


def elf_kernel(data: bytes, *, name: str) -> KernelImage:
    """Make a kernel of a static ELF64 executable.

    Only what a loader needs is read: a kernel whose sections are stripped or damaged still boots.

    :param data: the bytes of the file
    :param name: what to call the kernel in reports
    :raises BootError: when it is no static ELF64 executable for x86-64, is truncated, or has
        segments that cannot be loaded
    """
    header = _elf_header(data, name)
    segments: list[Segment] = []
    tls: list[TlsTemplate] = []
    for index in range(header.phnum):
        program = _ProgramHeader(*_PHDR.unpack_from(data, header.phoff + index * _PHDR.size))
        # PT_DYNAMIC of a fixed executable asks for nothing: linkers leave one in static kernels.
        if program.type == _PT_INTERP:
            raise BootError(
                f"{name} must be linked statically: program header {index} asks for a dynamic "
                "linker; link it with -static -no-pie"
            )
        if program.type == _PT_TLS:
            tls.append(TlsTemplate(program.vaddr, program.filesz, program.memsz))
        elif program.type == _PT_LOAD and program.memsz + program.filesz:
            segments.append(_elf_segment(data, program, index, name))
    if len(tls) > 1:
        raise BootError(f"{name} must have at most one TLS segment, not {len(tls)}")
    template = tls[0] if tls else TlsTemplate()
    return KernelImage(name, strip_debug(data), header.entry, tuple(segments), template)


def _elf_header(data: bytes, name: str) -> _ElfHeader:
    if len(data) < _IDENT_SIZE + _EHDR.size:
        raise BootError(
            f"{name} must have a whole ELF header ({_IDENT_SIZE + _EHDR.size} bytes): "
            f"the file ends after {len(data)}"
        )
    if not data.startswith(_ELF_MAGIC):
        raise BootError(f"{name} must begin with {_ELF_MAGIC!r}, not {data[:4]!r}")
    file_class, encoding = data[4], data[5]
    if file_class != _ELFCLASS64:
        found = _CLASSES.get(file_class, f"class {file_class}")
        raise BootError(f"{name} must be a 64-bit ELF file: it is {found}")
    if encoding != _ELFDATA2LSB:
        raise BootError(f"{name} must be a little-endian ELF file: its data encoding is {encoding}")
    header = _ElfHeader(*_EHDR.unpack_from(data, _IDENT_SIZE))
    if data[6] != _EV_CURRENT or header.version != _EV_CURRENT:
        raise BootError(
            f"{name} must be of ELF version 1, not {data[6]} (e_ident) and "
            f"{header.version} (e_version)"
        )
    if header.machine != _EM_X86_64:
        found = _MACHINES.get(header.machine, f"machine {header.machine}")
        raise BootError(f"{name} must be for x86-64: it is for {found}")
    if header.type != _ET_EXEC:
        found = _TYPES.get(header.type, f"type {header.type:#x}")
        raise BootError(f"{name} must be an executable with fixed addresses: it is {found}")
    if header.phnum and header.phentsize != _PHDR.size:
        raise BootError(
            f"{name} must have program headers of {_PHDR.size} bytes, not {header.phentsize}"
        )
    end = header.phoff + header.phnum * _PHDR.size
    if end > len(data):
        raise BootError(
            f"{name} must contain its {header.phnum} program headers, up to byte {end:#x}: "
            f"the file ends after {len(data):#x}"
        )
    return header


def _elf_segment(data: bytes, program: _ProgramHeader, index: int, name: str) -> Segment:
    where = f"{name}: program header {index}"
    if program.filesz and program.offset + program.filesz > len(data):
        raise BootError(
            f"{where} must describe bytes of the file, whose size is {len(data):#x}: "
            f"{program.filesz:#x} bytes from {program.offset:#x}"
        )
    return Segment(
        vaddr=program.vaddr,
        data=data[program.offset : program.offset + program.filesz],
        memsize=program.memsz,
        writable=bool(program.flags & _PF_W),
        executable=bool(program.flags & _PF_X),
        offset=program.offset,
    )
