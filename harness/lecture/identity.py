"""Identity mapping: each table at its own address, and the two conflicts that follow."""

from __future__ import annotations

from harness.describe.diagram import Region, page_tables, path_picture, strip_picture, virtual_spans
from harness.lecture.chapter import Chapter, Stage
from harness.mapping.identity import find_free_region, frames_ruled_out
from harness.walker import walk

__all__ = ["IDENTITY"]

_KIB = 1024
_END = 2048 * _KIB


def _tell(stage: Stage) -> None:
    result = stage.run("identity-conflict")
    memory, cpu = result.machine.memory, result.machine.cpu
    registers = result.exit.registers
    start, size = int(result.kernel.inputs["rdi"]), int(result.kernel.inputs["rsi"])
    found = registers["r8"]
    tables = page_tables(memory, cpu)
    in_the_way = next((table for table in sorted(tables) if start < table < start + size), None)
    # The run has mapped its region since: without a label those pages count as free.
    stage.picture(
        "virtual memory: each table at its physical address, and where the region may go",
        strip_picture(
            virtual_spans(memory, cpu, _END, other=""),
            [
                Region(start, start + size, f"✗ {size // _KIB} KiB from {start // _KIB} KiB"),
                Region(found, found + size, f"✓ {size // _KIB} KiB from {found // _KIB} KiB"),
            ],
        ),
    )
    stage.check(
        f"the first place for {size // _KIB} KiB from {start // _KIB} KiB on",
        said=_kib(found),
        predicted=_kib(
            find_free_region([(t, t + 0x1000) for t in tables if t < _END], size, start=start)
        ),
    )
    if in_the_way is not None:
        stage.picture(
            f"what is in the way at {_kib(in_the_way)}: it is its own page",
            path_picture(memory, cpu, in_the_way, octal_indices=False),
        )
    stage.check(
        "what a region there would overwrite: the entry that maps this code",
        said=registers["r9"],
        predicted=walk(memory, cpu, result.exit.rip).steps[-1].raw,
    )
    ruled_out = frames_ruled_out(found, size)
    frames = [int(frame.start_address) for frame in ruled_out]
    stage.picture(
        "with the region in use: the frames that can hold no page table any more",
        strip_picture(
            virtual_spans(memory, cpu, _END, other="the region"),
            [Region(registers["r10"], registers["r11"], "these physical addresses")],
        ),
    )
    stage.check(
        "frames ruled out, each seen to show the region at its own address",
        said=f"{_kib(registers['r10'])} to {_kib(registers['r11'])}, {registers['rbx']} frames",
        predicted=f"{_kib(frames[0])} to {_kib(frames[-1] + 4096)}, {len(frames)} frames",
    )
    stage.check(
        "a page table in the frame at 1500 KiB is not what its own address shows",
        said=registers["r12"],
        predicted=registers["r15"],
        unlike=True,
    )


def _kib(address: int | None) -> str:
    return "nowhere" if address is None else f"{address / _KIB:g} KiB"


IDENTITY = Chapter(
    name="identity",
    title="Identity mapping, and its conflicts",
    lecture=(
        "The physical addresses of page tables are also valid virtual addresses.",
        "Need 1000 KiB sized region. Start at 28 KiB collides with mapped page 1004 KiB.",
        "First option is 1008 KiB.",
        "Say 1000 KiB sized region at virtual 1008 KiB.",
        "Can't use any frame with a physical address between 1000 KiB and 2008 KiB.",
    ),
    claim="Identity-mapped tables break up virtual memory, and regions in use rule out frames.",
    conclusion="Tables and regions compete for the same addresses, and either can lose.",
    tell=_tell,
)
