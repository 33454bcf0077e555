"""The statements that begin with a dot and make bytes: data, text, padding.

Numbers must fit their directive, signed or unsigned (``.byte`` takes -128 to 255): nothing is
truncated. ``.align`` looks at the address, not at the offset from the start, and pads with ``nop``
unless told otherwise; ``.org`` takes an address and never goes back.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from harness.asm.expression import Scope, evaluate
from harness.asm.refusal import Refusal
from harness.asm.source import quoted, split_arguments

__all__ = ["MAX_BYTES", "data"]

MAX_BYTES = 64 << 20

_WIDTHS = {
    ".byte": 1,
    **dict.fromkeys((".word", ".short", ".hword", ".2byte"), 2),
    **dict.fromkeys((".long", ".int", ".dword", ".4byte"), 4),
    **dict.fromkeys((".quad", ".8byte"), 8),
}
_NOP = 0x90

_ELSEWHERE = {
    **dict.fromkeys(
        (".irp", ".irpc"), "a repetition must be a .rept, or a .macro that is used once for each"
    ),
    ".att_syntax": "the syntax must be Intel's",
    ".code16": "code must be 32- or 64-bit; 16-bit code is not assembled here",
    **dict.fromkeys(
        (".section", ".data", ".bss", ".rodata"),
        "a program must be one run of bytes; put data after the code, with .align",
    ),
    ".incbin": "data must stand in the source, as .byte or .quad",
}


def data(word: str, rest: str, scope: Scope) -> bytes:
    """Return the bytes of a data directive.

    :param word: the directive, in lower case.
    :param rest: its arguments.
    :raises Refusal: when it is unknown or its arguments do not fit.
    """
    arguments = split_arguments(rest)
    if word in _WIDTHS:
        return _numbers(word, arguments, scope)
    if word in _OTHERS:
        return _OTHERS[word](word, arguments, scope)
    if word in _ELSEWHERE:
        raise Refusal(_ELSEWHERE[word])
    names = (*_WIDTHS, *_OTHERS, ".equ", ".set", ".include", ".rept", ".macro", ".code32")
    close = difflib.get_close_matches(word, names, 1)
    raise Refusal(f"a directive must be a known one, such as {(close or ['.quad'])[0]}, not {word}")


def _numbers(word: str, arguments: list[str], scope: Scope) -> bytes:
    if not arguments:
        raise Refusal(f"{word} must be followed by at least one number")
    return b"".join(_number(text, _WIDTHS[word], word, scope) for text in arguments)


def _number(text: str, width: int, word: str, scope: Scope) -> bytes:
    value, _, wraps = evaluate(text, scope)
    bits = width * 8
    lowest = -(1 << bits) if wraps else -(1 << (bits - 1))
    if not lowest <= value < 1 << bits:
        raise Refusal(f"{word} must hold a number of {bits} bits, not {value:#x}")
    return (value % (1 << bits)).to_bytes(width, "little")


def _text(word: str, arguments: list[str], scope: Scope) -> bytes:
    if not arguments:
        raise Refusal(f"{word} must be followed by a quoted text")
    end = b"" if word == ".ascii" else b"\0"
    found = b""
    for argument in arguments:
        try:
            found += quoted(argument).encode("latin-1") + end
        except UnicodeEncodeError as error:
            strange = error.object[error.start]
            raise Refusal(f"a text must be made of bytes (\\xNN), not {strange!r}") from None
    return found


def _count(text: str, scope: Scope, what: str) -> int:
    count = evaluate(text, scope).number
    if not 0 <= count <= MAX_BYTES:
        raise Refusal(f"{what} must be between 0 and {MAX_BYTES >> 20} MiB, not {count:#x}")
    return count


def _expect(word: str, arguments: list[str], least: int, most: int) -> None:
    if not least <= len(arguments) <= most:
        raise Refusal(f"{word} must have {least} to {most} arguments, not {len(arguments)}")


def _space(word: str, arguments: list[str], scope: Scope) -> bytes:
    _expect(word, arguments, 1, 2)
    fill = _number(arguments[1], 1, word, scope) if len(arguments) > 1 else b"\0"
    return fill * _count(arguments[0], scope, f"the size of {word}")


def _fill(word: str, arguments: list[str], scope: Scope) -> bytes:
    _expect(word, arguments, 1, 3)
    count = _count(arguments[0], scope, "the count of .fill")
    size = evaluate(arguments[1], scope).number if len(arguments) > 1 else 1
    if not 1 <= size <= 8:
        raise Refusal(f"the size of .fill must be between 1 and 8 bytes, not {size}")
    value = _number(arguments[2], size, word, scope) if len(arguments) > 2 else bytes(size)
    if count * size > MAX_BYTES:
        raise Refusal(
            f"a program must be at most {MAX_BYTES >> 20} MiB, not {count * size:#x} bytes"
        )
    return value * count


def _align(word: str, arguments: list[str], scope: Scope) -> bytes:
    _expect(word, arguments, 1, 2)
    power = evaluate(arguments[0], scope).number
    if word == ".p2align":
        power = 1 << power if 0 <= power < 64 else 0
    if power <= 0 or power & (power - 1):
        raise Refusal(f"an alignment must be a power of two, not {arguments[0]}")
    gap = -scope.here().number % power
    if gap > MAX_BYTES:
        raise Refusal(f"a program must be at most {MAX_BYTES >> 20} MiB, not {gap:#x} bytes")
    fill = _number(arguments[1], 1, word, scope) if len(arguments) > 1 else bytes([_NOP])
    return fill * gap


def _org(word: str, arguments: list[str], scope: Scope) -> bytes:
    _expect(word, arguments, 1, 2)
    target, here = evaluate(arguments[0], scope).number, scope.here().number
    gap = target - here
    if gap < 0:
        raise Refusal(
            f".org must go forward, to an address (not an offset) of at least {here:#_x}, "
            f"not to {target:#_x}"
        )
    if gap > MAX_BYTES:
        raise Refusal(f"a program must be at most {MAX_BYTES >> 20} MiB, not {gap:#x} bytes")
    fill = _number(arguments[1], 1, word, scope) if len(arguments) > 1 else b"\0"
    return fill * gap


_OTHERS: dict[str, Callable[[str, list[str], Scope], bytes]] = {
    **dict.fromkeys((".ascii", ".asciz", ".string"), _text),
    **dict.fromkeys((".zero", ".space", ".skip"), _space),
    ".fill": _fill,
    **dict.fromkeys((".align", ".balign", ".p2align"), _align),
    ".org": _org,
}
