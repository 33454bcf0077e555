"""A kernel's Cargo.toml."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.boot.config import BootConfig, parse_cargo_toml, parse_number, read_cargo_toml
from harness.errors import BootError

DEPENDS = '[dependencies]\nbootloader = "0.9"\n'
MAPS = '[dependencies]\nbootloader = { version = "0.9", features = ["map_physical_memory"] }\n'
KEYS = "[package.metadata.bootloader]\n"


def refusal(text: str) -> str:
    with pytest.raises(BootError) as refused:
        parse_cargo_toml(text)
    return str(refused.value)


def test_the_lectures_cargo_toml() -> None:
    text = (
        "[dependencies]\n"
        'bootloader = { version = "0.9", features = ["map_physical_memory"]}\n'
        "[package.metadata.bootloader]\n"
        'physical-memory-offset = "0x0000f00000000000"\n'
    )
    # As the crate does: bit 47 is extended, or the address would not be canonical.
    assert parse_cargo_toml(text) == BootConfig(
        map_physical_memory=True, physical_memory_offset=0xFFFF_F000_0000_0000
    )
    assert refusal(text.replace("0x0000f", "0x0001f")) == (
        "Cargo.toml: physical-memory-offset must be a canonical address (bits 63:47 all equal), "
        "not 0x1f00000000000: choose one below 0x8000_0000_0000, or from 0xffff_8000_0000_0000 up"
    )


def test_all_features_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "Cargo.toml"
    path.write_text(
        '[package]\nname = "kernel"\n'
        "[dependencies.bootloader]\n"
        'version = "0.9.29"\n'
        'features = ["map_physical_memory", "recursive_page_table", "sse", "binary"]\n'
        + KEYS
        + 'physical-memory-offset = "0xFFFF_9000_0000_0000"\n'
        'kernel-stack-address = "0x7fff00000000"\n'
        "kernel-stack-size = 128\n"
        'boot-info-address = "4096"\n'
    )
    assert read_cargo_toml(path) == BootConfig(
        map_physical_memory=True,
        recursive_page_table=True,
        sse=True,
        physical_memory_offset=0xFFFF_9000_0000_0000,
        kernel_stack_address=0x7FFF_0000_0000,
        kernel_stack_size=128,
        boot_info_address=4096,
    )


@pytest.mark.parametrize("version", ["0.9", "0.9.29", "^0.9.8", "~0.9", "= 0.9.1"])
def test_versions_whose_boot_info_is_ours(version: str) -> None:
    assert parse_cargo_toml(f'[dependencies]\nbootloader = "{version}"\n') == BootConfig()


def test_a_dependency_by_path_and_a_size_as_text() -> None:
    text = '[dependencies]\nbootloader = { path = "../bootloader" }\n' + KEYS
    assert parse_cargo_toml(text + 'kernel-stack-size = "0x10"').kernel_stack_size == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "Cargo.toml: [dependencies] must have bootloader, as a kernel's does: give the "
            'kernel\'s own Cargo.toml, or add bootloader = "0.9" to it',
        ),
        (
            '[dependencies]\nbootloader = "0.11"\n',
            "Cargo.toml: [dependencies] bootloader must be version 0.9, whose BootInfo is the one "
            "that is written here, not '0.11'",
        ),
        (
            "[dependencies]\nbootloader = 9\n",
            "Cargo.toml: [dependencies] bootloader must be a version or a table, not 9",
        ),
        ("dependencies = 1\n", "Cargo.toml: [dependencies] must be a table, not 1"),
        (
            MAPS.replace("map_p", "map_q"),
            "Cargo.toml: [dependencies] bootloader: features must be among map_physical_memory, "
            "recursive_page_table, sse, not 'map_qhysical_memory'",
        ),
        (
            MAPS.replace("map_physical_memory", "vga_320x200"),
            "Cargo.toml: [dependencies] bootloader: the feature vga_320x200 is not supported: "
            "the screen here is the 80x25 text screen",
        ),
        (
            MAPS.replace('["map_physical_memory"]', '"map_physical_memory"'),
            "Cargo.toml: [dependencies] bootloader: features must be a list of strings, "
            "not 'map_physical_memory'",
        ),
        (
            MAPS + KEYS + "physical-memory-offset = 0x10000000000\n",
            "Cargo.toml: [package.metadata.bootloader]: physical-memory-offset must be a string, "
            "since TOML has no unsigned 64-bit integers: write "
            'physical-memory-offset = "0x10000000000"',
        ),
        (
            DEPENDS + KEYS + 'physical-memory-offset = "0x10000000000"\n',
            "Cargo.toml: physical-memory-offset needs the feature map_physical_memory: add it, or "
            "leave the offset out: 0x100_0000_0000",
        ),
        (
            MAPS + KEYS + 'physical-memory-offset = "0x10000001000"\n',
            "Cargo.toml: physical-memory-offset must be a multiple of 2 MiB, the page size of the "
            "map, not 0x100_0000_1000",
        ),
        (
            DEPENDS + KEYS + 'boot-info-address = "0x10000000800"\n',
            "Cargo.toml: boot-info-address must be a multiple of 4 KiB, not 0x100_0000_0800",
        ),
        (
            DEPENDS + KEYS + 'boot-info-address = "0x1zz"\n',
            "Cargo.toml: [package.metadata.bootloader]: boot-info-address must be a number, such "
            'as "0x0000f00000000000" or "128", not \'0x1zz\'',
        ),
        (
            DEPENDS + KEYS + 'physical-offset = "0x1000"\n',
            "Cargo.toml: [package.metadata.bootloader]: keys must be among boot-info-address, "
            "kernel-stack-address, kernel-stack-size, physical-memory-offset, "
            "not 'physical-offset'",
        ),
        (
            DEPENDS + KEYS + "kernel-stack-size = 0\n",
            "Cargo.toml: kernel-stack-size must be 1 or more pages, and fewer than the 2**36 that "
            "an address space has, not 0",
        ),
        (
            DEPENDS + "[package.metadata]\nbootloader = true\n",
            "Cargo.toml: [package.metadata.bootloader] must be a table, not True",
        ),
        (
            DEPENDS + KEYS + "kernel-stack-size = true\n",
            "Cargo.toml: [package.metadata.bootloader]: kernel-stack-size must be a number, such "
            'as "0x0000f00000000000" or "128", not True',
        ),
    ],
)
def test_what_is_wrong(text: str, message: str) -> None:
    assert refusal(text) == message


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    assert refusal("[dependencies").startswith("Cargo.toml: the file must be TOML: Expected")
    with pytest.raises(BootError, match=r"missing.toml: .* must be readable: No such file"):
        read_cargo_toml(tmp_path / "missing.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9")
    with pytest.raises(BootError, match=r"latin.toml: .* must be UTF-8 text: byte 2 is not"):
        read_cargo_toml(path)


def test_a_recursive_slot_needs_its_feature() -> None:
    assert BootConfig(recursive_page_table=True, recursive_index=511).recursive_index == 511
    with pytest.raises(BootError, match="the recursive slot must be 0 to 511, not 512"):
        BootConfig(recursive_page_table=True, recursive_index=512)
    with pytest.raises(BootError, match="a recursive slot needs the feature recursive_page_table"):
        BootConfig(recursive_index=511)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x0000f00000000000", 0xF000_0000_0000), ("0X10", 16), ("128", 128), ("0x_", None),
        ("0x", None), ("", None), ("-1", None), ("1e3", None), ("0x1_0", 16), ("9" * 40, None),
    ],
)  # fmt: skip
def test_numbers(text: str, value: int | None) -> None:
    assert parse_number(text) == value


@given(st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject) -> None:
    text = MAPS + KEYS + 'physical-memory-offset = "0x10000000000"\nkernel-stack-size = 8\n'
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 9)) :]
        )
    refused = "Cargo.toml: "
    try:
        parse_cargo_toml(text)
    except BootError as error:
        refused = str(error)
    assert refused.startswith("Cargo.toml: ")
    assert "\n" not in refused
