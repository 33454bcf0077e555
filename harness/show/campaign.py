"""What a campaign has to tell, ready to be shown: one plain model behind four reports.

A :class:`CampaignReport` holds numbers and sentences, nothing that has to be looked up or asked.
The terminal (:mod:`harness.show.campaign_text`), JUnit XML (:mod:`harness.show.campaign_junit`)
and the HTML page (:mod:`harness.show.campaign_html`) draw the same one, and
:meth:`CampaignReport.to_json` is the object that ``--json`` prints; so the four cannot say
different things.

A cell of coverage is named ``RULE/level/kind/mode``; :class:`Coverage` knows the order of all four,
which cells can be reached at all, and which of these no case met::

    >>> coverage = Coverage({"NX/1/fetch/user4": 7}, frozenset({"D/1/write/user4"}))
    >>> coverage.met, coverage.possible, coverage.missing
    (1, 2, ('D/1/write/user4',))

Every string may hold anything, and is made fit to print by :func:`printable`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from harness.address import entry_name
from harness.cpu import ErrorCode
from harness.describe.walks import WalkRow
from harness.show.coverage import Coverage
from harness.walker import RULE_TEXT

__all__ = [
    "JUDGEMENTS",
    "CampaignReport",
    "FindingReport",
    "OutcomeRow",
    "Planted",
    "Registered",
    "duration",
    "outcome_rows",
    "percent",
    "printable",
    "short_count",
]

JUDGEMENTS: Final = (
    *("agree", "open", "known", "diverge", "unsupported"),
    *("delivered_by_harness", "broke"),
)
"""What can become of a case, in the order in which reports count it."""

_BAD: Final = ("diverge", "broke")
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Return a text without what a terminal would obey or XML may not hold: that is spelled out.

    Line ends and tabs stay.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def duration(seconds: float) -> str:
    """Return a span of time for people: ``12.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def short_count(count: int) -> str:
    """Return a count in at most four characters: ``999``, ``1.2k``, ``38M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        # 999,950 would be a thousand k.
        if count >= size:
            scaled = count / size
            return f"{int(scaled * 10) / 10:.1f}{unit}" if scaled < 10 else f"{int(scaled)}{unit}"
    return str(count)


class OutcomeRow(NamedTuple):
    """How often one outcome was predicted.

    :ivar name: ``mapped``, ``page-fault 0x5``, ...
    :ivar cases: how often.
    :ivar meaning: the error code in words; empty where the name says all.
    """

    name: str
    cases: int
    meaning: str


def outcome_rows(outcomes: Mapping[str, int]) -> tuple[OutcomeRow, ...]:
    """Return a tally's outcomes with their error codes decoded, ordered by name and code."""
    rows = []
    for name, cases in outcomes.items():
        word, _, number = name.partition(" ")
        code = _number(number)
        meaning = ""
        if word == "page-fault" and code is not None:
            error = ErrorCode(code)
            meaning = f"{error}: {error.sentence()}" if error else error.sentence()
        rows.append(((word != "mapped", word, code or 0), OutcomeRow(name, cases, meaning)))
    return tuple(row for _, row in sorted(rows))


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingReport:
    """One cause, told.

    :ivar key: names the cause.
    :ivar judgement: ``diverge``, ``broke`` or ``known``.
    :ivar rule: the rule that the engine breaks.
    :ivar level: at which level, when it is about one.
    :ivar sentence: the difference in words.
    :ivar count: how many cases had it.
    :ivar first: the number of the first.
    :ivar headline: what is asked in the case that shows it.
    :ivar walk: the entries that the walker reads, root first.
    :ivar predicted: what the walker says and why, line by line.
    :ivar observed: what the engine did.
    :ivar notes: what else is known, by its name.
    :ivar known: names of registered divergences.
    :ivar command: the command line that shows it again.
    :ivar files: what was written for it.
    :ivar case: the case or scenario, as JSON text.
    :ivar details: the finding's, as they are.
    """

    key: str
    judgement: str
    rule: str
    level: int | None
    sentence: str
    count: int = 1
    first: int = 0
    headline: str = ""
    walk: tuple[WalkRow, ...] = ()
    predicted: tuple[str, ...] = ()
    observed: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    known: tuple[str, ...] = ()
    command: str = ""
    files: tuple[str, ...] = ()
    case: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rule_text(self) -> str:
        """Say what the rule says; empty for a rule without a text."""
        return RULE_TEXT.get(self.rule, "")

    @property
    def where(self) -> str:
        """Name the rule and the entry: ``NX at level 2 (PDE)``."""
        if self.level is None or not self.rule:
            return self.rule or "no rule"
        name = f" ({entry_name(self.level)})" if 1 <= self.level <= 5 else ""
        return f"{self.rule} at level {self.level}{name}"

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "key": self.key,
            "judgement": self.judgement,
            "rule": self.rule,
            "rule_text": self.rule_text,
            "level": self.level,
            "sentence": self.sentence,
            "count": self.count,
            "first": self.first,
            "predicted": list(self.predicted),
            "observed": self.observed,
            "notes": dict(self.notes),
            "known": list(self.known),
            "command": self.command,
            "files": list(self.files),
            "case": self.case,
            "details": self.details,
        }


