"""The lecture's first ``translate_addr``, and the address that it cannot translate."""

from __future__ import annotations

from harness.describe.diagram import path_picture
from harness.lecture.chapter import Chapter, Stage
from harness.lecture.translations import show_translations
from harness.walker import walk

__all__ = ["TRANSLATE_ADDR"]

NAMES = {
    0xB8000: "the VGA text buffer, identity mapped",
    0x20_1008: "some code page",
    0x100_0020_1A10: "some stack page",
    0x180_0000_0000: "physical_memory_offset: physical address 0",
}
"""The lecture's four addresses."""


def _tell(stage: Stage) -> None:
    result = stage.run("translate-4k-only", words=False)
    machine = result.machine
    memory, cpu = machine.memory, machine.cpu
    offset = int(result.kernel.inputs["rcx"])

    def twin(va: int) -> int | None:
        # `frame()` is an error for HUGE_PAGE, and so is every page above level 1.
        found = walk(memory, cpu, va)
        return found.pa if found.completed and found.level == 1 else None

    show_translations(stage, result, twin, NAMES)
    stage.picture("the address that it fails on", path_picture(memory, cpu, offset))
    stage.note(
        "The walk ends at level 2: the entry has HUGE_PAGE set, and is the page. The lecture's "
        "loop expects four tables, `frame()` answers Err(HugeFrame), and `Err(_) => return None`."
    )
    seen = stage.probe(memory, cpu, [offset])
    stage.check(
        "the CPU has no such trouble: it translates the same address",
        said=[each.pa for each in seen],
        predicted=[walk(memory, cpu, offset).pa],
    )
    stage.check(
        "and reads what lies at physical 0",
        said=result.exit.registers["rax"],
        predicted=memory.read_u64(0),
    )


TRANSLATE_ADDR = Chapter(
    name="translate-addr",
    title="translate_addr, for 4 KiB pages only",
    lecture=(
        "Traverse the four-level page table. Return the mapped frame.",
        "let indices = [addr.p4_index(), addr.p3_index(), addr.p2_index(), addr.p1_index()];",
        "Naturally have a problem with address 0.",
    ),
    claim="Four levels, four lookups translate 4 KiB pages, and fail on a 2 MiB page.",
    conclusion="The physical map is made of huge pages, so its own offset is what does not work.",
    tell=_tell,
)
