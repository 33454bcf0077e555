"""The lecture "Page Tables", told by a CPU: each approach as a picture, a claim and a kernel.

The chapters follow the lecture's order. Each draws the tables that are really in the machine's
memory, runs the kernel that proves the claim, shows what the CPU said, and holds it against what
the host predicts. A chapter that does not hold says so, and ``harness lecture`` exits with 1.

* ``chapter`` has the data types, and the stage on which a chapter is told;
* ``render`` prints a report;
* each of the other modules is one approach.

>>> [name for name in CHAPTERS][:2]
['problem', 'identity']
"""

from __future__ import annotations

from harness.errors import InputError
from harness.lecture.bootloader import BOOTLOADER
from harness.lecture.chapter import Chapter, Check, Note, Picture, Report, Run, Said, Stage, tell
from harness.lecture.fixed_offset import FIXED_OFFSET
from harness.lecture.full_map import FULL_MAP
from harness.lecture.identity import IDENTITY
from harness.lecture.level_4_table import LEVEL_4_TABLE
from harness.lecture.map_to import MAP_TO
from harness.lecture.offset_page_table import OFFSET_PAGE_TABLE
from harness.lecture.problem import PROBLEM
from harness.lecture.recursive import RECURSIVE
from harness.lecture.temporary import TEMPORARY
from harness.lecture.tlb import TLB
from harness.lecture.translate_addr import TRANSLATE_ADDR

__all__ = [
    "CHAPTERS",
    "Chapter",
    "Check",
    "Note",
    "Picture",
    "Report",
    "Run",
    "Said",
    "Stage",
    "find_chapter",
    "tell",
]

CHAPTERS: dict[str, Chapter] = {
    chapter.name: chapter
    for chapter in (
        PROBLEM,
        IDENTITY,
        FIXED_OFFSET,
        FULL_MAP,
        TLB,
        TEMPORARY,
        RECURSIVE,
        BOOTLOADER,
        LEVEL_4_TABLE,
        TRANSLATE_ADDR,
        OFFSET_PAGE_TABLE,
        MAP_TO,
    )
}
"""The chapters by name, in the lecture's order."""


def find_chapter(name: str) -> Chapter:
    """Return the chapter of that name.

    :raises InputError: when there is none.
    """
    try:
        return CHAPTERS[name]
    except KeyError:
        raise InputError(f"a chapter must be one of {', '.join(CHAPTERS)}, not {name!r}") from None
