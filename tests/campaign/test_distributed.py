"""Campaigns on a Dask cluster of two workers on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.campaign import distributed as executor
from harness.campaign import run
from harness.errors import EngineBroken, InputError
from tests.campaign.works import Numbers, Steered, alive, children, expected

distributed = pytest.importorskip("distributed")


def local_cluster(n_workers: int) -> Any:
    return distributed.LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        # None would still open a web server, on a port that may be taken.
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    before = children()
    with local_cluster(2) as cluster:
        yield cluster
    until = time.monotonic() + 20
    while any(alive(pid) and not tracker(pid) for pid in children() - before):
        assert time.monotonic() < until, "the cluster left processes behind"
        time.sleep(0.05)


def tracker(pid: int) -> bool:
    """Tell whether a process is multiprocessing's own, which stays as long as we do."""
    return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def workers(cluster: Any) -> list[int]:
    """Return the processes of the cluster's workers, once there are two."""
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        return sorted(client.run(os.getpid).values())


def test_a_cluster_counts_what_this_machine_counts(cluster: Any, tmp_path: Path) -> None:
    work = Steered(60, 10)
    pids = workers(cluster)
    result = run(work, scheduler=cluster.scheduler_address, journal=tmp_path / "journal")

    assert result.complete
    assert result.tally.to_json() == run(work).tally.to_json()
    assert result.workers == 2
    # The engines' processes do not outlive the campaign.
    until = time.monotonic() + 20
    while any(children(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)
    # What was counted there is not counted again here.
    assert run(work, journal=tmp_path / "journal").resumed_cases == result.tally.cases


def test_what_kills_an_engine_does_not_kill_a_worker(cluster: Any) -> None:
    pids = workers(cluster)
    work = Numbers(16, 4, {1: "abort", 7: "kill", 10: "hang"})
    result = run(work, scheduler=cluster.scheduler_address, seconds=1.0)

    assert result.tally.cases == 16
    assert result.tally.judgements == expected(16, (1, 7, 10)).judgements
    assert {"broke 1", "broke 7", "broke 10"} <= result.tally.findings.keys()
    assert workers(cluster) == pids


def test_a_worker_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    work = Numbers(400, 10, pause=0.1, log=str(log))
    victim = workers(cluster)[0]
    engines: set[int] = set()

    def kill() -> None:
        while not log.exists() or log.read_text().count("\n") < 8:
            time.sleep(0.01)
        engines.update(children(victim))
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run(work, scheduler=cluster.scheduler_address)
    killer.join()

    assert result.complete
    assert result.tally.to_json() == run(Numbers(400, 10)).tally.to_json()
    assert engines
    assert not any(alive(pid) for pid in engines)
    # Some shard ran twice, and was counted once.
    assert log.read_text().count("\n") > 40


def test_other_errors_come_home(cluster: Any) -> None:
    with pytest.raises(InputError, match="the number must be better"):
        run(Numbers(deadly={33: "input"}), scheduler=cluster.scheduler_address)
    with pytest.raises(ZeroDivisionError) as caught:
        run(Numbers(deadly={33: "bug"}), scheduler=cluster.scheduler_address)
    assert "in happen" in "".join(caught.value.__notes__)


def test_a_run_on_a_cluster_can_be_stopped(cluster: Any, tmp_path: Path) -> None:
    path, work = tmp_path / "journal", Numbers(400, 10, pause=0.1)
    started = time.monotonic()
    result = run(
        work,
        scheduler=cluster.scheduler_address,
        journal=path,
        stop=lambda: path.read_bytes().count(b"\n") > 5,
    )

    assert (result.interrupted, result.complete) == (True, False)
    assert 50 <= result.tally.cases < 400
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1:1", "tcp://"])
def test_a_scheduler_that_is_not_there_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.campaign.distributed._PATIENCE", 0.5)
    with pytest.raises(InputError, match="the scheduler must be a Dask scheduler that can be reac"):
        run(Numbers(), scheduler=address)


def test_a_cluster_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.campaign.distributed._PATIENCE", 0.5)
    with (
        local_cluster(0) as empty,
        pytest.raises(InputError, match="must have a worker, and none came"),
    ):
        run(Numbers(), scheduler=empty.scheduler_address)


def test_a_scheduler_that_goes_away_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.campaign.distributed._PATIENCE", 3.0)
    path = tmp_path / "journal"
    cluster = local_cluster(1)
    address = cluster.scheduler_address

    def close() -> None:
        while not path.exists() or path.read_bytes().count(b"\n") < 4:
            time.sleep(0.01)
        cluster.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(EngineBroken, match="must stay until the campaign ends, and was lost"):
        run(Numbers(4000, 10, pause=0.1), scheduler=address, journal=path)
    closer.join()


def test_dask_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError) as caught:
        run(Numbers(), scheduler="tcp://127.0.0.1:8786")
    assert str(caught.value) == (
        "a campaign on a cluster must have Dask: pip install 'harness[distributed]'"
    )


def test_a_loop_that_starts_late_is_given_another_time() -> None:
    class Late:
        def __init__(self) -> None:
            self.times = 0

        def Client(self, scheduler: str, **_: object) -> str:  # noqa: N802 - Dask's name
            self.times += 1
            assert self.times > 1
            return scheduler

    assert executor._connected(Late(), "tcp://x:1") == "tcp://x:1"
