"""Root causes: the fewest causes that explain all findings of a campaign.

A user's read that passes where U/S of the PDPTE is clear may come of an engine that ignores U/S
there, or everywhere: its finding has both explanations. All findings together tell which::

    for finding in root_causes(tally.findings.values()):
        print(finding.key, finding.count)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TypeAlias

from harness.check.cause.explanation import CauseKey
from harness.check.findings.finding import Finding

__all__ = ["root_causes"]

_Ranked: TypeAlias = tuple[Finding, dict[CauseKey, int]]


def root_causes(findings: Iterable[Finding]) -> list[Finding]:
    """Return as few findings as explain all of these: call it once, at a campaign's end.

    One question may have several possible causes. Over all questions the fewest causes that explain
    everything are chosen, one after another, each time the one that explains most: a flaw that
    shows at four levels is one finding, and so is one that shows at one.

    :param findings: of :func:`~harness.check.findings.finding.finding_of`; those without
        explanations (``broke``, known) pass unchanged.
    """
    result: list[Finding] = []
    left: list[_Ranked] = []
    for finding in sorted(findings, key=lambda finding: (finding.first, finding.key)):
        if finding.explanations:
            ranks = {one.key: rank for rank, one in enumerate(finding.explanations)}
            left.append((finding, ranks))
        else:
            result.append(finding)
    everything = left
    chosen: list[CauseKey] = []
    while left:
        candidates = sorted({key for _, keys in left for key in keys}, key=str)
        key = min(candidates, key=lambda key: _merit(key, left))
        key = _at_one_level(key, left)
        chosen.append(key)
        left = [(finding, keys) for finding, keys in left if key not in keys]
    # What was chosen early may have become needless: what came later explains it, too.
    for key in reversed(chosen):
        others = [other for other in chosen if other != key]
        if all(any(other in keys for other in others) for _, keys in everything if key in keys):
            chosen = others
    groups: dict[CauseKey, list[Finding]] = {key: [] for key in chosen}
    for finding, keys in everything:
        groups[next(key for key in chosen if key in keys)].append(finding)
    result += [_merged(key, group) for key, group in groups.items()]
    return sorted(result, key=lambda finding: (finding.first, finding.key))


def _merit(key: CauseKey, left: list[_Ranked]) -> tuple[int, int, str]:
    ranks = [keys[key] for _, keys in left if key in keys]
    return -len(ranks), sum(ranks), str(key)


def _at_one_level(key: CauseKey, left: list[_Ranked]) -> CauseKey:
    """Return the cause at the one level that explains all that a cause as a whole explains."""
    if key.level is not None:
        return key
    members = [keys for _, keys in left if key in keys]
    there = {other for keys in members for other in keys}
    levels = {other for other in there if other.level is not None and other.stem == key}
    common = [other for other in levels if all(other in keys for keys in members)]
    return common[0] if len(common) == 1 else key


def _merged(key: CauseKey, group: list[Finding]) -> Finding:
    finding = group[0]
    for other in group[1:]:
        finding = finding.merged(other)
    levels = {
        other.level
        for member in group
        for other in member.explanations
        if other.level is not None and other.rule == key.rule
    }
    one = next(one for one in finding.explanations if one.key == key)
    return dataclasses.replace(
        finding.told_by(one),
        key=str(key),
        levels=(key.level,) if key.level is not None else tuple(sorted(levels, reverse=True)),
    )
