"""Kernels of every kind, and the hundreds of files that are none."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.boot import (
    BootConfig,
    KernelImage,
    Segment,
    TlsTemplate,
    elf_kernel,
    flat_kernel,
    load,
    read_kernel,
)
from harness.errors import AssemblyError, BootError

MakeElf = Callable[..., bytes]
TEXT = (1, 5, 0x1000, 0x20_0000, 0x10, 0x10)


def refusal(data: bytes) -> str:
    with pytest.raises(BootError) as refused:
        elf_kernel(data, name="k")
    return str(refused.value)


def test_segments_keep_their_addresses_and_rights(three_segments: bytes) -> None:
    image = elf_kernel(three_segments, name="three")
    assert image.entry == 0x20_1010
    assert [(s.vaddr, s.memsize, s.rights) for s in image.segments] == [
        (0x20_0000, 0x800, "R"),
        (0x20_1000, 0x234, "RX"),
        (0x20_2100, 0x2000, "RW"),
    ]
    assert [len(s.data) for s in image.segments] == [0x800, 0x234, 0x300]
    assert image.segments[1].data == b"\xc3" * 0x234
    assert image.pages == 5
    assert image.tls == TlsTemplate()


def test_the_higher_half_and_a_tls_segment(make_elf: MakeElf) -> None:
    image = elf_kernel(
        make_elf(
            (7, 4, 0x1000, 0x40_0000, 8, 24),
            (1, 5, 0x1000, 0xFFFF_FFFF_8020_0000, 0x10, 0x10),
            (0x6474E551, 6, 0, 0, 0, 0),
            entry=0xFFFF_FFFF_8020_0008,
        ),
        name="high",
    )
    assert [s.vaddr for s in image.segments] == [0xFFFF_FFFF_8020_0000]
    assert image.tls == TlsTemplate(0x40_0000, 8, 24)


def test_the_very_last_page_is_an_address_like_any_other(make_elf: MakeElf) -> None:
    last = (1 << 64) - 0x1000
    image = elf_kernel(make_elf((1, 5, 0x1000, last, 0x1000, 0x1000), entry=last), name="last")
    assert image.segments[0].end_page == 1 << 64


def test_sections_are_not_looked_at(make_elf: MakeElf) -> None:
    data = bytearray(make_elf(TEXT))
    struct.pack_into("<Q", data, 40, 0xDEAD_BEEF_0000)
    struct.pack_into("<HH", data, 60, 77, 78)
    assert elf_kernel(bytes(data), name="stripped").entry == 0x20_0000


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, b"\x01", "k must be a 64-bit ELF file: it is 32-bit"),
        (4, b"\x07", "k must be a 64-bit ELF file: it is class 7"),
        (5, b"\x02", "k must be a little-endian ELF file: its data encoding is 2"),
        (6, b"\x03", "k must be of ELF version 1, not 3 (e_ident) and 1 (e_version)"),
        (18, b"\x03\x00", "k must be for x86-64: it is for Intel 80386"),
        (18, b"\xb7\x00", "k must be for x86-64: it is for AArch64"),
        (18, b"\xff\xff", "k must be for x86-64: it is for machine 65535"),
        (
            16,
            b"\x03\x00",
            "k must be an executable with fixed addresses: it is a shared object or "
            "position-independent executable: link it with -no-pie",
        ),
        (
            16,
            b"\x01\x00",
            "k must be an executable with fixed addresses: it is a relocatable object: link it",
        ),
        (16, b"\x99\x00", "k must be an executable with fixed addresses: it is type 0x99"),
        (54, b"\x20\x00", "k must have program headers of 56 bytes, not 32"),
        (
            56,
            b"\xff\x00",
            "k must contain its 255 program headers, up to byte 0x3808: the file ends after 0x2000",
        ),
        (56, b"\x00\x00", "k must have a segment to load, and has none"),
        (
            24,
            b"\x10",
            "k must have its entry point inside an executable segment: 0x20_0010",
        ),
        (
            64,
            b"\x03",
            "k must be linked statically: program header 0 asks for a dynamic linker; "
            "link it with -static -no-pie",
        ),
        (
            64 + 4,
            b"\x06",
            "k must have its entry point inside an executable segment: 0x20_0000",
        ),
        (
            64 + 8,
            b"\xf8\x1f",
            "k: program header 0 must describe bytes of the file, whose size is 0x2000: "
            "0x10 bytes from 0x1ff8",
        ),
        (
            64 + 8,
            b"\x80",
            "k: the segment at 0x20_0000 must have a file offset that agrees with it modulo "
            "0x1000: 0x1080; link without -N and -n",
        ),
        (
            64 + 40,
            b"\x08",
            "k: the segment at 0x20_0000 must have as many bytes in memory as in the file, and at "
            "least one: 8 in memory, 16 in the file",
        ),
        (
            64 + 40,
            b"\0\0\0\0\0\0\0\xff",
            "k: the segment at 0x20_0000 must begin and end at a canonical address (bits 63:47 all "
            "equal): it has 0xff00000000000000 bytes",
        ),
        (
            64 + 16 + 6,
            b"\xff\xff",
            "k: the segment at 0xffff_0000_0020_0000 must begin and end at a canonical address "
            "(bits 63:47 all equal): it has 0x10 bytes",
        ),
        (
            64 + 16,
            b"\0\xf0\xff\xff\xff\x7f",
            "k must have its entry point inside an executable segment: 0x20_0000",
        ),
        (
            64 + 40,
            b"\0\0\0\0\0\x80\xff\xff",
            "k: the segment at 0x20_0000 must not span the gap of non-canonical addresses: it does",
        ),
    ],
)
def test_what_is_wrong_with_one_field(
    make_elf: MakeElf, at: int, value: bytes, message: str
) -> None:
    data = bytearray(make_elf(TEXT, size=0x2000))
    data[at : at + len(value)] = value
    assert refusal(bytes(data)) == message


@pytest.mark.parametrize(
    ("vaddr", "offset", "message"),
    [
        (0x20_0008, 0x1008, "k: segments must not overlap: those at 0x20_0000 and 0x20_0008 do"),
        (
            0x20_0800,
            0x1800,
            "k: segments must not share a page, which has one set of rights: those at 0x20_0000 "
            "and 0x20_0800 do; link with -z separate-code -z max-page-size=0x1000",
        ),
    ],
)
def test_two_segments_in_one_place(
    make_elf: MakeElf, vaddr: int, offset: int, message: str
) -> None:
    assert refusal(make_elf((1, 6, offset, vaddr, 8, 8), TEXT)) == message


def test_two_tls_segments(make_elf: MakeElf) -> None:
    tls = (7, 4, 0x1000, 0x20_0000, 8, 8)
    assert refusal(make_elf(TEXT, tls, tls)) == "k must have at most one TLS segment, not 2"


@pytest.mark.parametrize("size", [0, 4, 16, 63])
def test_a_file_that_ends_in_its_header(make_elf: MakeElf, size: int) -> None:
    assert refusal(make_elf(TEXT)[:size]) == (
        f"k must have a whole ELF header (64 bytes): the file ends after {size}"
    )


def test_not_elf_at_all() -> None:
    assert refusal(b"MZ" + bytes(100)) == "k must begin with b'\\x7fELF', not b'MZ\\x00\\x00'"


def test_flat_kernels(tmp_path: Path) -> None:
    path = tmp_path / "kernel.bin"
    path.write_bytes(b"\xf4\xeb\xfd")
    image = read_kernel(path)
    assert image == KernelImage(
        "kernel.bin",
        b"\xf4\xeb\xfd",
        0x20_0000,
        (Segment(0x20_0000, b"\xf4\xeb\xfd", 3, writable=True, executable=True),),
    )
    assert read_kernel(path, address=0xFFFF_8000_0000_0000).entry == 0xFFFF_8000_0000_0000
    with pytest.raises(
        BootError, match=r"kernel.bin must be loaded at a multiple of 0x1000 .*0x7c"
    ):
        read_kernel(path, address=0x7C)
    path.write_bytes(b"")
    with pytest.raises(BootError, match=r"kernel.bin must have at least one byte of code: it is"):
        read_kernel(path)
    with pytest.raises(BootError, match=r"nothing: the file must be readable: No such file"):
        read_kernel(tmp_path / "nothing")
    with pytest.raises(BootError, match=r"the file must be readable: Is a directory"):
        read_kernel(tmp_path)


def test_assembly(tmp_path: Path) -> None:
    path = tmp_path / "kernel.asm"
    path.write_text("data: .quad 7\n_start: mov rax, [data]\nhlt\n")
    image = read_kernel(path, address=0xFFFF_8000_0020_0000)
    assert image.name == "kernel.asm"
    assert image.entry == image.symbols["_start"] == 0xFFFF_8000_0020_0008
    assert image.segments[0].rights == "RWX"
    assert image.segments[0].data[:8] == b"\7\0\0\0\0\0\0\0"
    assert image.file[-1:] == b"\xf4"
    with pytest.raises(BootError, match=r"must be loaded at a multiple of 0x1000 .* not 0x7c01"):
        read_kernel(path, address=0x7C01)
    path.write_text("; nothing\n")
    with pytest.raises(BootError, match=r"kernel.asm must have at least one statement that makes"):
        read_kernel(path)
    path.write_text("mov rax,\n")
    with pytest.raises(AssemblyError, match=r"kernel.asm:1: "):
        read_kernel(path)


def test_an_empty_segment_is_none(make_elf: MakeElf) -> None:
    image = elf_kernel(make_elf((1, 6, 0x1000, 0x20_0000, 0, 0), TEXT), name="k")
    assert [s.rights for s in image.segments] == ["RX"]


def test_the_reader_agrees_with_pyelftools(three_segments: bytes) -> None:
    segments = [
        (s["p_vaddr"], s["p_memsz"], s.data())
        for s in ELFFile(io.BytesIO(three_segments)).iter_segments("PT_LOAD")
    ]
    image = elf_kernel(three_segments, name="three")
    assert [(s.vaddr, s.memsize, s.data) for s in image.segments] == segments


def test_read_kernel_sees_an_elf_file_by_its_first_bytes(
    tmp_path: Path, three_segments: bytes
) -> None:
    path = tmp_path / "kernel.bin"
    path.write_bytes(three_segments)
    assert [s.rights for s in read_kernel(path).segments] == ["R", "RX", "RW"]


def _boots_or_is_refused(data: bytes) -> str:
    try:
        load(elf_kernel(data, name="k"), BootConfig(kernel_stack_size=4))
    except BootError as error:
        return str(error)
    return ""


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_damaged_elf_files_boot_or_are_refused(three_segments: bytes, data: st.DataObject) -> None:
    # Damage where it counts: in the ELF header and the three program headers.
    damaged = bytearray(three_segments)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 64 + 3 * 56 - 1))
        damaged[at] = data.draw(st.integers(0, 255) | st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    refused = _boots_or_is_refused(bytes(damaged))
    assert not refused or "must" in refused
    assert "\n" not in refused


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_the_headers_flipped(three_segments: bytes, bit: int) -> None:
    refused = 0
    for at in range(64 + 3 * 56):
        damaged = bytearray(three_segments)
        damaged[at] ^= 1 << bit
        refused += bool(_boots_or_is_refused(bytes(damaged)))
    assert refused > 40


def test_a_flat_kernel_is_never_empty() -> None:
    with pytest.raises(BootError, match="flat must have at least one byte of code: it is empty"):
        flat_kernel(b"", name="flat")
