"""Run a function in a process of its own, so that an abort ends that process and not ours.

Unicorn and Keystone are C libraries that end the whole process when an assertion of theirs fails
(facts.md 12). :func:`isolated` calls a function in a new Python process and returns what it
returned; what it raised is raised here. If the process dies instead, that is an
:class:`~harness.errors.EngineBroken` which says of which signal, and what the worker was doing::

    >>> isolated(divmod, 17, 5)
    (3, 2)
    >>> isolated(os.abort)
    Traceback (most recent call last):
    harness.errors.EngineBroken: the worker died of SIGABRT while running abort

A worker says what it does by :func:`doing`, which costs nothing elsewhere. :func:`isolated_all`
runs several calls, some at a time, and gives their progress and their ends as they come.

The function and its arguments go by pickle: the function must be importable by its name, and not
be from ``__main__``. A new process costs about 0.05 s, and what it imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, ParamSpec, TypeVar

from harness.errors import EngineBroken

__all__ = ["Ended", "Progress", "doing", "isolated", "isolated_all"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Progress is for people: more messages than these would only slow the worker.
_SECONDS_BETWEEN = 0.05
_LAST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker is doing.

    :ivar number: which of the calls.
    :ivar what: in words that fit "while ...".
    :ivar done: how much of it is done.
    :ivar total: of how much; None when it is not known.
    """

    number: int
    what: str
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How one call ended.

    :ivar number: which of the calls.
    :ivar value: what it returned.
    :ivar error: what it raised, or an EngineBroken when its process died; else None.
    """

    number: int
    value: Any = None
    error: BaseException | None = None


def isolated(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a process of its own, and return what it returns.

    :param function: importable by name.
    :raises EngineBroken: when the process died; otherwise whatever the function raised.
    """
    for event in isolated_all([(function, args, kwargs)]):
        if isinstance(event, Ended):
            if event.error is not None:
                raise event.error
            result: _T = event.value
            return result
    raise AssertionError("every call ends")


def isolated_all(
    calls: Sequence[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]],
    *,
    workers: int = 2,
    seconds: float | None = None,
) -> Iterator[Progress | Ended]:
    """Make calls in other processes, and tell what happens as it happens.

    Each call ends with one :class:`Ended`. A process makes one call after another, until one kills
    it; that call is then told to have died, and the next gets a new process. Leaving the iterator
    early ends the processes that are still running.

    :param calls: function, arguments, keyword arguments of each.
    :param workers: how many processes.
    :param seconds: how long each call may take; then it is ended, as an EngineBroken.
    """
    waiting = [(number, *call) for number, call in enumerate(calls)][::-1]
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker()
                busy.append(worker)
                worker.call(*waiting.pop(), seconds=seconds)
            now = time.monotonic()
            limits = [worker.deadline - now for worker in busy if worker.deadline is not None]
            ready = wait(
                [worker.connection for worker in busy], max(0.0, min(limits)) if limits else None
            )
            for worker in list(busy):
                if worker.connection in ready:
                    event = worker.receive()
                elif worker.deadline is not None and time.monotonic() >= worker.deadline:
                    event = worker.overdue()
                else:
                    continue
                if isinstance(event, Ended):
                    busy.remove(worker)
                    idle += [worker] if worker.is_alive else []
                yield event
    finally:
        for worker in (*busy, *idle):
            worker.end()


class _Worker:
    """One process and what is known of it."""

    def __init__(self) -> None:
        self.number = -1
        self.what = "starting"
        self.seconds: float | None = None
        self.deadline: float | None = None
        self.is_alive = True
        self.connection, theirs = Pipe()
        # What the library writes to stderr before it aborts is the best hint there is.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"from harness.isolate import _serve; _serve({fd})"],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stderr=self.stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def call(
        self,
        number: int,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        seconds: float | None,
    ) -> None:
        if getattr(function, "__module__", None) == "__main__":
            raise ValueError(f"an isolated function must not be from __main__, as {function!r} is")
        self.number = number
        self.what = f"running {getattr(function, '__name__', function)}"
        self.seconds = seconds
        self.deadline = None if seconds is None else time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):  # receive() will say that it died
            self.connection.send_bytes(pickle.dumps((function, tuple(args), kwargs)))

    def receive(self) -> Progress | Ended:
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            error = self._death()
            self.end()
            return Ended(self.number, error=error)
        if kind == "doing":
            self.what = value[0]
            return Progress(self.number, *value)
        if kind == "raised":
            return Ended(self.number, error=value)
        return Ended(self.number, value)

    def overdue(self) -> Ended:
        self.end()
        return Ended(
            self.number,
            error=EngineBroken(
                f"the worker was ended after {self.seconds:g} s while {self.what}: it did not end"
            ),
        )

    def end(self) -> None:
        """Make sure that the process is gone, and give back what it held."""
        self.is_alive = False
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.stderr.close()

    def _death(self) -> EngineBroken:
        code = self.process.wait()
        how = f"died of {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        words = f", saying {lines[-1][:_LAST_WORDS]!r}" if lines else ""
        return EngineBroken(f"the worker {how} while {self.what}{words}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# The rest runs in the worker.

_home: Connection | None = None
_last_sent = 0.0
_last_what = ""


def doing(what: str, done: int = 0, total: int | None = None) -> None:
    """Say what this worker is doing, if it is one.

    :param what: in words that fit "while ...".
    :param done: how much of it is done.
    :param total: of how much.
    """
    global _last_sent, _last_what
    if _home is None:
        return
    now = time.monotonic()
    if what == _last_what and done != total and now - _last_sent < _SECONDS_BETWEEN:
        return
    _last_sent, _last_what = now, what
    _home.send(("doing", (what, done, total)))


def _serve(fd: int) -> None:
    global _home
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it too, and ends this process
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(fd) as home, contextlib.suppress(EOFError):
        _home = home
        while True:
            _answer(home, home.recv_bytes())


def _answer(home: Connection, call: bytes) -> None:
    try:
        function, args, kwargs = pickle.loads(call)
        answer = ("returned", function(*args, **kwargs))
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)).rstrip())
        answer = ("raised", error)
    try:
        home.send(answer)
    except (pickle.PicklingError, TypeError, AttributeError):
        home.send(("raised", RuntimeError(f"the worker's answer cannot be sent: {answer!r}")))


def _die_with_parent() -> None:
    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
