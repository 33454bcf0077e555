"""A campaign's report as one HTML page that needs nothing else.

The page holds its own style and pictures; it loads nothing, runs no script, follows the reader's
light or dark, and can be read on a phone and on paper. Every string in it is escaped. The template
lies beside this file::

    Path("report.html").write_text(campaign_html(report), encoding="utf-8")
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from harness.show.campaign import (
    JUDGEMENTS,
    CampaignReport,
    duration,
    percent,
    printable,
    short_count,
)
from harness.show.coverage import Cell, Coverage

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["campaign_html"]

_SHADES: Final = 8


class Square(NamedTuple):
    """One cell of the heat map.

    :ivar kind: ``none`` (cannot be met), ``missing`` or ``met``.
    :ivar shade: 1 to 8, by the logarithm of the count.
    :ivar text: what stands in it.
    :ivar title: what it says when one points at it.
    """

    kind: str
    shade: int
    text: str
    title: str


class HeatRow(NamedTuple):
    """One row of the heat map: a rule at a level.

    :ivar first: how many rows this rule has, in its first row; 0 in the others.
    """

    rule: str
    first: int
    level: str
    squares: tuple[Square, ...]


class HeatMap(NamedTuple):
    """Coverage as squares.

    :ivar modes: each with its kinds of access.
    """

    modes: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[HeatRow, ...]


class Piece(NamedTuple):
    """One piece of the bar that shares all cases out."""

    word: str
    x: float
    width: float
    title: str


def campaign_html(report: CampaignReport) -> str:
    """Return the page.

    :param report: the campaign.
    """
    return _template().render(
        report=report,
        heat=heat_map(report.coverage),
        bar=share_bar(report),
        judgements=[(word, report.judged(word)) for word in JUDGEMENTS],
        most=max((row.cases for row in report.outcomes), default=1),
        shades=range(1, _SHADES + 1),
    )


def heat_map(coverage: Coverage) -> HeatMap:
    """Return coverage as rows of squares; without rules that no case met.

    Kinds of access that a mode never has are left out.
    """
    columns = tuple(
        (mode, kinds)
        for mode in coverage.modes
        if (
            kinds := tuple(
                kind
                for kind in coverage.kinds
                if any((cell.kind, cell.mode) == (kind, mode) for cell in coverage.cells)
            )
        )
    )
    top = max(coverage.cells.values(), default=0)
    rows = []
    unmet = coverage.unmet
    for rule in coverage.rules:
        if rule in unmet:
            continue
        levels = coverage.levels(rule)
        for at, level in enumerate(levels):
            squares = tuple(
                _square(coverage, Cell(rule, level, kind, mode), top)
                for mode, kinds in columns
                for kind in kinds
            )
            rows.append(HeatRow(rule, 0 if at else len(levels), level, squares))
    return HeatMap(columns, tuple(rows))


def _square(coverage: Coverage, cell: Cell, top: int) -> Square:
    count = coverage.cells.get(cell)
    if count is None:
        return Square("none", 0, "", f"{cell.sentence()}: cannot be met")
    if not count:
        return Square("missing", 0, "0", f"{cell.sentence()}: never met")
    shade = 1 + round((_SHADES - 1) * math.log(count) / math.log(top)) if top > 1 else _SHADES
    plural = "" if count == 1 else "s"
    return Square("met", shade, short_count(count), f"{cell.sentence()}: {count:,} case{plural}")


def share_bar(report: CampaignReport) -> tuple[Piece, ...]:
    """Return the pieces of a bar that is 1000 wide; none of them is too thin to be seen."""
    counts = [(word, report.judged(word)) for word in JUDGEMENTS if report.judged(word)]
    whole = sum(count for _, count in counts)
    widths = [max(8.0, 1000 * count / whole) for _, count in counts]
    scale = 1000 / sum(widths) if widths else 1
    pieces, x = [], 0.0
    for (word, count), width in zip(counts, widths, strict=True):
        title = f"{word}: {count:,} cases, {percent(count, whole)}"
        pieces.append(Piece(word, round(x, 2), round(width * scale, 2), title))
        x += width * scale
    return tuple(pieces)


@cache
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_fit,
    )
    environment.filters.update(
        comma=lambda number: f"{number:,}", duration=duration, percent=percent
    )
    text = files("harness.show").joinpath("campaign.html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _fit(value: Any) -> Any:
    return printable(value) if type(value) is str else value