class Registered(NamedTuple):
    """One registered divergence of this engine.

    :ivar name: its name in the registry.
    :ivar rule: the rule that it breaks.
    :ivar reason: what the engine does, and why.
    :ivar cases: how often the campaign met it.
    :ivar stale: its own example agrees now: the registration must go.
    """

    name: str
    rule: str
    reason: str
    cases: int
    stale: bool = False


class Planted(NamedTuple):
    """One planted bug, and what a campaign made of it.

    :ivar flaw: its name.
    :ivar rule: which rule it breaks.
    :ivar level: at which level, when it is about one.
    :ivar sentence: what the broken CPU does.
    :ivar campaign: which campaign was to find it; empty for what cannot be planted.
    :ivar cases: how many cases it took; None when it was not found.
    :ivar words: how many words of memory the shrunk case has.
    :ivar bound: how many it may have.
    :ivar named: the rule, and the level, that the finding names.
    :ivar right: found as one cause, named right, and shrunk within the bound.
    :ivar note: what else must be said.
    """

    flaw: str
    rule: str
    level: int | None
    sentence: str
    campaign: str = ""
    cases: int | None = None
    words: int | None = None
    bound: int | None = None
    named: str = ""
    right: bool = False
    note: str = ""

    @property
    def good(self) -> bool:
        """Say whether nothing is wrong with it."""
        return self.right or not self.campaign

    @property
    def mark(self) -> str:
        """Give its mark: right, wrong, or not planted."""
        return "✓" if self.right else "✗" if self.campaign else "–"


