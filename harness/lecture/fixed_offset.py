"""Fixed offset: only the page tables are mapped, each at its address plus a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.address import Page, PhysAddr, PhysFrame, VirtAddr, format_address
from harness.describe.diagram import path_picture, physical_spans, window_picture
from harness.entry import PageTableFlags
from harness.frames import BitmapFrameAllocator
from harness.lecture.chapter import Chapter, Stage
from harness.mapping.fixed_offset import FixedOffsetPageTable
from harness.mapping.space import AddressSpace
from harness.outcome import Outcome
from harness.walker import walk

if TYPE_CHECKING:
    from harness.kernels import Kernel
    from harness.memory import PhysicalMemory

__all__ = ["FIXED_OFFSET"]

_KIB = 1024
_WINDOW = 512


def _tell(stage: Stage) -> None:
    kernel = stage.kernel("fixed-offset")
    inputs = {name: int(value) for name, value in kernel.inputs.items()}
    offset, first_free = inputs["rcx"], inputs["r8"]
    with kernel.build() as machine:
        before = machine.memory
        stage.picture(
            "before: the tables, and above each the page that shows it",
            _window(before, machine.cpu.root, offset, first_free + 16 * _KIB, kernel),
        )
    result = stage.run("fixed-offset", words=False)
    memory, cpu = result.machine.memory, result.machine.cpu
    stage.picture(
        f"after map_to of {format_address(inputs['rdi'])}: three new tables, three new mappings",
        _window(memory, cpu.root, offset, first_free + 16 * _KIB, kernel),
    )
    seen = stage.probe(memory, cpu, [offset + 4096 * i for i in range(_WINDOW)])
    twin = _on_the_host(kernel)
    stage.check(
        f"which frames the window's {_WINDOW} pages show, probed one by one",
        said=[each.pa for each in seen if each.outcome is Outcome.MAPPED],
        predicted=[
            pa for i in range(_WINDOW) if (pa := walk(twin, cpu, offset + 4096 * i).pa) is not None
        ],
    )
    stage.picture(
        "the new page's level 1 table, through the window",
        path_picture(memory, cpu, offset + result.exit.registers["r8"] - 4096),
    )
    stage.check(
        "what was written to the new page arrived in its frame",
        said=result.exit.registers["rbx"],
        predicted=memory.read_u64(inputs["rsi"]),
    )
    stage.check(
        "through the window, neither a frame that is no table yet nor the page's frame can be read",
        said=[event.cr2 for event in result.exit.events],
        predicted=[offset + first_free, offset + inputs["rsi"]],
    )


def _window(memory: PhysicalMemory, root: int, offset: int, end: int, kernel: Kernel) -> str:
    from harness.cpu import CpuState

    cpu = CpuState(cr3=root)
    return window_picture(memory, cpu, offset, physical_spans(memory, cpu, end))


def _on_the_host(kernel: Kernel) -> PhysicalMemory:
    # The memory in which the host's mapper has mapped what the kernel maps.
    inputs = {name: int(value) for name, value in kernel.inputs.items()}
    with kernel.build() as machine:
        space = AddressSpace(machine.memory, machine.cpu)
        frames = BitmapFrameAllocator([(inputs["r8"], inputs["r9"])])
        FixedOffsetPageTable(space, inputs["rcx"]).map_to(
            Page.from_start_address(VirtAddr(inputs["rdi"])),
            PhysFrame.from_start_address(PhysAddr(inputs["rsi"])),
            PageTableFlags(inputs["rdx"]),
            frames,
        ).flush()
        return machine.memory


FIXED_OFFSET = Chapter(
    name="fixed-offset",
    title="Map page tables at a fixed offset",
    lecture=(
        "Instead, use a separate memory region for page table mappings.",
        "So using e.g. 10 TiB - no problem.",
        "We need to create a new mapping whenever we create a new page table.",
        "Doesn't allow accessing page tables of other address spaces.",
    ),
    claim="At 10 TiB + its physical address each page table is visible, and nothing else is.",
    conclusion="No collisions any more, but each new table first needs a mapping of its own.",
    tell=_tell,
)
