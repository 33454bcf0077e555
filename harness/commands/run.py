"""``harness run``: run a guest kernel, and say all that it did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.isolate import isolated
from harness.resources import find_data

if TYPE_CHECKING:
    from rich.console import Console

    from harness.engine.run import Exit
    from harness.kernels import KernelResult

__all__ = ["run"]

_UNFINISHED = ("instruction-budget", "time-budget", "unsupported", "no-memory")


@click.command()
@click.argument("kernel", type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=10.0,
    show_default=True,
    help="Wall time that it may take.",
)
@click.option("--instructions", type=int, help="Instructions that it may execute; counts them.")
@click.option("--events", "shown", default=20, show_default=True, help="Events to print.")
@click.option("--engine", default="unicorn", show_default=True, help="The CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(
    kernel: Path,
    seconds: float,
    instructions: int | None,
    shown: int,
    engine: str,
    as_json: bool,
) -> None:
    """Run KERNEL, an assembly file, on an emulated CPU in long mode.

    Prints its registers, what it wrote to its ports, the exceptions it took, and a report of the
    fault that ended it if one did. A header in the file says what machine it needs and what it must
    leave behind; exit code 1 means that it did not.
    """
    report = isolated(run_kernel, find_data(kernel), seconds, instructions, engine)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "kernel": report.name,
                    "title": report.title,
                    "passed": not report.failures,
                    "failures": list(report.failures),
                    **report.exit.to_json(),
                    "fault": report.fault,
                    "at": report.where,
                }
            )
        )
    else:
        from harness.show.console import console

        _print(console(), report, shown)
    if report.failures:
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class _Report:
    """What leaves the worker process."""

    name: str
    title: str
    expects: bool
    failures: tuple[str, ...]
    exit: Exit
    fault: str | None
    where: str | None


def run_kernel(path: Path, seconds: float, instructions: int | None, engine: str) -> _Report:
    """Run a kernel in this process.

    :raises InputError: when it cannot be read, assembled or set up.
    """
    from harness.describe.runs import run_fault_report
    from harness.engine.run import Budget
    from harness.kernels import read_kernel

    budget = Budget(seconds=seconds, instructions=instructions)
    result = read_kernel(path).run(budget=budget, engine=engine)
    return _Report(
        result.kernel.name,
        result.kernel.title,
        bool(result.kernel.expected),
        result.failures,
        result.exit,
        run_fault_report(result.machine.memory, result.exit),
        _where(result),
    )


def _where(result: KernelResult) -> str | None:
    """Name the source line of the fault that ended a run, or where the run stood at its end."""
    ended = result.exit
    if ended.fault is not None:
        return result.source_of(ended.fault.rip)
    if ended.ending in _UNFINISHED:
        return result.source_of(ended.rip)
    return None


def _print(console: Console, report: _Report, shown: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from harness.address import format_address

    ended = report.exit
    console.print(Text(report.title, style="bold"))
    registers = Table.grid(padding=(0, 3))
    names = list(ended.registers)
    for row in range(0, len(names), 2):
        cells = [
            Text(f"{name:>3} = {format_address(ended.registers[name])}")
            for name in names[row : row + 2]
        ]
        registers.add_row(*cells)
    console.print(registers)
    control = "  ".join(f"{name} = {value:#x}" for name, value in ended.control.items())
    console.print(f"rip = {format_address(ended.rip)}  CPL {ended.cpl}  rflags = {ended.rflags:#x}")
    console.print(control)
    _print_ports(console, ended)
    if ended.events:
        console.print("[bold]events[/bold]")
        for event in ended.events[:shown]:
            console.print(Text(f"  {event}"))
        more = len(ended.events) - shown + ended.dropped
        if more > 0:
            console.print(f"  … and {more} more (--events {len(ended.events)})")
    if report.fault is not None:
        console.print("[bold red]fault[/bold red]")
        console.print(Text(report.fault))
    if report.where is not None:
        console.print(Text.assemble(("at", "bold"), f"     {report.where}"))
    counted = "" if ended.instructions is None else f", {ended.instructions} instructions"
    console.print(f"[bold]ended[/bold]  {ended.ending}: {ended.detail}{counted}")
    for failure in report.failures:
        console.print(Text(f"✗ {failure}", style="red"))
    if report.expects and not report.failures:
        console.print(Text("✓ all that its header expects", style="green"))


def _print_ports(console: Console, ended: Exit) -> None:
    from rich.text import Text

    for name, data in (("serial", ended.serial), ("debug", ended.debug)):
        if data:
            console.print(f"[bold]{name}[/bold]")
            for line in data.decode("utf-8", "replace").splitlines():
                console.print(Text(f"  {line}"))
