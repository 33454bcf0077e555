"""The real commands, killed at random moments, then resumed: they tell what others tell."""

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

import pytest

# What a second run cannot have alike.
TIMES = ("seconds", "cases_per_second", "resumed_cases", "command")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "harness", *arguments, "--json", "--no-database"]


def told(output: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return {key: value for key, value in result.items() if key not in TIMES}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("fuzz", "--cases", "200000", "--seed", "3"),
        ("matrix", "classic", "--levels", "5", "--first", "4000000", "--count", "15000000"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_campaign_killed_ten_times_ends_as_one_that_was_not(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    whole = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    journal = tmp_path / "killed.journal"
    resumable = command(*arguments, "--journal", str(journal))
    moments = random.Random(8)
    kills = 0
    for _ in range(10):
        running = subprocess.Popen(
            resumable, stdout=subprocess.DEVNULL, cwd=tmp_path, start_new_session=True
        )
        time.sleep(moments.uniform(0.5, 4.0))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            kills += 1

    last = subprocess.run(resumable, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert kills > 1
    assert told(last.stdout) == told(whole.stdout)
