"""Covering arrays: every tuple is there, counted by brute force."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.check.matrix.spaces.cover import covering_array


def uncovered(rows: list[tuple[int, ...]], sizes: list[int], strength: int) -> int:
    """Count the tuples that no row has; plain Python, nothing in common with the generator."""
    missing = 0
    for chosen in combinations(range(len(sizes)), min(strength, len(sizes))):
        there = {tuple(row[parameter] for parameter in chosen) for row in rows}
        wanted = product(*(range(sizes[parameter]) for parameter in chosen))
        missing += sum(values not in there for values in wanted)
    return missing


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=7),
    strength=st.integers(2, 4),
)
def test_every_tuple_is_there(sizes: list[int], strength: int) -> None:
    array = covering_array(sizes, strength)
    rows = [tuple(map(int, row)) for row in array]
    assert array.shape[1] == len(sizes)
    assert all(0 <= value < size for row in rows for value, size in zip(row, sizes, strict=True))
    assert uncovered(rows, sizes, strength) == 0


def test_the_verifier_notices_a_missing_row() -> None:
    rows = [tuple(map(int, row)) for row in covering_array([3, 2, 2], 3)]
    assert uncovered(rows, [3, 2, 2], 3) == 0
    assert uncovered(rows[1:], [3, 2, 2], 3) == 1


@pytest.mark.parametrize(
    ("sizes", "strength", "most"),
    [([2] * 20, 3, 40), ([2] * 40, 3, 60), ([16, *[2] * 20], 3, 192), ([4] * 10, 2, 40)],
)
def test_arrays_are_small(sizes: list[int], strength: int, most: int) -> None:
    array = covering_array(sizes, strength)
    assert len(array) <= most
    assert uncovered([tuple(map(int, row)) for row in array], sizes, strength) == 0


def test_the_same_arguments_give_the_same_array() -> None:
    assert np.array_equal(covering_array([5, 2, 3, 2, 2], 3), covering_array([5, 2, 3, 2, 2], 3))


def test_no_more_rows_than_combinations() -> None:
    assert len(covering_array([4, 3, 2], 3)) == 24
    assert len(covering_array([4, 3], 3)) == 12


@pytest.mark.parametrize(
    ("sizes", "strength", "message"),
    [
        ([2, 2], 1, "a covering array's strength must be 2 or more, not 1"),
        ([2, 0], 2, "a parameter must have 1 value or more, not as in [2, 0]"),
    ],
)
def test_refusals(sizes: list[int], strength: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        covering_array(sizes, strength)
    assert str(caught.value) == message
