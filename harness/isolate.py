"""Run a function in a process of its own, so that an abort ends that process and not ours.

Unicorn and Keystone are C libraries that end the whole process when an assertion of theirs fails
(docs/quirks.md, Unicorn 12). :func:`isolated` calls a function in a new Python process and returns
what it returned; what it raised is raised here. If the process dies instead, that is an
:class:`~harness.errors.EngineBroken` which says of which signal, and what the worker was doing::

    >>> isolated(divmod, 17, 5)
    (3, 2)
    >>> isolated(os.abort)
    Traceback (most recent call last):
    harness.errors.EngineBroken: the worker died of SIGABRT while running abort

A worker says what it does by :func:`doing`, which costs nothing elsewhere. :func:`isolated_all`
runs several calls, some at a time, and gives their progress and their ends as they come; a
caller that schedules each call itself uses a :class:`Pool`.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from harness.errors import EngineBroken

__all__ = ["Ended", "Pool", "Progress", "doing", "isolated", "isolated_all"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Progress is for people: more messages than these would only slow the worker.
_SECONDS_BETWEEN = 0.05
_LAST_WORDS = 300
# A new process on a busy machine: the time it needs to say its first word is no sign of a hang.
_STARTING = 30.0


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
    :ivar died: its process died, or was ended because it took too long.
    :ivar overdue: it was ended because it took too long.
    """

    number: int
    value: Any = None
    error: BaseException | None = None
    died: bool = False
    overdue: bool = False


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
    calls: Iterable[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]],
    *,
    workers: int = 2,
    seconds: float | None = None,
) -> Iterator[Progress | Ended]:
    """Make calls in other processes, and tell what happens as it happens.

    Each call ends with one :class:`Ended`. A process makes one call after another, until one kills
    it; that call is then told to have died, and the next gets a new process. Leaving the iterator
    early ends the processes that are still running.

    :param calls: function, arguments, keyword arguments of each; taken as processes get free.
    :param workers: how many processes.
    :param seconds: how long each call may take; then it is ended, as an EngineBroken.
    """
    waiting = enumerate(calls)
    with Pool(workers) as pool:
        while True:
            while pool.free and (next_call := next(waiting, None)) is not None:
                number, (function, args, kwargs) = next_call
                pool.call(number, function, args, kwargs, seconds=seconds)
            if not pool.busy:
                return
            yield from pool.wait()


def search_path() -> list[str]:
    """Return where a process of ours looks for modules: where this one does, but not here.

    The current directory is left out, unless this package itself or the environment's own packages
    were found there.
    """
    here = Path.cwd()
    own = {Path(__file__).resolve().parents[1]}
    return [
        entry
        for entry in sys.path
        if entry and (Path(entry).resolve() != here.resolve() or Path(entry).resolve() in own)
    ]


class Pool:
    """Some processes that make calls, for a caller that schedules each call itself.

    A process is started when a call needs it, and kept for later calls::

        with Pool(2) as pool:
            pool.call(0, divmod, (17, 5))
            events = pool.wait()

    :param workers: how many processes.
    """

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def busy(self) -> int:
        """Count the calls that have not ended."""
        return len(self._busy)

    @property
    def free(self) -> int:
        """Count the calls that would start at once."""
        return self.workers - len(self._busy)

    def call(
        self,
        number: int,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        seconds: float | None = None,
        silence: float | None = None,
    ) -> None:
        """Start a call.

        :param number: what its events are called by.
        :param function: importable by name.
        :param seconds: how long it may take; then it is ended, as an EngineBroken.
        :param silence: how long it may go without a :func:`doing` that says something new; then
            it is ended likewise. A new process may take longer to say its first word.
        """
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy.append(worker)
        worker.call(number, function, args, kwargs or {}, seconds=seconds, silence=silence)

    def wait(self, timeout: float | None = None) -> list[Progress | Ended]:
        """Return what has happened, once something has.

        :param timeout: after so many seconds return what there is: nothing.
        """
        now = time.monotonic()
        limits = [worker.deadline - now for worker in self._busy if worker.deadline is not None]
        limits += [] if timeout is None else [timeout]
        ready = wait(
            [worker.connection for worker in self._busy], max(0.0, min(limits)) if limits else None
        )
        events = []
        for worker in list(self._busy):
            if worker.connection in ready:
                event = worker.receive()
            elif worker.deadline is not None and time.monotonic() >= worker.deadline:
                event = worker.overdue()
            else:
                continue
            if isinstance(event, Ended):
                self._busy.remove(worker)
                self._idle += [worker] if worker.is_alive else []
            events.append(event)
        return events

    def kill(self) -> None:
        """End all processes; whoever waits for a call, in another thread, is told that it died.

        The pool is of no use after that.
        """
        for worker in (*self._busy, *self._idle):
            worker.process.kill()

    def close(self) -> None:
        """End all processes, whatever they are doing."""
        for worker in (*self._busy, *self._idle):
            worker.end()
        self._busy.clear()
        self._idle.clear()


_SERVE = "import sys; from harness.isolate import _serve; _serve(*map(int, sys.argv[1:]))"


class _Worker:
    """One process and what is known of it."""

    def __init__(self) -> None:
        self.number = -1
        self.what = "starting"
        self.seconds: float | None = None
        self.silence: float | None = None
        self.until: float | None = None
        self.last: tuple[str, int] | None = None
        self.is_new = True
        self.deadline: float | None = None
        self.is_alive = True
        self.connection, theirs = Pipe()
        # What the library writes to stderr before it aborts is the best hint there is.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                # -P: what lies in the current directory is not what is meant by a module's name.
                [sys.executable, "-P", "-c", _SERVE, str(fd), str(os.getpid())],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stderr=self.stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path())},
            )

    def call(
        self,
        number: int,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        seconds: float | None,
        silence: float | None,
    ) -> None:
        if getattr(function, "__module__", None) == "__main__":
            raise ValueError(f"an isolated function must not be from __main__, as {function!r} is")
        self.number = number
        self.what = f"running {getattr(function, '__name__', function)}"
        self.seconds, self.silence = seconds, silence
        self.until = None if seconds is None else time.monotonic() + seconds
        self.last = None
        self._heard()
        with contextlib.suppress(BrokenPipeError):  # receive() will say that it died
            self.connection.send_bytes(pickle.dumps((function, tuple(args), kwargs)))

    def _heard(self) -> None:
        limits = [] if self.until is None else [self.until]
        if self.silence is not None:
            limits.append(time.monotonic() + self.silence + (_STARTING if self.is_new else 0.0))
        self.deadline = min(limits, default=None)

    def receive(self) -> Progress | Ended:
        self.is_new = False
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            error = self._death()
            self.end()
            return Ended(self.number, error=error, died=True)
        if kind == "doing":
            self.what = value[0]
            if self.last != value[:2]:
                self.last = value[:2]
                self._heard()
            return Progress(self.number, *value)
        if kind == "raised":
            return Ended(self.number, error=value)
        return Ended(self.number, value)

    def overdue(self) -> Ended:
        self.end()
        if self.until is not None and time.monotonic() >= self.until:
            how = f"after {self.seconds:g} s while {self.what}: it did not end"
        else:
            how = f"while {self.what}: it said nothing new for {self.silence:g} s"
        return Ended(
            self.number,
            error=EngineBroken(f"the worker was ended {how}"),
            died=True,
            overdue=True,
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


def _serve(fd: int, parent: int) -> None:
    global _home
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it too, and ends this process
    _die_with_parent()
    if os.getppid() != parent:  # it died before we could ask to be told of that
        os._exit(1)
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
