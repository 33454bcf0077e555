"""``harness boot``, up to the kernel's first instruction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli import cli

LECTURE = Path(__file__).parents[2] / "fixtures" / "boot" / "lecture-bootinfo.txt"


@pytest.fixture
def kernel(tmp_path: Path, three_segments: bytes) -> Path:
    path = tmp_path / "kernel.elf"
    path.write_bytes(three_segments)
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["boot", *(str(argument) for argument in arguments)])


def started(*arguments: str | Path) -> dict[str, object]:
    result = invoke("--no-run", "--json", *arguments)
    assert result.exit_code == 0, result.output
    answer: dict[str, object] = json.loads(result.output)
    return answer


def refused(*arguments: str | Path) -> str:
    result = invoke("--no-run", *arguments)
    assert result.exit_code == 2
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_what_is_loaded_is_shown(kernel: Path) -> None:
    result = invoke(kernel, "--no-run", "--map-physical-memory", "--tables")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:5] == [
        "kernel.elf: entry 0x20_1010",
        "  R   0x20_0000, 0x800 bytes",
        "  RX  0x20_1000, 0x234 bytes",
        "  RW  0x20_2100, 0x2000 bytes",
        "RIP 0x20_1010, RSP 0x100_0020_1ff8, RDI 0x100_0000_0000 (BootInfo), CR3 0x1000",
    ]
    assert "    2  0x40_4003  the kernel stack, the boot info" in lines
    assert (
        "  0x20_1000..0x20_1fff -> 0x40_1000 1 x 4K R-X-, 0 accessed, 0 dirty: the kernel" in lines
    )


def test_json(kernel: Path) -> None:
    answer = started(kernel)
    assert answer["kernel"] == {
        "name": "kernel.elf",
        "entry": "0x201010",
        "segments": [
            {"vaddr": "0x200000", "size": 0x800, "rights": "R"},
            {"vaddr": "0x201000", "size": 0x234, "rights": "RX"},
            {"vaddr": "0x202100", "size": 0x2000, "rights": "RW"},
        ],
    }
    start = answer["start"]
    assert isinstance(start, dict)
    assert (start["rip"], start["rsp"], start["rdi"]) == (
        "0x201010",
        "0x10000201ff8",
        "0x10000000000",
    )
    assert start["cpu"]["cr0"] == "0x80010011"
    assert answer["run"] is None
    assert "mapped" not in answer
    assert "mapped" in started(kernel, "--tables")


def test_features_and_addresses_are_options(kernel: Path) -> None:
    answer = started(
        kernel,
        "--map-physical-memory",
        "--recursive",
        *("--feature", "sse"),
        *("--recursive-slot", "511"),
        *("--physical-memory-offset", "0xffff900000000000"),
        *("--kernel-stack-address", "0x7f0000000000"),
        *("--kernel-stack-size", "3"),
        *("--boot-info-address", "0x7e0000000000"),
    )
    start = answer["start"]
    assert isinstance(start, dict)
    assert start["rsp"] == hex(0x7F00_0000_4000 - 8)
    assert start["rdi"] == "0x7e0000000000"
    assert start["cpu"]["cr4"] == "0x620"
    text = str(answer["boot_info"])
    assert f"recursive_page_table_addr: {0xFFFF_FFFF_FFFF_F000}, " in text
    assert f"physical_memory_offset: {0xFFFF_9000_0000_0000}, " in text


def test_features_by_their_names(kernel: Path) -> None:
    text = str(
        started(kernel, "--feature", "map_physical_memory", "--feature", "recursive_page_table")[
            "boot_info"
        ]
    )
    assert "recursive_page_table_addr" in text
    assert "physical_memory_offset" in text


def test_options_win_over_the_cargo_toml(kernel: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "Cargo.toml"
    manifest.write_text(
        '[dependencies]\nbootloader = { version = "0.9", features = ["map_physical_memory"] }\n'
        "[package.metadata.bootloader]\n"
        'physical-memory-offset = "0xffff900000000000"\nboot-info-address = "0x7e0000000000"\n'
    )
    answer = started(kernel, "--cargo-toml", manifest)
    assert f"physical_memory_offset: {0xFFFF_9000_0000_0000}, " in str(answer["boot_info"])
    answer = started(
        kernel, "--cargo-toml", manifest, "--physical-memory-offset", "0xffffa00000000000"
    )
    assert f"physical_memory_offset: {0xFFFF_A000_0000_0000}, " in str(answer["boot_info"])
    assert answer["start"]["rdi"] == "0x7e0000000000"  # type: ignore[index]
    manifest.write_text("[dependencies]\n")
    assert "Cargo.toml: [dependencies] must have bootloader" in refused(
        kernel, "--cargo-toml", manifest
    )


def test_the_lectures_printout(kernel: Path) -> None:
    answer = started(kernel, "--boot-info", LECTURE)
    assert answer["boot_info"] == LECTURE.read_text().rstrip("\n")
    assert [slot["names"] for slot in answer["level_4"]][:3] == [  # type: ignore[attr-defined]
        ["the kernel", "the bootloader", "the text screen"],
        ["the kernel stack", "the boot info"],
        ["the physical memory map"],
    ]
    assert refused(kernel, "--boot-info", LECTURE, "--memory", "128M") == (
        "Error: --boot-info decides on the memory: leave out --memory, --amd-hole\n"
    )


def test_the_lectures_machine(kernel: Path) -> None:
    answer = started(kernel, "--map-physical-memory", "--amd-hole", "--memory", "128M")
    assert "FrameRange(0xfd00000000..0x10000000000)" in str(answer["boot_info"])


def test_a_flat_kernels_address(tmp_path: Path) -> None:
    path = tmp_path / "flat.bin"
    path.write_bytes(b"\xf4")
    start = started(path, "--address", "0xffff800000000000")["start"]
    assert isinstance(start, dict)
    assert start["rip"] == "0xffff800000000000"


def test_what_cannot_be_booted(kernel: Path, tmp_path: Path) -> None:
    assert "nothing.elf: the file must be readable: No such file" in refused(
        tmp_path / "nothing.elf"
    )
    assert refused(kernel, "--memory", "4M") == (
        "Error: the memory must have usable frames at 0x40_0000 to 0x40_3fff for the Kernel "
        "region: it has not; give the machine more\n"
    )
    assert "a size must be a number of bytes, or end in K, M or G, not 'much'" in refused(
        kernel, "--memory", "much"
    )
    assert "a number must be decimal, or hex with 0x, not '0xzz'" in refused(
        kernel, "--kernel-stack-size", "0xzz"
    )
    assert refused(kernel, "--map-physical-memory", "--physical-memory-offset", "0") == (
        "Error: the physical memory map (0x0 to 0x1_001f_ffff) must not overlap the kernel "
        "(0x20_0000 to 0x20_0fff): choose another physical-memory-offset\n"
    )
    assert "must not overlap the kernel" in refused(kernel, "--recursive", "--recursive-slot", "0")
    assert "needs the feature map_physical_memory" in refused(
        kernel, "--physical-memory-offset", "0x200000"
    )
    text = tmp_path / "printout.txt"
    text.write_text("BootInfo { memory_map: 7 }")
    assert refused(kernel, "--boot-info", text) == (
        f"Error: {text}: BootInfo text, line 1 column 24: '[' must stand here, not '7}}'\n"
    )
    text.write_bytes(b"\xff")
    assert "the file must be UTF-8 text: byte 0 is not" in refused(kernel, "--boot-info", text)
    assert "the file must be readable" in refused(kernel, "--boot-info", tmp_path)
    kernel.write_bytes(kernel.read_bytes()[:60])
    assert refused(kernel) == (
        "Error: kernel.elf must have a whole ELF header (64 bytes): the file ends after 60\n"
    )
