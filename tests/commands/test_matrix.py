"""``harness matrix``: what it refuses, what it shows, and a small real campaign."""

from __future__ import annotations

import json
import re
from pathlib import Path

import junitparser
import pytest
from click.testing import CliRunner, Result

from harness.check.findings.database import Database
from harness.cli import cli


def harness(folder: Path, *arguments: object) -> Result:
    kept = ("--database", folder / "findings", "--reproducers", folder / "reproducers")
    return CliRunner().invoke(cli, ["matrix", *(str(each) for each in (*arguments, *kept))])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["classik"], "the matrix must be one of classic, full, not 'classik'"),
        (["classic", "--levels", 3], "the levels must be 4, 5 or both, not (3,)"),
        (
            ["classic", "--levels", 4, "--levels", 4],
            "the levels must be 4, 5 or both, not (4, 4)",
        ),
        (["classic", "--slice", "2/100"], "a slice must be 1/N, such as 1/100, not '2/100'"),
        (["classic", "--slice", "1/0"], "a slice must be 1/N, such as 1/100, not '1/0'"),
        (["classic", "--slice", "x"], "a slice must be 1/N, such as 1/100, not 'x'"),
        (
            ["classic", "--levels", 4, "--first", 19_169_280],
            "the first case must be 0 to 19,169,279, not 19,169,280",
        ),
        (["classic", "--first", -1], "the first case must be 0 to 38,338,559, not -1"),
        (["classic", "--count", 0], "1 case or more must be asked, not 0"),
        (
            ["classic", "--levels", 5, "--case", 19_169_280],
            "a case's number must be 0 to 19,169,279, not 19,169,280",
        ),
        (
            ["classic", "--engine", "abacus"],
            "the engine must be one of unicorn, or package.module:attribute, not 'abacus'",
        ),
        (
            ["classic", "--engine", "no.such:thing"],
            "the engine no.such:thing must be there to be opened: No module named 'no'",
        ),
        (
            ["classic", "--html", "/dev/null/x.html"],
            "--html must name a file in a directory that is there or can be made, not "
            "/dev/null/x.html: File exists",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[object], sentence: str) -> None:
    result = harness(tmp_path, *arguments)

    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr == f"Error: {sentence}\n"


def test_a_slice_of_the_matrix(tmp_path: Path) -> None:
    junit, page = tmp_path / "r.xml", tmp_path / "r.html"
    result = harness(
        tmp_path, "classic", "--levels", 4, "--slice", "1/20000", "--json",
        "--junit", junit, "--html", page, "--journal", tmp_path / "journal",
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)

    assert report["name"] == "matrix classic"
    assert report["cases"] == report["of_cases"] == 959
    assert report["agree"] + report["known"] == 959
    assert report["complete"] is True
    assert report["findings"] == []
    assert sum(report["outcomes"].values()) == 959
    assert report["coverage"]["cells"]["PRESENT/1/read/user4"] > 0
    assert not any(name.endswith("5") for name in report["coverage"]["missing"])
    assert set(report["scenarios"].values()) <= {"agree", "known"}
    assert report["command"] == (
        f"harness matrix classic --levels 4 --slice 1/20000 --journal {tmp_path / 'journal'}"
    )
    (suite,) = junitparser.JUnitXml.fromfile(str(junit))
    assert (suite.failures, suite.errors) == (0, 0)
    assert "all 959 agree" in page.read_text()
    # All of it is in the journal.
    again = harness(
        tmp_path, "classic", "--levels", 4, "--slice", "1/20000", "--json",
        "--journal", tmp_path / "journal",
    )  # fmt: skip
    assert json.loads(again.stdout)["resumed_cases"] == 959
    other = harness(tmp_path, "classic", "--levels", 4, "--journal", tmp_path / "journal")
    assert other.exit_code == 2
    assert "the journal must be of this campaign" in other.stderr


def test_first_and_count(tmp_path: Path) -> None:
    result = harness(tmp_path, "full", "--levels", 5, "--first", 1000, "--count", 50, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    assert report["cases"] == 50
    assert report["asked"] == {"levels": "5", "cases": "1,000 to 1,049"}


def test_a_broken_engine_fails_the_campaign(tmp_path: Path) -> None:
    result = harness(
        tmp_path, "classic", "--levels", 4, "--slice", "1/20000", "--json",
        "--engine", "harness.planted.engines:PRESENT_1",
    )  # fmt: skip
    assert result.exit_code == 1, (result.output, result.exception)
    report = json.loads(result.stdout)

    rules = [finding["rule"] for finding in report["findings"]]
    assert "PRESENT" in rules
    finding = report["findings"][rules.index("PRESENT")]
    assert finding["command"].startswith("harness probe ")
    assert finding["command"].endswith(" --engine harness.planted.engines:PRESENT_1")
    assert report["engine"] == "harness.planted.engines:PRESENT_1 (unicorn 2.1.4)"
    assert any((tmp_path / "reproducers").glob("present*.jsonl"))
    # What an engine of one's own does is kept, and not held against ours next time.
    database = Database(tmp_path / "findings")
    assert len(database) == len(rules)
    assert database.replay("unicorn") == []
    again = database.replay("harness.planted.engines:PRESENT_1")
    assert {finding.judgement for finding in again} == {"diverge"}


def test_what_a_flaw_is_said_to_act_as_if_is_about_the_case_that_is_shown(tmp_path: Path) -> None:
    result = harness(
        tmp_path, "classic", "--levels", 4, "--slice", "1/8000", "--json",
        "--engine", "harness.planted.engines:NX_2",
    )  # fmt: skip
    assert result.exit_code == 1, (result.output, result.exception)
    (finding,) = json.loads(result.stdout)["findings"]

    assert (finding["rule"], finding["level"]) == ("NX", 2)
    words = json.loads(finding["case"])["memory"]
    assert len(words) <= 4
    (address,) = re.findall(r"PDE at 0x([0-9a-f_]+)", finding["notes"]["as if"])
    assert int(address, 16) in {int(at, 16) for at in words}


def test_one_case(tmp_path: Path) -> None:
    result = harness(tmp_path, "classic", "--levels", 4, "--case", 4_000_001)

    assert result.exit_code == 0, (result.output, result.exception)
    first, bits, *rest = result.stdout.splitlines()
    assert first == "case 4,000,001 of matrix classic: agree"
    assert "pte." in bits
    assert any(line.startswith("as a question: {") for line in rest)
    found = json.loads(
        harness(tmp_path, "classic", "--levels", 4, "--case", 4_000_001, "--json").stdout
    )
    assert found["bits"] == bits.split()
    assert found["judgement"] == "agree"


def test_describe(tmp_path: Path) -> None:
    result = harness(tmp_path, "classic", "--describe", "--levels", 4)

    assert result.exit_code == 0, result.exception
    for part in ("19,169,280", "exhaustive", "a fetch is no write", "pte.rw", "cr0.wp"):
        assert part in result.stdout, part
    found = json.loads(harness(tmp_path, "classic", "--describe", "--json").stdout)
    assert found["cases"] == 38_338_560
    assert [space["levels"] for space in found["spaces"]] == [4, 5]
    space = found["spaces"][0]
    assert space["combinations"] == space["cases"] + sum(space["pruned"].values())
    assert space["bits"]["pte.rw"] == "PTE: writes are allowed (R/W)"
