"""Findings have all that is told of a difference, and merge by what caused it."""

from __future__ import annotations

from typing import Any

from harness.check.bench import Bench, shrink_finding
from harness.check.case import Case
from harness.check.cause import finding_of
from harness.check.findings.finding import Finding
from harness.check.model.words import words_of
from harness.check.registered.access import KNOWN
from harness.outcome import Access
from harness.walker import RULE_TEXT, walk

Asked = Any
Planted = Any
"""Of conftest.py: test modules do not import one another."""

NX = "    if fetch and not granted & _NO_EXECUTE:"


def test_a_known_divergence_is_a_finding_of_its_name() -> None:
    known = KNOWN[0]
    with Bench(known.case.ram) as bench:
        _, _, verdict = bench.ask(known.case)
        assert verdict.difference is not None
        finding = finding_of(verdict.difference, verdict, bench.engine, 7)

    assert finding.key == f"known:{known.name}"
    assert (finding.judgement, finding.rule, finding.first) == ("known", known.rule, 7)
    assert finding.known == (known.name,)
    assert finding.details["sources"] == [known.source]


def test_a_finding_has_all_that_is_told(planted: Planted) -> None:
    answer = planted.flawed((NX, "    if False:"))
    found = planted.findings(answer)

    for finding in found:
        details = finding.details
        assert finding.case is not None
        case = Case.from_json(finding.case)
        prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
        assert details["predicted"]["rule"] == prediction.rule == "NX"
        assert details["observed"]["outcome"] != "page-fault" or prediction.second
        assert details["rule_text"] == RULE_TEXT[finding.rule]
        levels = [entry["level"] for entry in details["walk"] if entry["page"] == 0]
        assert levels == [step.level for step in prediction.steps]
        assert any(entry["decides"] for entry in details["walk"])
        assert Finding.from_json(finding.to_json()) == finding


def test_a_finding_that_no_longer_differs_is_left_as_it_is(asked: Asked) -> None:
    case = Case(asked.CPU, 0x10000, asked.TABLES, 0x123, Access.of("read"))
    finding = Finding(
        key="A:missing", judgement="diverge", rule="A", sentence="", case=case.to_json()
    )

    assert shrink_finding(finding) == finding
