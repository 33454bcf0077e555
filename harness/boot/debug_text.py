"""Read the `BootInfo { ... }` text that a kernel prints.

The first thing the lecture's kernel does is ``println!("{:?}", boot_info)``.  `parse_boot_info`
turns that text, in the ``{:?}`` form or the pretty ``{:#?}`` form, back into a `BootInfo`, so that
a printout, wherever it came from, can be inspected or booted.

White space never means anything, which also lets a text through that a terminal or an 80-column
screen has wrapped in the middle of a number.  What a kernel printed before and after the BootInfo
is skipped.  Numbers may be decimal or hex.  Fields may come in any order; what a kernel without
the feature does not print is None.

A text that is no BootInfo is refused with a `BootError` that says what must stand where.

    >>> parse_boot_info("BootInfo { memory_map: [], tls_template: TlsTemplate { start_addr: 0, "
    ...                 "file_size: 0, mem_size: 0 }, _non_exhaustive: 0 }").memory_map
    ()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from harness.boot.bootinfo import (
    BootInfo,
    FrameRange,
    MemoryRegion,
    MemoryRegionType,
    TlsTemplate,
)
from harness.errors import BootError

__all__ = ["parse_boot_info"]

_T = TypeVar("_T")
_NUMBER = re.compile(r"0x[0-9a-fA-F_]+|[0-9][0-9_]*")
_WORD = re.compile(r"[A-Za-z_]+")
_SHOWN = 24
_LONGEST_NUMBER = 24


def parse_boot_info(text: str) -> BootInfo:
    """Read the first BootInfo in a text.

    :param text: what a kernel printed, ``{:?}`` or ``{:#?}``
    :raises BootError: when there is none, or it is not well formed; names line and column
    """
    return _Parser(text).boot_info()


class _Parser:
    """A recursive-descent parser over the text without its white space."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.origins = [i for i, character in enumerate(text) if not character.isspace()]
        self.dense = "".join(text[i] for i in self.origins)
        self.at = 0

    def boot_info(self) -> BootInfo:
        start = self.dense.find("BootInfo{")
        if start < 0:
            raise BootError("the text must contain 'BootInfo { ... }'")
        self.at = start + len("BootInfo{")
        fields = self.fields(
            {
                "memory_map": self.memory_map,
                "recursive_page_table_addr": self.number,
                "physical_memory_offset": self.number,
                "tls_template": self.tls_template,
                "_non_exhaustive": self.number,
            },
            required=("memory_map",),
        )
        fields.pop("_non_exhaustive", None)
        return self.build(start, lambda: BootInfo(**fields))  # type: ignore[arg-type]

    def memory_map(self) -> tuple[MemoryRegion, ...]:
        self.expect("[")
        regions: list[MemoryRegion] = []
        while not self.accept("]"):
            regions.append(self.region())
            if not self.accept(","):
                self.expect("]", "',' or ']'")
                break
        return tuple(regions)

    def region(self) -> MemoryRegion:
        self.expect("MemoryRegion{", "'MemoryRegion {' or ']'")
        fields = self.fields(
            {"range": self.frame_range, "region_type": self.region_type},
            required=("range", "region_type"),
        )
        return MemoryRegion(**fields)  # type: ignore[arg-type]

    def frame_range(self) -> FrameRange:
        start = self.at
        self.expect("FrameRange(")
        first = self.number()
        self.expect("..")
        last = self.number()
        self.expect(")")
        return self.build(start, lambda: FrameRange(first, last))

    def region_type(self) -> MemoryRegionType:
        start = self.at
        name = self.word()
        if name not in MemoryRegionType.__members__:
            self.at = start
            self.fail(
                f"a region type of bootloader 0.9 ({', '.join(MemoryRegionType.__members__)})"
            )
        return MemoryRegionType[name]

    def tls_template(self) -> TlsTemplate:
        start = self.at
        self.expect("TlsTemplate{")
        names = ("start_addr", "file_size", "mem_size")
        fields = self.fields(dict.fromkeys(names, self.number), required=names)
        return self.build(start, lambda: TlsTemplate(**fields))  # type: ignore[arg-type]

    def fields(
        self, readers: Mapping[str, Callable[[], object]], *, required: tuple[str, ...]
    ) -> dict[str, object]:
        # The opening brace has been read; reads up to and including the closing one.
        found: dict[str, object] = {}
        while not self.accept("}"):
            start = self.at
            name = self.word()
            if name not in readers or name in found:
                self.at = start
                rest = [known for known in readers if known not in found]
                self.fail(f"one of the fields {', '.join(rest)}" if rest else "'}'")
            self.expect(":")
            found[name] = readers[name]()
            if not self.accept(","):
                self.expect("}", "',' or '}'")
                break
        for name in required:
            if name not in found:
                self.at -= 1
                self.fail(f"the field {name} before '}}'")
        return found

    def number(self) -> int:
        match = _NUMBER.match(self.dense, self.at)
        digits = match.group().replace("_", "") if match else ""
        if match is None or digits == "0x" or len(digits) > _LONGEST_NUMBER:
            self.fail("a number below 2**64")
        self.at = match.end()
        return int(digits, 16 if digits.startswith("0x") else 10)

    def word(self) -> str:
        match = _WORD.match(self.dense, self.at)
        if match is None:
            self.fail("a name")
        self.at = match.end()
        return match.group()

    def accept(self, token: str) -> bool:
        if not self.dense.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def expect(self, token: str, wanted: str = "") -> None:
        if not self.accept(token):
            self.fail(wanted or repr(token))

    def build(self, start: int, make: Callable[[], _T]) -> _T:
        # An object's own complaint, with the place of the text that it was made from.
        try:
            return make()
        except BootError as error:
            raise BootError(f"BootInfo text, {self.place(start)}: {error}") from None

    def place(self, at: int) -> str:
        origin = self.origins[at] if at < len(self.origins) else len(self.text)
        line = self.text.count("\n", 0, origin) + 1
        return f"line {line} column {origin - (self.text.rfind(chr(10), 0, origin) + 1) + 1}"

    def fail(self, wanted: str) -> NoReturn:
        found = self.dense[self.at : self.at + _SHOWN]
        raise BootError(
            f"BootInfo text, {self.place(self.at)}: {wanted} must stand here, not "
            + (repr(found) if found else "the end of the text")
        )
