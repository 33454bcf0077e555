"""Sizes are read in one way by the boot command and by kernels' headers."""

from __future__ import annotations

import doctest

import pytest

from harness import sizes
from harness.errors import InputError
from harness.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *((5, 5), ("5", 5), ("0x10", 16), ("4096", 4096), ("0", 0)),
        *(("4K", 4096), ("2m", 2 << 20), ("128M", 128 << 20), ("1g", 1 << 30)),
        *(("64KiB", 65536), (" 2MB ", 2 << 20), ("0x1_000", 4096)),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "M", "-1M", "1.5G", "1T", "4B", "9" * 30, "1__0", "007", None, True]
)
def test_no_sizes(text: object) -> None:
    with pytest.raises(InputError, match=r"^a size must be a number of bytes, or end in K, M or G"):
        parse_size(text)  # type: ignore[arg-type]


def test_the_example_is_true() -> None:
    assert doctest.testmod(sizes).failed == 0
