"""What real kernels look like: workspaces, wildcards, debug sections, odd program headers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.boot.config import parse_cargo_toml, read_cargo_toml
from harness.boot.kernel import elf_kernel
from harness.boot.strip import strip_debug
from harness.errors import BootError

_BASE = 0x20_0000


def elf(*programs: tuple[int, ...], sections: tuple[tuple[str, int, bytes], ...] = ()) -> bytes:
    """Make an ELF file: program headers (type, flags, offset, vaddr, filesz, memsz), sections."""
    shstr = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    body = bytearray(0x2000)
    body[0x1000:0x1001] = b"\xf4"
    headers = [bytes(64)]
    at = 1
    for name, flags, data in (*sections, (".shstrtab", 0, shstr)):
        kind = 3 if name == ".shstrtab" else 1
        headers.append(
            struct.pack("<IIQQQQIIQQ", at, kind, flags, 0, len(body), len(data), 0, 0, 1, 0)
        )
        at += len(name) + 1
        body += data
    shoff = len(body)
    body += b"".join(headers)
    body[:64] = (
        b"\x7fELF\2\1\1"
        + bytes(9)
        + struct.pack(
            *("<HHIQQQIHHHHHH", 2, 62, 1, _BASE, 64, shoff, 0, 64, 56, len(programs), 64),
            *(len(headers), len(headers) - 1),
        )
    )
    for number, (kind, flags, offset, vaddr, filesz, memsz) in enumerate(programs):
        part = struct.pack("<IIQQQQQQ", kind, flags, offset, vaddr, vaddr, filesz, memsz, 0x1000)
        body[64 + 56 * number : 120 + 56 * number] = part
    return bytes(body)


CODE = (1, 5, 0x1000, _BASE, 0x10, 0x10)


def test_a_dynamic_section_in_a_fixed_executable_is_ignored() -> None:
    image = elf_kernel(elf(CODE, (2, 6, 0x1000, _BASE, 0x10, 0x10)), name="k")
    assert [segment.vaddr for segment in image.segments] == [_BASE]
    with pytest.raises(BootError, match="dynamic linker"):
        elf_kernel(elf(CODE, (3, 6, 0x1000, _BASE, 0x10, 0x10)), name="k")


def test_a_segment_of_zeros_has_no_place_in_the_file() -> None:
    image = elf_kernel(elf(CODE, (1, 6, 0x99_9000, _BASE + 0x1000, 0, 0x100)), name="k")
    assert [segment.memsize for segment in image.segments] == [0x10, 0x100]
    with pytest.raises(BootError, match="must describe bytes of the file"):
        elf_kernel(elf(CODE, (1, 6, 0x99_9000, _BASE + 0x1000, 1, 0x100)), name="k")


def test_debug_sections_do_not_become_ram() -> None:
    plain = elf(CODE, sections=((".symtab2", 0, bytes(0x300)),))
    debug = elf(CODE, sections=((".debug_info", 0, bytes(0x5_0000)), (".symtab2", 0, bytes(0x300))))
    assert strip_debug(plain) == plain
    stripped = elf_kernel(debug, name="k").file
    assert stripped[:0x1010] == debug[:0x1010]
    assert 0x1010 + 0x300 < len(stripped) < 0x1010 + 0x300 + 0x200


def test_a_wildcard_is_a_version() -> None:
    text = "[dependencies]\nbootloader = '0.9.*'\n"
    assert not parse_cargo_toml(text).map_physical_memory


def test_features_of_a_workspace_are_kept(tmp_path: Path) -> None:
    member = tmp_path / "kernel" / "Cargo.toml"
    member.parent.mkdir()
    member.write_text("[dependencies]\nbootloader.workspace = true\n")
    with pytest.raises(BootError, match=r"needs a \[workspace.dependencies\] bootloader"):
        read_cargo_toml(member)
    (tmp_path / "Cargo.toml").write_text(
        "[workspace.dependencies]\n"
        "bootloader = { version = '0.9', features = ['map_physical_memory'] }\n"
    )
    assert read_cargo_toml(member).map_physical_memory
    member.write_text(
        "[dependencies.bootloader]\nworkspace = true\nfeatures = ['recursive_page_table']\n"
    )
    config = read_cargo_toml(member)
    assert (config.map_physical_memory, config.recursive_page_table) == (True, True)
    (tmp_path / "Cargo.toml").write_text("[workspace.dependencies]\nbootloader = '0.11'\n")
    with pytest.raises(BootError, match=r"must be version 0\.9"):
        read_cargo_toml(member)
