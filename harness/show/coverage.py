"""Coverage as reports show it: rules × levels × kinds of access × CPU modes.

A cell is named ``RULE/level/kind/mode``; :class:`Coverage` knows the order of all four, which cells
can be reached at all, and which of these no case met::

    >>> coverage = Coverage({"NX/1/fetch/user4": 7}, frozenset({"D/1/write/user4"}))
    >>> coverage.met, coverage.possible, coverage.missing
    (1, 2, ('D/1/write/user4',))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

from harness.walker import RULES

__all__ = ["Cell", "Coverage"]


_KINDS: Final = (
    *("read", "write", "fetch", "implicit"),
    *("sequence", "instruction", "string", "rmw", "delivery"),
)


class Cell(NamedTuple):
    """Where a case counts."""

    rule: str
    level: str
    kind: str
    mode: str

    @classmethod
    def of(cls, name: str) -> Cell:
        """Return the cell of a name; what a name lacks is empty."""
        parts = name.rsplit("/", 3)
        return cls(*parts, *[""] * (4 - len(parts)))

    @property
    def name(self) -> str:
        """Return its name."""
        return "/".join(self)

    def sentence(self) -> str:
        """Say it in words."""
        return f"{self.rule}, {_level_words(self.level)}, {self.kind}, {self.mode}"


def _level_words(level: str) -> str:
    return "no entry" if level in ("-", "") else f"level {level}"


@dataclass(frozen=True)
class Coverage:
    """Rules × levels × kinds of access × CPU modes.

    :ivar hits: how often each cell was met.
    :ivar reachable: the cells that any case can meet; None when nobody knows.
    """

    hits: Mapping[str, int] = field(default_factory=dict)
    reachable: frozenset[str] | None = None

    @cached_property
    def cells(self) -> dict[Cell, int]:
        """Every cell that was met or can be, and how often it was."""
        names = {*(name for name, count in self.hits.items() if count), *(self.reachable or ())}
        return {Cell.of(name): self.hits.get(name, 0) for name in sorted(names)}

    @property
    def met(self) -> int:
        """Count the cells that were met."""
        return sum(count > 0 for count in self.cells.values())

    @property
    def possible(self) -> int | None:
        """Count the cells that can be met; None when nobody knows."""
        return None if self.reachable is None else len(self.cells)

    @property
    def missing(self) -> tuple[str, ...]:
        """Name the cells that can be met and were not."""
        return tuple(cell.name for cell, count in self.cells.items() if not count)

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """Its rules, in the order of the specification."""
        order = {rule: number for number, rule in enumerate(RULES)}
        found = {cell.rule for cell in self.cells}
        return tuple(sorted(found, key=lambda rule: (order.get(rule, len(order)), rule)))

    @property
    def unmet(self) -> tuple[str, ...]:
        """Its rules of which no cell was met."""
        return tuple(rule for rule in self.rules if not self.total(rule))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Its kinds of access."""
        order = {kind: number for number, kind in enumerate(_KINDS)}
        found = {cell.kind for cell in self.cells}
        return tuple(sorted(found, key=lambda kind: (order.get(kind, len(order)), kind)))

    @cached_property
    def modes(self) -> tuple[str, ...]:
        """Its CPU modes: the fewer levels first."""
        return tuple(sorted({cell.mode for cell in self.cells}, key=lambda m: (m[-1:], m)))

    def levels(self, rule: str | None = None, mode: str | None = None) -> tuple[str, ...]:
        """Return the levels of cells, ``-`` first.

        :param rule: of this rule only.
        :param mode: of this mode only.
        """
        return tuple(
            sorted(
                {
                    cell.level
                    for cell in self.cells
                    if rule in (None, cell.rule) and mode in (None, cell.mode)
                }
            )
        )

    def count(self, rule: str, level: str, kind: str, mode: str) -> int | None:
        """Return how often a cell was met; None when it cannot be."""
        return self.cells.get(Cell(rule, level, kind, mode))

    def total(self, rule: str, level: str | None = None) -> int:
        """Return how often the cells of a rule were met.

        :param level: those of this level only.
        """
        return sum(
            count
            for cell, count in self.cells.items()
            if cell.rule == rule and level in (None, cell.level)
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "met": self.met,
            "possible": self.possible,
            "cells": {cell.name: count for cell, count in self.cells.items() if count},
            "missing": list(self.missing),
        }
