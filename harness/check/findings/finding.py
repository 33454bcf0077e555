"""Findings: what a campaign has to tell, each with one cause and one case that shows it.

Thousands of cases may differ for one reason. They are one :class:`Finding`: ``key`` names the
cause, ``count`` says how many cases had it, ``case`` is the one that shows it, in the JSON form
that ``harness probe`` reads. Findings of one key merge by :meth:`Finding.merged`; which exemplar is
kept depends on ``first`` alone, so that the order in which shards end does not matter.

Nothing here fails.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cause.

    :ivar key: names the cause; findings of one key are one finding.
    :ivar judgement: ``diverge``, ``known`` or ``broke`` (the engine died or hung on the case).
    :ivar rule: the rule of rules.md that the engine breaks.
    :ivar level: the level at which it does, when it is about one level.
    :ivar sentence: the difference in words.
    :ivar count: how many cases showed it.
    :ivar first: the number of the first case that did, in the campaign's own order.
    :ivar case: that case, or the smallest one found, as JSON (a case or a scenario).
    :ivar known: names of the registered divergences that explain it.
    :ivar details: what else is told: prediction, observation, what the engine acted as if, ...
    """

    key: str
    judgement: str
    rule: str
    sentence: str
    level: int | None = None
    count: int = 1
    first: int = 0
    case: dict[str, Any] | None = None
    known: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def merged(self, other: Finding) -> Finding:
        """Return one finding of two with the same key: counts added, the earlier case kept."""
        earlier = min(self, other, key=lambda finding: finding.first)
        return dataclasses.replace(earlier, count=self.count + other.count)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as one JSON object."""
        return {**dataclasses.asdict(self), "known": list(self.known)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the finding that :meth:`to_json` described."""
        return cls(**{**data, "known": tuple(data["known"])})
