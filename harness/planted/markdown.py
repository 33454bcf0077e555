"""The table of planted bugs as docs/planted.md has it.

``python -m harness.planted.markdown`` runs all campaigns and writes the table into that page,
between its two marks. :func:`read_rows` reads what is there, so that a test can hold the page to a
fresh run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from harness.planted.row import Row
from harness.planted.table import not_here, run_table

__all__ = ["read_rows", "rows_to_markdown"]

_HEAD = (
    "flaw",
    "rule",
    "level",
    "what the broken CPU does",
    "found by",
    "cases, random",
    "cases, matrix",
    "causes",
    "words left",
    "of",
    "named",
    "right",
)
_START, _END = "<!-- table -->", "<!-- end of table -->"


def rows_to_markdown(rows: Iterable[Row]) -> str:
    """Return a table in Markdown, a line for each row."""
    lines = [_line(_HEAD), _line("---" for _ in _HEAD)]
    for row in rows:
        counts = [row.counts.get(name) for name in row.counts]
        random = counts[0] if counts else None
        matrix = counts[1] if len(counts) > 1 else None
        named = row.named_rule + ("" if row.named_level is None else f" {row.named_level}")
        lines.append(
            _line(
                (
                    row.flaw,
                    row.rule,
                    _text(row.level),
                    row.sentence,
                    row.campaign,
                    _text(random),
                    _text(matrix),
                    str(row.causes),
                    _text(row.shrunk_entries),
                    _text(row.walk_entries),
                    named,
                    "yes" if row.right else f"no: {row.note}",
                )
            )
        )
    return "\n".join(lines) + "\n"


def read_rows(text: str) -> list[tuple[str, ...]]:
    """Return the rows of such a table: the cells of each, without the two lines of its head."""
    lines = [line for line in text.splitlines() if line.count("|") == len(_HEAD) + 1]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(number: int | None) -> str:
    return "" if number is None else f"{number:,}" if number >= 10_000 else str(number)


def main(path: str) -> int:
    """Run everything, and write the table into a page."""
    page = Path(path)
    text = page.read_text(encoding="utf-8")
    rows = run_table(
        workers=2, progress=lambda name, done, total: print(f"{done}/{total} {name}", flush=True)
    )
    before, rest = text.split(_START)
    after = rest.split(_END)[1]
    reasons = "\n".join(
        f"- `{row.rule}`{'' if row.level is None else f' at level {row.level}'}: "
        f"{row.note.removeprefix('cannot be planted here: ')}"
        for row in not_here()
    )
    table = rows_to_markdown(rows)
    page.write_text(
        f"{before}{_START}\n\n{table}\nCannot be planted here:\n\n{reasons}\n\n{_END}{after}",
        encoding="utf-8",
    )
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "docs/planted.md"))
