"""The report of a page-table set's check, in plain values that can leave a worker process.

Every probe is counted as exactly one :class:`~harness.check.judge.compare.Judgement`, by question
(:class:`SetTally`); what else is wrong stands beside them (``SetReport.wrong``), and the first
things that are wrong are told one by one (:class:`SetFinding`)::

    report = check_set(path)
    assert report.probes == sum(report.count(judgement) for judgement in Judgement)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.check.findings.codec import finding_to_json
from harness.check.findings.finding import Finding
from harness.check.judge.compare import Judgement

__all__ = ["SetReport", "SetTally"]


@dataclass(slots=True)
class SetTally:
    """The probes of one question, counted: ``probes`` is the sum of the others.

    :ivar question: what was asked, in words.
    """

    question: str
    probes: int = 0
    agree: int = 0
    open: int = 0
    known: int = 0
    diverge: int = 0
    unsupported: int = 0
    delivered_by_harness: int = 0

    def count(self, judgement: Judgement, number: int = 1) -> None:
        """Count probes that were judged alike."""
        self.probes += number
        setattr(self, judgement, getattr(self, judgement) + number)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class SetReport:
    """What a check of a set found.

    :ivar name: the set's.
    :ivar levels: of its tables, 4 or 5.
    :ivar leaves: how many pages it maps.
    :ivar tallies: the counts of each question.
    :ivar findings: the root causes of the divergences.
    :ivar faults: sentences about whatever else is wrong.
    :ivar wrong: what is wrong that no probe shows (the list of leaves, the state afterwards).
    :ivar notes: what a reader of the numbers should know.
    :ivar seconds: of wall time.
    """

    name: str
    levels: int
    leaves: int
    tallies: list[SetTally] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def _sum(self, name: str) -> int:
        return sum(getattr(tally, name) for tally in self.tallies)

    def count(self, judgement: Judgement) -> int:
        """Give the number of probes that were judged so."""
        return self._sum(judgement)

    @property
    def probes(self) -> int:
        """Give the number of accesses that the CPU was asked to make."""
        return self._sum("probes")

    @property
    def agree(self) -> int:
        """Give the number of those on which all agree."""
        return self._sum("agree")

    @property
    def open(self) -> int:
        """Give the number of those that differ where the manual leaves the choice to the CPU."""
        return self._sum("open")

    @property
    def known(self) -> int:
        """Give the number of those that differ as registered."""
        return self._sum("known")

    @property
    def diverge(self) -> int:
        """Give the number of those that differ otherwise."""
        return self._sum("diverge")

    @property
    def unsupported(self) -> int:
        """Give the number of those that the engine could not make."""
        return self._sum("unsupported")

    @property
    def delivered_by_harness(self) -> int:
        """Give the number of those that this package delivered: none, for they are accesses."""
        return self._sum("delivered_by_harness")

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "what": self.name,
            "kind": "page tables",
            "levels": self.levels,
            "leaves": self.leaves,
            **{word: self._sum(word) for word in ("probes", *map(str, Judgement))},
            "wrong": self.wrong,
            "seconds": round(self.seconds, 3),
            "questions": [tally.to_json() for tally in self.tallies],
            "findings": [finding_to_json(finding) for finding in self.findings],
            "faults": self.faults,
            "notes": self.notes,
        }
