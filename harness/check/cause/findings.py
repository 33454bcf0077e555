"""Findings of differences: what was asked, predicted and observed, and why they differ.

:func:`finding_of` makes the finding of one difference, and :func:`told_as` tells it on a smaller
case::

    finding = finding_of(difference, verdict, engine)
    print(finding.key, finding.details["as_if"])

Nothing here fails.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.check.case import observation_to_json, prediction_to_json
from harness.check.cause.search import cause_of
from harness.check.findings.finding import Finding
from harness.check.judge.compare import Difference
from harness.check.model.words import words_of
from harness.check.registered.access import EngineIdentity, Verdict
from harness.describe.walks import headline, index_of, walk_rows
from harness.walker import RULE_TEXT, Walk

__all__ = ["finding_of", "told_as"]


def finding_of(
    difference: Difference, verdict: Verdict, engine: EngineIdentity, first: int = 0
) -> Finding:
    """Return the finding of one difference; findings of one cause merge by their key.

    :param difference: with its case (``Bench.ask`` and ``judge`` put it in).
    :param verdict: of the same observation: ``diverge`` or ``known``.
    :param engine: who observed.
    :param first: the number of the case, in the campaign's own order.
    """
    case = difference.case
    assert case is not None
    walk, seen = difference.walk, difference.observation
    details: dict[str, Any] = {
        "engine": {"name": engine.name, "version": engine.version},
        "asked": headline(walk),
        "fields": [str(name) for name in difference.fields],
        "predicted": prediction_to_json(walk),
        "observed": observation_to_json(seen),
        "walk": _levels(walk),
    }
    if verdict.known:
        names = [known.name for known in verdict.known]
        rule, level = verdict.known[0].rule, walk.level
        key = f"known:{'+'.join(sorted(names))}"
        details["as_if"] = " ".join(known.reason for known in verdict.known)
        details["sources"] = [known.source for known in verdict.known]
    else:
        names = []
        cause = cause_of(words_of(case), walk, seen, engine)
        rule, level, key = cause.rule, cause.level, cause.key
        details["as_if"] = cause.as_if
        details["explained"] = cause.explained
        details["explanations"] = [dataclasses.asdict(one) for one in cause.explanations]
    details["rule_text"] = RULE_TEXT.get(rule, "")
    if rule != walk.rule:
        details["decided_by"] = {"rule": walk.rule, "text": RULE_TEXT.get(walk.rule, "")}
    return Finding(
        key=key,
        judgement=str(verdict.judgement),
        rule=rule,
        level=level,
        sentence=difference.sentence,
        first=first,
        case=case.to_json(),
        known=tuple(names),
        details=details,
    )


def told_as(small: Finding, finding: Finding) -> Finding:
    """Return a finding as it is told on a smaller case of the same cause.

    :param small: the finding of the smaller case.
    :param finding: whose key, count and first stay.
    """
    key = finding.key
    details = {**small.details}
    if "levels" in finding.details:
        details["levels"] = finding.details["levels"]
    ones = [one for one in details.get("explanations", []) if one["key"] == key.partition("|")[0]]
    rule, level = small.rule, small.level
    if ones:
        rule, level = ones[0]["rule"], ones[0]["level"]
        details["as_if"], details["rule_text"] = ones[0]["as_if"], RULE_TEXT.get(rule, "")
    if "|" not in key and ones:
        details["explanations"] = ones
    elif "explanations" in finding.details:
        details["explanations"] = finding.details["explanations"]
    return dataclasses.replace(
        finding, rule=rule, level=level, sentence=small.sentence, case=small.case, details=details
    )


def _levels(walk: Walk) -> list[dict[str, Any]]:
    """Return the entries that a walk read as JSON values, those of the lower page first."""
    result = []
    for number, page in enumerate((walk, walk.second)):
        if page is None:
            continue
        for step, row in zip(page.steps, walk_rows(page), strict=True):
            result.append(
                {
                    "page": number,
                    "level": step.level,
                    "name": row.name,
                    "index": index_of(step),
                    "address": f"{step.address:#x}",
                    "raw": f"{step.raw:#x}",
                    "leads_to": row.leads_to,
                    "bits": row.bits,
                    "decides": row.decides,
                }
            )
    return result
