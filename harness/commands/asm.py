"""``harness asm``: assemble a file, every statement checked, and list what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.addresses import ADDRESS
from harness.resources import find_data

if TYPE_CHECKING:
    from harness.asm import Program

__all__ = ["asm"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--base", type=ADDRESS, help="Address of the first byte; 1 MiB if not given.")
@click.option("--bits", type=click.Choice(["32", "64"]), help="As its header says if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def asm(file: Path, base: int | None, bits: str | None, as_json: bool) -> None:
    """Assemble FILE and list address, bytes and source of every statement.

    Keystone assembles, Capstone reads back what came out, and a statement that did not become
    what it says is an error that names the line. A .s or .S file is GNU's language, and goes
    through this machine's cc and ld.
    """
    program = _assemble(find_data(file), base, bits)
    click.echo(json.dumps(_json(program)) if as_json else program.listing())


def _assemble(file: Path, base: int | None, bits: str | None) -> Program:
    from harness.kernels import read_kernel
    from harness.machine import KERNEL_BASE

    return read_kernel(file).assemble_at(
        KERNEL_BASE if base is None else base, bits=None if bits is None else int(bits)
    )


def _json(program: Program) -> dict[str, Any]:
    return {
        "base": hex(program.base),
        "entry": hex(program.entry),
        "code": program.code.hex(),
        "labels": {name: hex(address) for name, address in program.labels.items()},
        "constants": {name: hex(value) for name, value in program.constants.items()},
        "statements": [
            {
                "address": hex(statement.address),
                "bytes": statement.data.hex(),
                "file": statement.file,
                "line": statement.line,
                "bits": statement.bits,
                "text": statement.text.strip(),
                "label": statement.label,
            }
            for statement in program.statements
        ],
    }
