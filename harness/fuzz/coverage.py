"""Coverage: which rules were put to the test, at which levels, by which accesses, in which modes.

A cell is rule × level × kind of access × CPU mode (:class:`~harness.check.findings.tally.Cell`).
:func:`cells_of` names the cells of one walk: the rule that decided, and every other that had a
part in the prediction (bits that had to be set, a key that had to be heeded, a page reached through
an entry that was used twice). :func:`reachable` lists the cells that a campaign can meet at all,
and :func:`impossible` says of any other why not, so that a table can say "n of m"::

    >>> impossible("RSVD_1G", 2, "read", "user4")
    'only a PDPTE maps a 1 GiB page'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from harness.check.findings.tally import Cell
from harness.outcome import Outcome
from harness.walker import RULES, Walk

__all__ = ["KINDS", "MODES", "Row", "cells_of", "impossible", "rare", "reachable", "table"]

KINDS: Final = ("read", "write", "fetch", "implicit")
"""Kinds of access of plain cases."""

MODES: Final = ("user4", "user5", "kernel4", "kernel5")

_RW, _US, _A, _D, _PS, _PAT_BIG = 0x2, 0x4, 0x20, 0x40, 0x80, 0x1000
_KEY = 15 << 59
_PAGE_FAULT = Outcome.PAGE_FAULT
_BEFORE_A_LEAF: Final = frozenset(
    (
        *("CANONICAL", "CR3", "ORDER", "PRESENT"),
        *("RSVD_ADDR", "RSVD_NX", "RSVD_PS", "RSVD_1G", "RSVD_2M"),
    )
)
"""Rules that end a walk before it comes to a leaf."""

_Met = tuple[str, int | None]
_LEVELS: Final = (None, 1, 2, 3, 4, 5)
_LEAVES: Final = (1, 2, 3)

_cell = lru_cache(maxsize=1 << 14)(Cell)


def cells_of(walk: Walk) -> set[Cell]:
    """Name the cells that a case counts in.

    :param walk: a prediction that an engine is asked to confirm.
    """
    cpu, access, second = walk.cpu, walk.access, walk.second
    met: set[_Met] = {(walk.rule, walk.level)}
    if cpu.cr3 & 0xFFF:
        met.add(("CR3", None))
    if walk.error_code is not None:
        met.add(("ERR", walk.level))
    if second is None:
        _add_page(walk, met, walk.rule not in _BEFORE_A_LEAF, walk.completed, last=True)
    else:
        met.add(("SPLIT", second.level))
        _add_page(walk, met, True, walk.completed, last=False)
        _add_page(second, met, second.rule not in _BEFORE_A_LEAF, walk.completed, last=True)
    mode = ("user" if cpu.user else "kernel") + ("5" if cpu.la57 else "4")
    kind = "implicit" if access.implicit else access.kind.value
    return {_cell(rule, level, kind, mode) for rule, level in met}


def _add_page(page: Walk, met: set[_Met], has_leaf: bool, completed: bool, *, last: bool) -> None:
    """Add what one page of an access put to the test.

    :param has_leaf: the walk came to its leaf.
    :param completed: every page of the access was translated.
    :param last: this is the page that decided.
    """
    steps = page.steps
    seen = set()
    for step in steps:
        if step.address in seen:
            met.add(("SELF", step.level))
        seen.add(step.address)
    if has_leaf:
        level, raw = steps[-1].level, steps[-1].raw
        met.add(("COMBINE", level))
        if raw & (_PS if level == 1 else _PAT_BIG):
            met.add(("PAT", level))
        if raw & _KEY:
            met.add(("KEY", level))
        if completed and page.access.is_write and not raw & _D:
            met.add(("D", level))
    elif page.outcome is _PAGE_FAULT:
        withheld = (_RW if page.access.is_write else 0) | (_US if page.cpu.user else 0)
        # Present so far, and some right was already lost when the walk ended otherwise.
        if any(withheld & ~step.raw for step in steps[:-1]):
            met.add(("ORDER", page.level))
    if last and page.outcome is _PAGE_FAULT:
        steps = steps[:-1]  # A_ON_FAULT: the last entry read stays as it is
    rule = "A" if completed else "A_ON_FAULT"
    for step in steps:
        if not step.raw & _A:
            met.add((rule, step.level))


def impossible(rule: str, level: int | None, kind: str, mode: str) -> str | None:
    """Say why no case of this engine can meet a cell, or None when one can.

    :param rule: a rule's name.
    :param level: 1 to 5, or None.
    :param kind: one of :data:`KINDS`.
    :param mode: one of :data:`MODES`.
    """
    reason = _NEVER.get(rule)
    if reason is not None:
        return reason
    top = int(mode[-1])
    if level is not None and level > top:
        return "with 4 levels there is no level 5"
    levels, why = _where(rule, top, kind)
    if level not in levels:
        return why
    for rules, holds, reason in _ONLY:
        if rule in rules and not holds(kind, mode):
            return reason
    return None


def _where(rule: str, top: int, kind: str) -> tuple[Iterable[int | None], str]:
    """Give the levels at which a rule can decide, and why at no others."""
    every = range(1, top + 1)
    match rule:
        case "CR3" | "CANONICAL":
            return (None,), "it is judged before any entry is read"
        case "ERR":
            return (None, *every), "there is no other level"
        case "SPLIT":
            return (None, *every), "there is no other level"
        case "PRESENT" | "RSVD_ADDR" | "RSVD_NX" | "A":
            return every, "an entry decides it"
        case "RSVD_PS":
            return range(4, top + 1), "with 1 GiB pages bit 7 is reserved at levels 4 and 5 only"
        case "RSVD_1G":
            return (3,), "only a PDPTE maps a 1 GiB page"
        case "RSVD_2M":
            return (2,), "only a PDE maps a 2 MiB page"
        case "ORDER" | "SELF":
            return range(1, top), "it takes an entry above"
        case "A_ON_FAULT":
            if kind == "fetch":
                return range(2, top + 1), "the last entry read is not changed"
            return every, "an entry decides it"
    return _LEAVES, "pages are mapped at levels 1 to 3, and a page decides it"


_NEVER: Final[Mapping[str, str]] = {
    "MODE": "such a state is refused when it is built",
    "PKS": "Unicorn 2.1.4 does not implement PKS",
    **dict.fromkeys(
        ("STALE", "INVLPG", "CR3_LOAD", "BIG"), "it takes a sequence: see the scenarios' kinds"
    ),
}
_ONLY: Final[tuple[tuple[frozenset[str], Callable[[str, str], bool], str], ...]] = tuple(
    (frozenset(rules), holds, reason)
    for rules, holds, reason in (
        (("SPLIT",), lambda kind, _: kind != "fetch", "a fetch is probed byte by byte"),
        (("D", "WP", "USER_RW"), lambda kind, _: kind == "write", "only a write asks about it"),
        (("NX", "SMEP"), lambda kind, _: kind == "fetch", "only a fetch asks about it"),
        (("SMAP", "PKU"), lambda kind, _: kind != "fetch", "only a data access asks about it"),
        (
            ("USER_US", "USER_RW"),
            lambda kind, mode: mode[0] == "u" and kind != "implicit",
            "only a user access asks about it",
        ),
        (
            ("WP", "SMEP", "SMAP"),
            lambda kind, mode: mode[0] == "k" or kind == "implicit",
            "only a supervisor access asks about it",
        ),
    )
)


@lru_cache(maxsize=1)
def reachable() -> frozenset[Cell]:
    """Return the cells that plain cases can meet."""
    return frozenset(
        Cell(rule, level, kind, mode)
        for rule in RULES
        for level in _LEVELS
        for kind in KINDS
        for mode in MODES
        if impossible(rule, level, kind, mode) is None
    )


def rare(coverage: Mapping[Cell, int], *, below: int = 20, most: int = 300) -> list[str]:
    """Name the reachable cells that were met least, the rarest first.

    :param coverage: how often each cell was met.
    :param below: what counts as rare.
    :param most: how many to name.
    """
    found = sorted((coverage.get(cell, 0), cell.name) for cell in reachable())
    return [name for count, name in found[:most] if count < below]


@dataclass(frozen=True, slots=True)
class Row:
    """One rule's coverage.

    :ivar rule: its name.
    :ivar met: how many of its reachable cells were met.
    :ivar reachable: how many there are.
    :ivar cases: how often any of its cells was met.
    :ivar missing: the cells that were not met.
    """

    rule: str
    met: int
    reachable: int
    cases: int
    missing: tuple[Cell, ...]


def table(coverage: Mapping[Cell, int]) -> list[Row]:
    """Sum up coverage by rule, in the order of the rules; the last row is the sum of all.

    :param coverage: how often each cell was met; cells of scenarios are left out.
    """
    rows = []
    cells = sorted(reachable(), key=lambda cell: cell.name)
    for rule in RULES:
        own = [cell for cell in cells if cell.rule == rule]
        missing = tuple(cell for cell in own if not coverage.get(cell))
        count = sum(coverage.get(cell, 0) for cell in own)
        rows.append(Row(rule, len(own) - len(missing), len(own), count, missing))
    rows.append(
        Row(
            "all",
            sum(row.met for row in rows),
            sum(row.reachable for row in rows),
            sum(row.cases for row in rows),
            tuple(cell for row in rows for cell in row.missing),
        )
    )
    return rows
