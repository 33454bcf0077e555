"""Root causes: which rule an engine breaks, told by what it acted as if."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.check.case import Case
from harness.check.compare import Difference
from harness.check.finding import Finding
from harness.check.known import EngineIdentity, Verdict
from harness.outcome import Observation
from harness.walk import Walk

__all__ = ["Cause", "Words", "cause_of", "finding_of", "root_causes", "words_of"]


class Words(Protocol):
    """Memory as a walk sees it: a PhysicalMemory, or the words of a case."""

    def read_u64(self, address: int) -> int:
        """Return a word; raises NoMemory outside RAM."""

    def offset(self, address: int) -> int:
        """Return something negative when the address is not RAM."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one observation is not what the walker predicted.

    :ivar keys: every cause that would explain it, the likeliest first; see :func:`root_causes`.
    :ivar rule: the rule of rules.md that the engine breaks, by the likeliest cause.
    :ivar level: the level at which it does, when it is about one level.
    :ivar as_if: the smallest change under which the walker predicts what was observed, in words.
    :ivar explained: False when no change that was tried predicts the observation.
    """

    keys: tuple[str, ...]
    rule: str
    level: int | None
    as_if: str
    explained: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name the cause, or all that it may be: findings of one key merge."""
        return "|".join(self.keys)


def words_of(case: Case) -> Words:
    """Return the memory of a case without allocating its RAM."""
    raise NotImplementedError


def cause_of(
    memory: Words, walk: Walk, observation: Observation, engine: EngineIdentity | None = None
) -> Cause:
    """Find the smallest single change under which the walker predicts what was observed.

    :param memory: the memory of both, as it was before the access.
    :param walk: the prediction.
    :param observation: what the engine saw; it must differ.
    :param engine: whose registered divergences may stand beside the cause.
    """
    raise NotImplementedError


def finding_of(
    difference: Difference, verdict: Verdict, engine: EngineIdentity, first: int = 0
) -> Finding:
    """Return the finding of one difference; findings of one cause merge by their key.

    :param difference: with its case (``Bench.ask`` and ``judge`` put it in).
    :param verdict: of the same observation: ``diverge`` or ``known``.
    :param engine: who observed.
    :param first: the number of the case, in the campaign's own order.
    """
    raise NotImplementedError


def root_causes(findings: Iterable[Finding]) -> list[Finding]:
    """Return as few findings as explain all of these: call it once, at a campaign's end.

    One case may have several possible causes (``Cause.keys``). Over all cases the fewest causes
    that explain everything are chosen: a flaw that shows at four levels is one finding.

    :param findings: of :func:`finding_of`; others (``broke``, of scenarios) pass unchanged.
    """
    raise NotImplementedError
