"""Run a booted kernel, and say what became of it.

`run_booted` is where `harness.boot` meets `harness.machine`: the machine gets the memory and the
registers that the loader left, and runs until the kernel halts, writes to the exit port, faults
without a handler, or is out of budget.  `RunReport` is what a kernel's tests want to know: what it
printed, to the serial port and to the text screen, and how it ended.

A page fault that nobody handled is explained: the address and CR2, CR3, the decoded error code,
and, from a walk of the page tables as they are then, every entry on the way and the rule that
denied the access.

    >>> report = run_booted(load(flat_kernel(b"\\xf4", name="halt")))  # doctest: +SKIP
    >>> report.ended, report.failed
    ('it halted at 0x200001', False)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.address import format_address
from harness.boot.loader import BootedState
from harness.describe.runs import page_fault_report
from harness.engine.run import PAGE_FAULT, Budget, Ending, Event, Exit, Start, vector_name
from harness.machine import Machine

__all__ = ["RunReport", "run_booted"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a kernel did.

    :param exit: the engine's own record of the run
    :param screen: the text screen, 25 lines without their trailing blanks
    :param failed: whether the run ended in a triple fault, out of budget, in something that the
        engine cannot do, or with another exit code than the one that means success
    :param fault: the report of the exception that no handler took; None if there was none
    """

    exit: Exit
    screen: tuple[str, ...]
    failed: bool
    fault: str | None

    @property
    def serial(self) -> str:
        """What the kernel wrote to the serial port."""
        return self.exit.serial.decode("utf-8", "replace")

    @property
    def ended(self) -> str:
        """How the run ended, in words."""
        return self.exit.detail

    def __str__(self) -> str:
        lines = []
        if self.serial:
            lines += ["serial port:", *(f"  {line}" for line in self.serial.splitlines())]
        if any(self.screen):
            used = max(row for row, line in enumerate(self.screen) if line) + 1
            lines += ["text screen:", *(f"  {line}".rstrip() for line in self.screen[:used])]
        if self.exit.events:
            lines += ["events:", *(f"  {event}" for event in self.exit.events)]
        if self.fault is not None:
            lines.append(self.fault)
        lines.append(f"{'failed' if self.failed else 'done'}: {self.ended}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Give the report as JSON values."""
        return self.exit.to_json() | {
            "screen": list(self.screen),
            "failed": self.failed,
            "fault": self.fault,
        }


def run_booted(
    state: BootedState,
    *,
    seconds: float = 10.0,
    instructions: int | None = None,
    success_exit_code: int | None = None,
    engine: str = "unicorn",
) -> RunReport:
    """Run a kernel from its first instruction to its end.

    :param state: the machine, which is changed
    :param seconds: budget of wall time
    :param instructions: budget of instructions; counting them slows a run down
    :param success_exit_code: the only exit code that means success; None for any
    :param engine: the engine to run on
    :raises EngineError: when the engine is missing, or breaks
    """
    with Machine(state.memory, cpu=state.cpu, engine=engine) as machine:
        start = Start(
            rip=state.rip,
            cpu=state.cpu,
            registers={"rsp": state.rsp, "rdi": state.rdi},
            gdt=state.gdt,
            ss=0,
        )
        budget = Budget(seconds=seconds, instructions=instructions)
        exit_ = machine.run(state.rip, start=start, budget=budget)
        screen = machine.screen()
    by_itself = exit_.ending in (Ending.HALT, Ending.EXIT)
    wrong_code = success_exit_code is not None and exit_.exit_code != success_exit_code
    return RunReport(
        exit=exit_,
        screen=screen,
        failed=not by_itself or wrong_code,
        fault=None if exit_.fault is None else _fault_report(state, exit_, exit_.fault),
    )


def _fault_report(state: BootedState, exit_: Exit, event: Event) -> str:
    where = f"{vector_name(event.vector)} at {format_address(event.rip)}, which no handler took"
    segment = next((s for s in state.image.segments if s.vaddr <= event.rip < s.end), None)
    if segment is not None:
        where += f" (segment {segment.rights} of {state.image.name})"
    if event.vector != PAGE_FAULT or event.cr2 is None:
        return where
    cpu = exit_.cpu or state.cpu
    names = state.layout.names_at(event.cr2)
    near = f"\n  the address lies in {', '.join(names)}" if names else ""
    return f"{where}\n{page_fault_report(state.memory, cpu, event)}{near}"
