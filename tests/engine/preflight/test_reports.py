"""Kernels after public bug reports; each header says what is right, and after whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import read_kernel
from harness.engine.run import Ending
from harness.resources import asm_dir

REPORTS = Path(__file__).parent / "reports"
# In these the fault's own handler has its code segment in the table that faults: it cannot be
# entered, so that what follows the right fault is a double fault and a shutdown.
_NO_HANDLER = {"08-accessed-retf": (0x3, 0x80_000D), "10-smap-implicit-ac": (0x1, 0x80_0010)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "include").symlink_to(asm_dir() / "include")
    return tmp_path


@pytest.mark.parametrize("report", sorted(REPORTS.glob("*.asm")), ids=lambda path: path.stem)
def test_a_report_ends_as_its_header_says(report: Path, folder: Path) -> None:
    kernel = folder / report.name
    kernel.write_text(report.read_text())
    result = read_kernel(kernel).run()
    if report.stem not in _NO_HANDLER:
        assert result.passed, result.failures
        return
    first, second = result.exit.events
    assert (first.vector, first.error_code, first.cr2) == (14, *_NO_HANDLER[report.stem])
    assert first.implicit
    assert (second.vector, result.exit.ending) == (8, Ending.SHUTDOWN)
