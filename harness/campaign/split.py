"""Deaths: how the one case that kills an engine is found, and no other lost.

A shard whose process died or hung is cut into halves, which run again; a half that dies is cut
again, until the shard that dies is one case. That case is a finding, made by
:meth:`~harness.check.work.Work.describe`, and counts as one case that ``broke``. All other cases
are counted by the part that asked them last, so each exactly once. The parts of a shard become
one tally again before anybody else sees them.

If a shard died and none of its parts does, there is no case to blame. That is a finding too, whose
key begins with ``flaky``; its cases are counted as what they were when they ran again.

A hang costs its limit each time, so parts get a share of the limit, by their number of cases. One
case that exceeds its share is asked once more with the whole limit before it is called a hang.

:raises EngineBroken: (:meth:`Deaths.died`) when the engine dies on so much of a shard that
    isolating every case is hopeless.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

from harness.check.findings.finding import Finding
from harness.check.findings.tally import Tally
from harness.check.work import Shard, Work
from harness.errors import EngineBroken

__all__ = ["Attempt", "Deaths"]

# A new process imports and calibrates its engine before it says anything new.
_LEAST_SECONDS: Final = 15.0
# All parts on six levels die and none lives: that is not a few cases.
_HOPELESS: Final = 63
# A shard of 65,536 cases with ten that kill has about 160 deaths.
_TOO_MANY: Final = 400


@dataclass(slots=True, eq=False)
class Attempt:
    """A shard, or a part of one, that is to be run.

    :ivar shard: what to ask.
    :ivar seconds: how long it may go without news.
    :ivar parent: what it is a part of.
    """

    shard: Shard
    seconds: float
    parent: Attempt | None = None
    _why: str = ""
    _open: int = 0
    _explained: bool = False
    _deaths: int = 0
    _lives: int = 0
    _tally: Tally = field(default_factory=Tally)

    @property
    def whole(self) -> Attempt:
        """The shard that it is a part of, or is."""
        found = self
        while found.parent is not None:
            found = found.parent
        return found


class Deaths:
    """What to do about deaths.

    :param work: describes the cases that kill.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def lived(self, attempt: Attempt, tally: Tally) -> Tally | None:
        """Take in what an attempt counted.

        :return: the tally of the whole shard if this was all that lacked.
        """
        attempt.whole._lives += 1
        attempt._tally += tally
        return self._finish(attempt)

    def died(
        self, attempt: Attempt, why: str, *, overdue: bool
    ) -> tuple[list[Attempt], Tally | None]:
        """Take in that an attempt died.

        :param why: in words.
        :param overdue: it exceeded its limit.
        :return: what to run next, and the tally of the whole shard if nothing lacks.
        :raises EngineBroken: when isolating every case that kills is hopeless.
        """
        whole, shard = attempt.whole, attempt.shard
        whole._deaths += 1
        self._give_up(whole, why)
        if overdue and shard.count == 1 and attempt.seconds < whole.seconds:
            return [dataclasses.replace(attempt, seconds=whole.seconds)], None
        if attempt.parent is not None and shard.count == 1:
            finding = self._work.describe(shard, why)
            attempt._tally.cases += 1
            attempt._tally.judgements["broke"] += 1
            attempt._tally.add(finding)
            attempt._explained = True
            return [], self._finish(attempt)
        attempt._why = why
        parts = [Attempt(part, self._limit(part, whole), parent=attempt) for part in _halves(shard)]
        attempt._open = len(parts)
        return parts, None

    def _finish(self, attempt: Attempt) -> Tally | None:
        while attempt.parent is not None:
            parent = attempt.parent
            parent._tally += attempt._tally
            parent._explained |= attempt._explained
            parent._open -= 1
            if parent._open:
                return None
            if not parent._explained:
                parent._tally.add(_flaky(parent.shard, parent._why))
                parent._explained = True
            attempt = parent
        return attempt._tally

    @staticmethod
    def _limit(part: Shard, whole: Attempt) -> float:
        share = whole.seconds * part.count / whole.shard.count
        return max(share, min(whole.seconds, _LEAST_SECONDS))

    @staticmethod
    def _give_up(whole: Attempt, why: str) -> None:
        deaths, shard = whole._deaths, whole.shard
        if deaths >= _TOO_MANY or (deaths >= _HOPELESS and not whole._lives):
            raise EngineBroken(
                f"the engine must survive most cases, and it died {deaths} times on the cases "
                f"{shard.first} to {shard.first + shard.count - 1}: {why}"
            )


def _halves(shard: Shard) -> list[Shard]:
    """Cut a shard; one case is asked once more, in case it was not its fault."""
    if shard.count == 1:
        return [shard]
    half = shard.count // 2
    return [
        dataclasses.replace(shard, count=half),
        dataclasses.replace(shard, first=shard.first + half, count=shard.count - half),
    ]


def _flaky(shard: Shard, why: str) -> Finding:
    return Finding(
        key=f"flaky {shard.round}/{shard.number}/{shard.first}+{shard.count}",
        judgement="broke",
        rule="",
        sentence=(
            f"the engine died once on the cases {shard.first} to {shard.first + shard.count - 1}, "
            f"and not when they were asked again: {why}"
        ),
        first=shard.first,
        why=why,
    )
