"""The model behind a campaign's reports: order, counts, words."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness.show.campaign import (
    CampaignReport,
    Registered,
    duration,
    outcome_rows,
    percent,
    printable,
    short_count,
)
from harness.show.coverage import Coverage


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert printable("a\x1b[31m\x00\rb") == r"a\x1b[31m\x00\rb"
    assert printable("\ud800 \u202e \uffff") == r"\ud800 \u202e \uffff"
    assert printable("é ‘quoted’ ✓\n\t🙂") == "é ‘quoted’ ✓\n\t🙂"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1.0k"), (1999, "1.9k"), (9_999, "9.9k"), (10_000, "10k"),
        (999_999, "999k"), (1_000_000, "1.0M"), (38_338_560, "38M"), (2 * 10**9, "2.0G"),
    ],
)  # fmt: skip
def test_short_counts_never_round_up(count: int, text: str) -> None:
    assert short_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"),
        (8000, "2 h 13 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 5, ""), (5, 0, ""), (5, 5, "100.00 %"), (1, 3, "33.33 %"),
        (1, 10**6, "<0.01 %"), (10**6 - 1, 10**6, ">99.99 %"),
    ],
)  # fmt: skip
def test_shares_are_all_or_nothing_only_when_they_are(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_outcomes_are_decoded_and_ordered_by_code() -> None:
    rows = outcome_rows(
        {"page-fault 0x15": 1, "page-fault 0x5": 2, "mapped": 3, "page-fault 0x0": 4}
    )

    assert [(row.name, row.cases) for row in rows] == [
        ("mapped", 3), ("page-fault 0x0", 4), ("page-fault 0x5", 2), ("page-fault 0x15", 1),
    ]  # fmt: skip
    assert rows[1].meaning == "a supervisor read: an entry is not present"
    assert rows[2].meaning.startswith("P U: a user read: ")
    assert rows[0].meaning == ""


def test_coverage_orders_rules_as_the_specification_does() -> None:
    coverage = Coverage(
        {"ZZZ/1/odd/user4": 1, "NX/-/fetch/user4": 1, "PRESENT/2/write/user5": 1,
         "NX/1/read/kernel4": 1}
    )  # fmt: skip

    assert coverage.rules == ("PRESENT", "NX", "ZZZ")
    assert coverage.kinds == ("read", "write", "fetch", "odd")
    assert coverage.modes == ("kernel4", "user4", "user5")
    assert coverage.levels() == ("-", "1", "2")
    assert coverage.levels("NX", "user4") == ("-",)


def test_coverage_tells_the_unmet_from_the_impossible() -> None:
    coverage = Coverage(
        {"NX/1/fetch/user4": 7}, frozenset({"NX/2/fetch/user4", "WP/1/write/kernel4"})
    )

    assert coverage.count("NX", "1", "fetch", "user4") == 7
    assert coverage.count("NX", "2", "fetch", "user4") == 0
    assert coverage.count("NX", "3", "fetch", "user4") is None
    assert (coverage.met, coverage.possible) == (1, 3)
    assert coverage.unmet == ("WP",)
    assert Coverage({"NX/1/fetch/user4": 7}).possible is None


def test_a_clean_campaign_is_good(clean: CampaignReport) -> None:
    assert clean.good
    assert clean.verdict == "all 1,000 agree"
    assert clean.rate == 500.0


@pytest.mark.parametrize(
    "changes",
    [
        {"judgements": {"diverge": 1}},
        {"judgements": {"broke": 1}},
        {"replayed": (("old", "diverge"),)},
        {"replayed": (("old", "broke"),)},
        {"scenarios": (("one", "diverge"),)},
    ],
)
def test_what_fails_a_campaign(clean: CampaignReport, changes: dict[str, object]) -> None:
    assert not dataclasses.replace(clean, **changes).good  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"judgements": {"agree": 999, "known": 1}},
        {"judgements": {"unsupported": 1000}},
        {"replayed": (("old", "fixed"), ("older", "known"))},
        {"scenarios": (("one", "known"),)},
        {"registered": (Registered("x", "NX", "why", 0, stale=True),)},
        {"complete": False, "interrupted": True},
    ],
)
def test_what_does_not(clean: CampaignReport, changes: dict[str, object]) -> None:
    assert dataclasses.replace(clean, **changes).good  # type: ignore[arg-type]


def test_a_campaign_that_compared_nothing_does_not_say_that_all_agree(
    clean: CampaignReport,
) -> None:
    nothing = dataclasses.replace(clean, judgements={"unsupported": 1000})
    assert nothing.verdict == "nothing was compared"


def test_the_rate_leaves_out_what_the_journal_had(report: CampaignReport) -> None:
    assert report.rate == pytest.approx((383_386 - 100_000) / 75.25)


def test_json_holds_the_counts(report: CampaignReport) -> None:
    data = json.loads(json.dumps(report.to_json()))

    assert data["cases"] == 383_386
    assert (data["agree"], data["known"], data["diverge"]) == (382_000, 1_000, 300)
    assert (data["unsupported"], data["broke"]) == (85, 1)
    assert data["outcomes"]["page-fault 0x15"] == 300
    assert data["coverage"]["possible"] == data["coverage"]["met"] + len(
        data["coverage"]["missing"]
    )
    assert data["coverage"]["cells"]["WP/1/write/kernel4"] == 12_345_678
    assert [finding["rule"] for finding in data["findings"]] == ["NX", "MODE"]
    assert data["findings"][0]["rule_text"].startswith("A fetch needs XD = 0")
    assert data["registered"][1] == {
        "name": "gp-for-ss", "rule": "CANONICAL", "reason": "TCG does not know the segment.",
        "cases": 0, "stale": True,
    }  # fmt: skip
    assert data["planted"][1]["cases"] is None
    assert data["complete"] is True


def test_json_takes_any_string(nasty: CampaignReport) -> None:
    assert json.loads(json.dumps(nasty.to_json()))["name"] == nasty.name
