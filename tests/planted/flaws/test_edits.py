"""Edits: each changes what it names, in the entries that it names, and leaves the memory's own."""

from __future__ import annotations

import numpy as np
import pytest

from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.outcome import Access
from harness.planted.flaws.edits import at, big, clear_bits, only_if, present, set_bits
from harness.planted.query import Edit, Entry

_US = PageTableFlags.USER_ACCESSIBLE


def _taken(edit: Edit, *raw: int, level: int = 2) -> list[int]:
    words = np.array(raw, np.uint64)
    taken = edit(Entry(level, words, (), CpuState(), Access()))
    assert words.tolist() == list(raw), "the entries themselves stay"
    return [int(word) for word in taken]


@pytest.mark.parametrize(
    ("edit", "taken"),
    [
        (set_bits(_US), [0x4, 0x5, 0x85, 0x84]),
        (clear_bits(0x81), [0x0, 0x0, 0x4, 0x4]),
        (present(set_bits(_US)), [0x0, 0x5, 0x85, 0x84]),
        (big(clear_bits(_US)), [0x0, 0x1, 0x81, 0x80]),
        (at(2, set_bits(_US)), [0x4, 0x5, 0x85, 0x84]),
        (at(3, set_bits(_US)), [0x0, 0x1, 0x85, 0x84]),
        (only_if(lambda e: e.level == 3, set_bits(_US)), [0x0, 0x1, 0x85, 0x84]),
        (only_if(lambda e: e.level == 2, set_bits(_US)), [0x4, 0x5, 0x85, 0x84]),
    ],
)
def test_an_edit_takes_entries_as(edit: Edit, taken: list[int]) -> None:
    assert _taken(edit, 0x0, 0x1, 0x85, 0x84) == taken
