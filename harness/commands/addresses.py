"""Numbers as people write them on a command line and in lists of addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from harness.errors import InputError

__all__ = ["ADDRESS", "AddressType", "parse_address", "read_addresses"]

# truth.csv, unmapped.csv and QEMU write addresses as 16 hexadecimal digits and nothing else.
_BARE: Final = re.compile(r"[0-9a-fA-F]{16}", re.ASCII)
_HEX_DIGITS: Final = re.compile(r"[0-9a-fA-F_]*[a-fA-F][0-9a-fA-F_]*", re.ASCII)
_BOTH: Final = re.compile(r"[0-9][0-9_]*", re.ASCII)
_LONGEST: Final = 80


def parse_address(text: str) -> int:
    """Return the 64-bit number that a text stands for.

    ``0x`` and ``0o`` with underscores, and bare hexadecimal where it can be nothing else: 16
    digits, or a letter among them. ``1000`` could be both hexadecimal and decimal, and is refused.

    :raises InputError: when it is no such number.
    """
    word = text.strip()
    try:
        bare = _BARE.fullmatch(word) or _HEX_DIGITS.fullmatch(word)
        number = int(word, 16 if bare else 0) if len(word) <= _LONGEST else -1
    except ValueError:
        number = -1
    both = _BOTH.fullmatch(word) and not bare and len(word) <= 20
    if both and len(word.lstrip("0_")) > 1:
        raise InputError(
            f"{word} could be hexadecimal or decimal: write 0x{word}, or {int(word):#x} for the "
            "decimal number"
        )
    if not 0 <= number < 1 << 64:
        raise InputError(
            "an address must be a 64-bit number such as 0xffff_8000_0000_0000, not "
            f"{word[:_LONGEST]!r}"
        )
    return number


def read_addresses(path: Path) -> list[int]:
    """Read a list of addresses: one a line, or the first column of a CSV file.

    Blank lines, lines that begin with ``#``, and a first line that is a CSV header are skipped.

    :raises InputError: for the first line that is no address, with the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: the file must be readable: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the file must be UTF-8, and byte {error.start} is not") from None
    found = []
    for number, line in enumerate(lines, 1):
        word = line.partition(",")[0].strip()
        if not word or word.startswith("#") or (number == 1 and word == "va"):
            continue
        try:
            found.append(parse_address(word))
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
    if not found:
        raise InputError(f"{path}: a list of addresses must hold at least one, and holds none")
    return found


class AddressType(click.ParamType):  # type: ignore[type-arg]
    """A number on the command line."""

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_address(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


ADDRESS = AddressType()
"""The one instance that options need."""
