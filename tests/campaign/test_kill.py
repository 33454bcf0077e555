"""A campaign that is killed goes on where it was, and ends with what it would have ended with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.campaign import run
from tests.campaign.works import Steered, alive, children

ROOT = Path(__file__).parents[2]


class Killed:
    """A campaign in a process of its own."""

    def __init__(self, folder: Path, count: int, size: int, pause: float) -> None:
        self.journal, self.output = folder / "journal", folder / "output"
        self.arguments = [str(self.journal), str(self.output), str(count), str(size), str(pause)]
        self.work = Steered(count, size)

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.run_one", *self.arguments],
            cwd=ROOT,
            start_new_session=True,
        )

    def lines(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def told(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.output.read_text())
        return result


def wait_until_gone(processes: set[int]) -> None:
    until = time.monotonic() + 20
    while any(alive(pid) for pid in processes):
        assert time.monotonic() < until, "a worker outlived its campaign"
        time.sleep(0.02)


def test_a_campaign_killed_ten_times_ends_like_one_that_was_not(tmp_path: Path) -> None:
    killed = Killed(tmp_path, count=900, size=10, pause=0.02)
    moments = random.Random(os.environ.get("CI") and 4)
    cut_short = 0
    for _ in range(10):
        process = killed.start()
        before = killed.lines()
        until = time.monotonic() + 30
        # It must have come as far as running something, else ten kills would all hit the start.
        while killed.lines() <= before and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        workers = children(process.pid)
        process.kill()
        cut_short += process.wait() == -signal.SIGKILL
        wait_until_gone(workers)
    assert cut_short == 10

    assert killed.start().wait(60) == 0

    told = killed.told()
    assert told["complete"]
    assert 0 < told["resumed"] < told["tally"]["cases"]
    assert told["tally"] == json.loads(json.dumps(run(killed.work).tally.to_json()))


def test_ctrl_c_ends_in_time_with_what_was_finished(tmp_path: Path) -> None:
    killed = Killed(tmp_path, count=900, size=10, pause=0.05)
    process = killed.start()
    while killed.lines() < 5:
        time.sleep(0.01)
    # As a terminal does it: to the campaign and to all its workers.
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    assert process.wait(30) == 0
    assert time.monotonic() - started < 10

    told = killed.told()
    assert (told["interrupted"], told["complete"]) == (True, False)
    assert told["tally"]["cases"] == 10 * (killed.lines() - 1) > 0
    assert told["tally"]["judgements"].get("broke", 0) == 0
