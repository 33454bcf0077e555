"""The assembler's arithmetic: numbers, symbols and operators, evaluated here and not by Keystone.

Keystone 0.9.2 truncates what does not fit and has no symbol table, so it is only ever handed
plain numbers. An expression is evaluated against a :class:`Scope`, which knows the symbols and the
current address::

    >>> evaluate("(1 << 39) * 3 | SIZE", Constants({"SIZE": 0x1000})).number
    1649267445760

Operators are those of C with C's precedence: ``|| && | ^ & == != < <= > >= << >> + - * / % ~ ! -``.
Numbers are ``0x1f``, ``0b11``, ``0o17``, ``31`` and ``'A'``, with underscores wherever they help.
``$`` and ``.`` are the address of the statement; ``1b`` and ``1f`` are the nearest numeric label
``1:`` before and after it. Evaluation fails (:class:`~harness.asm.refusal.Refusal`) on an unknown
symbol, a division by zero, or a number that no register could hold.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.asm.refusal import Refusal

__all__ = ["Constants", "NAME", "Scope", "Tokens", "Value", "evaluate", "tokens", "unescape"]

NAME = r"[A-Za-z_.][\w.$]*"

_MAX_DEPTH = 50
_MAX_BITS = 128
_MAX_TOKENS = 10_000

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>0[xX][0-9a-fA-F_]+(?!\w)|0[bB][01_]+(?!\w)|0[oO][0-7_]+(?!\w)|[0-9][0-9_]*(?!\w))
    | (?P<near>[0-9]+[bf](?!\w))
    | (?P<char>'(?:\\.[^']*|[^'\\])')
    | (?P<name>"""
    + NAME
    + r""")
    | (?P<op>\$|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!()<>\[\]:,])
    )""",
    re.VERBOSE,
)

_PRECEDENCE: dict[str, int] = {
    "||": 1,
    "&&": 2,
    "|": 3,
    "^": 4,
    "&": 5,
    **dict.fromkeys(("==", "!="), 6),
    **dict.fromkeys(("<", "<=", ">", ">="), 7),
    **dict.fromkeys(("<<", ">>"), 8),
    **dict.fromkeys(("+", "-"), 9),
    **dict.fromkeys(("*", "/", "%"), 10),
}

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\", '"': '"', "'": "'", "b": "\b"}


Tokens = tuple[tuple[str, str], ...]


class Value(NamedTuple):
    """A number, whether it is an address (a label plus or minus a number), and whether it wraps.

    A complement or negation that is negative wraps to the width it is used in, as in C.
    """

    number: int
    is_address: bool = False
    wraps: bool = False


class Scope(Protocol):
    """What an expression may refer to."""

    def symbol(self, name: str) -> Value:
        """Return the value of a constant or label, or raise Refusal."""

    def near(self, number: int, forward: bool) -> Value:
        """Return the address of a numeric label, or raise Refusal."""

    def here(self) -> Value:
        """Return the address of the statement."""


@dataclass(frozen=True, slots=True)
class Constants:
    """The scope of what is decided before anything has an address.

    :ivar numbers: by name; None for a constant that needs an address.
    """

    numbers: Mapping[str, int | None]

    def symbol(self, name: str) -> Value:
        """Return the constant, or raise Refusal."""
        number = self.numbers.get(name)
        if number is None:
            raise Refusal(
                "a name must be a constant defined above, because nothing has an address yet "
                f"here, and {name} is not one"
            )
        return Value(number)

    def near(self, number: int, forward: bool) -> Value:
        """Raise Refusal."""
        raise Refusal(f"nothing has an address yet here, so {number}{'bf'[forward]} has none")

    def here(self) -> Value:
        """Raise Refusal."""
        raise Refusal("nothing has an address yet here, so $ has no value")


