"""How fast host mappers are: 1 GiB in 4 KiB pages, by every trick.

``python benchmarks/mapping.py`` prints one line for each measurement. ``map_range`` of 262,144
entries is compared, within one process and in turns, with the barest code that writes the same
tables (numpy, straight to physical memory, no walk and no checks), and with ``map_to`` page by
page. The first must take less than a second, whatever the ratio.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.mapping.flavours import Flavour, Lab, set_up
from harness.memory import PhysicalMemory

__all__ = ["measure"]

GIB, MIB = 1 << 30, 1 << 20
VA = 0x7000_0000_0000
TURNS = 5
FLAGS = PageTableFlags.PRESENT | PageTableFlags.WRITABLE


def measure() -> list[dict[str, Any]]:
    """Run every measurement of this file.

    :returns: dictionaries with ``name``, ``ratio`` (speed against the competitor), ``target`` (the
        least ratio wanted, or None), ``seconds`` (the median), ``seconds_wanted`` (the most, or
        None), ``per_second`` and ``bare_per_second`` (entries), ``traced_mib`` (the most that one
        run of ours allocated) and ``peak_rss_mib`` (of the process, up to then)
    """
    results = [
        _compare(
            f"map_range of 1 GiB in 4 KiB pages, {flavour}, against bare numpy stores",
            GIB >> 12,
            partial(_one_gib, flavour),
            lambda: _bare(PhysicalMemory(16 * MIB)),
            1.0,
        )
        for flavour in Flavour
    ]
    results.append(
        _compare(
            "map_range of 8 MiB in 4 KiB pages, offset-2m, against map_to page by page",
            8 * MIB >> 12,
            lambda: _map_range(set_up(Flavour.OFFSET_2M, ram=16 * MIB), 8 * MIB),
            lambda: _page_by_page(set_up(Flavour.OFFSET_2M, ram=16 * MIB), 8 * MIB),
            None,
        )
    )
    return results


def _one_gib(flavour: Flavour) -> float:
    return _map_range(set_up(flavour, ram=16 * MIB), GIB)


def _map_range(lab: Lab, length: int) -> float:
    start = time.perf_counter()
    lab.mapper.map_range(VA, 0, length, FLAGS, lab.frames, largest=PageSize.Size4KiB).flush_all()
    return time.perf_counter() - start


def _page_by_page(lab: Lab, length: int) -> float:
    start = time.perf_counter()
    for at in range(0, length, 4096):
        page, frame = Page(VirtAddr(VA + at)), PhysFrame(PhysAddr(at))
        lab.mapper.map_to(page, frame, FLAGS, lab.frames).flush()
    return time.perf_counter() - start


def _bare(memory: PhysicalMemory) -> float:
    start = time.perf_counter()
    page_directory = memory.frame(0x1000)
    for number in range(512):
        table = 0x2000 + number * 4096
        memory.frame(table)[:] = np.arange(512, dtype=np.uint64) * np.uint64(4096) + np.uint64(
            number << 21 | 3
        )
        page_directory[number] = table | 3
    return time.perf_counter() - start


def _compare(
    name: str,
    count: int,
    ours: Callable[[], float],
    bare: Callable[[], float],
    seconds_wanted: float | None,
) -> dict[str, Any]:
    ours()
    bare()
    times = []
    for _ in range(TURNS):
        gc.collect()
        times.append((ours(), bare()))
    tracemalloc.start()
    ours()
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seconds = statistics.median(mine for mine, _ in times)
    return {
        "name": name,
        "ratio": statistics.median(theirs / mine for mine, theirs in times),
        "target": None,
        "seconds": seconds,
        "seconds_wanted": seconds_wanted,
        "per_second": count / seconds,
        "bare_per_second": count / statistics.median(theirs for _, theirs in times),
        "traced_mib": traced / MIB,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> int:
    """Print a line for each measurement; 1 if one takes longer than is wanted."""
    missed = False
    for result in measure():
        wanted = result["seconds_wanted"]
        late = wanted is not None and result["seconds"] >= wanted
        missed |= late
        limit = "" if wanted is None else f" (wanted < {wanted:g} s{', MISSED' if late else ''})"
        print(
            f"{result['name']}: {result['ratio']:.3g}; {result['seconds']:.3f} s{limit}; "
            f"{result['per_second'] / 1e6:.3f} M/s against {result['bare_per_second'] / 1e6:.3f}; "
            f"{result['traced_mib']:.1f} MiB allocated, peak of the process "
            f"{result['peak_rss_mib']:.0f} MiB"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
