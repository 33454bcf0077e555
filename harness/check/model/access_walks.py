"""Walks of accesses in a sequence: joined over two pages, what they store, how they are told."""

from __future__ import annotations

import copy

from harness.address import format_address
from harness.engine.steps import AccessStep
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = ["either", "joined", "stored_words", "where"]


def joined(lower: Walk, upper: Walk) -> Walk:
    """Make one walk of those of two pages, as the walker does."""
    both = copy.copy(lower)
    both.second = upper
    if not upper.completed or (
        both.outcome is Outcome.MAPPED and upper.outcome is Outcome.NO_MEMORY
    ):
        both.outcome, both.rule, both.level = upper.outcome, upper.rule, upper.level
        both.pa = upper.pa
    return both


def either(walks: list[Walk]) -> dict[int, int]:
    """Give the A and D bits that old and new translations together may set."""
    found: dict[int, int] = {}
    for one in walks:
        for bits in (one.sets, one.may_set):
            for pa, mask in bits.items():
                found[pa] = found.get(pa, 0) | mask
    return found


def stored_words(found: Walk, step: AccessStep) -> dict[int, tuple[int, int]]:
    """Give what a write stores: address of a word → which bits, and their values."""
    if not step.access.is_write or found.outcome is not Outcome.MAPPED:
        return {}
    assert found.pa is not None
    words: dict[int, tuple[int, int]] = {}
    boundary = 0x1000 - (found.va & 0xFFF)
    for place in range(step.access.size):
        if place < boundary:
            pa = found.pa + place
        else:
            assert found.second is not None
            assert found.second.pa is not None
            pa = found.second.pa + place - boundary
        shift = 8 * (pa & 7)
        mask, value = words.get(pa & ~7, (0, 0))
        byte = step.value >> 8 * place & 0xFF
        words[pa & ~7] = mask | 0xFF << shift, value & ~(0xFF << shift) | byte << shift
    return words


def where(answer: Walk | Observation) -> str:
    if answer.outcome is Outcome.PAGE_FAULT:
        return f" {answer.error_code:#x}"
    return "" if answer.pa is None else f" at {format_address(answer.pa)}"
