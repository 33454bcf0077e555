"""The report of a page-table set's check, in plain values that can leave a worker process.

Every probe is counted as exactly one of agree, known, diverge and unsupported, by question
(:class:`Tally`); what else is wrong stands beside them (``SetReport.wrong``), and the first things
that are wrong are told one by one (:class:`Finding`)::

    report = check_set(path)
    assert report.probes == report.agree + report.known + report.diverge + report.unsupported
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.check.case import Case
from harness.check.judge.compare import Judgement

__all__ = ["Finding", "SetReport", "Tally"]


@dataclass(slots=True)
class Tally:
    """The probes of one question, counted: ``probes`` is the sum of the other four.

    :ivar question: what was asked, in words.
    """

    question: str
    probes: int = 0
    agree: int = 0
    known: int = 0
    diverge: int = 0
    unsupported: int = 0

    def count(self, judgement: Judgement, number: int = 1) -> None:
        """Count probes that were judged alike."""
        self.probes += number
        setattr(self, judgement, getattr(self, judgement) + number)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    :ivar sentence: what.
    :ivar case: the question that shows it, able to run alone, where it is one.
    """

    sentence: str
    case: Case | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "sentence": self.sentence,
            "case": None if self.case is None else self.case.to_json(),
        }


@dataclass(slots=True)
class SetReport:
    """What a check of a set found.

    :ivar name: the set's.
    :ivar levels: of its tables, 4 or 5.
    :ivar leaves: how many pages it maps.
    :ivar tallies: the counts of each question.
    :ivar findings: the first of the divergences, and whatever else is wrong.
    :ivar wrong: what is wrong that no probe shows (the list of leaves, the state afterwards).
    :ivar notes: what a reader of the numbers should know.
    :ivar seconds: of wall time.
    """

    name: str
    levels: int
    leaves: int
    tallies: list[Tally] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def _sum(self, name: str) -> int:
        return sum(getattr(tally, name) for tally in self.tallies)

    @property
    def probes(self) -> int:
        """Give the number of accesses that the CPU was asked to make."""
        return self._sum("probes")

    @property
    def agree(self) -> int:
        """Give the number of those on which all agree."""
        return self._sum("agree")

    @property
    def known(self) -> int:
        """Give the number of those that differ as registered in known.py."""
        return self._sum("known")

    @property
    def diverge(self) -> int:
        """Give the number of those that differ otherwise."""
        return self._sum("diverge")

    @property
    def unsupported(self) -> int:
        """Give the number of those that the engine could not make."""
        return self._sum("unsupported")

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "what": self.name,
            "kind": "page tables",
            "levels": self.levels,
            "leaves": self.leaves,
            **{word: getattr(self, word) for word in ("probes", *map(str, Judgement))},
            "wrong": self.wrong,
            "seconds": round(self.seconds, 3),
            "questions": [tally.to_json() for tally in self.tallies],
            "findings": [finding.to_json() for finding in self.findings],
            "notes": self.notes,
        }
