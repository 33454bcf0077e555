"""What commands write: on any stream, and whatever a guest says."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.show.console import console, plain

BIN = Path(sys.executable).parent / "harness"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "command",
    [
        ["run", "asm/three-faults.asm"],
        ["lecture", "recursive"],
        ["walk", "fixtures/page-tables/linux-max", "0xffffffff81000000"],
        ["matrix", "classic", "--levels", "4", "--slice", "1/100003"],
        ["engines"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_a_stream_that_is_not_utf_8_gets_ascii(
    command: list[str], environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [BIN, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii" if "latin" not in str(environment) else "latin-1")
    assert len(text) > 100
    assert "Traceback" not in text
    assert text.count("?") < 10


def test_what_a_guest_says_is_shown_and_not_obeyed() -> None:
    from rich.text import Text

    into = io.StringIO()
    out = console(file=into, width=80, force_terminal=True)
    out.print(Text("a\x1b[2Jb\x07\x9b31m\u202e [bold]c", "red"))
    shown = into.getvalue()
    assert "a␛[2Jb" in shown
    assert "[bold]c" in shown
    assert not {"\x07", "\x9b", "\u202e"} & set(shown)
    assert shown.count("\x1b") == 2, "rich's own"
    assert plain("tab\tand\nline") == "tab\tand\nline"


def test_serial_output_of_a_run_is_shown(tmp_path: Path) -> None:
    kernel = tmp_path / "k.asm"
    kernel.write_text("mov dx, 0x3f8\nmov al, 0x1b\nout dx, al\nmov al, 'c'\nout dx, al\nhlt\n")
    done = subprocess.run([BIN, "run", kernel], capture_output=True, text=True, check=False)
    assert "␛c" in done.stdout
    assert "\x1b" not in done.stdout
