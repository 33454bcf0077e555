"""A campaign's report on the terminal: what it says, how wide, and that nothing breaks out."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from harness.show.campaign import CampaignReport
from harness.show.campaign_text import coverage_rows, print_campaign
from harness.show.coverage import Coverage


def printed(report: CampaignReport, width: int = 100) -> str:
    file = io.StringIO()
    print_campaign(Console(file=file, width=width, highlight=False), report)
    return file.getvalue()


def test_it_says_everything(report: CampaignReport) -> None:
    text = printed(report)

    for part in (
        "matrix classic on unicorn 2.1.4",
        "383,386 cases in 1 min 15 s: 3,766 a second with 2 workers",
        "100,000 of them from the journal",
        "workers that died or hung: 1",
        "page-fault 0x15",
        "P U I: a user fetch",
        "coverage: 108 of 112 cells",
        "rules that no case met: SMEP, SMAP",
        "a-in-faulting-1g-page (A_ON_FAULT): 1,000 cases",
        "gp-for-ss no longer occurs",
        "✗ 1. NX at level 2 (PDE)  1,234,567 cases, the first is case 42",
        "NX: A fetch needs XD = 0 at every level (4.6.1).",
        "✗ PDE    3 = 0o003",
        "walker says  page fault: error code 0x15",
        "engine did   mapped to 0x20_0008",
        "as if        XD were 0 in the PDE",
        "again with   harness probe .harness/reproducers/nx-2-3f9a.jsonl",
        "✗ 2. the engine broke",
        "  not met: gp-for-ss",
        "✓ scenarios that agree: 1 of 2",
        "· scenario smep after a write (5 levels): known",
        "a former finding, now fixed",
        "1 of 2 planted bugs found, named and made small",
        "         85 this engine has no PKS",
        "✗ 2 findings, 1 of 2 planted bugs found, named and made small in 1 min 15 s",
    ):
        assert part in text, part


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits(report: CampaignReport, width: int) -> None:
    # Commands are never broken, nor are the rows of a walk.
    lines = [
        line
        for line in printed(report, width).splitlines()
        if "again with" not in line and "written " not in line and "0o" not in line
    ]
    assert [line for line in lines if len(line.rstrip()) > width] == []


def test_kinds_that_look_the_same_share_a_row(report: CampaignReport) -> None:
    rows = coverage_rows(report.coverage)

    assert ("PRESENT", ("read", "write", "fetch"), (" 1234", "-1234"), 1)[:2] == rows[1][:2]
    assert rows[1][2] == ("1234", " 1234", "12345", "12345")
    (row,) = [row for row in rows if row[0] == "RSVD_NX" and "write" in row[1]]
    assert row[2] == ("12 4", " 12·4", "12 45", "12 45")


def test_a_rule_that_no_case_met_has_no_row(report: CampaignReport) -> None:
    assert {"SMEP", "SMAP"}.isdisjoint(row[0] for row in coverage_rows(report.coverage))


def test_an_interrupted_campaign_does_not_look_finished(clean: CampaignReport) -> None:
    part = dataclasses.replace(clean, cases=10, judgements={"agree": 10}, complete=False)
    text = printed(part)

    assert "10 of 1,000 cases" in text
    assert "… all 10 agree, not all of it asked" in text
    assert "✓" not in text


def test_nothing_breaks_out(nasty: CampaignReport) -> None:
    text = printed(nasty)

    assert not set("\x00\x1b\x07\ud800\uffff\u202e") & set(text)
    assert "[bold red]markup[/]" in " ".join(text.split())


def test_an_empty_campaign_can_be_told() -> None:
    unmet = Coverage({}, frozenset({"NX/1/fetch/user4"}))
    text = printed(CampaignReport(name="x", engine="y", coverage=unmet))
    assert "0 cases" in text
    assert "coverage" not in text
