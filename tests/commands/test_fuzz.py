"""``harness fuzz``: what it refuses, a small real campaign, and the table of planted bugs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli import cli
from harness.planted import table
from harness.planted.row import Row


def harness(folder: Path, *arguments: object) -> Result:
    kept = ("--database", folder / "findings", "--reproducers", folder / "reproducers")
    return CliRunner().invoke(cli, ["fuzz", *(str(each) for each in (*arguments, *kept))])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", -1], "the seed must be 0 or more, not -1"),
        (["--cases", 0], "1 case or more must be asked, not 0"),
        (
            ["--minutes", 0],
            "a campaign must take more than 0 minutes, and at most 100,000, not 0.0",
        ),
        (
            ["--minutes", "nan"],
            "a campaign must take more than 0 minutes, and at most 100,000, not nan",
        ),
        (
            ["--engine", "abacus"],
            "the engine must be one of unicorn, or package.module:attribute, not 'abacus'",
        ),
        (["--junit", "/"], "--junit must name a file, and / is a directory"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[object], sentence: str) -> None:
    result = harness(tmp_path, *arguments)

    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert result.stderr == f"Error: {sentence}\n"


def test_a_stored_finding_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "x.json").write_text("{")
    result = harness(tmp_path, "--cases", 10)

    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path / 'findings' / 'x.json'}: ")


def counts(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a campaign counted, without what depends on the machine."""
    names = ("cases", "agree", "known", "diverge", "unsupported", "broke", "outcomes", "coverage")
    return {name: report[name] for name in names}


def test_a_small_campaign_is_the_same_however_it_is_run(tmp_path: Path) -> None:
    reports = []
    for workers in (1, 2):
        result = harness(tmp_path, "--seed", 3, "--cases", 500, "--workers", workers, "--json")
        assert result.exit_code == 0, (result.output, result.exception)
        reports.append(json.loads(result.stdout))

    one, two = reports
    assert one["cases"] == 500
    assert one["agree"] > 400
    assert one["diverge"] == one["broke"] == 0
    assert counts(one) == counts(two)
    assert one["command"] == "harness fuzz --seed 3 --cases 500"
    assert one["coverage"]["met"] > 100


def test_people_are_told(tmp_path: Path) -> None:
    result = harness(tmp_path, "--cases", 200)

    assert result.exit_code == 0, (result.output, result.exception)
    for part in ("fuzz 1 on unicorn 2.1.4", "200 cases in", "coverage:", "agree"):
        assert part in result.stdout, part


ROWS = (
    Row(flaw="WP_1", rule="WP", level=1, sentence="s", found=True, campaign="matrix classic",
        cases=12, causes=1, shrunk_entries=4, walk_entries=4, named_rule="WP", named_level=1,
        right=True),
    Row(flaw="MODE", rule="MODE", level=None, sentence="s", note="it cannot be built"),
)  # fmt: skip
MISSED = Row(flaw="NX_4", rule="NX", level=4, sentence="s", campaign="fuzz")


@pytest.mark.parametrize(("rows", "code"), [(ROWS, 0), ((*ROWS, MISSED), 1)])
def test_planted_bugs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: tuple[Row, ...], code: int
) -> None:
    def run_table(**_: object) -> list[Row]:
        return list(rows)

    monkeypatch.setattr(table, "run_table", run_table)
    page = tmp_path / "r.html"
    result = harness(tmp_path, "--cases", 20, "--planted", "--html", page)

    assert result.exit_code == code, (result.output, result.exception)
    words = f"1 of {1 + code} planted bugs found, named and made small"
    assert words in result.stdout
    assert words in page.read_text()
    told = json.loads(harness(tmp_path, "--cases", 20, "--planted", "--json").stdout)["planted"]
    assert told[0]["named"] == "WP, level 1"
    assert [row["flaw"] for row in told[: len(rows)]] == [row.flaw for row in rows]
    # What cannot be planted is told with the reason, and is nobody's fault.
    assert len(told) == len(rows) + len(table.not_here())
    assert all(row["note"] for row in told[len(rows) :])
