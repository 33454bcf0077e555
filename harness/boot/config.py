"""How a kernel asks to be booted: cargo features and four keys.

A kernel that uses `bootloader` 0.9 says what it wants in its own ``Cargo.toml``.  Features of the
dependency decide which maps the bootloader leaves behind, and keys where it puts things:

    [dependencies]
    bootloader = { version = "0.9", features = ["map_physical_memory"] }

    [package.metadata.bootloader]
    physical-memory-offset = "0x0000f00000000000"
    kernel-stack-address = "0x0000e00000000000"
    kernel-stack-size = 128
    boot-info-address = "0x0000d00000000000"

`read_cargo_toml` reads that file into a `BootConfig`.  Addresses are strings, hex or decimal, since
TOML has no unsigned 64-bit integers, and one that has only bit 47 set of its upper bits, like those
above, is sign-extended; ``kernel-stack-size`` counts pages and may be a number or a string.  A file
that 0.9 would not have understood, or that is for another version, is refused with a `BootError`
that names the file, the key and what to do.

    >>> BootConfig(map_physical_memory=True).kernel_stack_size
    512
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.address import format_address, is_canonical, sign_extend
from harness.errors import BootError

__all__ = [
    "DEFAULT_STACK_PAGES",
    "FEATURES",
    "BootConfig",
    "parse_cargo_toml",
    "parse_number",
    "read_cargo_toml",
]

DEFAULT_STACK_PAGES = 512
"""Pages of kernel stack when nothing else is asked for (bootloader 0.9, build.rs)."""

FEATURES = ("map_physical_memory", "recursive_page_table", "sse")
"""The cargo features that change what the kernel finds."""

_LARGE_PAGE = 1 << 21
_PAGE = 1 << 12
_ADDRESS_KEYS = ("kernel-stack-address", "physical-memory-offset", "boot-info-address")
_SIZE_KEY = "kernel-stack-size"
_VERSION = re.compile(r"[\^~=]?\s*0\.9(\.(\d+|\*))?")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F_]{1,24}|[0-9][0-9_]{0,24}")
# `binary` is how bootimage builds the bootloader itself; it changes nothing for the kernel.
_IGNORED_FEATURES = ("binary", "default")
_UNSUPPORTED_FEATURES = {"vga_320x200": "the screen here is the 80x25 text screen"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BootConfig:
    """What a kernel asks of the bootloader.

    Addresses are virtual; None leaves the choice to the bootloader.

    :param map_physical_memory: map the complete physical memory
    :param recursive_page_table: leave the recursive slot in the level 4 table
    :param sse: switch SSE on (CR0 and CR4)
    :param kernel_stack_address: address of the stack's guard page
    :param kernel_stack_size: pages of stack above the guard page
    :param physical_memory_offset: where physical address 0 is mapped
    :param boot_info_address: where the BootInfo is mapped
    :param recursive_index: slot of the level 4 table for the recursion; bootloader 0.9 takes the
        first free one and has no key for it
    :raises BootError: when an address is not canonical or not aligned, the stack has no pages, or
        a place is named for something that its feature does not switch on
    """

    map_physical_memory: bool = False
    recursive_page_table: bool = False
    sse: bool = False
    kernel_stack_address: int | None = None
    kernel_stack_size: int = DEFAULT_STACK_PAGES
    physical_memory_offset: int | None = None
    boot_info_address: int | None = None
    recursive_index: int | None = None

    def __post_init__(self) -> None:
        for key in _ADDRESS_KEYS:
            name = key.replace("-", "_")
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _address(key, value))
        if not 0 < self.kernel_stack_size < 1 << 36:
            raise BootError(
                f"{_SIZE_KEY} must be 1 or more pages, and fewer than the 2**36 that an address "
                f"space has, not {self.kernel_stack_size}"
            )
        if self.physical_memory_offset is not None and not self.map_physical_memory:
            raise BootError(
                "physical-memory-offset needs the feature map_physical_memory: add it, or leave "
                f"the offset out: {format_address(self.physical_memory_offset)}"
            )
        if self.recursive_index is not None:
            if not self.recursive_page_table:
                raise BootError(
                    "a recursive slot needs the feature recursive_page_table: add it, or leave "
                    f"the slot out: {self.recursive_index}"
                )
            if not 0 <= self.recursive_index < 512:
                raise BootError(f"the recursive slot must be 0 to 511, not {self.recursive_index}")


def parse_number(text: str) -> int | None:
    """Read a number as the configuration keys write it, hex with 0x or decimal; None if it is none.

    :param text: digits, which underscores may group
    """
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.replace("_", "")
    if digits in ("0x", "0X"):
        return None
    return int(digits, 16 if digits[:2] in ("0x", "0X") else 10)


def read_cargo_toml(path: str | Path) -> BootConfig:
    """Read a kernel's Cargo.toml.

    :param path: the file
    :raises BootError: when it cannot be read, or says something that bootloader 0.9 does not know
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise BootError(f"the file must be readable: {error.strerror}", path=path) from None
    except UnicodeDecodeError as error:
        raise BootError(
            f"the file must be UTF-8 text: byte {error.start} is not", path=path
        ) from None
    return parse_cargo_toml(text, str(path), folder=Path(path).absolute().parent)


