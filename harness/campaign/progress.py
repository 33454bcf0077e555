"""Progress: how far a campaign is, how fast, and how long it will take.

The rate is that of the last ten seconds, so that a campaign which slows down says so. Nothing here
fails.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["CampaignProgress", "Meter"]

_WINDOW: Final = 10.0
_SAMPLES: Final = 0.25


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """How far a campaign is.

    :ivar what: ``asking`` or ``shrinking``.
    :ivar round: the round that runs, from 0.
    :ivar shards: how many shards are finished, those of former runs among them.
    :ivar of_shards: how many are planned so far.
    :ivar cases: how many cases are asked, those of unfinished shards among them.
    :ivar of_cases: how many there will be; None when that is open.
    :ivar rate: cases a second, over the last seconds.
    :ivar seconds: since this run began.
    :ivar left: seconds that the rest will take; None when nothing is known.
    :ivar findings: how many causes were found.
    :ivar deaths: how often a worker died or hung.
    :ivar workers: what each worker is doing.
    """

    what: str
    round: int
    shards: int
    of_shards: int
    cases: int
    of_cases: int | None
    rate: float
    seconds: float
    left: float | None
    findings: int
    deaths: int
    workers: tuple[str, ...]


class Meter:
    """Measures a rate.

    :param clock: seconds; tests have their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def seconds(self) -> float:
        """Seconds since the meter was made."""
        return self._clock() - self._started

    def restart(self, cases: int) -> None:
        """Count from here: what was done so far took no time of ours."""
        self._samples = deque([(self._clock(), cases)])

    def rate(self, cases: int) -> float:
        """Return the cases a second over the last seconds.

        :param cases: how many are done by now.
        """
        now = self._clock()
        if not self._samples or now - self._samples[-1][0] >= _SAMPLES:
            self._samples.append((now, cases))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        # A worker that dies takes back what it said it had done.
        return max(0.0, (cases - before) / (now - then)) if now > then else 0.0
