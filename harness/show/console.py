"""The one way in which commands write for people.

A stream that cannot hold the drawing characters gets ASCII in their place, and what a guest or a
file name says is shown, never obeyed: control characters come out as pictures of themselves.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["WIDTH", "columns", "console", "in_ascii", "make_streams_safe", "plain"]

WIDTH: Final = 100
"""Columns that a file or a pipe has."""

_ASCII: Final = {
    **dict.fromkeys("─━═┄┈╌╍", "-"),
    **dict.fromkeys("│┃║┆┊╎╏", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┣┫┳┻╋╶╴╵╷╸╺", "+"),
    "✓": "v",
    "✗": "x",
    "…": "...",
    "→": "->",
    "←": "<-",
    "◄": "<",
    "►": ">",
    "·": ".",
    "–": "-",
    "—": "-",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "█": "#",
    "▌": "#",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "↓": "v",
    "↑": "^",
    "•": "*",
    "↺": "@",
    "⋮": ":",
    "▲": "^",
    "▼": "v",
    "»": ">",
    "├": "+",
}
_CONTROLS: Final = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys(range(128, 160), "␦"),
    # What turns the direction of the text around.
    **dict.fromkeys((*range(8234, 8239), *range(8294, 8298)), "␦"),
}
_ERRORS: Final = "harness-ascii"


def plain(text: str) -> str:
    """Return a text whose control characters are pictures of themselves: ``\\x1b`` is ``␛``."""
    return text.translate(_CONTROLS)


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Give characters that a stream can hold for one that it cannot (an error handler)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_ASCII.get(char, "?") for char in wrong), error.end


def make_streams_safe() -> None:
    """Let standard output and standard error take every text, whatever their encoding."""
    codecs.register_error(_ERRORS, in_ascii)
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if encoding.startswith("utf") else _ERRORS)


def console(*, file: IO[str] | None = None, width: int | None = None, **options: Any) -> Console:
    """Return a console on standard output: as wide as the terminal, or :data:`WIDTH`.

    :param file: write there.
    :param width: be so wide.
    :param options: of rich's console.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Safe(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text = segment.text
                if segment.control or text.isprintable():
                    yield segment
                else:
                    yield Segment(plain(text), segment.style)

    into = sys.stdout if file is None else file
    if width is None and not into.isatty():
        # Rich takes 80 columns for what is no terminal, and cuts numbers off to keep to them.
        width = WIDTH
    return Safe(file=file, highlight=False, width=width, **options)


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
