"""The runner: plans a work's rounds, runs their shards, and loses nothing.

::

    result = run(work, workers=2, journal=Path("classic.journal"))
    result.complete, result.tally.judgements["agree"]

Shards run in processes of their own (:mod:`harness.campaign.executor`). One that dies, or that
says nothing new for ``seconds`` (:func:`harness.isolate.doing`), is cut up until the case that did
it is alone (:mod:`harness.campaign.split`). Each finished shard goes into the journal before it is
counted (:mod:`harness.campaign.journal`); a run with the same journal takes over what is there, and
ends with the same counts as a run that was never disturbed. The shards of a round are planned from
the exact sum of the rounds before it, so that a resumed run plans the same ones.

Ctrl-C and SIGTERM end the processes and return what was counted until then; a second signal is a
:class:`KeyboardInterrupt`. At the end the findings become the fewest root causes, and each of these
is made small, in a process too: if that dies, it stays as it was, and its ``why`` says so. A
campaign whose time is over (``minutes``) goes on to that end with what was asked until then.

It raises :class:`~harness.errors.EngineMissing` and :class:`~harness.errors.InputError` as the
work's shards do, :class:`~harness.errors.InputError` for a journal or a scheduler that cannot be
used, :class:`~harness.errors.EngineBroken` when the engine dies on nearly everything, and whatever
else a shard raises, with its traceback: that is a bug of ours.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from harness.campaign.executor import Executor, LocalExecutor, Task
from harness.campaign.journal import Finished, Journal
from harness.campaign.progress import CampaignProgress, Meter
from harness.campaign.split import Attempt, Deaths
from harness.check.findings.finding import BROKE, Finding
from harness.check.findings.roots import root_causes
from harness.check.findings.tally import Tally
from harness.check.work import Shard, Work
from harness.errors import InputError
from harness.isolate import Ended, Progress

__all__ = ["CampaignResult", "run"]

# How soon a signal or `stop` is noticed, and how often progress is told.
_TICK: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignResult:
    """What a campaign counted.

    :ivar name: the work's.
    :ivar identity: all that the counts depend on.
    :ivar tally: the sum of all finished shards, with the findings made small.
    :ivar seconds: how long this run took.
    :ivar complete: every case was asked and every finding made small.
    :ivar interrupted: it was stopped before that.
    :ivar resumed_cases: how many of the cases were counted by earlier runs, from the journal.
    :ivar workers: how many processes.
    :ivar shards: how many are finished, those of earlier runs among them.
    :ivar of_shards: how many were planned.
    :ivar rounds: how many were begun.
    :ivar deaths: how often a process died or hung in this run.
    """

    name: str
    identity: dict[str, Any]
    tally: Tally
    seconds: float
    complete: bool
    interrupted: bool
    resumed_cases: int
    workers: int
    shards: int
    of_shards: int
    rounds: int
    deaths: int


def run(
    work: Work,
    *,
    workers: int = 2,
    journal: Path | None = None,
    seconds: float = 300.0,
    on_progress: Callable[[CampaignProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    minutes: float | None = None,
    scheduler: str | None = None,
) -> CampaignResult:
    """Run a work to its end, until its time is over, or until it is stopped.

    :param workers: how many processes; with a scheduler, the cluster's business.
    :param journal: the file that keeps what is finished; it is taken over if it exists.
    :param seconds: how long a shard may say nothing new before it is said to hang.
    :param on_progress: called a few times a second.
    :param stop: asked a few times a second; true ends the run as Ctrl-C does.
    :param minutes: after so many, no more cases are asked; None asks them all.
    :param scheduler: the address of a Dask scheduler, ``tcp://host:port``; None runs here.
    :raises InputError: for a journal or a scheduler that cannot be used, or from a shard.
    :raises EngineError: when the engine is missing, or dies on nearly everything.
    """
    if workers < 1:
        raise InputError(f"a campaign must have 1 worker or more, not {workers}")
    with ExitStack() as stack:
        signals = stack.enter_context(_Signals())
        book = None
        if journal is not None:
            book = stack.enter_context(Journal(journal, work.name, work.identity()))
        executor = stack.enter_context(closing(_executor(work, workers, scheduler)))
        running = _Run(work, executor, book, seconds, on_progress)
        running.stopped = lambda: signals.caught or (stop is not None and stop())
        running.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        try:
            try:
                running.ask_all()
            except _TimeOver:
                # What is still being asked is dropped, for its processes have other work now.
                executor.close()
                running.executor = stack.enter_context(closing(_executor(work, workers, scheduler)))
            running.finish()
        except (_Stopped, KeyboardInterrupt):
            running.interrupted = True
        return running.result()


def _executor(work: Work, workers: int, scheduler: str | None) -> Executor:
    if scheduler is None:
        return LocalExecutor(work, workers)
    from harness.campaign.distributed import DaskExecutor

    return DaskExecutor(work, scheduler)


class _Stopped(Exception):
    """The run should end now."""


class _TimeOver(Exception):
    """No more cases should be asked."""


class _Signals:
    """Notes Ctrl-C and SIGTERM, so that they end a run between two of its steps."""

    def __init__(self) -> None:
        self.caught = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                # Who ignores a signal (nohup), or handles it outside of Python, goes on doing so.
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = True


class _Run:
    """One run of a campaign, and what it knows at the moment."""

    def __init__(
        self,
        work: Work,
        executor: Executor,
        journal: Journal | None,
        seconds: float,
        on_progress: Callable[[CampaignProgress], None] | None,
    ) -> None:
        self.work, self.executor, self.journal = work, executor, journal
        self.seconds, self.on_progress = seconds, on_progress
        self.stopped: Callable[[], bool] = lambda: False
        self.deadline = math.inf
        self.deaths = Deaths(work)
        self.meter = Meter()
        self.tally = Tally()
        self.what = "asking"
        self.complete = self.interrupted = False
        self.rounds = self.resumed_cases = self.dead = 0
        self.shards = self.of_shards = 0
        # Cases of finished shards, and of those that run: by the shards' counts.
        self.cases = 0
        self.asked: dict[int, int] = {}
        self.doing: dict[int, str] = {}
        self.number = 0
        self.told = 0.0

    def ask_all(self) -> None:
        """Run all rounds."""
        earlier = {} if self.journal is None else self.journal.rounds
        while shards := self.work.plan(self.rounds, Tally() + self.tally):
            self.rounds += 1
            self._round(shards, earlier.pop(self.rounds - 1, Finished()))
        if any(finished.shards for finished in earlier.values()):
            raise self._planned_otherwise(max(earlier))

    def finish(self) -> None:
        """Find the root causes, and make their questions small."""
        self.asked.clear()
        self.doing.clear()
        self._shrink()
        self.complete = True
        self._tell(now=True)

    def result(self) -> CampaignResult:
        """Return what is counted by now."""
        return CampaignResult(
            name=self.work.name,
            identity=self.work.identity(),
            tally=self.tally,
            seconds=self.meter.seconds,
            complete=self.complete,
            interrupted=self.interrupted,
            resumed_cases=self.resumed_cases,
            workers=self.executor.workers,
            shards=self.shards,
            of_shards=self.of_shards,
            rounds=self.rounds,
            deaths=self.dead,
        )

    def _round(self, shards: list[Shard], earlier: Finished) -> None:
        places = {_place(shard) for shard in shards}
        if len({shard.number for shard in shards}) < len(shards):
            raise ValueError(f"the shards of round {self.rounds - 1} must have different numbers")
        if not earlier.shards <= places:
            raise self._planned_otherwise(self.rounds - 1)
        self.of_shards += len(shards)
        self.shards += len(earlier.shards)
        self.cases += sum(count for _, _, count in earlier.shards)
        self.resumed_cases += earlier.tally.cases
        self.tally += earlier.tally
        self.meter.restart(self.cases)
        left = (shard for shard in shards if _place(shard) not in earlier.shards)
        whole = (Attempt(shard, self.seconds) for shard in left)
        parts: deque[Attempt] = deque()
        running: dict[int, Attempt] = {}
        while True:
            self._stop_if_told()
            if time.monotonic() >= self.deadline:
                raise _TimeOver
            self._start(parts, whole, running)
            if not running:
                return
            ended = self._heard(self.executor.wait(_TICK))
            attempts = [running.pop(event.number) for event in ended]
            # What is free works on while we look at what ended.
            self._start(parts, whole, running)
            for event, attempt in zip(ended, attempts, strict=True):
                parts += self._ended(event, attempt)

    def _start(
        self, parts: deque[Attempt], whole: Iterator[Attempt], running: dict[int, Attempt]
    ) -> None:
        """Keep the executor busy: with what died first, as it may end the campaign."""
        while self.executor.free > 0:
            attempt = parts.popleft() if parts else next(whole, None)
            if attempt is None:
                return
            self.number += 1
            running[self.number] = attempt
            self.executor.start(Task(self.number, attempt.shard, attempt.seconds))

    def _heard(self, events: Iterable[Progress | Ended]) -> list[Ended]:
        """Take note of progress, and return what ended."""
        ended = []
        for event in events:
            if isinstance(event, Ended):
                self.asked.pop(event.number, None)
                self.doing.pop(event.number, None)
                ended.append(event)
            else:
                self.asked[event.number] = event.done if self.what == "asking" else 0
                self.doing[event.number] = event.what
        self._tell()
        return ended

    def _stop_if_told(self) -> None:
        if self.stopped():
            raise _Stopped

    def _ended(self, event: Ended, attempt: Attempt) -> list[Attempt]:
        """Take in how an attempt ended, and return what must run because of that."""
        parts: list[Attempt] = []
        whole = attempt.whole.shard
        if event.died:
            self.dead += 1
            parts, tally = self.deaths.died(attempt, str(event.error), overdue=event.overdue)
        elif event.error is not None:
            raise event.error
        elif attempt.parent is not None:
            tally = self.deaths.lived(attempt, event.value)
        else:
            tally = event.value
        if tally is not None:
            if self.journal is not None:
                self.journal.add_shard(whole, tally.to_json())
            self.tally += tally
            self.shards += 1
            self.cases += whole.count
        return parts

    def _shrink(self) -> None:
        """Find the root causes, and make their questions small."""
        self.what = "shrinking"
        shrunk = {} if self.journal is None else dict(self.journal.shrunk)
        findings = {finding.key: finding for finding in root_causes(self.tally.findings.values())}
        waiting = deque(
            finding
            for key, finding in sorted(findings.items())
            if finding.question is not None and finding.judgement != BROKE and key not in shrunk
        )
        running: dict[int, Finding] = {}
        while waiting or running:
            self._stop_if_told()
            while waiting and self.executor.free > 0:
                self.number += 1
                finding = running[self.number] = waiting.popleft()
                self.executor.start(Task(self.number, finding, self.seconds))
            for event in self._heard(self.executor.wait(_TICK)):
                finding = running.pop(event.number)
                small = shrunk[finding.key] = self._small(event, finding)
                if self.journal is not None:
                    self.journal.add_shrunk(finding.key, small)
        self.tally.findings.clear()
        for key, finding in sorted(findings.items()):
            self.tally.add(shrunk.get(key, finding))

    def _small(self, event: Ended, finding: Finding) -> Finding:
        if event.died:
            self.dead += 1
            return dataclasses.replace(finding, why=f"not made small: {event.error}")
        if event.error is not None:
            raise event.error
        # What shrinking found out about one question does not change how many there were.
        small: Finding = event.value
        return dataclasses.replace(small, count=finding.count, first=finding.first)

    def _tell(self, *, now: bool = False) -> None:
        if self.on_progress is None or not (now or time.monotonic() - self.told >= _TICK):
            return
        self.told = time.monotonic()
        cases = self.cases + sum(self.asked.values())
        rate, total = self.meter.rate(cases), self.work.cases
        self.on_progress(
            CampaignProgress(
                what=self.what,
                round=max(0, self.rounds - 1),
                shards=self.shards,
                of_shards=self.of_shards,
                cases=cases,
                of_cases=total,
                rate=rate,
                seconds=self.meter.seconds,
                left=max(0, total - cases) / rate if total is not None and rate else None,
                findings=len(self.tally.findings),
                deaths=self.dead,
                workers=tuple(what for _, what in sorted(self.doing.items())),
            )
        )

    def _planned_otherwise(self, round: int) -> InputError:
        path = "" if self.journal is None else f"{self.journal.path}: "
        return InputError(
            f"{path}round {round} must be planned as it was when the journal was written: name "
            "another file, or delete this one"
        )


def _place(shard: Shard) -> tuple[int, int, int]:
    return shard.number, shard.first, shard.count
