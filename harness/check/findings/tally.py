"""Tallies: everything that a campaign counts, in a form that adds up.

Each shard of a campaign gives a :class:`Tally`; their sum is the campaign's. Addition is
commutative and associative, and the JSON form loses nothing, so that shards may end in any order,
on any machine, before or after a restart::

    >>> one = Tally(cases=2)
    >>> one.judgements["agree"] += 2
    >>> (one + Tally.from_json(one.to_json())).judgements["agree"]
    4

A cell of ``coverage`` is ``RULE/level/kind/mode``: the rule that decided (or was exercised), the
level of the entry that decided (``-`` for none), the kind of access, and the CPU's mode
(:func:`cell`). Nothing here fails.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from harness.check.findings.finding import Finding

__all__ = ["Tally", "cell"]


def cell(rule: str, level: int | None, kind: str, mode: str) -> str:
    """Return the name of a cell of coverage.

    :param rule: a rule's name.
    :param level: 1 to 5, or None when no entry decided.
    :param kind: ``read``, ``write``, ``fetch``, ``implicit``, ``string``, ``rmw``, ...
    :param mode: ``user`` or ``kernel``, and the number of levels: ``user4``.
    """
    return f"{rule}/{'-' if level is None else level}/{kind}/{mode}"


@dataclass(slots=True)
class Tally:
    """What was counted.

    :ivar cases: how many were asked.
    :ivar judgements: by ``agree``, ``known``, ``diverge``, ``unsupported`` and ``broke``.
    :ivar outcomes: what was predicted: ``mapped``, ``page-fault 0x5``, ``general-protection``, ...
    :ivar coverage: how often each cell was met.
    :ivar known: how often each registered divergence was met, by its name.
    :ivar unsupported: the engine's reasons, and how often each.
    :ivar scenarios: what became of each named scenario; they are no cases.
    :ivar steering: what the work needs to know to plan its next round, if it steers.
    :ivar findings: one for each cause, by its key.
    """

    cases: int = 0
    judgements: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    scenarios: Counter[str] = field(default_factory=Counter)
    steering: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Take in a finding."""
        old = self.findings.get(finding.key)
        self.findings[finding.key] = finding if old is None else old.merged(finding)

    def __iadd__(self, other: Tally) -> Self:
        self.cases += other.cases
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for finding in other.findings.values():
            self.add(finding)
        return self

    def __add__(self, other: Tally) -> Tally:
        result = Tally()
        result += self
        result += other
        return result

    def to_json(self) -> dict[str, Any]:
        """Return the tally as one JSON object, keys sorted, so that equal tallies look equal."""
        return {
            "cases": self.cases,
            **{name: dict(sorted(getattr(self, name).items())) for name in _COUNTERS},
            "findings": [self.findings[key].to_json() for key in sorted(self.findings)],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the tally that :meth:`to_json` described."""
        result = cls(data["cases"])
        for name in _COUNTERS:
            setattr(result, name, Counter(data[name]))
        for finding in data["findings"]:
            result.add(Finding.from_json(finding))
        return result


_COUNTERS = ("judgements", "outcomes", "coverage", "known", "unsupported", "scenarios", "steering")
