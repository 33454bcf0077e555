"""Every benchmark, each in a process of its own, in one table of ratios against their targets.

``python benchmarks/run.py [NAME ...]`` runs ``walk``, ``engine``, ``mapping`` and ``kernels``, or
those that are named. A process of its own makes the peak memory that of one file. The exit code is
1 when one misses its target, and 2 when a benchmark does not run.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
NAMES = ("walk", "engine", "mapping", "kernels")
_MEASURE = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("benchmark", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["benchmark"] = module
spec.loader.exec_module(module)
json.dump(module.measure(), sys.stdout)
"""


def measure(name: str) -> list[dict[str, Any]]:
    """Run the measurements of one file.

    :raises RuntimeError: when it fails, with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(HERE / f"{name}.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks/{name}.py must run, and failed:\n{done.stderr}")
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def below(result: dict[str, Any]) -> bool:
    """Say whether a result misses its target: a ratio, or the seconds that it may take."""
    target, seconds = result.get("target"), result.get("seconds_wanted")
    slow = seconds is not None and result["seconds"] > seconds
    return slow or (target is not None and result["ratio"] < target)


def row(result: dict[str, Any]) -> list[str]:
    """Return one measurement as cells."""
    target, seconds = result.get("target"), result.get("seconds_wanted")
    wanted = f"{target:g}" if target is not None else f"{seconds:g} s" if seconds else ""
    return [
        result["name"],
        f"{result['ratio']:.2f}",
        wanted,
        ("[red]missed" if below(result) else "[green]ok") if wanted else "",
        _speed(result, "ours", "per_second"),
        _speed(result, "bare", "bare_per_second"),
        f"{result.get('peak_mib', result.get('peak_rss_mib', 0)):.0f} MiB",
    ]


def _speed(result: dict[str, Any], own: str, per_second: str) -> str:
    if per_second in result:
        return f"{result[per_second] / 1e6:.3g} M/s"
    return f"{result[own]:.3g} {result['unit']}" if own in result else ""


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
            if below(result):
                code = max(code, 1)
        table.add_section()
    console.print(table)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
