"""Temporary mapping: one level 1 table that maps itself, and lends its other entries."""

from __future__ import annotations

from harness.address import PhysAddr, PhysFrame, format_address, table_name
from harness.describe.diagram import (
    page_tables,
    path_picture,
    strip_picture,
    table_picture,
    virtual_spans,
)
from harness.lecture.chapter import Chapter, Stage
from harness.machine import TABLES_BASE, Machine
from harness.mapping.errors import NoFreeSlot
from harness.mapping.space import AddressSpace
from harness.mapping.temporary import TemporaryMapping
from harness.outcome import Access

__all__ = ["TEMPORARY"]

_KIB = 1024
_TABLE = 32 * _KIB
# The lecture's two mappings: entry of the level 1 table → what it is set to.
_SHOWN = {0: 24 * _KIB, 9: TABLES_BASE}
_FLAGS = 3


def _tell(stage: Stage) -> None:
    result = stage.run("temporary-mapping", words=False)
    registers = result.exit.registers
    memory, cpu = result.machine.memory.copy(), result.machine.cpu
    stage.note(
        "The kernel has set its entries back to unused. The host now makes the lecture's two "
        "mappings again, through the table at virtual 32 KiB as the kernel did, to draw them."
    )
    space = AddressSpace(memory, cpu)
    for index, frame in _SHOWN.items():
        space.write_u64(_TABLE + 8 * index, frame | _FLAGS)
    tables = page_tables(memory, cpu)
    notes = {
        index: f"the {table_name(tables[frame])} at {frame // _KIB} KiB, seen at page "
        f"{4 * index} KiB"
        for index, frame in {**_SHOWN, 8: _TABLE}.items()
    }
    stage.picture("the level 1 table", table_picture(memory, _TABLE, 1, notes, notes))
    spans = virtual_spans(memory, cpu, 2048 * _KIB, other="code")
    stage.picture("the first 2 MiB of virtual memory, which it controls", strip_picture(spans))
    for index, register in ((0, "r8"), (9, "r9")):
        at = 4096 * index
        stage.picture(
            f"entry {index}: page {4 * index} KiB",
            path_picture(memory, cpu, at, octal_indices=False),
        )
        (seen,) = stage.probe(memory, cpu, [at], Access.of("read", size=8))
        stage.check(
            f"page {4 * index} KiB shows the {table_name(tables[_SHOWN[index]])}: its entry 0, "
            f"read by the kernel then ({register.upper()}) and by the CPU now",
            said=[registers[register], seen.value],
            predicted=[memory.read_u64(_SHOWN[index])] * 2,
        )
    stage.check(
        "once set back to unused and invalidated, both pages fault",
        said=[event.cr2 for event in result.exit.events],
        predicted=[4096 * index for index in _SHOWN],
    )
    _process(stage, result.machine)
    _limit(stage)


def _process(stage: Stage, machine: Machine) -> None:
    # The kernel's general process against the host's, frame by frame.
    memory = machine.memory
    slots = TemporaryMapping(AddressSpace(memory.copy(), machine.cpu), _TABLE)
    labels = stage.kernel("temporary-mapping").assemble().labels
    frames = [memory.read_u64(labels["frames"] + 8 * i) for i in range(4)]
    pages: list[int] = []
    for frame in frames:
        with slots.showing(PhysFrame(PhysAddr(frame))) as at:
            pages.append(int(at))
    stage.check(
        "search, map, use, set back, invlpg: the page that each of "
        f"{', '.join(format_address(frame) for frame in frames)} was seen at",
        said=[memory.read_u64(labels["pages"] + 8 * i) for i in range(4)],
        predicted=pages,
    )


def _limit(stage: Stage) -> None:
    result = stage.run("temporary-limit", words=False)
    memory, cpu = result.machine.memory, result.machine.cpu
    stage.picture(
        "every entry is lent", table_picture(memory, _TABLE, 1, (0, 1, 7, 8, 9, 510, 511))
    )
    memory = memory.copy()
    own = _TABLE // 4096
    memory.frame(_TABLE)[[index for index in range(512) if index != own]] = 0
    slots = TemporaryMapping(AddressSpace(memory, cpu), _TABLE)
    pages: list[int] = []
    try:
        while True:
            pages.append(int(slots.map(PhysFrame(PhysAddr(0x40_0000 + 4096 * len(pages))))))
    except NoFreeSlot:
        pass
    registers = result.exit.registers
    stage.check(
        "how many mappings there are at once, on the host and on the CPU",
        said=f"{registers['r8']} mapped, {registers['r10']} seen",
        predicted=f"{len(pages)} mapped, {len(pages)} seen",
    )
    stage.check(
        "the first page, the one behind the table's own, and the last",
        said=[registers[name] for name in ("r11", "r12", "r13")],
        predicted=[pages[0], pages[own], pages[-1]],
    )


TEMPORARY = Chapter(
    name="temporary",
    title="Temporary mapping: index 0, 8 and 9 of one level 1 table",
    lecture=(
        "The table controls the first 2 MiB of addresses.",
        "Then, index 8 maps 32 KiB (virtual) to 32 KiB (physical).",
        "By mapping the 0th entry of the level 1 table to the frame with address 24 KiB ...",
        "By mapping the 9th entry of the level 1 table to the frame with address 4 KiB ...",
        "Given typical page table sizes, this allows up to 2^9 - 1 = 511 mappings.",
    ),
    claim="A kernel that can write one level 1 table can see any frame, one entry at a time.",
    conclusion="4 KiB of physical memory and 512 virtual pages reach every table, cumbersomely.",
    tell=_tell,
)
