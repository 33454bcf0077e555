"""How fast the walkers are, as ratios to the barest code that only translates.

``python benchmarks/walk.py`` prints one line for each measurement. What is compared runs in turns
within one process, on the same addresses, and the ratio is the median over the turns: an absolute
number says as much of the machine as of the code.

The bare competitors do no checks at all: no present bit, no rights, no page sizes, no RAM bounds.
They are right for the tables they are given and for no others.
"""

import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from turns import MIB, compare, report, timed

from harness.boot.tables import TableBuilder
from harness.cpu import CpuState
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.memory import PhysicalMemory
from harness.snapshot.sets import load_set
from harness.walker import bulk, leaves, ranges, walk

__all__ = ["measure"]

SETS = Path(__file__).parent.parent / "fixtures" / "page-tables"
PAGES = 64 * MIB >> 12
TURNS = 9
_U64 = np.uint64


def measure() -> list[dict[str, Any]]:
    """Run every measurement of this file.

    :returns: dictionaries with ``name``, ``ratio`` (speed against the bare competitor),
        ``target`` (the least ratio wanted, or None), ``per_second``, ``bare_per_second``,
        ``traced_mib`` (the most that one run of ours allocated) and ``peak_rss_mib``
        (of the process, up to then)
    """
    memory, cpu = _four_levels()
    rng = np.random.default_rng(1)
    many = rng.integers(0, PAGES << 12, MIB, dtype=_U64)
    some: list[int] = many[:20_000].tolist()
    words = memory.words
    quads = memory.words.data
    results = [
        compare(
            "walk, against a plain Python loop that only translates",
            len(some),
            timed(lambda: deque((walk(memory, cpu, va) for va in some), maxlen=0)),
            timed(lambda: _bare_python(quads, cpu.root, some)),
            turns=TURNS,
            target=0.1,
        ),
        compare(
            "bulk (numpy), against a numpy walk that only translates",
            len(many),
            timed(lambda: bulk(memory, cpu, many, fast=False)),
            timed(lambda: _bare_numpy(words, cpu.root, many)),
            turns=TURNS,
        ),
    ]
    try:
        bulk(memory, cpu, many[:1], fast=True)
    except ImportError:
        print("numba is not installed: its measurements are left out", file=sys.stderr)
    else:
        results += [
            compare(
                "bulk (numba), against a numpy walk that only translates",
                len(many),
                timed(lambda: bulk(memory, cpu, many, fast=True)),
                timed(lambda: _bare_numpy(words, cpu.root, many)),
                turns=TURNS,
                target=0.5,
            ),
            compare(
                "bulk (numba), against the same numpy walk in chunks that fit the cache",
                len(many),
                timed(lambda: bulk(memory, cpu, many, fast=True)),
                timed(lambda: _bare_numpy_in_chunks(words, cpu.root, many)),
                turns=TURNS,
            ),
        ]
    ovmf = load_set(SETS / "ovmf-max")
    pages = len(leaves(ovmf.memory, ovmf.cpu))
    results += [
        compare(
            "leaves of ovmf-max, against ranges",
            pages,
            timed(lambda: leaves(ovmf.memory, ovmf.cpu)),
            timed(lambda: sum(1 for _ in ranges(ovmf.memory, ovmf.cpu))),
            turns=TURNS,
        ),
        compare(
            "ranges of ovmf-max, against a plain recursion that only finds pages",
            pages,
            timed(lambda: sum(1 for _ in ranges(ovmf.memory, ovmf.cpu))),
            timed(lambda: _bare_recursion(ovmf.memory, ovmf.cpu.root, 4, 0)),
            turns=TURNS,
        ),
    ]
    return results


def _four_levels() -> tuple[PhysicalMemory, CpuState]:
    # 64 MiB of 4 KiB pages, each mapped to a frame somewhere else.
    memory = PhysicalMemory(80 * MIB)
    frames = iter(range(64 * MIB, 80 * MIB, 0x1000))
    flags = PageTableFlags.PRESENT | PageTableFlags.WRITABLE
    tables = TableBuilder(memory, frames.__next__)
    tables.map(0, 0, PAGES << 12, flags)
    scattered = np.random.default_rng(0).permutation(PAGES).astype(_U64) << _U64(12)
    vas = np.arange(PAGES, dtype=_U64) << _U64(12)
    cpu = CpuState(cr3=tables.root)
    for table in range(PAGES >> 9):
        pde = walk(memory, cpu, int(vas[table << 9])).steps[2].raw
        memory.frame(pde & ADDRESS_MASK)[:] = scattered[table << 9 : (table + 1) << 9] | _U64(3)
    return memory, cpu


def _bare_python(words: Any, root: int, vas: list[int]) -> int:
    mask = ADDRESS_MASK
    pa = 0
    for va in vas:
        entry = words[(root >> 3) + (va >> 39 & 511)]
        entry = words[((entry & mask) >> 3) + (va >> 30 & 511)]
        entry = words[((entry & mask) >> 3) + (va >> 21 & 511)]
        entry = words[((entry & mask) >> 3) + (va >> 12 & 511)]
        pa = entry & mask | va & 0xFFF
    return pa


def _bare_numpy(
    words: NDArray[np.uint64], root: int, vas: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    mask = _U64(ADDRESS_MASK)
    table: Any = _U64(root)
    for shift in (39, 30, 21, 12):
        table = words[(table >> _U64(3)) + (vas >> _U64(shift) & _U64(511))] & mask
    found: NDArray[np.uint64] = table | vas & _U64(0xFFF)
    return found


def _bare_numpy_in_chunks(
    words: NDArray[np.uint64], root: int, vas: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    found = np.empty_like(vas)
    for first in range(0, len(vas), 1 << 14):
        chunk = slice(first, first + (1 << 14))
        found[chunk] = _bare_numpy(words, root, vas[chunk])
    return found


def _bare_recursion(memory: PhysicalMemory, table: int, level: int, start: int) -> int:
    count = 0
    for raw in memory.frame(table).tolist():
        if raw & 1:
            if level == 1 or raw & 0x80:
                count += 1
            else:
                count += _bare_recursion(memory, raw & ADDRESS_MASK, level - 1, start)
        start += 8 << 9 * level
    return count


if __name__ == "__main__":
    sys.exit(report(measure()))
