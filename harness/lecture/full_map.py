"""The complete physical memory, mapped at an offset with large pages."""

from __future__ import annotations

from harness.address import PageSize
from harness.describe.diagram import Span, page_tables, path_picture, window_picture
from harness.lecture.chapter import Chapter, Stage
from harness.machine import TABLES_BASE
from harness.mapping.offset import OffsetPageTable
from harness.mapping.space import AddressSpace
from harness.walker import leaves

__all__ = ["FULL_MAP"]

_MIB = 1 << 20


def _tell(stage: Stage) -> None:
    kernel = stage.kernel("full-map")
    offset = int(kernel.inputs["rdi"])
    result = stage.run("full-map")
    machine = result.machine
    memory, cpu = machine.memory, machine.cpu
    tables = page_tables(memory, cpu)
    spans = []
    for start in range(0, memory.size, 2 * _MIB):
        held = sum(start <= table < start + 2 * _MIB for table in tables)
        spans.append(Span(start, start + 2 * _MIB, f"{held} tables" if held else ""))
    stage.picture(
        "all of physical memory, in 2 MiB pages",
        window_picture(memory, cpu, offset, spans, unit=_MIB, unit_name="MiB"),
    )
    stage.picture(
        "the level 4 table through the map: one level fewer, since a level 2 entry is the page",
        path_picture(memory, cpu, offset + TABLES_BASE),
    )
    registers = result.exit.registers
    stage.check(
        "offset + CR3 is where the level 4 table appears",
        said=registers["rbx"],
        predicted=memory.read_u64(TABLES_BASE),
    )
    mapper = OffsetPageTable(AddressSpace(memory, cpu), offset)
    stage.check(
        "a frame that is no page table: the host's mapper says which one offset + 10 MiB is",
        said=registers["rdx"],
        predicted=memory.read_u64(int(mapper.translate_addr(offset + 10 * _MIB) or 0)),
    )
    frames = range(0, memory.size, PageSize.Size4KiB)
    seen = stage.probe(memory, cpu, [offset + frame for frame in frames])
    right = sum(each.pa == frame for each, frame in zip(seen, frames, strict=True))
    stage.check(
        "every frame of RAM, probed at offset + its address, is where it must be",
        said=f"{right} of {len(frames)} frames",
        predicted=f"{len(frames)} of {len(frames)} frames",
    )
    big = sum(int(size) == PageSize.Size2MiB for size in leaves(memory, cpu).size)
    stage.note(
        f"The map of {memory.size // _MIB} MiB takes {big} leaf entries of 2 MiB. With 4 KiB pages "
        f"it would take {len(frames)}, and {memory.size // PageSize.Size2MiB} level 1 tables to "
        "hold them."
    )


FULL_MAP = Chapter(
    name="full-map",
    title="Map the complete physical memory",
    lecture=(
        "What about mapping the complete physical memory? That is, not only the page tables.",
        "Allows our kernel to access arbitrary physical memory, including page tables.",
        "x86_64 can address ENORMOUS pages, up to size 2 MiB. This cuts down on overhead.",
    ),
    claim="With all of physical memory at an offset, physical address p is virtual offset + p.",
    conclusion="One addition turns any physical address into a pointer, new page tables included.",
    tell=_tell,
)
