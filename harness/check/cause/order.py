"""Causes about order: rights that are judged before the entries below are looked at.

A CPU walks to the end and judges then; one that judges at each level reports a right where an entry
further down is not present, or has a reserved bit set. Nothing here fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.check.cause.explanation import Explanation
from harness.cpu import CR4
from harness.entry import PageTableFlags
from harness.outcome import Observation, Outcome
from harness.walker import Walk
from harness.walker.scalar import denial, error_code

__all__ = ["of_order"]

_RW = int(PageTableFlags.WRITABLE)
_US = int(PageTableFlags.USER_ACCESSIBLE)
_XD = int(PageTableFlags.NO_EXECUTE)
_RIGHTS: Final = ("USER_US", "USER_RW", "NX", "WP")


def of_order(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain a right that is reported where something below it should have been."""
    page = walk.second if walk.second is not None and not walk.completed else walk
    if seen.outcome is not Outcome.PAGE_FAULT or seen.cr2 != page.va:
        return
    if page.rule not in ("PRESENT", "ORDER") and not page.rule.startswith("RSVD_"):
        return
    granted = _RW | _US | _XD | 1
    steps = page.steps
    whole = None
    # What a user's page must not be asked for is known at the leaf alone.
    cpu = walk.cpu.replace(cr4=walk.cpu.cr4 & ~int(CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.PKS))
    for step in steps if page.rule != "PRESENT" else steps[:-1]:
        granted &= step.raw ^ _XD
        rule = denial(cpu, walk.access, granted, 0)
        if rule in _RIGHTS and seen.error_code == error_code(walk.cpu, walk.access, rule):
            words = (
                f"the CPU acted as if rights were judged at level {step.level} ({rule}), before "
                f"the entry of level {page.level} was looked at"
            )
            if step is steps[-1] and page.rule != "ORDER":
                words = "the CPU acted as if rights were judged before reserved bits"
            whole = whole or words
            yield Explanation.of("ORDER", "rights-first", step.level, words)
    if whole is not None:
        yield Explanation.of("ORDER", "rights-first", None, whole)
