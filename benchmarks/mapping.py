"""How fast host mappers are: 1 GiB in 4 KiB pages, by every trick.

``python benchmarks/mapping.py`` prints one line for each measurement. ``map_range`` of 262,144
entries is compared, within one process and in turns, with the barest code that writes the same
tables (numpy, straight to physical memory, no walk and no checks), and with ``map_to`` page by
page. The first must take less than a second, whatever the ratio.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import numpy as np
from turns import MIB, compare, report

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.mapping.flavours import Flavour, Lab, set_up
from harness.memory import PhysicalMemory

__all__ = ["measure"]

GIB = 1 << 30
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
        compare(
            f"map_range of 1 GiB in 4 KiB pages, {flavour}, against bare numpy stores",
            GIB >> 12,
            partial(_one_gib, flavour),
            lambda: _bare(PhysicalMemory(16 * MIB)),
            turns=TURNS,
            seconds_wanted=1.0,
        )
        for flavour in Flavour
    ]
    results.append(
        compare(
            "map_range of 8 MiB in 4 KiB pages, offset-2m, against map_to page by page",
            8 * MIB >> 12,
            lambda: _map_range(set_up(Flavour.OFFSET_2M, ram=16 * MIB), 8 * MIB),
            lambda: _page_by_page(set_up(Flavour.OFFSET_2M, ram=16 * MIB), 8 * MIB),
            turns=TURNS,
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


if __name__ == "__main__":
    sys.exit(report(measure()))
