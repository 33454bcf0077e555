"""Rows of an answer are told apart by their outcome and the bits of their error code."""

from __future__ import annotations

import numpy as np

from harness.cpu import ErrorCode
from harness.outcome import Outcome
from harness.planted.flaws.answers import denied, faults, mapped
from harness.planted.query import Answer

_ROWS = (
    (Outcome.MAPPED, 0x1),
    (Outcome.PAGE_FAULT, 0x0),
    (Outcome.PAGE_FAULT, 0x7),
    (Outcome.PAGE_FAULT, 0xB),
    (Outcome.STACK_FAULT, 0x1),
)


def _answer() -> Answer:
    column = np.zeros(len(_ROWS), np.uint64)
    return Answer(
        np.array([outcome.code for outcome, _ in _ROWS], np.uint8),
        np.array([code for _, code in _ROWS], np.uint32),
        column,
        column,
        {},
    )


def test_page_faults_alone_have_a_code() -> None:
    answer = _answer()
    assert np.flatnonzero(faults(answer)).tolist() == [1, 2, 3]
    assert np.flatnonzero(faults(answer, having=ErrorCode.P)).tolist() == [2, 3]
    assert np.flatnonzero(faults(answer, having=ErrorCode.P | ErrorCode.U)).tolist() == [2]
    assert np.flatnonzero(faults(answer, lacking=ErrorCode.P)).tolist() == [1]


def test_what_a_right_denies_was_present_and_well_formed() -> None:
    assert np.flatnonzero(denied(_answer())).tolist() == [2]


def test_what_went_through_is_no_fault() -> None:
    assert np.flatnonzero(mapped(_answer())).tolist() == [0]
