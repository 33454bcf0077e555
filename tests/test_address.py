"""Addresses, pages and frames: the crate's arithmetic, at 4 and 5 levels."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import address
from harness.address import (
    LEVEL_NAMES,
    Page,
    PageRange,
    PageSize,
    PhysAddr,
    PhysFrame,
    VirtAddr,
    align_down,
    align_up,
    entry_name,
    format_address,
    is_canonical,
    sign_extend,
    table_name,
)
from harness.errors import AddressError, AddressNotAligned, PhysAddrNotValid, VirtAddrNotValid

U64 = (1 << 64) - 1
LOW_TOP = 0x7FFF_FFFF_FFFF
HIGH_BASE = 0xFFFF_8000_0000_0000
SIZES = list(PageSize)

u64s = st.integers(0, U64)
levels_st = st.sampled_from([4, 5])
sizes = st.sampled_from(SIZES)
aligns = st.integers(0, 63).map(lambda bit: 1 << bit)
virts = st.builds(VirtAddr.new_truncate, u64s, levels_st)
physes = st.builds(PhysAddr.new_truncate, u64s)
pages = st.builds(Page.containing_address, virts, sizes)
frames = st.builds(PhysFrame.containing_address, physes, sizes)
anything = st.one_of(virts, physes, pages, frames)


# Canonical form


@pytest.mark.parametrize(
    ("value", "levels", "canonical"),
    [
        (0, 4, True),
        (LOW_TOP, 4, True),
        (LOW_TOP + 1, 4, False),
        (HIGH_BASE - 1, 4, False),
        (HIGH_BASE, 4, True),
        (U64, 4, True),
        (LOW_TOP + 1, 5, True),
        ((1 << 56) - 1, 5, True),
        (1 << 56, 5, False),
        (0xFEFF_FFFF_FFFF_FFFF, 5, False),
        (0xFF00_0000_0000_0000, 5, True),
        (U64 + 1, 4, False),
        (-1, 4, False),
    ],
)
def test_canonical_edges(value: int, levels: int, canonical: bool) -> None:
    assert is_canonical(value, levels) is canonical
    if canonical:
        assert int(VirtAddr.try_new(value, levels)) == value
    else:
        for constructor in (VirtAddr, VirtAddr.new, VirtAddr.try_new):
            with pytest.raises(VirtAddrNotValid) as caught:
                constructor(value, levels)
            assert (caught.value.value, caught.value.levels) == (value, levels)


@given(u64s, levels_st)
def test_truncation_keeps_the_low_bits_and_is_canonical(value: int, levels: int) -> None:
    bits = {4: 48, 5: 57}[levels]
    truncated = int(VirtAddr.new_truncate(value, levels))
    assert truncated & ((1 << bits) - 1) == value & ((1 << bits) - 1)
    assert truncated >> (bits - 1) in (0, (1 << (65 - bits)) - 1)
    assert sign_extend(truncated, levels) == truncated


@given(st.integers(-(1 << 70), 1 << 70))
def test_physical_addresses_have_52_bits(value: int) -> None:
    assert int(PhysAddr.new_truncate(value)) == value % (1 << 52)
    if 0 <= value < 1 << 52:
        assert PhysAddr.new(value) == PhysAddr.try_new(value) == PhysAddr(value)
    else:
        with pytest.raises(PhysAddrNotValid):
            PhysAddr.try_new(value)


def test_levels_must_be_4_or_5() -> None:
    with pytest.raises(AddressError, match=r"^levels must be 4 or 5, not 3$"):
        VirtAddr(0, levels=3)


# Alignment


@given(u64s, aligns)
def test_aligning(value: int, align: int) -> None:
    down = align_down(value, align)
    assert down % align == 0
    assert 0 <= value - down < align
    if value > U64 - align + 1 and value % align:
        with pytest.raises(AddressError, match="must stay within 64 bits"):
            align_up(value, align)
    else:
        up = align_up(value, align)
        assert up % align == 0
        assert 0 <= up - value < align


@pytest.mark.parametrize("align", [0, 3, -4096])
def test_an_alignment_is_a_power_of_two(align: int) -> None:
    with pytest.raises(AddressError, match=f"^an alignment must be a power of two, not {align}$"):
        VirtAddr(0).align_up(align)


def test_aligning_as_the_crate_tests_it() -> None:
    # x86_64 crate, addr.rs: virtaddr_align_up, virtaddr_align_down, physaddr_align_up_overflow
    assert VirtAddr(LOW_TOP).align_up(2) == VirtAddr(HIGH_BASE)
    assert VirtAddr(HIGH_BASE).align_down(1 << 48) == VirtAddr(0)
    with pytest.raises(PhysAddrNotValid):
        PhysAddr((1 << 52) - 1).align_up(2)
    assert VirtAddr(U64).align_up(1) == VirtAddr(U64)
    with pytest.raises(AddressError):
        VirtAddr(U64).align_up(2)


@given(st.one_of(virts, physes), aligns)
def test_is_aligned(address: VirtAddr | PhysAddr, align: int) -> None:
    assert address.is_aligned(align) == (int(address) % align == 0)


# Arithmetic and types


@given(st.one_of(virts, physes), st.integers(-(1 << 40), 1 << 40))
def test_plus_and_minus_are_inverse(address: Any, count: int) -> None:
    try:
        moved = address + count
    except (VirtAddrNotValid, PhysAddrNotValid):
        return
    assert moved - count == address
    assert moved - address == count
    assert type(moved) is type(address)
    assert (moved > address) == (count > 0)
    assert (moved <= address) == (count <= 0)


def test_plus_does_not_jump_the_gap() -> None:
    with pytest.raises(VirtAddrNotValid):
        VirtAddr(LOW_TOP) + 1
    with pytest.raises(VirtAddrNotValid):
        VirtAddr(0) - 1
    assert VirtAddr(LOW_TOP, levels=5) + 1 == VirtAddr(LOW_TOP + 1, levels=5)


def test_the_two_kinds_never_mix() -> None:
    virt: Any = VirtAddr(0x1000)
    phys: Any = PhysAddr(0x1000)
    assert virt != phys
    assert virt != 0x1000
    for mixed in (
        lambda: virt - phys,
        lambda: virt + phys,
        lambda: virt + virt,
        lambda: virt < phys,
        lambda: virt >= phys,
        lambda: virt < 0x1000,
        lambda: virt + 1.5,
        lambda: VirtAddr(phys),
        lambda: PhysAddr.new_truncate(virt),
        lambda: Page(phys),
        lambda: PhysFrame.containing_address(virt),
        lambda: virt.steps_between(phys),
        lambda: Page(virt) + Page(virt),  # type: ignore[operator]
        lambda: Page(virt) - PhysFrame(phys),
        lambda: Page(virt) < PhysFrame(phys),  # type: ignore[operator]
        lambda: Page.range(Page(virt), PhysFrame(phys)),  # type: ignore[arg-type]
        lambda: phys in Page(virt),
    ):
        with pytest.raises(TypeError):
            mixed()


@given(anything)
def test_values_are_immutable_hashable_and_evaluate(value: Any) -> None:
    with pytest.raises(AttributeError, match="is immutable"):
        value._value = 0
    with pytest.raises(AttributeError, match="is immutable"):
        del value._start
    assert eval(repr(value), vars(address)) == value
    for twin in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert twin == value
        assert hash(twin) == hash(value)
        assert repr(twin) == repr(value)


def test_an_address_is_an_index() -> None:
    assert hex(VirtAddr(0xB8000)) == "0xb8000"
    assert int(PhysAddr(7)) == PhysAddr(7).as_u64() == 7
    assert VirtAddr.zero().is_null
    assert not PhysAddr(1).is_null
    assert repr(VirtAddr(HIGH_BASE)) == "VirtAddr(0xffff_8000_0000_0000)"
    assert repr(VirtAddr(1 << 50, levels=5)) == "VirtAddr(0x4_0000_0000_0000, levels=5)"
    assert format_address(PhysAddr(0x1_2345)) == "0x1_2345"


# Indices


@given(virts)
def test_indices_and_offset_make_up_the_address(virt: VirtAddr) -> None:
    parts = [virt.p5_index, virt.p4_index, virt.p3_index, virt.p2_index, virt.p1_index]
    assert parts == [virt.page_table_index(level) for level in (5, 4, 3, 2, 1)]
    value = 0
    for part in parts:
        value = value << 9 | part
    value = value << 12 | virt.page_offset
    assert VirtAddr.new_truncate(value, virt.levels) == virt


@given(pages)
def test_a_page_is_found_again_by_its_indices(page: Page) -> None:
    levels = page.start_address.levels
    indices = [page.page_table_index(level) for level in range(4, page.size.level - 1, -1)]
    p5 = page.page_table_index(5) if levels == 5 else None
    assert Page.from_page_table_indices(*indices, p5=p5) == page


def test_indices_are_checked() -> None:
    assert Page.from_page_table_indices(511, 510, 1, 2).start_address == VirtAddr(
        0xFFFF_FFFF_8020_2000
    )
    with pytest.raises(AddressError, match=r"^p2 must be an index below 512, not 512$"):
        Page.from_page_table_indices(0, 0, 512)
    with pytest.raises(AddressError, match=r"^p1 must come with p2, not alone as 3$"):
        Page.from_page_table_indices(0, 0, None, 3)
    for level in (0, 6):
        with pytest.raises(AddressError, match=f"level must be 1 to 5, not {level}$"):
            VirtAddr(0).page_table_index(level)


def test_names_of_levels() -> None:
    assert [table_name(level) for level in (5, 4, 3, 2, 1)] == ["PML5", "PML4", "PDPT", "PD", "PT"]
    assert [entry_name(level) for level in (5, 4, 3, 2, 1)] == list(LEVEL_NAMES.values())


# Sizes


@pytest.mark.parametrize(
    ("size", "level", "letter"),
    [(4096, 1, "4K"), (2 << 20, 2, "2M"), (1 << 30, 3, "1G")],
)
def test_page_sizes(size: int, level: int, letter: str) -> None:
    page_size = PageSize(size)
    assert (page_size.level, page_size.letter) == (level, letter)
    assert PageSize.of_level(level) is page_size
    assert eval(repr(page_size)) is page_size


def test_no_pages_at_level_4() -> None:
    with pytest.raises(AddressError, match=r"^a page is mapped at level 1, 2 or 3, not 4$"):
        PageSize.of_level(4)


# Stepping


@given(virts, st.integers(0, 1 << 57))
def test_steps_forward_and_back(start: VirtAddr, count: int) -> None:
    end = start.forward_checked(count)
    if end is None:
        last = VirtAddr(U64, start.levels)
        assert (start.steps_between(last) or 0) < count
        return
    assert start.steps_between(end) == count
    assert end.backward_checked(count) == start
    assert end.steps_between(start) == (None if count else 0)


def test_steps_jump_the_gap() -> None:
    low, high = VirtAddr(LOW_TOP), VirtAddr(HIGH_BASE)
    assert low.forward_checked(1) == high
    assert high.backward_checked(1) == low
    assert low.steps_between(high) == 1
    assert high.steps_between(low) is None
    assert VirtAddr(U64).forward_checked(1) is None
    assert VirtAddr(0).backward_checked(1) is None
    assert VirtAddr(0).steps_between(VirtAddr(U64)) == (1 << 48) - 1
    low5 = VirtAddr((1 << 56) - 1, levels=5)
    assert low5.forward_checked(1) == VirtAddr(0xFF00_0000_0000_0000, levels=5)


# Pages and frames


@given(virts, sizes)
def test_containing_address_rounds_and_from_start_address_refuses(
    virt: VirtAddr, size: PageSize
) -> None:
    page = Page.containing_address(virt, size)
    assert page.start_address.is_aligned(size)
    assert virt in page
    assert page.size is size
    assert Page.from_start_address(page.start_address, size) == page
    if virt.is_aligned(size):
        assert Page.from_start_address(virt, size).start_address == virt
    else:
        with pytest.raises(AddressNotAligned) as caught:
            Page.from_start_address(virt, size)
        assert str(caught.value) == (
            f"a start address must be a multiple of {int(size):#_x}, not {virt!r}"
        )


def test_frames_do_the_same() -> None:
    frame = PhysFrame.containing_address(PhysAddr(0x20_1234), PageSize.Size2MiB)
    assert frame == PhysFrame(PhysAddr(0x20_0000), PageSize.Size2MiB)
    assert PhysAddr(0x3F_FFFF) in frame
    assert PhysAddr(0x40_0000) not in frame
    assert frame + 1 == PhysFrame(PhysAddr(0x40_0000), PageSize.Size2MiB)
    assert (frame + 3) - frame == 3
    assert (frame + 3) - 3 == frame
    assert frame < frame + 1
    assert frame + 1 >= frame
    assert frame != PhysFrame(PhysAddr(0x20_0000))
    with pytest.raises(PhysAddrNotValid):
        PhysFrame(PhysAddr((1 << 52) - 4096)) + 1


@pytest.mark.parametrize("size", SIZES)
def test_a_range_jumps_the_gap(size: PageSize) -> None:
    before = Page.containing_address(VirtAddr(LOW_TOP), size)
    after = Page(VirtAddr(HIGH_BASE), size)
    start, end = before - 1, after + 1
    assert list(Page.range(start, end)) == [before - 1, before, after]
    assert list(Page.range_inclusive(start, end)) == [before - 1, before, after, after + 1]
    with pytest.raises(VirtAddrNotValid):
        before + 1


@given(st.one_of(pages, frames), st.integers(0, 40), st.booleans())
def test_ranges(start: Page, count: int, inclusive: bool) -> None:
    end = start.forward_checked(count)
    if end is None:
        return
    run = PageRange(start, end, inclusive=inclusive)
    items = list(run)
    assert len(run) == len(items) == count + inclusive
    assert run.is_empty is (not items)
    assert run.size == len(items) * start.size
    assert all(item in run for item in items)
    assert (end in run) is inclusive
    following = [first.forward_checked(1) for first in items[:-1]]
    assert following == items[1:]
    make = type(start).range_inclusive if inclusive else type(start).range
    assert make(start, end) == run
    assert hash(make(start, end)) == hash(run)
    assert eval(repr(run), vars(address)) == run


def test_a_backward_range_is_empty() -> None:
    low, high = Page(VirtAddr(0x1000)), Page(VirtAddr(0x2000))
    for run in (Page.range(high, low), Page.range_inclusive(high, low), Page.range(low, low)):
        assert len(run) == 0
        assert list(run) == []
        assert low not in run
    assert Page(VirtAddr(0), PageSize.Size2MiB) not in Page.range(Page(VirtAddr(0)), high)
    assert 5 not in Page.range(low, high)


def test_the_last_page_is_in_an_inclusive_range_only() -> None:
    last = Page(VirtAddr(U64 - 0xFFF))
    assert last.forward_checked(1) is None
    assert list(Page.range_inclusive(last - 1, last)) == [last - 1, last]
    everything = Page.range_inclusive(Page(VirtAddr(0)), last)
    assert len(everything) == 1 << 36
    assert everything.size == 1 << 48


def test_a_range_has_one_size() -> None:
    with pytest.raises(TypeError, match="steps lead to another 4K Page, not to"):
        Page.range(Page(VirtAddr(0)), Page(VirtAddr(0), PageSize.Size2MiB))
