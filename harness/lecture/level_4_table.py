"""``active_level_4_table``: the lecture's first function, and its loop over the entries."""

from __future__ import annotations

from harness.describe.diagram import path_picture, table_picture
from harness.entry import PageTableEntry
from harness.lecture.chapter import Chapter, Stage
from harness.mapping.offset import active_level_4_table
from harness.mapping.space import AddressSpace

__all__ = ["LEVEL_4_TABLE"]


def _tell(stage: Stage) -> None:
    result = stage.run("active-level-4-table")
    memory, cpu = result.machine.memory, result.machine.cpu
    offset = int(result.kernel.inputs["rdi"])
    at = result.exit.registers["rax"]
    stage.picture("the table, at offset + CR3", path_picture(memory, cpu, at))
    space = AddressSpace(memory, cpu)
    stage.check(
        "active_level_4_table(offset), as the host computes it",
        said=at,
        predicted=active_level_4_table(space, offset),
    )
    words = memory.frame(cpu.root).tolist()
    used = [(index, raw) for index, raw in enumerate(words) if raw]
    begins = {
        index: f"from {_first_address(index)}: {PageTableEntry(raw, 4).flags}"
        for index, raw in used
    }
    stage.picture(
        "what is in it", table_picture(memory, cpu.root, 4, [index for index, _ in used], begins)
    )
    stage.check(
        "the lecture's loop prints the entries that are in memory",
        said=[*result.exit.serial.decode("ascii").splitlines()],
        predicted=[*(f"L4 Entry {index:02x}: {raw:#018x}" for index, raw in used), "FIN"],
    )
    stage.check("and counts them", said=str(result.exit.registers["rbx"]), predicted=str(len(used)))


def _first_address(index: int) -> str:
    from harness.address import format_address, sign_extend

    return format_address(sign_extend(index << 39))


LEVEL_4_TABLE = Chapter(
    name="level-4-table",
    title="active_level_4_table: CR3, the offset, and a loop",
    lecture=(
        "First, we simply access the page table. Read from CR3. Offset. A billion casts.",
        "let virt = offset + phys.as_u64();",
        "Various non-empty entries, which map different level 3 tables.",
        "Kernel code. Kernel stack. Physical memory mapping. Boot information.",
    ),
    claim="The level 4 table is at physical_memory_offset + CR3.",
    conclusion="The kernel holds its own level 4 table, and can loop over it like over any array.",
    tell=_tell,
)
