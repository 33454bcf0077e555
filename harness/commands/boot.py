"""``harness boot``: run a kernel on a machine that bootloader 0.9 has prepared.

The command reads a kernel (ELF64, assembly or flat), decides what it asks for (from its
``Cargo.toml``, from options, or both: options win), loads it, runs it, and reports what it wrote
to the serial port and to the text screen, how it ended, and on request the page tables.

The kernel runs in a process of its own, since an engine's C library may abort; without running it
(``--no-run``) that is not needed.

Exit codes: 0 the kernel ended by itself, 1 it ended in an unhandled exception, in a shutdown or
out of budget, or with an exit code that means failure, 2 the input cannot be booted, 3 the engine
is missing or broke.

    harness boot kernel.elf --map-physical-memory --tables
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness.address import format_address
from harness.boot.bootinfo import BootInfo
from harness.boot.config import FEATURES, BootConfig, parse_number, read_cargo_toml
from harness.boot.debug_text import parse_boot_info
from harness.boot.firmware import Firmware
from harness.boot.kernel import FLAT_ADDRESS, read_kernel
from harness.boot.listing import listing_json, listing_text
from harness.boot.loader import BootedState, load
from harness.booted import RunReport, run_booted
from harness.errors import BootError
from harness.isolate import isolated
from harness.sizes import parse_size

__all__ = ["boot", "boot_kernel"]

_FILE = click.Path(path_type=Path)


def _number(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    number = None if value is None else parse_number(value)
    if value is not None and number is None:
        raise click.BadParameter(
            f"a number must be decimal, or hex with 0x, not {value!r}", param=parameter
        )
    return number


def _number_option(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, callback=_number, metavar="N", help=text)


@click.command("boot")
@click.argument("kernel", type=_FILE)
@click.option("--map-physical-memory", is_flag=True, help="Map the complete physical memory.")
@click.option("--recursive", is_flag=True, help="Leave a recursive slot in the level 4 table.")
@click.option(
    "--feature", "features", multiple=True, type=click.Choice(FEATURES), help="A feature."
)
@click.option("--cargo-toml", type=_FILE, help="Read features and keys from the kernel's manifest.")
@_number_option("--physical-memory-offset", "Where physical address 0 is mapped.")
@_number_option("--kernel-stack-address", "Where the stack's guard page is.")
@_number_option("--kernel-stack-size", "Pages of stack.")
@_number_option("--boot-info-address", "Where the BootInfo is mapped.")
@_number_option("--recursive-slot", "Which slot is recursive, 0 to 511.")
@_number_option("--address", "Where a flat or an assembly kernel lies.")
@click.option("--memory", default=None, metavar="SIZE", help="RAM, 128M if not given.")
@click.option("--amd-hole", is_flag=True, help="Reserve 12 GiB below 1 TiB, as the lecture's PC.")
@click.option("--boot-info", type=_FILE, help="Rebuild the machine that printed this BootInfo.")
@click.option("--success-exit-code", type=int, help="The only exit code that means success.")
@click.option("--instructions", type=click.IntRange(1), help="Budget of instructions.")
@click.option(
    "--seconds", type=click.FloatRange(0, 86_400, min_open=True), default=10.0, show_default=True
)
@click.option("--engine", default="unicorn", show_default=True, help="The CPU to run on.")
@click.option("--no-run", is_flag=True, help="Stop before the kernel's first instruction.")
@click.option("--tables", is_flag=True, help="List what the page tables map in the end.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.pass_context
def boot(
    ctx: click.Context,
    *,
    kernel: Path,
    map_physical_memory: bool,
    recursive: bool,
    features: tuple[str, ...],
    cargo_toml: Path | None,
    physical_memory_offset: int | None,
    kernel_stack_address: int | None,
    kernel_stack_size: int | None,
    boot_info_address: int | None,
    recursive_slot: int | None,
    address: int | None,
    memory: str | None,
    amd_hole: bool,
    boot_info: Path | None,
    success_exit_code: int | None,
    instructions: int | None,
    seconds: float,
    engine: str,
    no_run: bool,
    tables: bool,
    as_json: bool,
) -> None:
    """Run KERNEL (ELF64, .asm or flat) on a machine that bootloader 0.9 has prepared."""
    wanted = {
        "map_physical_memory": map_physical_memory or "map_physical_memory" in features or None,
        "recursive_page_table": recursive or "recursive_page_table" in features or None,
        "sse": "sse" in features or None,
        "physical_memory_offset": physical_memory_offset,
        "kernel_stack_address": kernel_stack_address,
        "kernel_stack_size": kernel_stack_size,
        "boot_info_address": boot_info_address,
        "recursive_index": recursive_slot,
    }
    request = _Request(
        kernel=kernel,
        address=FLAT_ADDRESS if address is None else address,
        options={key: value for key, value in wanted.items() if value is not None},
        cargo_toml=cargo_toml,
        memory=memory,
        amd_hole=amd_hole,
        boot_info=boot_info,
        run=None
        if no_run
        else {
            "seconds": seconds,
            "instructions": instructions,
            "success_exit_code": success_exit_code,
            "engine": engine,
        },
        tables=tables,
        as_json=as_json,
    )
    answer = boot_kernel(request) if no_run else isolated(boot_kernel, request)
    click.echo(answer.text)
    ctx.exit(1 if answer.failed else 0)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the worker process is asked for."""

    kernel: Path
    address: int
    options: dict[str, Any]
    cargo_toml: Path | None
    memory: str | None
    amd_hole: bool
    boot_info: Path | None
    run: dict[str, Any] | None
    tables: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    """What comes back from the worker process."""

    text: str
    failed: bool


