"""The arithmetic of recursive slots, against pinned addresses and against real walks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.address import VirtAddr, sign_extend
from harness.cpu import CpuState
from harness.mapping import entry_address, octal, recursive_region, shown_by, table_address
from harness.memory import PhysicalMemory
from harness.walker import walk

SLOTS = st.integers(0, 511)
LEVELS = st.sampled_from([4, 5])


@st.composite
def canonical(draw: st.DrawFn, levels: int) -> int:
    return sign_extend(draw(st.integers(0, (1 << (12 + 9 * levels)) - 1)), levels)


@pytest.mark.parametrize(
    ("slot", "address"),
    [
        (0, 0),
        (1, 0x0000_0080_4020_1000),
        (255, 0x0000_7FBF_DFEF_F000),
        (256, 0xFFFF_8040_2010_0000),
        (510, 0xFFFF_FF7F_BFDF_E000),
        (511, 0xFFFF_FFFF_FFFF_F000),
    ],
)
def test_where_the_level_4_table_appears(slot: int, address: int) -> None:
    assert table_address(0x1234_5678, 4, slot) == VirtAddr(address)


@pytest.mark.parametrize(
    ("slot", "address"),
    [(256, 0xFF00_8040_2010_0000), (511, 0xFFFF_FFFF_FFFF_F000), (510, 0xFFFE_FF7F_BFDF_E000)],
)
def test_where_the_level_5_table_appears(slot: int, address: int) -> None:
    assert table_address(0, 5, slot, levels=5) == VirtAddr(address, 5)


def test_octal_forms_of_the_blog() -> None:
    va = 0o177777_123_234_345_456_1234 | 0xFFFF << 48
    assert octal(va) == "0o_177777_123_234_345_456_1234"
    slot = 0o777
    assert octal(table_address(va - (0xFFFF << 48), 1, slot)) == "0o_177777_777_123_234_345_0000"
    low = 0o000_123_234_345_456_1234
    assert octal(low) == "0o_000000_123_234_345_456_1234"
    assert octal(table_address(low, 2, slot)) == "0o_177777_777_777_123_234_0000"
    assert octal(table_address(low, 3, slot)) == "0o_177777_777_777_777_123_0000"
    assert octal(table_address(low, 4, slot)) == "0o_177777_777_777_777_777_0000"
    assert octal(entry_address(low, 1, slot)) == f"0o_177777_777_123_234_345_{0o456 * 8:04o}"


def test_octal_with_5_levels() -> None:
    assert octal(0, levels=5) == "0o_000_000_000_000_000_000_0000"
    assert octal(0xFFFF_FFFF_FFFF_F000, levels=5) == "0o_177_777_777_777_777_777_0000"


@given(st.data(), LEVELS, SLOTS)
def test_the_inverse_names_the_table_that_was_asked_for(
    data: st.DataObject, levels: int, slot: int
) -> None:
    va = data.draw(canonical(levels))
    level = data.draw(st.integers(1, levels))
    shown = shown_by(table_address(va, level, slot, levels), slot, levels)
    assert shown is not None
    top = va >> (3 + 9 * levels) & 511
    if level < levels and top == slot:
        assert shown.level > level  # the table of a recursive address is a higher one too
        return
    assert shown.level == level
    assert shown.index == 0
    assert shown.indices == tuple(va >> (3 + 9 * at) & 511 for at in range(levels, level, -1))
    if level < levels:
        assert int(shown.first) <= va <= int(shown.last)
        assert int(shown.last) - int(shown.first) + 1 == 1 << (12 + 9 * level)
    else:
        assert (int(shown.first), int(shown.last)) == (0, (1 << 64) - 1)


@given(st.data(), LEVELS, SLOTS)
def test_the_inverse_leads_back(data: st.DataObject, levels: int, slot: int) -> None:
    low, high = recursive_region(slot, levels)
    va = data.draw(st.integers(int(low), int(high)))
    shown = shown_by(va, slot, levels)
    assert shown is not None
    again = table_address(shown.first, shown.level, slot, levels)
    assert int(again) + shown.index * 8 == va & ~7


@given(st.data(), LEVELS, SLOTS)
def test_only_the_region_of_the_slot_shows_tables(
    data: st.DataObject, levels: int, slot: int
) -> None:
    va = data.draw(canonical(levels))
    low, high = recursive_region(slot, levels)
    assert (shown_by(va, slot, levels) is not None) == (int(low) <= va <= int(high))


@pytest.mark.parametrize(("levels", "size"), [(4, 512 << 30), (5, 256 << 40)])
def test_what_a_slot_costs(levels: int, size: int) -> None:
    low, high = recursive_region(300, levels)
    assert int(high) - int(low) + 1 == size


@given(st.data(), LEVELS, SLOTS)
def test_a_walk_arrives_at_the_entry(data: st.DataObject, levels: int, slot: int) -> None:
    va = data.draw(canonical(levels))
    if va >> (3 + 9 * levels) & 511 == slot:
        va ^= 1 << (3 + 9 * levels)
        va = sign_extend(va, levels)
    memory = PhysicalMemory(0x10000)
    tables = {level: 0x1000 * level for level in range(1, levels + 1)}
    entries = {level: tables[level] + 8 * (va >> (3 + 9 * level) & 511) for level in tables}
    for level in range(2, levels + 1):
        memory.write_u64(entries[level], tables[level - 1] | 3)
    memory.write_u64(tables[levels] + 8 * slot, tables[levels] | 3)
    cpu = CpuState(cr3=tables[levels], cr4=0x1020 if levels == 5 else 0x20)
    for level, entry in entries.items():
        assert walk(memory, cpu, entry_address(va, level, slot, levels)).pa == entry


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: table_address(0, 5, 511), "level must lie between 1 and 4, got 5"),
        (lambda: table_address(0, 0, 511), "level must lie between 1 and 4, got 0"),
        (lambda: table_address(0, 1, 512), "a slot must lie between 0 and 511, got 512"),
        (lambda: table_address(0, 1, -1), "a slot must lie between 0 and 511, got -1"),
        (lambda: shown_by(0, 0, 3), "levels must be 4 or 5, got 3"),
        (
            lambda: table_address(1 << 47, 1, 511),
            "an address must be canonical for 4 levels, got 0x800000000000",
        ),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
