"""What lies in the folder where a person stands is not run, but for a module that is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent / "harness"
CANARY = "import pathlib\npathlib.Path({mark!r}).write_text(__name__)\nraise SystemExit(77)\n"
NAMES = ("numpy", "random", "types", "unicorn", "capstone", "keystone", "struct", "pytest")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    code = CANARY.format(mark=str(tmp_path / "ran"))
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(code)
    package = tmp_path / "harness"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    (tmp_path / "k.asm").write_text("hlt\n")
    (tmp_path / "mine.py").write_text(
        "import random\nfrom harness.walker import walk as translate\n__all__ = ['translate']\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["run", "k.asm"],
        ["asm", "k.asm"],
        ["engines"],
        ["fuzz", "--cases", "50"],
        ["fuzz", "--cases", "50", "--walker", "mine:translate"],
        ["fuzz", "--cases", "2000", "--engine", "harness.planted.engines:NX_2"],
        ["matrix", "classic", "--levels", "4", "--slice", "1/100003"],
        ["lecture", "recursive"],
        ["boot", "k.asm"],
    ],
    ids=" ".join,
)
def test_nothing_of_the_current_directory_runs(trap: Path, command: list[str]) -> None:
    done = subprocess.run(
        [BIN, *command], cwd=trap, capture_output=True, text=True, timeout=300, check=False
    )
    assert not (trap / "ran").exists(), (trap / "ran").read_text()
    assert done.returncode in (0, 1), done.stderr


def test_a_worker_does_not_outlive_a_parent_that_dies_at_once(tmp_path: Path) -> None:
    script = "import os, harness.isolate as i; i.isolated(os.getpid); os.kill(os.getpid(), 9)"
    late = (
        "import os, time, harness.isolate as i\n"
        "call = i._Worker.call\n"
        "def called(self, *a, **k):\n"
        "    call(self, *a, **k); print(self.process.pid, flush=True); os.kill(os.getpid(), 9)\n"
        "i._Worker.call = called\n"
        "i.isolated(time.sleep, 60)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, check=False)
    worker = int(done.stdout)
    for _ in range(100):
        if not _alive(worker):
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lives on")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_of_a_script_does_not_either(trap: Path) -> None:
    script = "import os, harness.isolate as i; i.isolated(os.getpid)"
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=trap, check=False)
    assert done.returncode == 0
    assert not (trap / "ran").exists()
