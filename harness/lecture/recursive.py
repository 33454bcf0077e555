"""Recursion: an entry of the level 4 table that leads to the level 4 table."""

from __future__ import annotations

from harness.address import VirtAddr, format_address
from harness.lecture.chapter import Chapter, Stage
from harness.machine import KERNEL_BASE
from harness.mapping.recursive_address import (
    entry_address,
    octal,
    recursive_region,
    shown_by,
    table_address,
)
from harness.outcome import Access
from harness.show.diagram import path_picture
from harness.walk import walk

__all__ = ["RECURSIVE"]

_TIMES = {1: "Once", 2: "Twice", 3: "Three times", 4: "Four times"}


def _tell(stage: Stage) -> None:
    result = stage.run("recursive-pml4")
    memory, cpu = result.machine.memory, result.machine.cpu
    slot = int(result.kernel.machine["recursive"])
    code = VirtAddr(KERNEL_BASE)
    stage.picture(
        f"without recursion: the page of this kernel's code, {octal(code)}",
        path_picture(memory, cpu, code, octal_indices=True),
    )
    names = {
        1: "an ordinary page table becomes a page",
        2: "one level up",
        3: "running out of radices",
        4: "the level 4 table itself",
    }
    for times, remark in names.items():
        shown = entry_address(code, times, slot)
        stage.picture(
            f"{_TIMES[times]} through slot {slot}: {remark}", path_picture(memory, cpu, shown)
        )
        value = stage.probe(result.machine, shown, Access.of("read", size=8)).value
        stage.check(
            f"the CPU reads the level {times} entry of the code's page at {octal(shown)}",
            said=value,
            predicted=walk(memory, cpu, code).steps[-times].raw,
        )
    registers = result.exit.registers
    own = table_address(code, 4, slot)
    stage.check(
        f"RSI, all four indices {slot} = 0o{slot:o}, shows the level 4 table",
        said=registers["rsi"],
        predicted=own,
    )
    stage.check(
        f"what the CPU read at RSI + 8 · {slot} is the slot's own entry",
        said=registers["rax"],
        predicted=memory.read_u64(cpu.root + 8 * slot),
    )
    shown_at = shown_by(registers["rsi"] + 8 * slot, slot)
    stage.check(
        "the inverse, which entry that address shows",
        said=None if shown_at is None else f"level {shown_at.level}, entry {shown_at.index}",
        predicted=f"level 4, entry {slot}",
    )
    first, last = recursive_region(slot)
    stage.note(
        f"The price: {format_address(first)} to {format_address(last)}, "
        f"{(int(last) - int(first) + 1) >> 30} GiB of virtual addresses, for one entry of 8 bytes."
    )


RECURSIVE = Chapter(
    name="recursive",
    title="Recursive page tables: once, twice, three times, four times",
    lecture=(
        "Allow a page table to map itself. Require no new tables, consume only a single slot.",
        "If followed, the CPU finds the same table again. But! The CPU assumes a change-of-levels.",
        "The CPU thinks that it is the mapped frame.",
        "Uses too much virtual memory (512 GiB). Irrelevant in practice.",
    ),
    claim="Following the recursive entry n times makes the level n table come out as a page.",
    conclusion="One entry makes every table of the active address space readable and writable.",
    tell=_tell,
)
