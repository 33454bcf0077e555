"""Every benchmark, each in a process of its own, in one table of ratios against their targets.

``python benchmarks/run.py [NAME ...]`` runs all of :data:`NAMES`, or those that are named. A
process of its own makes the peak memory that of one file. The exit code is 1 when one misses its
target, and 2 when a benchmark does not run.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from turns import missed, wanted

HERE = Path(__file__).parent
NAMES = ("walk", "engine", "matrix", "mapping", "kernels")
_MEASURE = """
import importlib, json, sys
json.dump(importlib.import_module(sys.argv[1]).measure(), sys.stdout)
"""


def measure(name: str) -> list[dict[str, Any]]:
    """Run the measurements of one file.

    :raises RuntimeError: when it fails, with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, name],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks/{name}.py must run, and failed:\n{done.stderr}")
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def row(result: dict[str, Any]) -> list[str]:
    """Return one measurement as cells."""
    limit = wanted(result)
    return [
        result["name"],
        f"{result['ratio']:.2f}",
        limit,
        ("[red]missed" if missed(result) else "[green]ok") if limit else "",
        f"{result['per_second'] / 1e6:.3g} M/s",
        f"{result['bare_per_second'] / 1e6:.3g} M/s",
        f"{result['peak_rss_mib']:.0f} MiB",
    ]


def main(names: list[str]) -> int:
    """Run benchmarks and print them."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="Speed against the barest code that does the same")
    for column in ("what", "ratio", "target", "", "ours", "bare", "peak memory"):
        table.add_column(column, justify="left" if column == "what" else "right")
    code = 0
    for name in names or NAMES:
        if not (HERE / f"{name}.py").exists():
            continue
        try:
            with console.status(f"benchmarks/{name}.py"):
                results = measure(name)
        except RuntimeError as error:
            console.print(str(error), markup=False)
            code = 2
            continue
        for result in results:
            table.add_row(*row(result))
            if missed(result):
                code = max(code, 1)
        table.add_section()
    console.print(table)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
