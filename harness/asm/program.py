"""An assembled program: its bytes, where each label is, and which statement made which bytes.

::

    >>> from harness.asm import assemble
    >>> program = assemble("start: mov rax, [rdi]\\n hlt", base=0x8000)
    >>> hex(program.labels["start"]), program.code.hex(" ")
    ('0x8000', '48 8b 07 f4')
    >>> print(program.listing())
    0x8000                           <string>:1  start:
    0x8000  48 8b 07                 <string>:1      mov rax, [rdi]
    0x8003  f4                       <string>:2      hlt

Asking for a label that is not there raises :class:`UnknownLabel`, which is a KeyError too.
"""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.address import format_address
from harness.errors import AssemblyError

__all__ = ["Labels", "Program", "Statement", "UnknownLabel"]

_BYTES_PER_ROW = 8
_ROWS = 2


class UnknownLabel(AssemblyError, KeyError):
    """No label of that name was defined in the program.

    :ivar name: the name asked for.
    """

    def __init__(self, name: object, known: Iterable[str]) -> None:
        self.name = name
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, 3) or names[:5]
        hint = f"one like {', '.join(close)}" if close else "defined, and this program has none"
        super().__init__(f"a label must be {hint}, not {name!r}")

    __str__ = Exception.__str__  # KeyError's own shows the repr of the sentence


class Labels(dict[str, int]):
    """Label addresses by name; a missing one raises :class:`UnknownLabel`."""

    def __missing__(self, name: object) -> int:
        raise UnknownLabel(name, self)


@dataclass(frozen=True, slots=True)
class Statement:
    """One label or one statement, placed.

    :ivar address: of its first byte.
    :ivar data: its bytes; empty for labels, constants and mode switches.
    :ivar text: the source line, without its label.
    :ivar label: the label that it is, or None.
    :ivar bits: 32 or 64.
    :ivar is_code: the bytes are an instruction.
    """

    address: int
    data: bytes
    text: str
    file: str
    line: int
    bits: int
    label: str | None = None
    is_code: bool = False


@dataclass(frozen=True)
class Program:
    """Machine code that has been checked, and how it came to be.

    :ivar base: the address of the first byte.
    :ivar code: all bytes, gaps filled.
    :ivar labels: addresses by name; ``labels["nope"]`` raises :class:`UnknownLabel`.
    :ivar constants: final values by name.
    :ivar statements: in the order of addresses.
    """

    base: int
    code: bytes
    labels: Labels
    constants: dict[str, int]
    statements: tuple[Statement, ...]

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.base + len(self.code)

    @property
    def entry(self) -> int:
        """Where to start: the label ``_start`` or ``start``, else the first byte."""
        for name in ("_start", "start"):
            if name in self.labels:
                return self.labels[name]
        return self.base

    def statement_at(self, address: int) -> Statement | None:
        """Return the statement whose bytes hold the address, or None.

        Use it to tell a person which source line a fault's RIP is.
        """
        placed = [statement for statement in self.statements if statement.data]
        position = bisect.bisect_right(placed, address, key=lambda s: s.address) - 1
        if position < 0 or address >= placed[position].address + len(placed[position].data):
            return None
        return placed[position]

    def listing(self) -> str:
        """Return a table of address, bytes, place and source, one row a statement.

        Long data shows its first bytes and its length.
        """
        if not self.statements:
            return ""
        width = max(len(format_address(s.address)) for s in self.statements)
        places = max(len(f"{s.file}:{s.line}") for s in self.statements)
        rows: list[str] = []
        for statement in self.statements:
            place = f"{statement.file}:{statement.line}".ljust(places)
            indent = "" if statement.label is not None else "    "
            chunks = list(_chunks(statement.data))
            first = chunks[0] if chunks else ""
            address = format_address(statement.address).rjust(width)
            source = " ".join(statement.text.split()) if statement.label else statement.text.strip()
            rows.append(f"{address}  {first:<{_BYTES_PER_ROW * 3 - 1}}  {place}  {indent}{source}")
            rows += [f"{'':<{width}}  {chunk}" for chunk in chunks[1:]]
        return "\n".join(rows)


def _chunks(data: bytes) -> Iterator[str]:
    shown = data if len(data) <= _BYTES_PER_ROW * _ROWS else data[:_BYTES_PER_ROW]
    for start in range(0, len(shown), _BYTES_PER_ROW):
        yield shown[start : start + _BYTES_PER_ROW].hex(" ")
    if len(shown) < len(data):
        yield f"... {len(data):_} bytes"
