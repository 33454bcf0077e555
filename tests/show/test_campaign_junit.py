"""A campaign's report as JUnit XML: read back by the library that CI tools are like."""

from __future__ import annotations

import dataclasses
import io
from typing import Any
from xml.etree import ElementTree

import junitparser
import pytest

from harness.show.campaign import CampaignReport
from harness.show.campaign_junit import junit_xml


def read(report: CampaignReport) -> Any:
    root = junitparser.JUnitXml.fromfile(io.BytesIO(junit_xml(report)))
    (suite,) = list(root)
    return suite


def cases(report: CampaignReport) -> dict[str, Any]:
    return {case.name: case for case in read(report)}


def kinds(case: Any) -> list[str]:
    return [type(result).__name__ for result in case.result]


def test_a_rule_and_level_is_a_test(report: CampaignReport) -> None:
    found = cases(report)

    assert found["WP at level 1"].system_out == "write, kernel4: 12,345,678"
    assert found["CANONICAL"].is_passed
    assert kinds(found["SMEP at level 2"]) == ["Skipped"]
    assert found["WP at level 1"].classname == "harness.matrix.classic"


def test_a_finding_fails_its_rule_and_level(report: CampaignReport) -> None:
    case = cases(report)["NX at level 2"]

    assert kinds(case) == ["Failure"]
    (failure,) = case.result
    assert failure.message.startswith("the CPU acts as if XD in the PDE were 0")
    for part in (
        "A fetch needs XD = 0",
        "the walker says:",
        "the engine did: mapped to 0x20_0008",
        "again with: harness probe .harness/reproducers/nx-2-3f9a.jsonl",
        '{"cpu": {"cr3": "0x1000"',
    ):
        assert part in failure.text, part


def test_a_death_is_an_error(report: CampaignReport) -> None:
    assert kinds(cases(report)["MODE"]) == ["Error"]
    death = dataclasses.replace(report.findings[1], rule="")
    assert kinds(cases(dataclasses.replace(report, findings=(death,)))["the engine"]) == ["Error"]


def test_the_counts_are_those_of_the_cases(report: CampaignReport) -> None:
    suite = read(report)
    results = [kind for case in suite for kind in kinds(case)]

    assert suite.tests == len(list(suite))
    # The finding and the planted bug that was not found.
    assert suite.failures == results.count("Failure") == 2
    assert suite.errors == results.count("Error") == 1
    assert suite.skipped == results.count("Skipped")
    assert suite.time == 75.25
    root = ElementTree.fromstring(junit_xml(report))
    assert root.tag == "testsuites"
    assert root.attrib["tests"] == str(suite.tests)
    assert root.attrib["failures"] == "2"


def test_names_are_unique(report: CampaignReport) -> None:
    names = [case.name for case in read(report)]
    assert len(names) == len(set(names))


def test_what_cannot_be_asked_and_what_no_longer_occurs_is_skipped(report: CampaignReport) -> None:
    found = cases(report)

    assert kinds(found["unsupported: this engine has no PKS"]) == ["Skipped"]
    assert kinds(found["registered: gp-for-ss"]) == ["Skipped"]
    assert kinds(found["registered: a-in-faulting-1g-page"]) == []


def test_no_failure_where_the_campaign_is_good(clean: CampaignReport) -> None:
    suite = read(clean)
    assert (suite.failures, suite.errors) == (0, 0)


def test_an_interrupted_campaign_is_an_error(clean: CampaignReport) -> None:
    suite = read(dataclasses.replace(clean, complete=False, interrupted=True))
    assert suite.errors == 1


@pytest.mark.parametrize("text", ["\x00", "\x1b", "\ufffe", "\ud800", "]]>", "<&\"'>"])
def test_any_string_makes_valid_xml(clean: CampaignReport, text: str) -> None:
    data = junit_xml(dataclasses.replace(clean, name=text, facts=((text, text),)))
    ElementTree.fromstring(data)


def test_nothing_breaks_out(nasty: CampaignReport) -> None:
    suite = read(nasty)
    assert suite.failures + suite.errors >= 2
    assert "<script>alert(1)</script>" in suite.name
