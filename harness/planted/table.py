"""The table of planted bugs: which campaign finds each, after how many cases, under which name."""

from __future__ import annotations

from collections.abc import Iterable

from harness.planted.row import Row

__all__ = ["Row", "run_table"]


def run_table(names: Iterable[str] | None = None, *, workers: int = 1) -> list[Row]:
    """Run campaigns against planted bugs, and return a row for each.

    :param names: which flaws; all of them when it is left out.
    :param workers: how many processes at once.
    """
    raise NotImplementedError
