"""Worker processes: what they return, and how their deaths are told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from harness.check.kernels import check_kernel, kernel_files
from harness.errors import EngineBroken, SnapshotError
from harness.isolate import Ended, Pool, Progress, doing, isolated, isolated_all
from harness.snapshot import load_set


def ends(*calls: tuple[Any, ...], workers: int = 2, seconds: float | None = None) -> list[Ended]:
    prepared: list[tuple[Any, ...]] = [(call[0], call[1:], {}) for call in calls]
    events = list(isolated_all(prepared, workers=workers, seconds=seconds))
    found = [event for event in events if isinstance(event, Ended)]
    return sorted(found, key=lambda event: event.number)


def test_it_returns_what_the_function_returns() -> None:
    assert isolated(divmod, 17, 5) == (3, 2)
    assert isolated(os.getpid) != os.getpid()


def test_it_raises_what_the_function_raises() -> None:
    with pytest.raises(SnapshotError) as caught:
        isolated(load_set, "/nowhere")
    assert str(caught.value) == "/nowhere: a page-table set must be a folder that exists"
    # The worker's own traceback is not lost.
    assert "load_set" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (os.abort, (), "the worker died of SIGABRT while running abort"),
        (
            signal.raise_signal,
            (signal.SIGSEGV,),
            "the worker died of SIGSEGV while running raise_signal",
        ),
        (os._exit, (7,), "the worker ended with code 7 while running _exit"),
    ],
)
def test_a_death_is_told(function: Any, arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(EngineBroken) as caught:
        isolated(function, *arguments)
    assert str(caught.value) == sentence


def test_the_library_s_last_words_are_told() -> None:
    script = "import os; os.write(2, b'first\\nqemu: fatal: assertion'); os.abort()"

    with pytest.raises(EngineBroken, match=r"SIGABRT while running exec, saying 'qemu: fatal: as"):
        isolated(exec, script)


def test_one_death_does_not_disturb_the_others() -> None:
    first, second, third, fourth = ends(
        (os.abort,), (divmod, 7, 2), (os.abort,), (divmod, 9, 2), workers=1
    )

    assert isinstance(first.error, EngineBroken)
    assert isinstance(third.error, EngineBroken)
    assert (second.value, fourth.value) == ((3, 1), (4, 1))


def test_a_process_is_used_again() -> None:
    pids = {ended.value for ended in ends((os.getpid,), (os.getpid,), (os.getpid,), workers=1)}

    assert len(pids) == 1


MEET = """
import pathlib, time
pathlib.Path({mine!r}).touch()
until = time.monotonic() + {patience}
while not pathlib.Path({other!r}).exists():
    assert time.monotonic() < until, "nobody came"
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("workers", "met"), [(2, True), (1, False)])
def test_workers_run_side_by_side(workers: int, met: bool, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    patience = 60 if met else 0.2
    first, second = ends(
        (exec, MEET.format(mine=a, other=b, patience=patience)),
        (exec, MEET.format(mine=b, other=a, patience=patience)),
        workers=workers,
    )
    assert (first.error is None) == met
    assert second.error is None


def test_what_takes_too_long_is_ended() -> None:
    slow, quick = ends((time.sleep, 60), (divmod, 7, 2), seconds=2.0)

    assert str(slow.error) == ("the worker was ended after 2 s while running sleep: it did not end")
    assert quick.value == (3, 1)


def test_progress_comes_home() -> None:
    script = "from harness.isolate import doing\nfor n in range(3): doing(f'step {n}', n, 3)"
    events = list(isolated_all([(exec, (script,), {})]))

    steps = [event for event in events if isinstance(event, Progress)]
    assert [(step.what, step.done, step.total) for step in steps] == [
        ("step 0", 0, 3),
        ("step 1", 1, 3),
        ("step 2", 2, 3),
    ]


def test_a_death_says_what_the_worker_was_doing() -> None:
    script = "import os\nfrom harness.isolate import doing\ndoing('asking case 12')\nos.abort()"

    with pytest.raises(EngineBroken, match=r"^the worker died of SIGABRT while asking case 12$"):
        isolated(exec, script)


def test_saying_what_one_does_costs_nothing_at_home() -> None:
    doing("nothing at all", 1, 2)


def test_an_answer_that_cannot_travel_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the worker's answer cannot be sent"):
        isolated(open, os.devnull)


def test_leaving_early_ends_the_processes() -> None:
    events = isolated_all([(exec, ("from harness.isolate import doing; doing('it'); "
                                   "import time; time.sleep(60)",), {})])  # fmt: skip
    started = time.monotonic()
    next(events)
    events.close()  # type: ignore[attr-defined]

    assert time.monotonic() - started < 30


def test_a_kernel_runs_in_a_worker() -> None:
    path = next(path for path in kernel_files() if path.stem == "recursive-pml4")

    assert isolated(check_kernel, path).passed


def test_calls_are_taken_as_processes_get_free() -> None:
    taken = 0

    def calls() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield os.getpid, (), {}

    events = isolated_all(calls(), workers=2)
    for _ in range(10):
        next(events)
    events.close()  # type: ignore[attr-defined]

    assert 10 <= taken <= 14


def until_it_ends(pool: Pool) -> Ended:
    while True:
        for event in pool.wait():
            if isinstance(event, Ended):
                return event


TALKS = """
import time
from harness.isolate import doing
for n in range({steps}):
    doing('counting', n if {counts} else 0, 100)
    time.sleep(0.1)
"""


def test_who_says_something_new_may_take_its_time() -> None:
    with Pool(1) as pool:
        pool.call(7, exec, (TALKS.format(steps=20, counts=True),), silence=1.5)
        ended = until_it_ends(pool)

    assert (ended.number, ended.error, ended.died) == (7, None, False)


def test_who_says_nothing_new_is_ended() -> None:
    with Pool(1) as pool:
        pool.call(0, exec, (TALKS.format(steps=600, counts=False),), silence=1.5)
        ended = until_it_ends(pool)

    assert ended.died
    assert ended.overdue
    assert str(ended.error) == (
        "the worker was ended while counting: it said nothing new for 1.5 s"
    )


def test_a_death_is_told_from_an_error() -> None:
    with Pool(1) as pool:
        pool.call(0, os.abort)
        died = until_it_ends(pool)
        pool.call(1, divmod, (1, 0))
        raised = until_it_ends(pool)

    assert (died.died, died.overdue) == (True, False)
    assert (raised.died, type(raised.error)) == (False, ZeroDivisionError)


def test_waiting_may_be_for_nothing() -> None:
    with Pool(1) as pool:
        pool.call(0, time.sleep, (60,))
        assert pool.wait(0.05) == []
        assert (pool.busy, pool.free) == (1, 0)
    assert pool.busy == 0
