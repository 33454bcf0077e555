"""``harness walk``: follow one address for a person, or many for a program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from harness.commands.addresses import ADDRESS, read_addresses
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.cpu import CpuState
    from harness.outcome import Access
    from harness.snapshot import Snapshot
    from harness.walker import Walk

__all__ = ["walk"]

_COLUMNS: Final = ("va", "outcome", "pa", "page_size", "flags", "error_code", "rule")
_REGISTERS: Final = ("cr0", "cr3", "cr4", "efer", "rflags", "pkru", "pkrs", "maxphyaddr")
_ROWS_AT_ONCE: Final = 1 << 16


def _register_options(command: Any) -> Any:
    for name in reversed(_REGISTERS):
        kind = click.IntRange(32, 52) if name == "maxphyaddr" else ADDRESS
        command = click.option(f"--{name}", type=kind, help=f"Instead of the snapshot's {name}.")(
            command
        )
    return command


@click.command()
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.argument("va", type=ADDRESS, required=False)
@click.option("--addresses", type=click.Path(path_type=Path), help="A file, one address a line.")
@click.option("--csv", "as_csv", is_flag=True, help="Rows as CSV (what --addresses prints).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
@click.option(
    "--access",
    type=click.Choice(["read", "write", "fetch"]),
    default="read",
    show_default=True,
    help="What is done there.",
)
@click.option("--size", type=int, default=1, show_default=True, help="Bytes accessed.")
@click.option("--cpl", type=click.IntRange(0, 3), default=0, show_default=True)
@click.option("--cpu", "cpu_file", type=click.Path(path_type=Path), help="A CPU state as JSON.")
@click.option("--base", type=ADDRESS, default=0, help="Where a raw dump begins.")
@click.option("--cpu-index", "index", default=0, show_default=True, help="Which CPU of a core.")
@click.option(
    "--vendor", type=click.Choice(["intel", "amd"]), help="Instead of the snapshot's vendor."
)
@_register_options
def walk(
    snapshot: Path,
    va: int | None,
    addresses: Path | None,
    as_csv: bool,
    as_json: bool,
    access: str,
    size: int,
    cpl: int,
    cpu_file: Path | None,
    base: int,
    index: int,
    vendor: str | None,
    **registers: int | None,
) -> None:
    """Follow addresses through the page tables of SNAPSHOT.

    SNAPSHOT is the folder of a page-table set, an ELF core (QEMU's dump-guest-memory, kdump), or a
    raw dump of RAM; the latter, and a core without registers, need --cr3, or --cpu with them. Each
    may be packed (.gz, .xz, .zst). A register that is given replaces the snapshot's. With VA the
    walk is told level by level; with --addresses it is one row for each address.
    """
    from harness.outcome import Access
    from harness.resources import find_data

    if (va is None) == (addresses is None):
        raise click.UsageError("either VA or --addresses must be given, and not both")
    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot go together")
    asked = Access.of(access, size=size)
    snapshot = find_data(snapshot)
    opened, cpu = _open(snapshot, cpu_file, base, index, {**registers, "vendor": vendor}, cpl)
    if addresses is not None:
        vas = read_addresses(addresses)
    elif as_csv and va is not None:
        vas = [va]
    else:
        assert va is not None
        _tell(opened, cpu, va, asked, as_json=as_json)
        return
    if as_json:
        for row in _rows(opened, cpu, vas, asked):
            click.echo(json.dumps(dict(zip(_COLUMNS, row, strict=True))))
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(opened, cpu, vas, asked))


def _open(
    path: Path,
    cpu_file: Path | None,
    base: int,
    index: int,
    registers: dict[str, Any],
    cpl: int,
) -> tuple[Snapshot, CpuState]:
    from harness.snapshot import open_snapshot

    given = {} if cpu_file is None else _read_cpu(cpu_file)
    given |= {name: value for name, value in registers.items() if value is not None}
    opened = open_snapshot(path, given=given, base=base, index=index)
    return opened, opened.cpu.replace(cpl=cpl)


def _read_cpu(path: Path) -> dict[str, Any]:
    from harness.cpu import CpuState
    from harness.jsontext import loads, obj

    try:
        value = dict(obj("a CPU state", loads(path.read_bytes())))
        CpuState.from_json({"cr3": 0, **{key: value[key] for key in value if key != "cr3"}})
        return value
    except OSError as error:
        raise InputError(f"{path}: the file must be readable: {error.strerror or error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _rows(
    opened: Snapshot, cpu: CpuState, vas: list[int], access: Access
) -> Iterator[tuple[str | None, ...]]:
    """Give the rows of many walks, from columns."""
    from harness.entry import PageTableEntry
    from harness.outcome import Outcome
    from harness.walker import RULES, bulk

    no_leaf = {"PRESENT", "CANONICAL", "CR3", "ORDER"} | {r for r in RULES if "RSVD" in r}
    letters: dict[tuple[int, int], str] = {}
    for start in range(0, len(vas), _ROWS_AT_ONCE):
        part = vas[start : start + _ROWS_AT_ONCE]
        found = bulk(opened.memory, cpu, part, access)
        columns = (found.outcome, found.rule, found.level, found.error_code, found.pa)
        rows = zip(
            part,
            *(column.tolist() for column in columns),
            found.page_size.tolist(),
            found.raw.tolist(),
            strict=True,
        )
        for va, code, rule_index, level, error_code, pa, page_size, raw in rows:
            outcome, rule = Outcome.from_code(code), RULES[rule_index]
            flags = None
            if rule not in no_leaf:
                key = (raw & 0x8000_0000_0000_0FFF, level)
                flags = letters.get(key)
                if flags is None:
                    flags = letters[key] = PageTableEntry(raw, level).letters
            yield (
                f"{va:#x}",
                str(outcome),
                f"{pa:#x}" if outcome.has_pa else None,
                f"{page_size:#x}" if page_size else None,
                flags,
                f"{error_code:#x}" if outcome.has_error_code else None,
                rule,
            )


def _tell(opened: Snapshot, cpu: CpuState, va: int, access: Access, *, as_json: bool) -> None:
    from harness.walker import walk as walk_one

    found = walk_one(opened.memory, cpu, va, access)
    if as_json:
        click.echo(json.dumps(_json(found)))
        return
    from harness.show.console import console

    _print(console(), opened, found)


def _json(found: Walk) -> dict[str, Any]:
    from harness.check.codec import prediction_to_json
    from harness.describe.walks import explain

    return {
        "va": hex(found.va),
        **prediction_to_json(found),
        "steps": [
            {
                "level": step.level,
                "address": hex(step.address),
                "raw": hex(step.raw),
                "flags": step.entry.letters,
            }
            for page in (found, found.second)
            if page is not None
            for step in page.steps
        ],
        "explanation": explain(found).splitlines(),
    }


def _print(console: Any, opened: Snapshot, found: Walk) -> None:
    from rich.text import Text

    from harness.address import format_address
    from harness.describe.walks import headline, rights_lines, verdict_lines, walk_rows
    from harness.mapping.recursive_address import octal
    from harness.show.console import columns

    cpu = found.cpu
    console.print(Text(headline(found), style="bold"))
    where = f"{opened.path.name}, CPL {cpu.cpl}, {cpu.levels} levels, CR3 {format_address(cpu.cr3)}"
    if found.rule != "CANONICAL" or found.second is not None:
        where += f", {octal(found.va, cpu.levels)}"
    console.print(Text(where, style="dim"))
    for page in (found, found.second):
        if page is None:
            continue
        rows = walk_rows(page)
        if not rows:
            continue
        console.print()
        if page is not found:
            console.print(Text(f"its second page, {format_address(page.va)}", style="dim"))
        columns(
            console,
            ("entry", "index", "lies at", "raw", "leads to", "bits"),
            [(*row.cells[:-1], row.bits + "  ◄ decided" * row.decides) for row in rows],
            ["red" if row.decides else "" for row in rows],
        )
        console.print()
        for line in rights_lines(page):
            console.print(Text(line))
    for why in cpu.unmodelled:
        console.print(Text(f"not modelled: {why}", style="yellow"))
    if found.rule == "RSVD_ADDR" and "maxphyaddr" in opened.assumed:
        console.print(
            Text(f"MAXPHYADDR = {cpu.maxphyaddr} is assumed: --maxphyaddr sets it", style="yellow")
        )
    style = "green" if found.completed else "red"
    for number, line in enumerate(verdict_lines(found)):
        console.print(Text(line, style=style if number == 0 else ""))
