"""Run the guest kernels and hold each against its header."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engine.run import Budget
from harness.kernels import KernelResult, read_kernel
from harness.resources import asm_dir

__all__ = ["KernelVerdict", "check_kernel", "kernel_files"]


@dataclass(frozen=True, slots=True)
class KernelVerdict:
    """What became of one kernel, in plain values that can leave a worker process.

    :ivar name: the file's name without its ending.
    :ivar title: its header's first line.
    :ivar failures: what is not as the header expects.
    :ivar detail: how the run ended.
    :ivar seconds: wall time.
    """

    name: str
    title: str
    failures: tuple[str, ...]
    detail: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all that the header expects is so."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "kernel": self.name,
            "title": self.title,
            "passed": self.passed,
            "failures": list(self.failures),
            "detail": self.detail,
            "seconds": round(self.seconds, 3),
        }


def kernel_files() -> list[Path]:
    """Return the kernels that ship with the package, by name."""
    return sorted(asm_dir().glob("*.asm"))


def check_kernel(path: str | Path, *, engine: str = "unicorn") -> KernelVerdict:
    """Run one kernel.

    :raises InputError: when its header or its code cannot be read.
    :raises EngineError: when the engine is missing or breaks.
    """
    started = time.perf_counter()
    result: KernelResult = read_kernel(path).run(engine=engine, budget=Budget(seconds=30))
    return KernelVerdict(
        result.kernel.name,
        result.kernel.title,
        result.failures,
        result.exit.detail,
        time.perf_counter() - started,
    )
