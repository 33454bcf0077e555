"""A campaign's report as JUnit XML, for CI.

One ``testsuite`` is one campaign. Its test cases are:

* ``the campaign``, with the time that it took: an error when it was stopped before its end;
* one for each rule and level of the table of coverage, named ``NX at level 2``: what counts how
  often its cells were met is in ``system-out``; it is skipped when no case met it;
* a failure in the rule and level that a finding is about, with the explanation and the way to see
  it again as the failure's text; an error when the engine died or hung;
* one for each scenario, and one for each former finding that still differs;
* one for each reason why the engine could not be asked, skipped;
* one for each registered divergence, skipped when it no longer occurs;
* one for each planted bug, a failure when it was not found.

So the numbers of failures and errors are 0 if and only if the command's exit code is 0::

    write(junit_xml(report))
"""

from __future__ import annotations

import io
from typing import Any

from harness.show.campaign import CampaignReport, FindingReport, printable
from harness.show.coverage import Coverage

__all__ = ["junit_xml"]


def junit_xml(report: CampaignReport) -> bytes:
    """Return the XML file, in UTF-8.

    :param report: the campaign.
    """
    import junitparser

    suite = junitparser.TestSuite(printable(report.name))
    for name, value in (("engine", report.engine), *report.facts, ("command", report.command)):
        suite.add_property(printable(name), printable(value))
    cases = _Cases(report.name, junitparser)
    campaign = cases.get("the campaign")
    campaign.time = round(report.seconds, 3)
    campaign.system_out = printable(f"{report.cases:,} cases: {report.verdict}")
    if not report.complete:
        _fail(campaign, junitparser.Error("the campaign must run to its end", "interrupted"), "")
    _add_coverage(cases, report.coverage, junitparser)
    for finding in report.findings:
        _add_finding(cases, finding, junitparser)
    for sentence, now in report.replayed:
        if now != "fixed":
            case = cases.get(f"a former finding: {sentence}")
            _fail(case, junitparser.Failure(printable(f"still: {now}"), "diverge"), sentence)
    for name, became in report.scenarios:
        case = cases.get(f"scenario: {name}")
        if became in ("diverge", "broke"):
            _fail(case, junitparser.Failure(printable(f"the scenario: {became}"), became), name)
        elif became == "unsupported":
            case.append(junitparser.Skipped("the engine cannot play it"))
    for reason, count in report.unsupported:
        case = cases.get(f"unsupported: {reason}")
        case.append(junitparser.Skipped(printable(f"{count:,} cases: {reason}")))
    for row in report.registered:
        case = cases.get(f"registered: {row.name}")
        case.system_out = printable(f"{row.rule}, {row.cases:,} cases: {row.reason}")
        if row.stale:
            case.append(junitparser.Skipped("it no longer occurs: the registration must go"))
    for planted in report.planted:
        case = cases.get(f"planted: {planted.flaw or _name(planted.rule, planted.level)}")
        case.system_out = printable(f"{planted.sentence}\n{planted.note}".rstrip())
        told = f"{planted.cases} cases, named {planted.named}, {planted.words} words"
        if not planted.campaign:
            case.append(junitparser.Skipped(printable(planted.note)))
        elif not planted.right:
            message = "it must be found, named right and made small"
            _fail(case, junitparser.Failure(message, "planted"), f"{planted.sentence}\n{told}")
    suite.add_testcases(cases.made.values())
    root = junitparser.JUnitXml("harness")
    root.add_testsuite(suite)
    root.update_statistics()
    file = io.BytesIO()
    root.write(file)
    return file.getvalue()


class _Cases:
    """Test cases by name, in the order in which they are first named."""

    def __init__(self, campaign: str, junitparser: Any) -> None:
        self.made: dict[str, Any] = {}
        self._class = printable(f"harness.{'.'.join(campaign.split())}")
        self._junitparser = junitparser

    def get(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = self._junitparser.TestCase(printable(name), self._class, 0.0)
        return self.made[name]


def _fail(case: Any, result: Any, text: str) -> None:
    if text:
        result.text = printable(text)
    case.append(result)


def _name(rule: str, level: object) -> str:
    return rule if level in (None, "-", "") else f"{rule} at level {level}"


def _add_coverage(cases: _Cases, coverage: Coverage, junitparser: Any) -> None:
    for rule in coverage.rules:
        for level in coverage.levels(rule):
            case = cases.get(_name(rule, level))
            lines = [
                f"{cell.kind}, {cell.mode}: {f'{count:,}' if count else 'never met'}"
                for cell, count in coverage.cells.items()
                if (cell.rule, cell.level) == (rule, level)
            ]
            case.system_out = printable("\n".join(lines))
            if not coverage.total(rule, level):
                case.append(junitparser.Skipped("no case met it"))


def _add_finding(cases: _Cases, finding: FindingReport, junitparser: Any) -> None:
    # Of a death nobody knows which rule it is about.
    case = cases.get(_name(finding.rule, finding.level) or "the engine")
    if any(isinstance(each, junitparser.Skipped) for each in case.result):
        case.result = []
    broke = finding.judgement == "broke"
    result = (junitparser.Error if broke else junitparser.Failure)(
        printable(finding.sentence), finding.judgement
    )
    _fail(case, result, finding_text(finding))


def finding_text(finding: FindingReport) -> str:
    """Return a finding as plain text, one fact a line."""
    lines = [finding.sentence, f"{finding.count:,} cases, the first is case {finding.first:,}"]
    if finding.rule_text:
        lines.append(f"{finding.rule}: {finding.rule_text}")
    if finding.headline:
        lines += ["", f"asked: {finding.headline}"]
    for row in finding.walk:
        lines.append(f"{'✗' if row.decides else ' '} {'  '.join(row.cells)}")
    if finding.predicted:
        lines += ["the walker says:", *(f"  {line}" for line in finding.predicted)]
    if finding.observed:
        lines.append(f"the engine did: {finding.observed}")
    lines += [f"{name}: {note}" for name, note in finding.notes]
    lines += [f"beside it: the registered divergence {name}" for name in finding.known]
    if finding.command:
        lines += ["", f"again with: {finding.command}"]
    lines += [f"written: {file}" for file in finding.files]
    if finding.case:
        lines.append(f"harness probe with this line: {finding.case}")
    return "\n".join(lines)
