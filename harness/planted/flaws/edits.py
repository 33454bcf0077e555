"""How a broken CPU takes entries: edits, put together from small ones.

An edit takes the entries of one level (:class:`~harness.planted.query.Entry`) and gives them as the
broken CPU sees them::

    at(2, present(set_bits(PageTableFlags.WRITABLE)))  # R/W of a present PDE is not looked at
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.entry import PageTableFlags
from harness.planted.query import Edit, Entry, u64

__all__ = ["at", "big", "clear_bits", "only_if", "present", "set_bits"]

_P, _PS = u64(int(PageTableFlags.PRESENT)), u64(int(PageTableFlags.HUGE_PAGE))


def at(level: int, edit: Edit) -> Edit:
    """Edit the entries of one level."""
    return lambda e: edit(e) if e.level == level else e.raw


def present(edit: Edit) -> Edit:
    """Edit present entries."""
    return lambda e: np.where(e.raw & _P != 0, edit(e), e.raw)


def big(edit: Edit) -> Edit:
    """Edit entries whose bit 7 is set: at levels 2 and 3 they map a big page."""
    return lambda e: np.where(e.raw & _PS != 0, edit(e), e.raw)


def only_if(test: Callable[[Entry], bool], edit: Edit) -> Edit:
    """Edit entries where a test of the CPU and the access holds."""
    return lambda e: edit(e) if test(e) else e.raw


def set_bits(bits: int) -> Edit:
    """Take bits as set."""
    mask = u64(bits)
    return lambda e: e.raw | mask


def clear_bits(bits: int) -> Edit:
    """Take bits as clear."""
    mask = u64(bits)
    return lambda e: e.raw & ~mask
