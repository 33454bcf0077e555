"""``map_to``, ``unmap`` and ``update_flags``: what the lecture does next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.address import Page, PhysAddr, PhysFrame, VirtAddr, format_address
from harness.describe.diagram import path_picture
from harness.entry import PageTableFlags
from harness.errors import MappingError
from harness.frames import BitmapFrameAllocator
from harness.lecture.chapter import Chapter, Stage
from harness.mapping.errors import (
    AccessFault,
    FrameAllocationFailed,
    PageAlreadyMapped,
    PageNotMapped,
    ParentEntryHugePage,
)
from harness.mapping.offset import OffsetPageTable
from harness.mapping.space import AddressSpace

if TYPE_CHECKING:
    from harness.kernels import Kernel

__all__ = ["MAP_TO"]

# asm/map-to.asm: what an operation's first word says, and what a result says.
_MAP_TO, _UNMAP, _UPDATE_FLAGS, _WRITE, _READ = range(1, 6)
_NAMES = {
    _MAP_TO: "map_to",
    _UNMAP: "unmap",
    _UPDATE_FLAGS: "update_flags",
    _WRITE: "write",
    _READ: "read",
}
_ERRORS = (PageAlreadyMapped, ParentEntryHugePage, FrameAllocationFailed, PageNotMapped)
_FAULT = 0xFFFF_FFFF << 32
Operation = tuple[int, int, int, int]


def _tell(stage: Stage) -> None:
    result = stage.run("map-to", words=False)
    memory, cpu = result.machine.memory, result.machine.cpu
    kernel = result.kernel
    labels = kernel.assemble().labels
    operations: list[Operation] = []
    for number in range(int(kernel.inputs["rdx"])):
        at = labels["operations"] + 32 * number
        what, page, first, second = (memory.read_u64(at + 8 * i) for i in range(4))
        operations.append((what, page, first, second))
    said = [memory.read_u64(labels["results"] + 8 * i) for i in range(len(operations))]
    lines = [
        f"{_called(operation):<64} ─► {_answer(operation, answer)}"
        for operation, answer in zip(operations, said, strict=True)
    ]
    stage.picture("what the kernel did, and what came out", "\n".join(lines))
    stage.check(
        "the host's OffsetPageTable, given the same operations, answers the same",
        said=[_answer(*each) for each in zip(operations, said, strict=True)],
        predicted=[
            _answer(*each)
            for each in zip(operations, _on_the_host(kernel, operations), strict=True)
        ],
    )
    page = operations[0][1]
    stage.picture("the page in the end, with its new tables", path_picture(memory, cpu, page))
    seen = stage.probe(memory, cpu, [page])
    stage.check(
        "where the page leads in the end",
        said=[each.pa for each in seen],
        predicted=[
            OffsetPageTable(AddressSpace(memory, cpu), int(kernel.inputs["rcx"])).translate_addr(
                page
            )
        ],
    )
    stage.check(
        "a fault for each access that was not allowed",
        said=[event.cr2 for event in result.exit.events],
        predicted=[
            operation[1]
            for operation, answer in zip(operations, said, strict=True)
            if operation[0] in (_READ, _WRITE) and answer >= _FAULT
        ],
    )


def _called(operation: Operation) -> str:
    what, page, first, second = operation
    words = [_NAMES[what], format_address(page)]
    if what == _MAP_TO:
        words += ["to", format_address(first)]
    if what in (_MAP_TO, _UPDATE_FLAGS):
        words.append(str(PageTableFlags(second)))
    if what == _WRITE:
        words.append(f"= {format_address(first)}")
    return " ".join(words)


def _answer(operation: Operation, answer: int) -> str:
    if operation[0] in (_READ, _WRITE):
        if answer >= _FAULT:
            return f"#PF (error code {answer - _FAULT:#x})"
        return "ok" if operation[0] == _WRITE else format_address(answer)
    return _ERRORS[answer - 1].__name__ if answer else "ok"


def _on_the_host(kernel: Kernel, operations: list[Operation]) -> list[int]:
    program = kernel.assemble()
    with kernel.build() as machine:
        machine.load(program)
        inputs = kernel.inputs
        frames = BitmapFrameAllocator([(int(inputs["r8"]), int(inputs["r9"]))])
        space = AddressSpace(machine.memory, machine.cpu)
        mapper = OffsetPageTable(space, int(inputs["rcx"]))
        return [_do(each, space, mapper, frames) for each in operations]


def _do(
    operation: Operation,
    space: AddressSpace,
    mapper: OffsetPageTable,
    frames: BitmapFrameAllocator,
) -> int:
    what, address, first, second = operation
    page = Page.containing_address(VirtAddr(address))
    try:
        if what == _READ:
            return space.read_u64(address)
        if what == _WRITE:
            space.write_u64(address, first)
        elif what == _MAP_TO:
            frame = PhysFrame.from_start_address(PhysAddr(first))
            mapper.map_to(page, frame, PageTableFlags(second), frames).flush()
        elif what == _UNMAP:
            mapper.unmap(page)[1].flush()
        else:
            mapper.update_flags(page, PageTableFlags(second)).flush()
    except AccessFault as fault:
        return _FAULT | (fault.walk.error_code or 0)
    except MappingError as error:
        return next(n for n, kind in enumerate(_ERRORS, 1) if isinstance(error, kind))
    return 0


MAP_TO = Chapter(
    name="map-to",
    title="map_to: new mappings, made by the kernel itself",
    lecture=(
        "Finally, we learn how to create new mappings in the page tables and how to find unused",
        "memory frames for creating new page tables.",
        "We also have access to other page functions, such as map_to.",
    ),
    claim="A kernel that reaches its tables can map, protect and unmap, and the CPU obeys at once.",
    conclusion="Fault, map, write, read-only, fault, unmap, fault: the CPU does what was written.",
    tell=_tell,
)
