"""Other assemblers' ways to say things: each is named, with what to write here.

>>> advice("section .data")
'`section` is a NASM directive: a program must be one run of bytes here, so leave it out'
>>> advice("mov rax, rbx")
"""

from __future__ import annotations

import re
from typing import Final

from harness.asm.expression import Constants
from harness.asm.instruction import parse
from harness.asm.refusal import Refusal
from harness.asm.verify import mnemonics

__all__ = ["advice", "hidden_instruction"]

_NASM: Final = {
    **dict.fromkeys(
        ("section", "segment"), "a program must be one run of bytes here, so leave it out"
    ),
    **dict.fromkeys(
        ("global", "extern", "extrn", "public"), "there is one file here: leave it out"
    ),
    **dict.fromkeys(("bits", "use32", "use64"), "write .code32 or .code64"),
    "db": "write .byte, or .ascii for a text",
    "dw": "write .word",
    "dd": "write .long",
    "dq": "write .quad",
    **dict.fromkeys(("resb", "resw", "resd", "resq"), "write .zero and a number of bytes"),
    "times": "write .rept, or .zero for bytes of 0",
    "org": "write .org, or give --base",
    "align": "write .align",
    "alignb": "write .align",
    "default": "write [rip + label]",
    "incbin": "write the data as .byte or .quad",
    "istruc": "write its fields as .long and .quad",
    "struc": "write offsets as constants, NAME = 8",
}
_PERCENT: Final = {
    "define": "write NAME = 1, or .equ",
    "assign": "write NAME = 1, or .set",
    "macro": "write .macro and .endm",
    "include": "write .include",
    "rep": "write .rept and .endr",
    "if": "write .if and .endif",
    "ifdef": "write .ifdef and .endif",
}
_COMPARISONS: Final = ("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")
_COMPARE = re.compile(rf"(v?cmp)({'|'.join(_COMPARISONS)})(ps|pd|ss|sd)\b", re.IGNORECASE)


def advice(text: str) -> str | None:
    """Say what a statement of another assembler is, and what to write instead.

    :returns: None for what is not known as one.
    """
    words = text.split()
    if not words:
        return None
    word = words[0].lower()
    if word in _NASM:
        return f"`{word}` is a NASM directive: {_NASM[word]}"
    if word[0] == "%" and word[1:] in _PERCENT:
        return f"`{word}` is a NASM directive: {_PERCENT[word[1:]]}"
    if len(words) > 2 and words[1].lower() == "equ":
        return f"`equ` is a NASM directive: write {words[0]} = {' '.join(words[2:])}"
    if re.search(r"\[\s*rel\s", text, re.IGNORECASE):
        return "`rel` is NASM's: write [rip + label]"
    found = _COMPARE.match(text)
    if found:
        stem, name, kind = (part.lower() for part in found.groups())
        number = _COMPARISONS.index(name)
        return f"{found[0]} must be written {stem}{kind} with {number} as its last operand"
    return None


def hidden_instruction(comment: str) -> str | None:
    """Return the instruction that stands behind a ``;``, where it separates nothing.

    :param comment: what follows the ``;`` on a line that has a statement before it.
    """
    text = comment.split(";")[0].strip()
    if not text:
        return None
    try:
        found = parse(text, Constants({}))
    except Refusal:
        return None
    return text if found.mnemonic in mnemonics() else None
