"""What a booted machine's page tables say, for people: runs of pages, and who they belong to.

`mapped_runs` lists an address space with neighbouring pages of one size and one kind as one run, so
that a physical memory map of thousands of large pages is one line.  Asked for after the kernel has
run, it also says how many pages of a run were accessed, and how many written to.

    >>> for run in mapped_runs(state.memory, state.cpu, state.layout):  # doctest: +SKIP
    ...     print(run)
    0x20_0000..0x20_0fff -> 0x40_0000 1 x 4K R--, 0 accessed, 0 dirty: the kernel
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.address import PageSize, format_address
from harness.boot.layout import SLOT, VirtualLayout
from harness.boot.loader import BootedState, level_4_listing
from harness.cpu import CpuState
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.walker.ranges import leaves

__all__ = ["MappedRun", "listing_json", "listing_text", "mapped_runs"]

_ACCESSED = np.uint64(PageTableFlags.ACCESSED)
_DIRTY = np.uint64(PageTableFlags.DIRTY)


@dataclass(frozen=True, slots=True)
class MappedRun:
    """Neighbouring pages of one size and one kind, mapped to neighbouring frames.

    :param start: first virtual address
    :param end: address behind the last page
    :param pa: physical address of the first page
    :param page_size: size of each page
    :param rights: R, W, X and U, ``-`` for what is not allowed; all levels combined
    :param accessed: pages whose leaf has the accessed bit
    :param dirty: pages whose leaf has the dirty bit
    :param names: what lies there
    """

    start: int
    end: int
    pa: int
    page_size: PageSize
    rights: str
    accessed: int
    dirty: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{format_address(self.start)}..{format_address(self.end - 1)} -> "
            f"{format_address(self.pa)} {self.pages} x {self.page_size.letter} {self.rights}, "
            f"{self.accessed} accessed, {self.dirty} dirty: {', '.join(self.names) or 'unnamed'}"
        )

    @property
    def pages(self) -> int:
        """Count the pages."""
        return (self.end - self.start) // self.page_size

    def to_json(self) -> dict[str, Any]:
        """Give the run as JSON values, addresses as hex strings."""
        return {
            "start": hex(self.start),
            "end": hex(self.end),
            "pa": hex(self.pa),
            "page_size": int(self.page_size),
            "pages": self.pages,
            "rights": self.rights,
            "accessed": self.accessed,
            "dirty": self.dirty,
            "names": list(self.names),
        }


def mapped_runs(
    memory: PhysicalMemory, cpu: CpuState, layout: VirtualLayout | None = None
) -> list[MappedRun]:
    """List what is mapped, in ascending order of address as an unsigned number.

    The recursive slot is left out: it shows the tables of all the others.

    :param memory: the machine's memory
    :param cpu: its control registers
    :param layout: what is where, for the names
    """
    found = leaves(memory, cpu)
    keep = np.ones(len(found), np.bool_)
    if layout is not None and layout.recursive_index is not None:
        keep = found.va // np.uint64(SLOT) % np.uint64(512) != layout.recursive_index
    va, pa, size = found.va[keep], found.pa[keep], found.size[keep]
    raw, user = found.raw[keep], found.user[keep]
    writable, executable = found.writable[keep], found.executable[keep]
    if not len(va):
        return []
    neighbours = (va[1:] == va[:-1] + size[:-1]) & (pa[1:] == pa[:-1] + size[:-1])
    for column in (size, user, writable, executable):
        neighbours &= column[1:] == column[:-1]
    firsts = np.concatenate(([0], np.flatnonzero(~neighbours) + 1))
    counts = np.diff(np.concatenate((firsts, [len(va)])))
    accessed = np.add.reduceat((raw & _ACCESSED != 0).astype(np.int64), firsts)
    dirty = np.add.reduceat((raw & _DIRTY != 0).astype(np.int64), firsts)
    runs = []
    for row, (first, count) in enumerate(zip(firsts.tolist(), counts.tolist(), strict=True)):
        start = int(va[first])
        end = start + count * int(size[first])
        held = zip("WXU", (writable[first], executable[first], user[first]), strict=True)
        rights = "R" + "".join(letter if holds else "-" for letter, holds in held)
        areas = layout.areas if layout is not None else ()
        names = tuple(dict.fromkeys(a.name for a in areas if a.start < end and start < a.end))
        page_size = PageSize(int(size[first]))
        runs.append(
            MappedRun(
                start, end, int(pa[first]), page_size, rights, int(accessed[row]), int(dirty[row]),
                names,
            )
        )  # fmt: skip
    return runs


def listing_text(state: BootedState, *, tables: bool) -> str:
    """Write the level 4 table, and on request all that is mapped, for a person.

    :param state: the machine, before or after it ran
    :param tables: whether to list what is mapped, run by run
    """
    lines = [f"level 4 table at {format_address(state.cpu.root)}:"]
    for slot in level_4_listing(state):
        purpose = ", ".join(slot.names) or "not the bootloader's"
        lines.append(f"  {slot.index:3}  {slot.entry.raw:#_x}  {purpose}")
    if tables:
        lines.append("mapped:")
        lines += [f"  {run}" for run in mapped_runs(state.memory, state.cpu, state.layout)]
    return "\n".join(lines)


def listing_json(state: BootedState, *, tables: bool) -> dict[str, Any]:
    """Give what `listing_text` writes as JSON values.

    :param state: the machine, before or after it ran
    :param tables: whether to list what is mapped, run by run
    """
    result: dict[str, Any] = {
        "level_4": [
            {"index": slot.index, "entry": hex(slot.entry.raw), "names": list(slot.names)}
            for slot in level_4_listing(state)
        ]
    }
    if tables:
        runs = mapped_runs(state.memory, state.cpu, state.layout)
        result["mapped"] = [run.to_json() for run in runs]
    return result
