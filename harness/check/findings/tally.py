"""Tallies: everything that a campaign counts, in a form that adds up.

Each shard of a campaign gives a :class:`Tally`; their sum is the campaign's. Addition is
commutative and associative, and the JSON form loses nothing, so that shards may end in any order,
on any machine, before or after a restart::

    >>> one = Tally(cases=2)
    >>> one.judgements["agree"] += 2
    >>> (one + Tally.from_json(one.to_json())).judgements["agree"]
    4

A :class:`Cell` of ``coverage`` is the rule that decided (or was exercised), the level of the entry
that decided, the kind of access, and the CPU's mode.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from harness.check.findings.codec import finding_from_json, finding_to_json
from harness.check.findings.finding import Finding
from harness.errors import InputError
from harness.jsontext import shown

__all__ = ["Cell", "Tally"]


class Cell(NamedTuple):
    """Where a case counts.

    :ivar rule: a rule's name.
    :ivar level: 1 to 5, or None when no entry decided.
    :ivar kind: ``read``, ``write``, ``fetch``, ``implicit``, ``string``, ``rmw``, ...
    :ivar mode: ``user`` or ``kernel``, and the number of levels: ``user4``.
    """

    rule: str
    level: int | None
    kind: str
    mode: str

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Return the cell of a name, as it stands in a file.

        :raises InputError: for what is no cell's name.
        """
        parts = name.split("/")
        if len(parts) != 4 or parts[1] not in ("-", "1", "2", "3", "4", "5"):
            raise InputError(f"a cell of coverage must be RULE/level/kind/mode, not {shown(name)}")
        rule, level, kind, mode = parts
        return cls(rule, None if level == "-" else int(level), kind, mode)

    @property
    def name(self) -> str:
        """Name it for files and people: ``NX/1/fetch/user4``."""
        level = "-" if self.level is None else self.level
        return f"{self.rule}/{level}/{self.kind}/{self.mode}"

    def sentence(self) -> str:
        """Say it in words."""
        level = "no entry" if self.level is None else f"level {self.level}"
        return f"{self.rule}, {level}, {self.kind}, {self.mode}"


@dataclass(slots=True)
class Tally:
    """What was counted.

    :ivar cases: how many were asked.
    :ivar judgements: by :class:`~harness.check.judge.compare.Judgement`, and ``broke``.
    :ivar outcomes: what was predicted: ``mapped``, ``page-fault 0x5``, ``general-protection``, ...
    :ivar coverage: how often each cell was met.
    :ivar known: how often each registered divergence was met, by its name.
    :ivar open: how often each open point was met, by its name.
    :ivar unsupported: the engine's reasons, and how often each.
    :ivar scenarios: what became of each named scenario; they are no cases.
    :ivar steering: what the work needs to know to plan its next round, if it steers.
    :ivar findings: one for each cause, by its key.
    """

    cases: int = 0
    judgements: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    coverage: Counter[Cell] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    scenarios: dict[str, str] = field(default_factory=dict)
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
        self.coverage.update(other.coverage)
        self.scenarios.update(other.scenarios)
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
            "coverage": dict(sorted((cell.name, count) for cell, count in self.coverage.items())),
            "scenarios": dict(sorted(self.scenarios.items())),
            "findings": [finding_to_json(self.findings[key]) for key in sorted(self.findings)],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the tally that :meth:`to_json` described."""
        result = cls(data["cases"])
        for name in _COUNTERS:
            setattr(result, name, Counter(data[name]))
        cells = data["coverage"].items()
        result.coverage = Counter({Cell.from_name(name): count for name, count in cells})
        result.scenarios = dict(data["scenarios"])
        for finding in data["findings"]:
            result.add(finding_from_json(finding))
        return result


_COUNTERS = ("judgements", "outcomes", "known", "open", "unsupported", "steering")