def parse_cargo_toml(
    text: str, name: str = "Cargo.toml", *, folder: Path | None = None
) -> BootConfig:
    """Read the text of a kernel's Cargo.toml.

    :param text: the file's text
    :param name: what to call the file in an error
    :param folder: where it lies: the manifest of its workspace is there or above
    :raises BootError: as `read_cargo_toml`
    """
    try:
        return _config(text, folder)
    except BootError as error:
        raise BootError(str(error), path=name) from None


def _config(text: str, folder: Path | None) -> BootConfig:
    manifest = _toml(text)
    features = _features(_dependency(manifest, folder))
    settings: dict[str, Any] = {feature: feature in features for feature in FEATURES}
    settings |= _keys(_table(manifest, ("package", "metadata", "bootloader")) or {})
    return BootConfig(**settings)


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise BootError(f"the file must be TOML: {error or type(error).__name__}") from None


def _of_workspace(manifest: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Find the dependency that ``bootloader.workspace = true`` refers to.

    :raises BootError: where there is none: its features must not be lost silently.
    """
    found = _table(manifest, ("workspace", "dependencies"))
    for above in () if folder is None or found is not None else folder.parents:
        file = above / "Cargo.toml"
        if file.is_file():
            found = _table(_toml(file.read_text("utf-8", "replace")), ("workspace", "dependencies"))
        if found is not None:
            break
    dependency = (found or {}).get("bootloader")
    if isinstance(dependency, str):
        return {"version": dependency}
    if not isinstance(dependency, dict):
        raise BootError(
            "[dependencies] bootloader.workspace = true needs a [workspace.dependencies] "
            "bootloader in this file or in a Cargo.toml above it: give that, or the features here"
        )
    return dict(dependency)


def _address(key: str, value: int) -> int:
    # x86_64 0.14's VirtAddr::new, with which bootloader 0.9 reads these, extends bit 47 into bits
    # that are all zero; the crate's documentation and the lecture use such an address.
    if value >> 47 == 1:
        value = sign_extend(value)
    if not 0 <= value < 1 << 64 or not is_canonical(value):
        raise BootError(
            f"{key} must be a canonical address (bits 63:47 all equal), not {value:#x}: "
            "choose one below 0x8000_0000_0000, or from 0xffff_8000_0000_0000 up"
        )
    if key == "physical-memory-offset" and value % _LARGE_PAGE:
        raise BootError(
            f"{key} must be a multiple of 2 MiB, the page size of the map, "
            f"not {format_address(value)}"
        )
    if value % _PAGE:
        raise BootError(f"{key} must be a multiple of 4 KiB, not {format_address(value)}")
    return value


def _table(manifest: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any] | None:
    table: Any = manifest
    for depth, key in enumerate(path):
        table = table.get(key)
        if table is None:
            return None
        if not isinstance(table, dict):
            raise BootError(f"[{'.'.join(path[: depth + 1])}] must be a table, not {table!r}")
    found: Mapping[str, Any] = table
    return found


def _dependency(manifest: Mapping[str, Any], folder: Path | None) -> Mapping[str, Any]:
    dependencies = _table(manifest, ("dependencies",)) or {}
    dependency = dependencies.get("bootloader")
    if dependency is None:
        raise BootError(
            "[dependencies] must have bootloader, as a kernel's does: give the kernel's "
            'own Cargo.toml, or add bootloader = "0.9" to it'
        )
    if isinstance(dependency, str):
        dependency = {"version": dependency}
    if not isinstance(dependency, dict):
        raise BootError(
            f"[dependencies] bootloader must be a version or a table, not {dependency!r}"
        )
    if dependency.get("workspace") is True:
        inherited = _of_workspace(manifest, folder)
        more = [*inherited.get("features", []), *dependency.get("features", [])]
        dependency = {**inherited, "features": more}
    version = dependency.get("version", "0.9")
    if not isinstance(version, str) or not _VERSION.fullmatch(version.strip()):
        raise BootError(
            f"[dependencies] bootloader must be version 0.9, whose BootInfo is the one "
            f"that is written here, not {version!r}"
        )
    return dependency


def _features(dependency: Mapping[str, Any]) -> list[str]:
    features = dependency.get("features", [])
    where = "[dependencies] bootloader"
    if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
        raise BootError(f"{where}: features must be a list of strings, not {features!r}")
    for feature in features:
        if feature in _UNSUPPORTED_FEATURES:
            raise BootError(
                f"{where}: the feature {feature} is not supported: {_UNSUPPORTED_FEATURES[feature]}"
            )
        if feature not in (*FEATURES, *_IGNORED_FEATURES):
            raise BootError(
                f"{where}: features must be among {', '.join(FEATURES)}, not {feature!r}"
            )
    return features


def _keys(table: Mapping[str, Any]) -> dict[str, int]:
    where = "[package.metadata.bootloader]"
    settings = {}
    for key, value in table.items():
        if key in _ADDRESS_KEYS and type(value) is int:
            raise BootError(
                f"{where}: {key} must be a string, since TOML has no unsigned 64-bit integers: "
                f'write {key} = "{value:#x}"'
            )
        if key not in (*_ADDRESS_KEYS, _SIZE_KEY):
            known = ", ".join(sorted((*_ADDRESS_KEYS, _SIZE_KEY)))
            raise BootError(f"{where}: keys must be among {known}, not {key!r}")
        number = value if type(value) is int else None
        if isinstance(value, str):
            number = parse_number(value)
        if number is None:
            raise BootError(
                f'{where}: {key} must be a number, such as "0x0000f00000000000" or "128", '
                f"not {value!r}"
            )
        settings[key.replace("-", "_")] = number
    return settings
