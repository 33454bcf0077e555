"""Strict JSON: what is taken, what is refused, and in which words."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest

from harness import jsontext
from harness.errors import InputError
from harness.jsontext import MAX_RAM, flag, loads, number, obj, ram, shown


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_the_examples() -> None:
    result = doctest.testmod(jsontext, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert (result.attempted, result.failed) == (2, 0)


def test_plain_json_reads_as_ever() -> None:
    text = '{"a": [1, -2, 1.5, "x", null, true], "b": {}}'

    assert loads(text) == loads(text.encode()) == {"a": [1, -2, 1.5, "x", None, True], "b": {}}
    assert loads("18446744073709551615") == (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"{} {}", "the text must be JSON: Extra data at line 1, column 4"),
        (b"\n{]", "the text must be JSON: Expecting property name enclosed in double quotes"),
        (b"\x80", "the text must be UTF-8, and byte 0 is not"),
        (b"-Infinity", "a number must be finite, not -Infinity"),
        (b'[{"k": 1, "k": 1}]', "a key must occur once in an object, and 'k' occurs twice"),
        (b"9" * 21, "an integer must fit in 64 bits, not have 21 digits"),
        (b'{"a": ' * 33 + b"1" + b"}" * 33, "the JSON must be nested at most 32 deep"),
    ],
)
def test_other_json_is_refused(text: bytes, sentence: str) -> None:
    assert refusal(lambda: loads(text)).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "value"),
    [(0, 0), ("0x0", 0), ("0XfF", 255), ("0xffff_8000", 0xFFFF_8000), ("0x" + "f" * 16, 2**64 - 1)],
)
def test_a_number_is_an_integer_or_hex(given: object, value: int) -> None:
    assert number("n", given) == value


@pytest.mark.parametrize(
    "given",
    ["", "12", "0x", "0x_1", "0x1_", "-0x1", " 0x1", "0x1\n", "0o7", "0x\uff11", 1.0, True, None],
)
def test_nothing_else_is_a_number(given: object) -> None:
    assert refusal(lambda: number("n", given)) == (
        f"n must be an integer or a hex string such as '0x1000', not {given!r}"
    )


@pytest.mark.parametrize("given", [-1, 4, "0x4"])
def test_a_number_must_fit(given: object) -> None:
    assert refusal(lambda: number("n", given, bits=2)) == (
        f"n must be 0 or more and fit in 2 bits, not {given!r}"
    )


def test_a_flag_is_true_or_false() -> None:
    assert (flag("f", True), flag("f", False)) == (True, False)
    assert refusal(lambda: flag("f", 1)) == "f must be true or false, not 1"


def test_an_object_has_its_keys() -> None:
    assert obj("o", {"a": 1, "z": 2}, required=["a"]) == {"a": 1, "z": 2}
    assert refusal(lambda: obj("o", [])) == "o must be an object, not []"
    assert refusal(lambda: obj("o", {}, required=["a"])) == "o must have the key 'a', and lacks it"
    assert refusal(lambda: obj("o", {"a": 1, "z": 2}, required=["a"], optional=["b"])) == (
        "a key of o must be one of a, b, not 'z'"
    )


def test_ram_is_a_size_or_regions() -> None:
    assert ram("0x1000") == [(0, 0x1000)]
    assert ram([["0x2000", 4096], [0, 4096]]) == [(0x2000, 4096), (0, 4096)]
    assert ram(MAX_RAM) == [(0, MAX_RAM)]
    half = MAX_RAM // 2
    assert refusal(lambda: ram([[0, half], [half, half], [MAX_RAM, 4096]])) == (
        "ram must be at most 0x100_0000_0000 bytes (1 TiB), not 0x100_0000_1000"
    )


def test_what_is_shown_is_short() -> None:
    assert shown("x") == "'x'"
    assert len(shown(["x" * 1000])) == 80
