"""Campaigns find the planted bugs, and name what they break."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.planted.flaws import FLAWS, NOT_HERE
from harness.planted.markdown import read_rows, rows_to_markdown
from harness.planted.table import CASES, not_here, run_flaw, run_table

DOC = Path(__file__).parents[2] / "docs" / "planted.md"
FEW = ("PRESENT_2", "COMBINE_US_3", "ERR_RSVD_P", "INVLPG")


@pytest.mark.parametrize("name", FEW)
def test_a_few_are_found_and_named(name: str) -> None:
    row = run_flaw(name, cases=4_000, enough=2_000, sample=20_011)
    assert row.right, row


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAWS)
def test_every_one_is_found_and_named(name: str) -> None:
    row = run_flaw(name)
    assert row.right, row
    assert row.cases is not None
    assert row.cases <= CASES
    assert (row.shrunk_entries or 0) <= (row.walk_entries or 0)
    said = next(one for one in read_rows(DOC.read_text("utf-8")) if one[0] == name)
    assert said == read_rows(rows_to_markdown([row]))[0]


def test_the_page_has_every_flaw_and_every_reason() -> None:
    text = DOC.read_text("utf-8")
    rows = read_rows(text)
    assert [row[0] for row in rows] == list(FLAWS)
    for row in rows:
        flaw = FLAWS[row[0]]
        assert (row[1], row[2]) == (flaw.rule, "" if flaw.level is None else str(flaw.level))
        assert row[3] == flaw.sentence
        assert row[-1] == "yes", f"{row[0]} is not named right"
    for reason in not_here():
        assert reason.note.removeprefix("cannot be planted here: ") in text
    assert len(not_here()) == len(NOT_HERE)


def test_a_table_has_a_row_for_each_name_in_order() -> None:
    told: list[tuple[str, int, int]] = []
    rows = run_table(
        ["ERR_RSVD_P", "PRESENT_1"],
        workers=2,
        cases=400,
        enough=400,
        sample=400_009,
        progress=lambda name, done, total: told.append((name, done, total)),
    )
    assert [row.flaw for row in rows] == ["ERR_RSVD_P", "PRESENT_1"]
    assert all(row.found for row in rows)
    assert [done for _, done, _ in told] == [1, 2]
    assert rows[0].to_json()["rule"] == "ERR"
