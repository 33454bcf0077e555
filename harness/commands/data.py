"""``harness data``: what ships with the package, and where it is."""

from __future__ import annotations

import json

import click

from harness.resources import kernels, page_table_sets

__all__ = ["data"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def data(as_json: bool) -> None:
    """List the page-table sets and guest kernels that ship, by name.

    A name stands for its path in every command: harness walk linux-max 0xffffffff81000000.
    """
    found = {
        "page_tables": {path.name: str(path) for path in page_table_sets()},
        "kernels": {path.stem: str(path) for path in kernels()},
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    from rich.text import Text

    from harness.show.console import columns, console

    out = console()
    for title, use in (("page_tables", "walk, check"), ("kernels", "run, asm")):
        rows = [(name, path) for name, path in found[title].items()]
        columns(out, (title.replace("_", " "), f"for harness {use}"), rows, [""] * len(rows))
        out.print(Text())
