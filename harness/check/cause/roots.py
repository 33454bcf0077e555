"""Root causes: the fewest causes that explain all findings of a campaign.

A user's read that passes where U/S of the PDPTE is clear may come of an engine that ignores U/S
there, or everywhere: its finding has both explanations. All findings together tell which::

    for finding in root_causes(tally.findings.values()):
        print(finding.key, finding.count)

Nothing here fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from harness.check.findings.finding import Finding
from harness.walker import RULE_TEXT

__all__ = ["root_causes"]


def root_causes(findings: Iterable[Finding]) -> list[Finding]:
    """Return as few findings as explain all of these: call it once, at a campaign's end.

    One case may have several possible causes (``Cause.keys``). Over all cases the fewest causes
    that explain everything are chosen, one after another, each time the one that explains most: a
    flaw that shows at four levels is one finding, and so is one that shows at one.

    :param findings: of :func:`finding_of`; others (``broke``, of scenarios) pass unchanged.
    """
    result: list[Finding] = []
    left: list[tuple[Finding, dict[str, int]]] = []
    for finding in sorted(findings, key=lambda finding: (finding.first, finding.key)):
        explanations = finding.details.get("explanations")
        if explanations:
            left.append((finding, {one["key"]: rank for rank, one in enumerate(explanations)}))
        else:
            result.append(finding)
    everything = left
    chosen: list[str] = []
    while left:
        candidates = sorted({key for _, keys in left for key in keys})
        key = min(candidates, key=lambda key: _merit(key, left))
        key = _at_one_level(key, left)
        chosen.append(key)
        left = [(finding, keys) for finding, keys in left if key not in keys]
    # What was chosen early may have become needless: what came later explains it, too.
    for key in reversed(chosen):
        others = [other for other in chosen if other != key]
        if all(any(other in keys for other in others) for _, keys in everything if key in keys):
            chosen = others
    groups: dict[str, list[Finding]] = {key: [] for key in chosen}
    for finding, keys in everything:
        groups[next(key for key in chosen if key in keys)].append(finding)
    result += [_merged(key, group) for key, group in groups.items()]
    return sorted(result, key=lambda finding: (finding.first, finding.key))


def _merit(key: str, left: list[tuple[Finding, dict[str, int]]]) -> tuple[int, int, str]:
    ranks = [keys[key] for _, keys in left if key in keys]
    return -len(ranks), sum(ranks), key


def _at_one_level(key: str, left: list[tuple[Finding, dict[str, int]]]) -> str:
    """Return the cause at the one level that explains all that a cause as a whole explains."""
    members = [keys for _, keys in left if key in keys]
    levels = {other for keys in members for other in keys if other.rpartition(":L")[0] == key}
    common = [other for other in sorted(levels) if all(other in keys for keys in members)]
    return common[0] if len(common) == 1 else key


def _merged(key: str, group: list[Finding]) -> Finding:
    finding = group[0]
    for other in group[1:]:
        finding = finding.merged(other)
    one = next(one for one in finding.details["explanations"] if one["key"] == key)
    levels = {
        other["level"]
        for member in group
        for other in member.details["explanations"]
        if other["level"] is not None and other["rule"] == one["rule"]
    }
    details = {
        **finding.details,
        "as_if": one["as_if"],
        "rule_text": RULE_TEXT.get(one["rule"], ""),
        "explanations": [one],
        "levels": [one["level"]] if one["level"] is not None else sorted(levels, reverse=True),
    }
    return dataclasses.replace(
        finding, key=key, rule=one["rule"], level=one["level"], details=details
    )