def unescape(body: str) -> str:
    """Return the characters that the inside of a quoted string or character stands for."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x" and len(code) == 3:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise Refusal(
                f"an escape must be one of \\n \\t \\r \\b \\0 \\\\ \\\" \\' \\xNN, not \\{code}"
            )
        return _ESCAPES[code]

    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", one, body)


@functools.lru_cache(maxsize=4096)
def tokens(text: str) -> Tokens:
    """Split an expression or operand into (kind, text) pairs.

    :raises Refusal: on a character that has no place in an operand, or a malformed number.
    """
    found: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise Refusal(_strange(text[position:].lstrip()))
        kind = match.lastgroup
        assert kind is not None
        found.append((kind, match[kind]))
        position = match.end()
        if len(found) > _MAX_TOKENS:
            raise Refusal(f"an operand must have at most {_MAX_TOKENS} parts")
    return tuple(found)


def _strange(rest: str) -> str:
    if rest[0].isdigit():
        word = re.match(r"\w+", rest)
        assert word is not None
        return f"a number must be written 31, 0x1f, 0b11 or 0o37, not {word[0]}"
    if rest[0] in "'\"":
        return f"a quoted text must be closed and stand where text may: {rest[:20]!r}"
    return f"an operand must be made of names, numbers and operators, not {rest[0]!r}"


def evaluate(expression: str | Tokens, scope: Scope) -> Value:
    """Evaluate an expression, given as text or as tokens.

    :raises Refusal: when it is malformed or refers to something unknown.
    """
    parts = tokens(expression) if isinstance(expression, str) else expression
    if not parts:
        raise Refusal("an expression must stand here, and nothing does")
    parser = _Parser(parts, scope)
    value = parser.binary(1)
    if parser.position != len(parser.tokens):
        raise Refusal(f"an operator must come before {parser.tokens[parser.position][1]!r}")
    return value


class _Parser:
    def __init__(self, parts: Tokens, scope: Scope) -> None:
        self.tokens = parts
        self.scope = scope
        self.position = 0
        self.depth = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def binary(self, lowest: int) -> Value:
        left = self.unary()
        while True:
            kind, operator = self.peek()
            rank = _PRECEDENCE.get(operator, 0) if kind == "op" else 0
            if rank < lowest:
                return left
            self.position += 1
            left = _apply(operator, left, self.binary(rank + 1))

    def unary(self) -> Value:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Refusal(f"an expression must nest at most {_MAX_DEPTH} deep")
        try:
            return self._unary()
        finally:
            self.depth -= 1

    def _unary(self) -> Value:
        kind, text = self.peek()
        self.position += 1
        if kind == "number":
            return Value(_number(text))
        if kind == "char":
            return Value(_character(text))
        if kind == "near":
            return self.scope.near(_number(text[:-1]), text[-1] == "f")
        if kind == "name":
            return self.scope.here() if text == "." else self.scope.symbol(text)
        if text == "$":
            return self.scope.here()
        if text == "(":
            value = self.binary(1)
            if self.peek()[1] != ")":
                raise Refusal("each ( must have its )")
            self.position += 1
            return value
        if text == "-":
            literal = self.peek()[0] == "number"
            number = _bounded(-self.unary().number)
            # -129 is a number too small for a byte; -(A + B) is arithmetic of the byte's width.
            return Value(number) if literal else _wrapping(number)
        if text == "+":
            return self.unary()
        if text == "~":
            return _wrapping(~self.unary().number)
        if text == "!":
            return Value(int(not self.unary().number))
        if text == "%":
            raise Refusal("registers must be written without %, in Intel syntax")
        if kind == "end":
            raise Refusal("a number or a name must come at the end of the expression")
        raise Refusal(f"a number or a name must stand where {text!r} does")


def _wrapping(number: int) -> Value:
    return Value(number, wraps=number < 0)


def _number(text: str) -> int:
    if len(text) > 200:
        raise Refusal(f"a number must fit {_MAX_BITS} bits, not have {len(text)} digits")
    if len(text) > 1 and text[0] == "0" and text[1] in "0123456789_":
        raise Refusal(f"an octal number must be written 0o17 and a decimal one 17, not {text}")
    try:
        return _bounded(int(text, 0))
    except ValueError:
        raise Refusal(f"a number must be written 31, 0x1f, 0b11 or 0o37, not {text}") from None


def _character(text: str) -> int:
    inside = unescape(text[1:-1])
    if len(inside) != 1 or ord(inside) > 0xFF:
        raise Refusal(f"a character must be one byte, not {text}")
    return ord(inside)


def _bounded(number: int) -> int:
    if number.bit_length() > _MAX_BITS:
        raise Refusal(f"a number must fit {_MAX_BITS} bits, not take {number.bit_length()}")
    return number


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise Refusal(f"a divisor must not be 0: {a} / 0")
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _shift(a: int, b: int) -> int:
    if not -_MAX_BITS <= b <= _MAX_BITS:
        raise Refusal(f"a shift count must be between 0 and {_MAX_BITS}, not {b}")
    return a << b if b >= 0 else a >> -b


def _count(b: int) -> int:
    if b < 0:
        raise Refusal(f"a shift count must be between 0 and {_MAX_BITS}, not {b}")
    return b


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: int(bool(a) or bool(b)),
    "&&": lambda a, b: int(bool(a) and bool(b)),
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "<<": lambda a, b: _shift(a, _count(b)),
    ">>": lambda a, b: _shift(a, -_count(b)),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": lambda a, b: a - b * _divide(a, b),
}


def _apply(operator: str, left: Value, right: Value) -> Value:
    number = _bounded(_OPERATIONS[operator](left.number, right.number))
    wraps = number < 0 and (left.wraps or right.wraps)
    if operator == "+":
        return Value(number, left.is_address != right.is_address, wraps)
    if operator == "-":
        return Value(number, left.is_address and not right.is_address, wraps)
    return Value(number, wraps=wraps)
