"""Executors: who runs a campaign's tasks, here or on a cluster.

A :class:`Task` is a shard to ask or a finding to make small. An :class:`Executor` takes tasks while
it has room, runs each in a process that may die, and tells how each ended; what that means is the
runner's business. :class:`LocalExecutor` has processes on this machine;
:class:`~harness.campaign.distributed.DaskExecutor` has a Dask cluster. A task returns
a :class:`~harness.check.findings.tally.Tally` or a smaller
:class:`~harness.check.findings.finding.Finding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.check.findings.finding import Finding
from harness.check.findings.tally import Tally
from harness.check.work import Shard, Work
from harness.errors import EngineBroken
from harness.isolate import Ended, Pool, Progress, doing

__all__ = ["Executor", "LocalExecutor", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do.

    :ivar number: what its events are called by.
    :ivar subject: the shard to ask, or the finding to make small.
    :ivar seconds: how long it may go without news; then it is ended.
    """

    number: int
    subject: Shard | Finding
    seconds: float


class Executor(Protocol):
    """Who runs tasks."""

    @property
    def workers(self) -> int:
        """Count the tasks that run at a time."""

    @property
    def free(self) -> int:
        """Count the tasks that it takes now."""

    def start(self, task: Task) -> None:
        """Take a task."""

    def wait(self, timeout: float) -> list[Progress | Ended]:
        """Return what has happened, once something has, or after so many seconds."""

    def close(self) -> None:
        """Drop all tasks, and end what they were running in."""


class LocalExecutor:
    """Processes on this machine.

    :param work: what the tasks belong to.
    :param workers: how many processes.
    """

    def __init__(self, work: Work, workers: int) -> None:
        self._work = work
        self._pool = Pool(workers)

    @property
    def workers(self) -> int:
        """Count the processes."""
        return self._pool.workers

    @property
    def free(self) -> int:
        """Count the processes that have nothing to do."""
        return self._pool.free

    def start(self, task: Task) -> None:
        """Give a task to a process."""
        self._pool.call(task.number, perform, (self._work, task.subject), silence=task.seconds)

    def wait(self, timeout: float) -> list[Progress | Ended]:
        """Return what has happened, once something has, or after so many seconds."""
        return self._pool.wait(timeout)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()


def perform(work: Work, subject: Shard | Finding) -> Tally | Finding:
    """Do what a task says, in this process.

    An engine that says of itself that it is broken is not asked again: its process ends.
    """
    try:
        return _result(work, subject)
    except EngineBroken as error:
        raise SystemExit(str(error)) from None


def _result(work: Work, subject: Shard | Finding) -> Tally | Finding:
    if isinstance(subject, Shard):
        # The same words for each shard: they become the name of what killed the engine.
        doing(f"asking {work.name}", 0, subject.count)
        return work.run(subject)
    doing(f"shrinking {subject.key}")
    return work.shrunk(subject)
