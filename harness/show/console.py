"""The one way in which commands write for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["WIDTH", "columns", "console"]

WIDTH: Final = 100
"""Columns that a file or a pipe has."""


def console() -> Console:
    """Return a console on standard output: as wide as the terminal, or :data:`WIDTH`."""
    from rich.console import Console

    # Rich takes 80 columns for what is no terminal, and cuts numbers off to keep to them.
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def columns(
    out: Console, headings: Sequence[str], rows: Sequence[tuple[str, ...]], styles: Sequence[str]
) -> None:
    """Print rows in columns under headings, whole: nothing is cut off to fit a terminal.

    :param rows: all of the length of ``headings``.
    :param styles: of each row.
    """
    from rich.text import Text

    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    out.print(Text(line(headings), style="dim"), soft_wrap=True)
    for row, style in zip(rows, styles, strict=True):
        out.print(Text(line(row), style=style), soft_wrap=True)
