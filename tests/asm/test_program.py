"""The result: labels, statements, the listing."""

from __future__ import annotations

import doctest
import importlib
import pickle

import pytest

from harness.asm import UnknownLabel, assemble
from harness.errors import AssemblyError

SOURCE = """\
; a kernel
.equ PAGE, 0x1000
boot:   cli             ; quiet
        mov rax, 0x1122334455667788
.again: jmp .again
.macro twice x
        \\x
        \\x
.endm
        twice nop
table:  .quad PAGE | 3
        .zero 100
"""

LISTING = """\
0xffff_8000_0000_0000                           k.asm:2       .equ PAGE, 0x1000
0xffff_8000_0000_0000                           k.asm:3   boot:
0xffff_8000_0000_0000  fa                       k.asm:3       cli             ; quiet
0xffff_8000_0000_0001  48 b8 88 77 66 55 44 33  k.asm:4       mov rax, 0x1122334455667788
                       22 11
0xffff_8000_0000_000b                           k.asm:5   .again:
0xffff_8000_0000_000b  eb fe                    k.asm:5       jmp .again
0xffff_8000_0000_000d  90                       k.asm:10      nop
0xffff_8000_0000_000e  90                       k.asm:10      nop
0xffff_8000_0000_000f                           k.asm:11  table:
0xffff_8000_0000_000f  03 10 00 00 00 00 00 00  k.asm:11      .quad PAGE | 3
0xffff_8000_0000_0017  00 00 00 00 00 00 00 00  k.asm:12      .zero 100
                       ... 100 bytes"""


def test_listing() -> None:
    program = assemble(SOURCE, base=0xFFFF_8000_0000_0000, file="k.asm")
    assert program.listing() == LISTING


def test_statements_cover_the_code() -> None:
    program = assemble(SOURCE, base=0x1000)
    address = program.base
    for statement in program.statements:
        assert statement.address == address
        address += len(statement.data)
    assert address == program.end
    assert b"".join(statement.data for statement in program.statements) == program.code


def test_statement_at() -> None:
    program = assemble(SOURCE, base=0x1000)
    for address, line in ((0x1000, 3), (0x1001, 4), (0x100A, 4), (0x100B, 5), (0x107A, 12)):
        statement = program.statement_at(address)
        assert statement is not None
        assert statement.line == line
    assert program.statement_at(0xFFF) is None
    assert program.statement_at(program.end) is None


@pytest.mark.parametrize(
    ("source", "entry"),
    [("nop\n_start: nop", 0x1001), ("nop\nstart: nop", 0x1001), ("nop\nx: nop", 0x1000)],
)
def test_entry(source: str, entry: int) -> None:
    assert assemble(source, base=0x1000).entry == entry


def test_unknown_label() -> None:
    program = assemble(SOURCE, base=0)
    assert program.labels["table"] == 15
    with pytest.raises(UnknownLabel) as caught:
        program.labels["tabel"]
    assert str(caught.value) == "a label must be one like table, not 'tabel'"
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, AssemblyError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(UnknownLabel, match="must be defined, and this program has none, not 'x'"):
        assemble("nop", base=0).labels["x"]
    assert program.labels.get("tabel") is None


def test_base_may_be_an_address() -> None:
    from harness.address import VirtAddr

    program = assemble("x: nop", base=VirtAddr(0xFFFF_8000_0000_0000))
    assert program.labels["x"] == 0xFFFF_8000_0000_0000


@pytest.mark.parametrize("part", ["", ".expression", ".instruction", ".verify", ".program"])
def test_examples(part: str) -> None:
    module = importlib.import_module(f"harness.asm{part}")
    result = doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert result.attempted > 0
    assert result.failed == 0
