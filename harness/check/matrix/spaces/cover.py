"""Covering arrays: few rows in which every choice of a few parameters' values occurs.

Faults of an MMU seldom need more than three conditions at once. An array of *strength* t has, for
any t parameters and any values of these, a row with these values; it grows with the logarithm of
the number of parameters, where all combinations grow exponentially::

    >>> array = covering_array([2] * 50, strength=3)
    >>> len(array) < 64, array.shape[1]
    (True, 50)

The method is IPOG's: the array is complete for the first parameters, then gets the next one as a
column (each row takes the value that covers most of what is missing) and new rows for what is still
missing. (Lei and others, "IPOG: A General Strategy for T-Way Software Testing", 2007.) The packages
found on PyPI are for pairs only, or a program of their own; here numpy does it in a second.

The same arguments give the same array on every machine. A strength below 2 or a size below 1 is a
ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

__all__ = ["covering_array"]

_FREE = -1


def covering_array(sizes: Sequence[int], strength: int) -> NDArray[np.uint16]:
    """Return an array of that strength, shape (rows, parameters).

    :param sizes: how many values each parameter has; 1 or more.
    :param strength: t, 2 or more.
    :raises ValueError: for a size or a strength below that.
    """
    if strength < 2:
        raise ValueError(f"a covering array's strength must be 2 or more, not {strength}")
    if any(size < 1 for size in sizes):
        raise ValueError(f"a parameter must have 1 value or more, not as in {list(sizes)}")
    return _made(tuple(sizes), strength).copy()


@lru_cache(maxsize=16)
def _made(sizes: tuple[int, ...], strength: int) -> NDArray[np.uint16]:
    # The largest first: what they need in rows anyway, the others then find there.
    order = sorted(range(len(sizes)), key=lambda parameter: -sizes[parameter])
    ordered = [sizes[parameter] for parameter in order]
    start = min(strength, len(sizes))
    rows = np.array(list(product(*(range(size) for size in ordered[:start]))), np.int64)
    rows = rows.reshape(-1, start)
    for parameter in range(start, len(sizes)):
        rows = _extended(rows, ordered[: parameter + 1], strength)
    result = np.zeros(rows.shape, np.uint16)
    result[:, order] = rows
    return result


def _extended(rows: NDArray[np.int64], sizes: list[int], strength: int) -> NDArray[np.int64]:
    # ``missing`` is a table [others, code of their values, value]: which tuples with the last
    # parameter no row has yet. ``others`` are all choices of strength - 1 earlier parameters.
    new = len(sizes) - 1
    others = np.array(list(combinations(range(new), strength - 1)), np.int64)
    others = others.reshape(-1, strength - 1)
    limits = np.array(sizes)
    # The place value of each of the others, in the code of their values.
    scale = np.ones(others.shape, np.int64)
    for place in range(strength - 3, -1, -1):
        scale[:, place] = scale[:, place + 1] * limits[others[:, place + 1]]
    widths = limits[others].prod(axis=1)
    missing = np.arange(widths.max())[None, :, None] < widths[:, None, None]
    missing = np.repeat(missing, sizes[new], axis=2)
    flat = missing.reshape(-1, sizes[new])  # the same memory
    places = (rows[:, others] * scale).sum(axis=2) + np.arange(len(others)) * widths.max()

    column = np.zeros(len(rows), np.int64)
    values = np.arange(sizes[new])
    for number, place in enumerate(places):
        gain = flat[place].sum(axis=0)
        # Of equally good values another one each time, or the array leans to 0.
        turn = (values + number) % sizes[new]
        column[number] = turn[gain[turn].argmax()]
        flat[place, column[number]] = False

    added: list[NDArray[np.int64]] = []
    for choice, code, value in np.argwhere(missing).tolist():
        asked = np.append(others[choice], new)
        wanted = np.append(code // scale[choice] % limits[others[choice]], value)
        for new_row in added:
            there = new_row[asked]
            if np.all((there == wanted) | (there == _FREE)):
                new_row[asked] = wanted
                break
        else:
            added.append(np.full(new + 1, _FREE))
            added[-1][asked] = wanted
    for number, new_row in enumerate(added):
        # Any value will do where none is asked for; different ones cover what comes later.
        spread = (number * 7 + np.arange(new + 1) * 3 + number // 2) % limits
        new_row[new_row == _FREE] = spread[new_row == _FREE]
    return np.vstack([np.column_stack([rows, column]), *added])
