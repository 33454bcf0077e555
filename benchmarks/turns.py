"""How every benchmark measures: ours and the bare competitor in turns, within one process.

The ratio is the median over the turns, each a pair that ran one right after the other: machines are
noisy, and a pair shares the noise.
"""

import gc
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

__all__ = ["MIB", "compare", "missed", "report", "timed", "wanted"]

MIB = 1 << 20


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Make a function return the seconds that it took."""

    def run() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def compare(
    name: str,
    count: int,
    ours: Callable[[], float],
    bare: Callable[[], float],
    *,
    turns: int,
    target: float | None = None,
    seconds_wanted: float | None = None,
) -> dict[str, Any]:
    """Measure ours against the bare competitor.

    :param count: how many of what is counted by the second each run does
    :param ours: runs once, and returns its seconds
    :param bare: the same of the competitor
    :param target: the least ratio wanted
    :param seconds_wanted: the most seconds wanted
    :returns: ``name``, ``ratio`` (speed against the competitor), ``target``, ``seconds``,
        ``seconds_wanted``, ``per_second``, ``bare_per_second``, ``traced_mib`` (that Python
        allocated in a run) and ``peak_rss_mib`` (of the process, up to then)
    """
    ours()
    bare()
    times = []
    for _ in range(turns):
        gc.collect()
        mine = ours()
        gc.collect()
        times.append((mine, bare()))
    tracemalloc.start()
    ours()
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seconds = statistics.median(mine for mine, _ in times)
    return {
        "name": name,
        "ratio": statistics.median(theirs / mine for mine, theirs in times),
        "target": target,
        "seconds": seconds,
        "seconds_wanted": seconds_wanted,
        "per_second": count / seconds,
        "bare_per_second": count / statistics.median(theirs for _, theirs in times),
        "traced_mib": traced / MIB,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def missed(result: dict[str, Any]) -> bool:
    """Say whether a result misses its target: a ratio, or the seconds that it may take."""
    target, seconds = result["target"], result["seconds_wanted"]
    slow = seconds is not None and result["seconds"] > seconds
    return slow or (target is not None and result["ratio"] < target)


def wanted(result: dict[str, Any]) -> str:
    """Return the target of a result in a few characters, empty if it has none."""
    target, seconds = result["target"], result["seconds_wanted"]
    return f"{target:g}" if target is not None else f"{seconds:g} s" if seconds else ""


def report(results: list[dict[str, Any]]) -> int:
    """Print a line for each result; 1 if one misses its target."""
    for result in results:
        limit = f" (wanted {wanted(result)}{', MISSED' if missed(result) else ''})"
        print(
            f"{result['name']}: {result['ratio']:.2f}{limit if wanted(result) else ''}; "
            f"{result['per_second'] / 1e6:.3f} M/s against {result['bare_per_second'] / 1e6:.3f}; "
            f"{result['traced_mib']:.1f} MiB allocated, peak of the process "
            f"{result['peak_rss_mib']:.0f} MiB"
        )
    return int(any(missed(result) for result in results))