@dataclass(frozen=True, kw_only=True)
class CampaignReport:
    """A campaign, told.

    :ivar name: ``matrix classic``.
    :ivar engine: its name and version.
    :ivar facts: what was asked, by name: levels, slice, seed, ...
    :ivar command: the command line that does it again.
    :ivar cases: how many were asked.
    :ivar of_cases: how many there are; None when it is open-ended.
    :ivar resumed_cases: how many of them an earlier run had asked.
    :ivar judgements: by :data:`JUDGEMENTS`.
    :ivar seconds: how long this run took.
    :ivar workers: how many processes.
    :ivar deaths: how often one of them died or hung.
    :ivar complete: every case was asked, every finding made small.
    :ivar interrupted: somebody stopped it.
    :ivar findings: divergences and deaths, the most frequent first.
    :ivar registered: the registered divergences of this engine.
    :ivar open_points: the open points met: name, meaning, and how often.
    :ivar unsupported: the engine's reasons, and how often each.
    :ivar scenarios: named sequences of steps, and what became of each; they are no cases.
    :ivar replayed: findings of former campaigns, asked again first: sentence → what became of it.
    :ivar planted: how planted bugs were found, where that was asked for.
    :ivar notes: sentences for the end: where something was written, how to go on.
    """

    name: str
    engine: str
    facts: tuple[tuple[str, str], ...] = ()
    command: str = ""
    cases: int = 0
    of_cases: int | None = None
    resumed_cases: int = 0
    judgements: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    workers: int = 1
    deaths: int = 0
    complete: bool = True
    interrupted: bool = False
    outcomes: tuple[OutcomeRow, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    findings: tuple[FindingReport, ...] = ()
    registered: tuple[Registered, ...] = ()
    open_points: tuple[tuple[str, str, int], ...] = ()
    unsupported: tuple[tuple[str, int], ...] = ()
    scenarios: tuple[tuple[str, str], ...] = ()
    replayed: tuple[tuple[str, str], ...] = ()
    planted: tuple[Planted, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Return the cases that this run asked each second."""
        return max(0, self.cases - self.resumed_cases) / self.seconds if self.seconds else 0.0

    def judged(self, word: str) -> int:
        """Return how many cases were judged by a word of :data:`JUDGEMENTS`."""
        return self.judgements.get(word, 0)

    @property
    def good(self) -> bool:
        """Say whether nothing differs but what is registered."""
        return not (
            self.findings
            or self.judged("diverge")
            or self.judged("broke")
            or any(now in _BAD for _, now in self.replayed)
            or any(became in _BAD for _, became in self.scenarios)
            or not all(row.good for row in self.planted)
        )

    @property
    def verdict(self) -> str:
        """Say in one line what came of it."""
        ended = "" if self.complete else ", not all of it asked"
        if not self.good:
            return ", ".join(self._wrong()) + ended
        agree, known, other = (self.judged(word) for word in ("agree", "known", "unsupported"))
        left_open, by_us = self.judged("open"), self.judged("delivered_by_harness")
        if not agree + known:
            return f"nothing was compared{ended}"
        parts = [f"{'all ' if agree == self.cases else ''}{agree:,} agree"]
        if left_open:
            parts.append(f"{left_open:,} differ where the manual leaves it open")
        if known:
            parts.append(f"{known:,} differ as registered")
        if by_us:
            parts.append(f"{by_us:,} were delivered by harness")
        if other:
            parts.append(f"{other:,} could not be asked")
        return ", ".join(parts) + ended

    def _wrong(self) -> list[str]:
        """Say what fails the campaign."""
        number = len(self.findings)
        parts = [f"{number} finding{'' if number == 1 else 's'}"]
        scenarios = sum(became in _BAD for _, became in self.scenarios)
        if scenarios:
            parts.append(f"{scenarios} of {len(self.scenarios)} scenarios differ")
        if not all(row.good for row in self.planted):
            parts.append(self.planted_words)
        return parts

    @property
    def planted_words(self) -> str:
        """Say how many of the planted bugs were found."""
        planted = [row for row in self.planted if row.campaign]
        right = sum(row.right for row in planted)
        return f"{right} of {len(planted)} planted bugs found, named and made small"

    @property
    def stale(self) -> tuple[Registered, ...]:
        """Return the registrations that no longer occur."""
        return tuple(row for row in self.registered if row.stale)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {
            "name": self.name,
            "engine": self.engine,
            "asked": dict(self.facts),
            "command": self.command,
            "cases": self.cases,
            "of_cases": self.of_cases,
            "resumed_cases": self.resumed_cases,
            **{word: self.judged(word) for word in JUDGEMENTS},
            "seconds": round(self.seconds, 3),
            "cases_per_second": round(self.rate, 1),
            "workers": self.workers,
            "deaths": self.deaths,
            "complete": self.complete,
            "interrupted": self.interrupted,
            "outcomes": {row.name: row.cases for row in self.outcomes},
            "coverage": self.coverage.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
            "registered": [row._asdict() for row in self.registered],
            "open_points": {name: count for name, _, count in self.open_points},
            "reasons_unsupported": dict(self.unsupported),
            "scenarios": dict(self.scenarios),
            "replayed": [
                {"sentence": sentence, "now": outcome} for sentence, outcome in self.replayed
            ],
            **({"planted": [row._asdict() for row in self.planted]} if self.planted else {}),
            "notes": list(self.notes),
        }


def percent(part: int, whole: int) -> str:
    """Return a share for people; empty for nothing, never 100 % for what is not all."""
    if not whole or not part:
        return ""
    share = 100 * part / whole
    if share < 0.01:
        return "<0.01 %"
    return ">99.99 %" if share > 99.99 and part < whole else f"{share:.2f} %"
