"""Data, text and padding."""

from __future__ import annotations

import pytest

from harness.asm import assemble
from harness.errors import AssemblyError


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (".byte 1, -1, 255, -128, 'A'", "01ffff8041"),
        (".word 0x1234, -1", "3412ffff"),
        (".short 1\n.2byte 2\n.hword 3", "010002000300"),
        (".long 0x12345678\n.int -1\n.4byte 1", "78563412ffffffff01000000"),
        (".quad 0xffff800000000063\n.8byte -2", "63000000" + "0080ffff" + "fe" + "ff" * 7),
        ('.ascii "ab", "c"', "616263"),
        ('.asciz "a"\n.string "b"', "61006200"),
        (r'.ascii "\n\x80\"\\"', "0a80225c"),
        (".zero 2\n.space 2, 0xff\n.skip 1", "0000ffff00"),
        (".fill 2\n.fill 2, 2, 0x1234\n.fill 1, 4", "0000341234120000" + "0000"),
        ("nop\n.align 4\nnop", "9090909090"),
        ("nop\n.balign 4, 0xcc\nnop", "90cccccc90"),
        ("nop\n.p2align 2, 0\nnop", "9000000090"),
        ("nop\n.org 0x1004\nnop", "9000000090"),
        ("nop\n.org . + 2, 0xf4\nnop", "90f4f490"),
        ("nop\n.org $\nnop", "9090"),
        ("x: .quad x, end - x\nend:", "0010000000000000" + "1000000000000000"),
        (".QUAD 1", "0100000000000000"),
    ],
)
def test_bytes(source: str, code: str) -> None:
    assert assemble(source, base=0x1000).code.hex() == code


def test_alignment_is_of_the_address() -> None:
    assert assemble(".align 16\nnop", base=0x1008).code.hex() == "90" * 9


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (".byte 256", ".byte must hold a number of 8 bits, not 0x100"),
        (".byte -129", ".byte must hold a number of 8 bits, not -0x81"),
        (".word 0x10000", ".word must hold a number of 16 bits, not 0x10000"),
        (".long 1 << 32", ".long must hold a number of 32 bits, not 0x100000000"),
        (".quad 1 << 64", ".quad must hold a number of 64 bits, not 0x10000000000000000"),
        (".quad", ".quad must be followed by at least one number"),
        (".quad 1,", "an expression must stand here, and nothing does"),
        (".ascii", ".ascii must be followed by a quoted text"),
        (".ascii a", 'a text must be quoted, "like this", not a'),
        ('.ascii "€"', "a text must be made of bytes (\\xNN), not '€'"),
        (".zero -1", "the size of .zero must be between 0 and 64 MiB, not -0x1"),
        (".zero 1 << 40", "the size of .zero must be between 0 and 64 MiB, not 0x10000000000"),
        (".zero", ".zero must have 1 to 2 arguments, not 0"),
        (".fill 1, 9", "the size of .fill must be between 1 and 8 bytes, not 9"),
        (".fill 60000000, 8", "a program must be at most 64 MiB, not 0x1c9c3800 bytes"),
        (".fill 1, 1, 256", ".fill must hold a number of 8 bits, not 0x100"),
        (".align 3", "an alignment must be a power of two, not 3"),
        (".align 0", "an alignment must be a power of two, not 0"),
        (".p2align 70", "an alignment must be a power of two, not 70"),
        ("nop\n.align 1 << 30", "a program must be at most 64 MiB, not 0x3fffefff bytes"),
        (
            "nop\nnop\n.org 0x1001",
            ".org must go forward, to an address (not an offset) of at least 0x1002, not to 0x1001",
        ),
        (".org 0x80000000", "a program must be at most 64 MiB, not 0x7ffff000 bytes"),
        (".zero 64 << 20\n.byte 1", "a program must be at most 64 MiB, not 0x4000001 bytes so far"),
        (".bite 1", "a directive must be a known one, such as .byte, not .bite"),
        (
            ".section .text",
            "a program must be one run of bytes; put data after the code, with .align",
        ),
        (".code16", "code must be 32- or 64-bit; 16-bit code is not assembled here"),
        (".att_syntax", "the syntax must be Intel's"),
        ('.incbin "x"', "data must stand in the source, as .byte or .quad"),
    ],
)
def test_refused(source: str, reason: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(source, base=0x1000, file="d.asm")
    assert str(caught.value).endswith(f": {reason}")
    assert caught.value.file == "d.asm"
    assert caught.value.line == source.count("\n") + 1
