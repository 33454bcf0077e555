"""``OffsetPageTable``: the same translation with huge pages, as the ``x86_64`` crate does it."""

from __future__ import annotations

from harness.address import is_canonical
from harness.describe.diagram import path_picture
from harness.lecture.chapter import Chapter, Stage
from harness.lecture.translate_addr import NAMES
from harness.lecture.translations import show_translations
from harness.mapping.offset import OffsetPageTable
from harness.mapping.recursive import RecursivePageTable
from harness.mapping.space import AddressSpace

__all__ = ["OFFSET_PAGE_TABLE"]

_NAMES = NAMES | {
    0x180_0061_2345: "in the physical map",
    0x100_7FFF_FFFF: "the last byte of a 1 GiB page",
    0x5555_0000_0000: "not mapped",
    0x8000_0000_0000: "not canonical",
}


def _tell(stage: Stage) -> None:
    result = stage.run("translate-offset", words=False)
    memory, cpu = result.machine.memory, result.machine.cpu
    offset = int(result.kernel.inputs["rcx"])
    mapper = OffsetPageTable(AddressSpace(memory, cpu), offset)

    def twin(va: int) -> int | None:
        found = mapper.translate_addr(va) if is_canonical(va) else None
        return None if found is None else int(found)

    show_translations(stage, result, twin, _NAMES)
    stage.picture("a huge page ends the walk one level early", path_picture(memory, cpu, offset))
    stage.picture(
        "a 1 GiB page ends it two levels early", path_picture(memory, cpu, 0x100_7FFF_FFFF)
    )
    stage.note("The same function, written for a recursive slot instead of an offset:")
    again = stage.run("translate-recursive", words=False)
    space = AddressSpace(again.machine.memory, again.machine.cpu)
    recursive = RecursivePageTable.from_slot(space, int(again.kernel.inputs["rcx"]))

    def recursive_twin(va: int) -> int | None:
        found = recursive.translate_addr(va) if is_canonical(va) else None
        return None if found is None else int(found)

    show_translations(stage, again, recursive_twin, _NAMES)


OFFSET_PAGE_TABLE = Chapter(
    name="offset-page-table",
    title="OffsetPageTable: translate_addr with huge pages",
    lecture=(
        "x86_64 crate provides an abstraction for it.",
        "It supports huge pages (which caused our error) and several other page table functions.",
        "Note that we can now map the zero address. Cool. Neat, even.",
    ),
    claim="With HUGE_PAGE looked at, all four of the lecture's addresses translate.",
    conclusion="The offset translates to physical 0, as the lecture's second try has it.",
    tell=_tell,
)
