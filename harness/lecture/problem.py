"""The problem: page tables hold physical addresses, and a kernel can only use virtual ones."""

from __future__ import annotations

from harness.describe.diagram import path_picture
from harness.lecture.chapter import Chapter, Stage
from harness.machine import TABLES_BASE

__all__ = ["PROBLEM"]


def _tell(stage: Stage) -> None:
    result = stage.run("physical-address")
    memory, cpu = result.machine.memory, result.machine.cpu
    at_physical = memory.read_u64(TABLES_BASE)
    stage.picture(
        "virtual 4 KiB: what the kernel gets when it dereferences CR3",
        path_picture(memory, cpu, TABLES_BASE),
    )
    found = result.machine.walk(TABLES_BASE)
    stage.check(
        "virtual 4 KiB shows whatever frame its page is mapped to",
        said=result.exit.registers["rax"],
        predicted=memory.read_u64(found.pa or 0),
    )
    stage.check(
        "that is not what physical 4 KiB holds, an entry of the level 4 table",
        said=result.exit.registers["rax"],
        predicted=at_physical,
        unlike=True,
    )
    table = at_physical & -4096
    stage.picture(
        "the physical address in that entry, dereferenced", path_picture(memory, cpu, table)
    )
    stage.check(
        "the next table's physical address leads to a page fault, with this CR2",
        said=[event.cr2 for event in result.exit.events[:1]],
        predicted=[result.machine.walk(table).cr2],
    )


PROBLEM = Chapter(
    name="problem",
    title="Accessing page tables: the problem",
    lecture=(
        "We can't directly access physical addresses from our kernel.",
        "Say we want to access physical 4 KiB. It is located not ... virtual 4 KiB.",
    ),
    claim="A kernel that dereferences a physical address gets another frame, or a page fault.",
    conclusion="Every address that an instruction uses is virtual, those that come from CR3 too.",
    tell=_tell,
)
