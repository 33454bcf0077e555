"""Numbers as people write them: one meaning, or refused."""

from __future__ import annotations

import pytest

from harness.commands.addresses import parse_address
from harness.errors import InputError


@pytest.mark.parametrize("text", ["1000", "10", "0010", "4_096", "12345678901234567"])
def test_a_number_that_could_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="could be hexadecimal or decimal: write 0x"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("7", 7),
        ("0x1000", 0x1000),
        ("0000000000001000", 0x1000),
        ("80050033f", 0x80050033F),
    ],
)
def test_a_number_that_has_one_meaning_is_taken(text: str, number: int) -> None:
    assert parse_address(text) == number
