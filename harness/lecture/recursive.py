"""Recursion: an entry of the level 4 table that leads to the level 4 table."""

from __future__ import annotations

from harness.address import VirtAddr, format_address
from harness.describe.diagram import path_picture
from harness.lecture.chapter import Chapter, Stage
from harness.mapping.recursive_address import entry_address, octal, recursive_region, shown_by
from harness.walker import walk

__all__ = ["RECURSIVE"]

# The registers in which recursion-levels leaves what it found, by level.
_ENTRY_AT = {1: "r12", 2: "r13", 3: "r14", 4: "r15"}
_SEEN = {1: "r8", 2: "r9", 3: "r10", 4: "r11"}
_TIMES = {1: "once", 2: "twice", 3: "three times", 4: "four times"}


def _tell(stage: Stage) -> None:
    _the_slot(stage)
    _the_levels(stage)


def _the_slot(stage: Stage) -> None:
    result = stage.run("recursive-pml4")
    memory, cpu = result.machine.memory, result.machine.cpu
    slot = int(result.kernel.machine["recursive"])
    registers = result.exit.registers
    at = registers["rsi"] + 8 * slot
    stage.picture(f"the entry that makes it possible: {octal(at)}", path_picture(memory, cpu, at))
    stage.check(
        f"entry {slot}, read through entry {slot}",
        said=registers["rax"],
        predicted=memory.read_u64(cpu.root + 8 * slot),
    )
    shown = shown_by(at, slot)
    stage.check(
        "which entry it is, by the host's inverse of the trick",
        said=None if shown is None else f"level {shown.level}, entry {shown.index}",
        predicted=f"level 4, entry {slot}",
    )


def _the_levels(stage: Stage) -> None:
    result = stage.run("recursion-levels", words=False)
    memory, cpu = result.machine.memory, result.machine.cpu
    registers = result.exit.registers
    slot = int(result.kernel.inputs["rcx"])
    target = VirtAddr(int(result.kernel.inputs["rdi"]))
    entries = result.kernel.assemble().labels["entries"]
    stage.picture(
        "an address as always: four tables and a page",
        path_picture(memory, cpu, target, octal_indices=True),
    )
    steps = {step.level: step for step in walk(memory, cpu, target).steps}
    for level, times in _TIMES.items():
        at = registers[_ENTRY_AT[level]]
        stage.picture(
            f"{times} through slot {slot}: what the CPU takes for the page is the level {level} "
            "table",
            path_picture(memory, cpu, at),
        )
        stage.check(
            f"where the level {level} entry of {format_address(target)} appears",
            said=at,
            predicted=entry_address(target, level, slot),
        )
        stage.check(
            "what the CPU read there is that entry",
            said=memory.read_u64(entries + 8 * (level - 1)),
            predicted=steps[level].raw,
        )
        neighbour = walk(memory, cpu, int(target) + (8 << 9 * level)).pa or 0
        stage.check(
            "overwritten there with its neighbour's, and invlpg: the address shows the other frame",
            said=registers[_SEEN[level]],
            predicted=memory.read_u64(neighbour),
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
