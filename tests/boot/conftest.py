"""The lecture's printout, and ELF files made to measure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.boot import BootInfo, KernelImage, Segment, parse_boot_info

FIXTURES = Path(__file__).parents[2] / "fixtures" / "boot"


@pytest.fixture(scope="session")
def lecture_text() -> str:
    """What the lecture's kernel printed, without the end of the line."""
    return (FIXTURES / "lecture-bootinfo.txt").read_text().rstrip("\n")


@pytest.fixture(scope="session")
def lecture_boot_info(lecture_text: str) -> BootInfo:
    return parse_boot_info(lecture_text)


def _elf(
    *segments: tuple[int, int, int, int, int, int],
    entry: int = 0x20_0000,
    kind: int = 2,
    machine: int = 62,
    size: int = 0x4000,
    body: bytes = b"",
    phentsize: int = 56,
) -> bytes:
    # segments: type, flags (X=1, W=2, R=4), offset, vaddr, filesz, memsz
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, entry, 64, 0, 0, 64, phentsize, len(segments), 64, 0, 0
    )
    for type_, flags, offset, vaddr, filesz, memsz in segments:
        header += struct.pack("<IIQQQQQQ", type_, flags, offset, vaddr, vaddr, filesz, memsz, 4096)
    return (header.ljust(0x1000, b"\0") + body).ljust(size, b"\0")


@pytest.fixture(scope="session")
def make_elf() -> Callable[..., bytes]:
    """A function that lays out an ELF64 file of (type, flags, offset, vaddr, filesz, memsz)s."""
    return _elf


@pytest.fixture(scope="session")
def three_segments(make_elf: Callable[..., bytes]) -> bytes:
    """An ELF kernel with R, RX and RW segments and a .bss that begins inside a page."""
    return make_elf(
        (1, 4, 0x0000, 0x20_0000, 0x0800, 0x0800),
        (1, 5, 0x1000, 0x20_1000, 0x0234, 0x0234),
        (1, 6, 0x2100, 0x20_2100, 0x0300, 0x2000),
        entry=0x20_1010,
        body=b"\xc3" * 0x1000 + b"\xda" * 0x2000,
    )


@pytest.fixture(scope="session")
def lecture_sized_kernel() -> KernelImage:
    """A kernel with the size of the lecture's: 49 pages of file, and 7 frames for its .bss."""
    file = bytes(0x3_1000)
    text = Segment(0x20_0000, file[:0x3_0000], 0x3_0000, writable=False, executable=True)
    data = Segment(0x23_0000, file[:0x800], 0x7000, True, False, offset=0x3_0000)
    return KernelImage("lecture", file, 0x20_0000, (text, data))
