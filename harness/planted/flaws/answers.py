"""Which rows of an answer are page faults, by the bits of their error code.

An access that P and the reserved bits let pass, and a right denies, is reported with P and without
RSVD::

    faults(answer, having=ErrorCode.P, lacking=ErrorCode.RSVD)  # the rows that a right denies
"""

from __future__ import annotations

import numpy as np

from harness.cpu import ErrorCode
from harness.outcome import Outcome
from harness.planted.query import Answer, Rows

__all__ = ["denied", "faults", "mapped"]


def faults(a: Answer, having: int = 0, lacking: int = 0) -> Rows:
    """Return the rows that are page faults whose code has all of some bits and none of others."""
    of_code = a.error_code & np.uint32(having | lacking) == np.uint32(having)
    return np.asarray((a.outcome == Outcome.PAGE_FAULT.code) & of_code, np.bool_)


def denied(a: Answer) -> Rows:
    """Return the rows that fault because a right is missing."""
    return faults(a, having=ErrorCode.P, lacking=ErrorCode.RSVD)


def mapped(a: Answer) -> Rows:
    """Return the rows in which the access went through."""
    return np.asarray(a.outcome == Outcome.MAPPED.code, np.bool_)
