"""The bootloader's help: the mappings that a kernel cannot make, and the BootInfo that tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.address import format_address
from harness.describe.diagram import path_picture, table_picture
from harness.lecture.chapter import Chapter, Stage
from harness.walker import walk

if TYPE_CHECKING:
    from harness.boot import BootInfo

__all__ = ["BOOTLOADER"]


def _tell(stage: Stage) -> None:
    from harness.asm import assemble
    from harness.boot import (
        BootConfig,
        BootInfo,
        flat_kernel,
        level_4_listing,
        load,
        parse_boot_info,
    )
    from harness.boot.kernel import FLAT_ADDRESS
    from harness.booted import run_booted
    from harness.resources import fixtures_dir

    text = (fixtures_dir() / "boot" / "lecture-bootinfo.txt").read_text(encoding="utf-8")
    printout = parse_boot_info(text)
    offset = printout.physical_memory_offset or 0
    stage.picture("the lecture's printout, region by region", _regions(printout))
    kernel = stage.kernel("boot-info")
    code = assemble(kernel.source, base=FLAT_ADDRESS, file=str(kernel.path)).code
    image = flat_kernel(code, name=kernel.name)
    state = load(image, BootConfig(map_physical_memory=True), machine=printout)
    report = run_booted(state, seconds=30, engine=stage.engine)
    stage.ran(kernel, report.exit)
    registers = report.exit.registers
    stage.check(
        "the kernel was told the physical_memory_offset of the printout",
        said=registers["rax"],
        predicted=offset,
    )
    stage.check(
        "and as many regions as the printout has",
        said=str(registers["rbx"]),
        predicted=str(len(printout.memory_map)),
    )
    at = walk(state.memory, state.cpu, state.rdi).pa or 0
    told = BootInfo.from_bytes(
        state.memory.read(at, 4096), map_physical_memory=True, recursive_page_table=False
    ).debug()
    alike = sum(a == b for a, b in zip(told, text.strip(), strict=False))
    stage.check(
        "the bytes that RDI pointed to print as the lecture's printout, character for character",
        said=f"{alike} of {len(told)} characters",
        predicted=f"{len(text.strip())} of {len(text.strip())} characters",
    )
    stage.picture(
        "physical_memory_offset + CR3 on the lecture's machine",
        path_picture(state.memory, state.cpu, offset + state.cpu.root),
    )
    slots = level_4_listing(state)
    stage.picture(
        "the level 4 table that the bootloader left, and for what",
        table_picture(
            state.memory,
            state.cpu.root,
            4,
            [slot.index for slot in slots],
            {slot.index: ", ".join(slot.names) for slot in slots},
        ),
    )
    stage.check(
        "the kernel counts the entries that are not empty",
        said=str(registers["r8"]),
        predicted=str(len(slots)),
    )


def _regions(info: BootInfo) -> str:
    lines = []
    for region in info.memory_map:
        start, end = format_address(region.range.start), format_address(region.range.end)
        size = region.range.size // 1024
        lines.append(f"{start:>14} .. {end:<14} {size:>10} KiB  {region.region_type.name}")
    offset = info.physical_memory_offset
    if offset is not None:
        lines.append(f"physical_memory_offset: {offset} = {format_address(offset)}")
    return "\n".join(lines)


BOOTLOADER = Chapter(
    name="bootloader",
    title="The bootloader's help: BootInfo and the two features",
    lecture=(
        "We can't create these required mappings without an existing way to access the page "
        "tables.",
        "The map_physical_memory feature maps the complete physical memory somewhere.",
        "With the recursive_page_table feature, the bootloader maps an entry of the level 4 table "
        "recursively.",
        "physical_memory_offset: virtual start address of the physical memory mapping.",
    ),
    claim="The bootloader makes the first mapping, and one number in BootInfo tells where it is.",
    conclusion="The machine of the lecture's printout boots, and its offset leads to its tables.",
    tell=_tell,
)
