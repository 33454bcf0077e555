"""Pictures of page tables: each line follows from what memory holds."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cpu import CR4, CpuState
from harness.describe.diagram import (
    WIDTH,
    Region,
    Span,
    page_tables,
    path_picture,
    physical_spans,
    strip_picture,
    table_picture,
    virtual_spans,
    window_picture,
)
from harness.memory import PhysicalMemory

KIB = 1024
CPU = CpuState(cr3=0x1000)
MAPPED = 0x1_0000_5000
SLOT = 0xFFFF_FFFF_FFFF_F000


@pytest.fixture
def memory() -> PhysicalMemory:
    """Map 4 GiB + 0x5000 (index 0, 4, 0, 5) to 0x9000, with slot 511 recursive."""
    memory = PhysicalMemory(0x40_0000)
    for at, entry in (
        (0x1000, 0x2003),
        (0x1FF8, 0x1003),
        (0x2020, 0x3003),
        (0x3000, 0x4003),
        (0x3008, 0x20_0083),
        (0x4028, 0x9003),
        (0x4030, 0x8000_0000_0000_A007),
    ):
        memory.write_u64(at, entry)
    return memory


def block(text: str) -> str:
    """Return an indented picture as it is printed."""
    return textwrap.dedent(text).strip("\n")


def test_the_path_shows_every_entry_on_the_way(memory: PhysicalMemory) -> None:
    memory.write_u64(0x4030, 0xA003)

    assert path_picture(memory, CPU, MAPPED + 0x123, "write") == block("""
        write of 0x1_0000_5123
        CR3 = 0x1000
         ▼
        PML4             PDPT             PD                  PT               4K page
        at 0x1000        at 0x2000        at 0x3000           at 0x4000        at 0x9000
        ┌────────────┐   ┌────────────┐   ┌───────────────┐   ┌────────────┐   ┌──────────┐
        │            │   │   ⋮        │   │               │   │   ⋮        │   │          │
        │   0 0x2003 ┼──►│   4 0x3003 ┼──►│   0 0x4003 ───┼──►│   5 0x9003 ┼──►│ + 0x123  │
        │ 511 0x1003 │   │   ⋮        │   │   1 0x20_0083 │   │   6 0xa003 │   │ = 0x9123 │
        └────────────┘   └────────────┘   └───────────────┘   └────────────┘   └──────────┘
        [0]              [4]              [0]                 [5]              RWX-
    """)


def test_a_recursive_path_says_which_table_plays_which_part(memory: PhysicalMemory) -> None:
    assert path_picture(memory, CPU, SLOT) == block("""
        read of 0xffff_ffff_ffff_f000 = 0o_177777_777_777_777_777_0000
        CR3 = 0x1000
         ▼
        PML4             PML4 as PDPT ↺    PML4 as PD ↺     PML4 as PT ↺     4K page = PML4
        at 0x1000        at 0x1000         at 0x1000        at 0x1000        at 0x1000
        ┌────────────┐   ┌─────────────┐   ┌────────────┐   ┌────────────┐   ┌─────────────┐
        │   0 0x2003 │   │   0 0x2003  │   │   0 0x2003 │   │   0 0x2003 │   │             │
        │ 511 0x1003 ┼──►│ 511 0x1003 ─┼──►│ 511 0x1003 ┼──►│ 511 0x1003 ┼──►│ + 0x0       │
        │            │   │             │   │            │   │            │   │ = 0x1000    │
        └────────────┘   └─────────────┘   └────────────┘   └────────────┘   └─────────────┘
        [511] 0o777      [511] 0o777       [511] 0o777      [511] 0o777      RWX-
    """)


def test_a_path_that_faults_ends_with_the_rule_and_the_error_code(memory: PhysicalMemory) -> None:
    fetch = path_picture(memory, CPU, MAPPED + 0x1000, "fetch")
    gap = path_picture(memory, CPU, 0x7000_0000_0000)

    assert [part in fetch for part in ("✗ #PF", "rule NX", "code 0x11", "P I")] == [True] * 4
    assert block(gap) == block("""
        read of 0x7000_0000_0000
        CR3 = 0x1000
         ▼
        PML4             ✗ #PF
        at 0x1000
        ┌────────────┐   ┌──────────────┐
        │   0 0x2003 │   │ rule PRESENT │
        │ 224 0x0 ───┼──►│ code 0x0     │
        │ 511 0x1003 │   │ P = 0        │
        └────────────┘   └──────────────┘
        [224]
    """)


def test_a_path_may_leave_ram_or_never_begin(memory: PhysicalMemory) -> None:
    memory.write_u64(0x4028, 0x5000_0003)

    leaf = path_picture(memory, CPU, MAPPED)
    root = path_picture(memory, CPU.replace(cr3=0x5000_0000), MAPPED)
    crooked = path_picture(memory, CPU, 1 << 47)

    assert "4K page, no RAM" in leaf
    assert "= 0x5000_0000" in leaf
    assert root.splitlines()[1:] == ["rule CR3", "no RAM at", "0x5000_0000"]
    assert crooked == "read of 0x8000_0000_0000\n✗ #GP: bits 63:47 are not all equal"


def test_a_changed_entry_changes_the_path(memory: PhysicalMemory) -> None:
    before = path_picture(memory, CPU, MAPPED)
    memory.write_u64(0x4028, 0x7003)

    assert "at 0x9000" in before
    assert "at 0x7000" in path_picture(memory, CPU, MAPPED)


@pytest.mark.parametrize(("octal", "shown"), [(True, True), (False, False), (None, False)])
def test_octal_is_written_on_request(
    memory: PhysicalMemory, octal: bool | None, shown: bool
) -> None:
    assert ("0o004" in path_picture(memory, CPU, MAPPED, octal_indices=octal)) is shown


def test_five_levels_take_a_second_row(memory: PhysicalMemory) -> None:
    memory.write_u64(0x8000, 0x1003)
    cpu = CPU.replace(cr3=0x8000, cr4=int(CR4.PAE | CR4.LA57))

    lines = path_picture(memory, cpu, MAPPED).splitlines()

    assert max(map(len, lines)) <= WIDTH
    assert [name in "\n".join(lines) for name in ("PML5", "PML4", "PT", "4K page")] == [True] * 4
    assert sum("┌" in line for line in lines) == 2


@given(words=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=8), data=st.data())
def test_no_table_is_too_strange_to_draw(words: list[int], data: st.DataObject) -> None:
    memory = PhysicalMemory(0x8000)
    for word in words:
        memory.write_u64(data.draw(st.integers(0x200, 0xFFF)) * 8, word & ~0x000F_FFFF_FFFF_8000)
    va = data.draw(st.integers(0, (1 << 64) - 1))

    lines = path_picture(memory, CPU, va).splitlines()

    assert max(map(len, lines)) <= WIDTH


def test_page_tables_are_counted_once_at_their_highest_level(memory: PhysicalMemory) -> None:
    assert page_tables(memory, CPU) == {0x1000: 4, 0x2000: 3, 0x3000: 2, 0x4000: 1}


def test_a_table_outside_ram_is_no_page_table(memory: PhysicalMemory) -> None:
    memory.write_u64(0x3000, 0x5000_0003)

    assert 0x5000_0000 not in page_tables(memory, CPU)


def test_a_table_with_its_entries() -> None:
    memory = PhysicalMemory(0x1_0000)
    memory.write_u64(0x8000, 0x6003)
    memory.write_u64(0x8040, 0x8003)
    memory.write_u64(0x8048, 0x1000)

    assert table_picture(memory, 0x8000, 1, [8, 0, 9], {0: "24 KiB", 9: "lost"}) == block("""
        PT at 0x8000
        ┌────────────┐
        │   0 0x6003 ├─► 0x6000  24 KiB
        │   ⋮        │
        │   8 0x8003 ├─► 0x8000
        │   9 0x1000 │ lost
        │   ⋮        │
        └────────────┘
    """)


def test_a_strip_has_its_borders_named_and_regions_below() -> None:
    spans = [
        Span(0, 28 * KIB, "tables"),
        Span(28 * KIB, 1004 * KIB, ""),
        Span(1004 * KIB, 1008 * KIB, "PT"),
        Span(1008 * KIB, 2048 * KIB, ""),
    ]
    regions = [Region(28 * KIB, 1028 * KIB, "meets the PT"), Region(1008 * KIB, 2008 * KIB, "fits")]

    lines = strip_picture(spans, regions, width=80).splitlines()

    ruler = lines[0]
    assert ruler.split() == ["0", "28", "1004", "1008", "1028", "2008", "2048", "KiB"]
    assert lines[2].split("│") == ["", lines[2].split("│")[1], *lines[2].split("│")[2:]]
    assert [cell.strip() for cell in lines[2].split("│")] == ["", "tables", "", "PT", "", ""]
    for number, column in (("28", 0), ("1008", 1)):
        assert lines[4 + column].index("└") == ruler.index(number)
    assert lines[4].index("┘") == ruler.index("1028")
    assert lines[4].endswith(" meets the PT")
    assert lines[5].endswith("fits") or lines[5].startswith("fits")


def test_a_strip_makes_room_for_its_labels() -> None:
    spans = [Span(0, 4 * KIB, "a label much longer than its span"), Span(4 * KIB, 800 * KIB, "x")]

    _, above, labels, below = strip_picture(spans).splitlines()

    assert len(above) == len(labels) == len(below) <= WIDTH
    assert labels[above.index("┬")] == "│"
    assert spans[0].label in labels


def test_a_strip_without_joints_is_refused() -> None:
    with pytest.raises(ValueError, match="without a gap"):
        strip_picture([Span(0, 4096, "a"), Span(8192, 12288, "b")])


def test_a_window_joins_what_the_tables_join() -> None:
    memory = PhysicalMemory(0x80_0000)
    offset = 0x40_0000_0000
    for at, entry in ((0x1000, 0x2003), (0x2800, 0x3003), (0x3000, 0x83), (0x3010, 0x40_0083)):
        memory.write_u64(at, entry)
    spans = [Span(i << 21, (i + 1) << 21, f"frame {i}") for i in range(4)]

    lines = window_picture(memory, CPU, offset, spans, unit=1 << 20, unit_name="MiB").splitlines()

    assert lines[0] == "virtual: 0x40_0000_0000 + …"
    cells = [cell.strip() for cell in lines[2].split("│")[1:-1]]
    assert cells == ["2M", "", "2M", ""]
    arrows = [lines[3].index("┬", 1), lines[4].index("▼")]
    assert arrows[0] == arrows[1]
    assert lines[4].count("▼") == 2


def test_a_window_to_the_wrong_frame_is_not_joined() -> None:
    memory = PhysicalMemory(0x80_0000)
    for at, entry in ((0x1000, 0x2003), (0x2800, 0x3003), (0x3000, 0x20_0083)):
        memory.write_u64(at, entry)

    assert "▼" not in window_picture(memory, CPU, 0x40_0000_0000, [Span(0, 1 << 21, "")])


def test_virtual_memory_is_cut_into_tables_pages_and_gaps() -> None:
    memory = PhysicalMemory(0x1_0000)
    for at, entry in ((0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003)):
        memory.write_u64(at, entry)
    memory.frame(0x4000)[:4] = np.array([0x3003, 0, 0xA003, 0xB003], np.uint64)

    assert virtual_spans(memory, CPU, 0x6000, other="data") == [
        Span(0, 0x1000, "PD"),
        Span(0x1000, 0x2000, ""),
        Span(0x2000, 0x4000, "data"),
        Span(0x4000, 0x6000, ""),
    ]


def test_physical_memory_is_cut_into_tables_and_the_rest(memory: PhysicalMemory) -> None:
    assert physical_spans(memory, CPU, 0x8000) == [
        Span(0, 0x1000, ""),
        Span(0x1000, 0x2000, "PML4"),
        Span(0x2000, 0x3000, "PDPT"),
        Span(0x3000, 0x4000, "PD"),
        Span(0x4000, 0x5000, "PT"),
        Span(0x5000, 0x8000, ""),
    ]
    assert physical_spans(memory, CPU, 0x3000)[-1] == Span(0x2000, 0x3000, "PDPT")