def boot_kernel(request: _Request) -> _Answer:
    """Load and run a kernel in this process, and report.

    :raises InputError: when it cannot be booted
    :raises EngineError: when the engine is missing, or breaks
    """
    config = BootConfig() if request.cargo_toml is None else read_cargo_toml(request.cargo_toml)
    config = dataclasses.replace(config, **request.options)
    image = read_kernel(request.kernel, address=request.address)
    if request.boot_info is None:
        pc = Firmware.pc(parse_size(request.memory or "128M"), amd_hole=request.amd_hole)
        state = load(image, config, pc)
    else:
        if request.memory is not None or request.amd_hole:
            raise BootError("--boot-info decides on the memory: leave out --memory, --amd-hole")
        state = load(image, config, _printout(request.boot_info))
    report = None if request.run is None else run_booted(state, **request.run)
    if request.as_json:
        text = json.dumps(_json(state, report, tables=request.tables))
    else:
        text = _report(state, report, tables=request.tables)
    return _Answer(text, failed=report is not None and report.failed)


def _printout(path: Path) -> BootInfo:
    try:
        return parse_boot_info(path.read_bytes().decode("utf-8"))
    except OSError as error:
        reason = f"the file must be readable: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"the file must be UTF-8 text: byte {error.start} is not"
    except BootError as error:
        reason = str(error)
    raise BootError(reason, path=path)


def _report(state: BootedState, report: RunReport | None, *, tables: bool) -> str:
    image = state.image
    lines = [f"{image.name}: entry {format_address(image.entry)}"]
    lines += [
        f"  {segment.rights:<3} {format_address(segment.vaddr)}, {segment.memsize:#_x} bytes"
        for segment in image.segments
    ]
    lines.append(
        f"RIP {format_address(state.rip)}, RSP {format_address(state.rsp)}, "
        f"RDI {format_address(state.rdi)} (BootInfo), CR3 {format_address(state.cpu.cr3)}"
    )
    lines.append(listing_text(state, tables=tables))
    if report is not None:
        lines.append(str(report))
    return "\n".join(lines)


def _json(state: BootedState, report: RunReport | None, *, tables: bool) -> dict[str, Any]:
    image = state.image
    return {
        "kernel": {
            "name": image.name,
            "entry": hex(image.entry),
            "segments": [
                {"vaddr": hex(s.vaddr), "size": s.memsize, "rights": s.rights}
                for s in image.segments
            ],
        },
        "start": {
            "rip": hex(state.rip),
            "rsp": hex(state.rsp),
            "rdi": hex(state.rdi),
            "cpu": state.cpu.to_json(),
        },
        "boot_info": state.boot_info.debug(),
        **listing_json(state, tables=tables),
        "run": None if report is None else report.to_json(),
    }
