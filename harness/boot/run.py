"""Run a booted kernel, and say what became of it.

`run_booted` is the one place where `harness.boot` meets `harness.machine`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.boot.loader import BootedState
from harness.errors import EngineMissing

__all__ = ["RunReport", "run_booted"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a kernel did.

    :param serial: what it wrote to the serial port
    :param screen: the text screen, 25 lines without their trailing blanks
    :param ended: how the run ended, in words
    :param failed: whether that is a failure: a fault, a shutdown, no end, or a bad exit code
    :param exit_code: what it wrote to the exit port, None if nothing
    :param fault: the report of an unhandled exception, None if there was none
    :param events: what happened on the way, one line each
    """

    serial: str
    screen: tuple[str, ...]
    ended: str
    failed: bool
    exit_code: int | None = None
    fault: str | None = None
    events: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = []
        if self.serial:
            lines += ["serial port:", *(f"  {line}" for line in self.serial.splitlines())]
        if any(self.screen):
            used = max(row for row, line in enumerate(self.screen) if line) + 1
            lines += ["text screen:", *(f"  {line}".rstrip() for line in self.screen[:used])]
        if self.events:
            lines += ["events:", *(f"  {event}" for event in self.events)]
        if self.fault is not None:
            lines.append(self.fault)
        lines.append(self.ended)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Give the report as JSON values."""
        return {
            "serial": self.serial,
            "screen": list(self.screen),
            "ended": self.ended,
            "failed": self.failed,
            "exit_code": self.exit_code,
            "fault": self.fault,
            "events": list(self.events),
        }


def run_booted(state: BootedState, *, instructions: int, seconds: float) -> RunReport:
    """Run a kernel from its first instruction to its end.

    :param state: the machine, which is changed
    :param instructions: budget of instructions
    :param seconds: budget of wall time
    :raises EngineError: when there is no engine, or it breaks
    """
    raise EngineMissing("harness.machine must be there to run a kernel, and is not yet")
