"""What a campaign does, cut into shards.

A :class:`Work` plans :class:`Shard`\\ s and runs them. It is small, immutable and goes by pickle to
the processes that run its shards; a shard's :class:`~harness.check.findings.tally.Tally` depends on
the work and the shard alone, so that a shard may be run again after a crash, elsewhere, or in two
halves.

Work comes in rounds: what a round found may steer the next one (``plan`` is given the sum of all
rounds before), and nothing else may. Most works have one round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.check.findings.finding import Finding
from harness.check.findings.tally import Tally

__all__ = ["Shard", "Work"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of cases.

    :ivar round: 0 for the first round.
    :ivar number: within the round, from 0.
    :ivar first: the number of its first case, in the campaign's own order.
    :ivar count: how many cases; 1 or more.
    :ivar spec: whatever else the work wants to know; JSON values.
    """

    round: int
    number: int
    first: int
    count: int
    spec: dict[str, Any] = field(default_factory=dict)


class Work(Protocol):
    """A campaign's content."""

    @property
    def name(self) -> str:
        """Name it for people: ``matrix classic``."""

    @property
    def cases(self) -> int | None:
        """Give the number of cases in all rounds, or None when it is open-ended."""

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that its results depend on: a journal holds to it."""

    def plan(self, round: int, so_far: Tally) -> list[Shard]:
        """Return the shards of a round; none when the work is done.

        :param round: 0 for the first.
        :param so_far: the sum of all rounds before this one.
        """

    def run(self, shard: Shard) -> Tally:
        """Ask the cases of a shard. Runs in a worker process, and says by
        :func:`harness.isolate.doing` how far it is.

        :raises EngineError: when the engine is missing or breaks.
        """

    def describe(self, shard: Shard, why: str) -> Finding:
        """Return the finding that the engine died or hung on the one case of a shard.

        :param shard: of one case.
        :param why: how it died, in words.
        """

    def shrunk(self, finding: Finding) -> Finding:
        """Return a finding with the smallest case that shows it. Runs in a worker process."""
