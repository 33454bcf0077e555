"""The assembler's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.asm.expression import Constants, Value, evaluate, unescape
from harness.asm.refusal import Refusal

SCOPE = Constants({"PAGE": 4096, "LATER": None})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0x1f", 31),
        ("0b1_01", 5),
        ("0o17", 15),
        ("1_000", 1000),
        ("'A'", 65),
        (r"'\n'", 10),
        (r"'\x7f'", 127),
        ("';'", 59),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("1 << 4 | 1", 17),
        ("1 | 2 ^ 3 & 5", 3),
        ("7 - 2 - 1", 4),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 / -2", -3),
        ("~0", -1),
        ("!0 + !5", 1),
        ("--1", 1),
        ("1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 != 2 && 1 == 1", 1),
        ("0 || 0", 0),
        ("-1 >> 1", -1),
        ("PAGE * 2", 8192),
        ("(1 << 64) - 1", 2**64 - 1),
    ],
)
def test_value(text: str, number: int) -> None:
    assert evaluate(text, SCOPE)[:2] == (number, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an expression must stand here, and nothing does"),
        ("1 +", "a number or a name must come at the end of the expression"),
        ("1 2", "an operator must come before '2'"),
        ("* 2", "a number or a name must stand where '*' does"),
        ("(1", "each ( must have its )"),
        ("1 / 0", "a divisor must not be 0: 1 / 0"),
        ("1 % 0", "a divisor must not be 0: 1 / 0"),
        ("1 << 200", "a shift count must be between 0 and 128, not 200"),
        ("1 << -1", "a shift count must be between 0 and 128, not -1"),
        ("(1 << 127) * 4", "a number must fit 128 bits, not take 130"),
        ("017", "an octal number must be written 0o17 and a decimal one 17, not 017"),
        ("0FFh", "a number must be written 31, 0x1f, 0b11 or 0o37, not 0FFh"),
        ("0b12", "a number must be written 31, 0x1f, 0b11 or 0o37, not 0b12"),
        ("%rax", "registers must be written without %, in Intel syntax"),
        ("1 @ 2", "an operand must be made of names, numbers and operators, not '@'"),
        (r"'\q'", "an escape must be one of"),
        ("'AB", "a quoted text must be closed"),
        ("LATER", "a name must be a constant defined above"),
        ("$", "so $ has no value"),
        ("1f", "so 1f has none"),
        ("(" * 60 + "1" + ")" * 60, "an expression must nest at most 50 deep"),
        ("-" * 60 + "1", "an expression must nest at most 50 deep"),
        ("9" * 300, "a number must fit 128 bits, not have 300 digits"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        evaluate(text, SCOPE)
    assert reason in caught.value.reason


class _Here(Constants):
    def symbol(self, name: str) -> Value:
        return Value(0x1000, is_address=True) if name == "label" else super().symbol(name)

    def here(self) -> Value:
        return Value(0x1010, is_address=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("label", Value(0x1000, True)),
        ("label + 8", Value(0x1008, True)),
        ("8 + label", Value(0x1008, True)),
        ("label - 8", Value(0xFF8, True)),
        ("$ - label", Value(0x10, False)),
        (". - label", Value(0x10, False)),
        ("label >> 12", Value(1, False)),
        ("label & 0xfff", Value(0, False)),
    ],
)
def test_what_is_an_address(text: str, value: Value) -> None:
    assert evaluate(text, _Here({})) == value


_NUMBERS = st.integers(0, 2**32)


@given(
    st.recursive(
        _NUMBERS.map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*&|^"), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
        max_leaves=4,
    ),
    st.sampled_from("+-*&|^"),
    _NUMBERS,
)
def test_agrees_with_python(text: str, operator: str, number: int) -> None:
    # Python's precedence of these operators is C's.
    full = f"{text} {operator} {number} + 3"
    wanted = eval(full)
    if wanted.bit_length() < 120:
        assert evaluate(full, SCOPE).number == wanted


def test_unescape() -> None:
    assert unescape(r"a\tb\\\"\0\x41") == 'a\tb\\"\0A'
