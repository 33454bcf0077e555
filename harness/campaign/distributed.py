"""Campaigns on a Dask cluster: the same shards, in processes of other machines.

A cluster is a scheduler and any number of workers (``dask scheduler``, ``dask worker
tcp://host:port``) that have the same ``harness`` installed. Each worker runs a task in a child
process that it keeps for the next task, so that an engine that aborts ends the child only, and is
opened once. The deciding, the journal and the sums stay here: they are the runner's.

When a worker is lost the scheduler gives its tasks to others; a task that lost several workers in
a row is given out again a few times, and then treated as what kills engines: it is cut up.

A task's progress is not told while it runs. Everything that can be wrong with a cluster is an
:class:`~harness.errors.InputError` (no such scheduler, no workers, ``[distributed]`` not
installed), or an :class:`~harness.errors.EngineBroken` once the campaign runs (the scheduler is
gone); what is finished by then is in the journal.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from typing import Any, Final

from harness.campaign.executor import Task, perform
from harness.check.findings.finding import Finding
from harness.check.work import Shard, Work
from harness.errors import EngineBroken, InputError
from harness.isolate import Ended, Pool, Progress

__all__ = ["DaskExecutor"]

_PATIENCE: Final = 10.0
# Each thread of a worker has a task at hand when it ends one.
_TASKS_A_THREAD: Final = 2
_LOST: Final = 3
_COUNT_AGAIN: Final = 2.0


class DaskExecutor:
    """A cluster that is reached by its scheduler's address.

    :param work: what the tasks belong to.
    :param scheduler: ``tcp://host:port``.
    :raises InputError: when the cluster cannot be used.
    """

    def __init__(self, work: Work, scheduler: str) -> None:
        try:
            import distributed
        except ImportError:
            raise InputError(
                "a campaign on a cluster must have Dask: pip install 'harness[distributed]'"
            ) from None
        self._work = work
        self._scheduler = scheduler
        self._dask = distributed
        self._ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._running: dict[int, tuple[Task, Any]] = {}
        self._lost: dict[int, int] = {}
        # Two campaigns on one cluster must not take each other's results.
        self._name = f"harness-{uuid.uuid4().hex}"
        try:
            self._client = _connected(distributed, scheduler)
        except (OSError, ValueError) as error:
            raise InputError(
                f"the scheduler must be a Dask scheduler that can be reached, such as "
                f"'tcp://host:8786', not {scheduler!r}: {error}"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            self._client.close()
            raise InputError(
                f"the cluster of {scheduler} must have a worker, and none came in "
                f"{_PATIENCE:g} s: start one with: dask worker {scheduler}"
            ) from None
        self._threads = 1
        self._counted = 0.0
        self._count()

    @property
    def workers(self) -> int:
        """Count the threads of all workers."""
        return self._threads

    @property
    def free(self) -> int:
        """Count the tasks that the cluster takes now; a few more than it runs at a time."""
        return self._threads * _TASKS_A_THREAD - len(self._running)

    def start(self, task: Task) -> None:
        """Send a task to the scheduler."""
        lost = self._lost.get(task.number, 0)
        future = self._client.submit(
            _in_child,
            self._name,
            self._work,
            task.subject,
            task.seconds,
            key=f"{self._name}-{task.number}-{lost}",
            pure=False,
        )
        self._running[task.number] = (task, future)
        future.add_done_callback(lambda done: self._ended.put((task.number, done)))

    def wait(self, timeout: float) -> list[Progress | Ended]:
        """Return what has ended, once something has, or after so many seconds."""
        try:
            self._count()
        except OSError as error:
            raise self._scheduler_lost(error) from None
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._ended.get(timeout=timeout))
            while True:
                found.append(self._ended.get_nowait())
        events: list[Progress | Ended] = []
        for number, future in found:
            if number in self._running and self._running[number][1] is future:
                events += self._taken(number, future)
        return events

    def close(self) -> None:
        """Drop all tasks, end the children, and leave the cluster."""
        futures = [future for _, future in self._running.values()]
        self._running.clear()
        # The cluster may be gone.
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)
            self._client.run(_end_children, self._name, on_error="ignore")
        self._client.close()

    def _taken(self, number: int, future: Any) -> list[Ended]:
        task, _ = self._running.pop(number)
        try:
            ended: Ended = future.result()
        except self._dask.KilledWorker as error:
            return self._again(task, str(error))
        except (self._dask.CancelledError, self._dask.comm.CommClosedError) as error:
            raise self._scheduler_lost(error) from None
        except Exception as error:
            return [Ended(number, error=error)]
        self._lost.pop(number, None)
        return [Ended(number, ended.value, ended.error, ended.died, ended.overdue)]

    def _again(self, task: Task, why: str) -> list[Ended]:
        self._lost[task.number] = self._lost.get(task.number, 0) + 1
        if self._lost[task.number] <= _LOST:
            self.start(task)
            return []
        del self._lost[task.number]
        return [Ended(task.number, error=EngineBroken(why), died=True)]

    def _scheduler_lost(self, error: Exception) -> EngineBroken:
        return EngineBroken(
            f"the Dask scheduler {self._scheduler} must stay until the campaign ends, and was "
            f"lost: {error}"
        )

    # Workers come and go.
    def _count(self) -> None:
        if time.monotonic() - self._counted < _COUNT_AGAIN:
            return
        self._counted = time.monotonic()
        threads = self._client.scheduler_info(n_workers=-1)["workers"].values()
        self._threads = max(1, sum(worker["nthreads"] for worker in threads))


# The rest runs in Dask's workers.

# By campaign and thread: a child dies with the thread that started it, so threads cannot share.
_children: dict[tuple[str, int], Pool] = {}


def _connected(dask: Any, scheduler: str) -> Any:
    # distributed 2026.8, LoopRunner: on a machine so busy that its thread does not start within
    # 10 s, an assertion fails. The thread has started by the second time.
    for last in (False, True):
        try:
            return dask.Client(scheduler, timeout=_PATIENCE, set_as_default=False)
        except AssertionError:
            if last:
                raise
    raise AssertionError("the last time raises")


def _in_child(campaign: str, work: Work, subject: Shard | Finding, seconds: float) -> Ended:
    """Do a task in a child of this worker."""
    child = _children.setdefault((campaign, threading.get_ident()), Pool(1))
    child.call(0, perform, (work, subject), silence=seconds)
    while True:
        for event in child.wait():
            if isinstance(event, Ended):
                return event


def _end_children(campaign: str) -> None:
    for key in [key for key in list(_children) if key[0] == campaign]:
        child = _children.pop(key)
        child.kill()
        if not child.busy:
            child.close()
