"""Virtual loads and stores, receipts and the pieces around a mapper."""

from __future__ import annotations

import doctest
import gc
import importlib
import pickle
import warnings
from types import ModuleType

import numpy as np
import pytest

import harness.address
import harness.cpu
import harness.entry
import harness.frames
import harness.mapping
import harness.memory
from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.entry import PageTableFlags
from harness.mapping import (
    AccessFault,
    AddressSpace,
    FlushDropped,
    MappedPageTable,
    Mapper,
    MapperFlush,
    MapperFlushAll,
    MapToError,
    OffsetPageTable,
    Translate,
    UnmapError,
)
from harness.mapping import errors as errors_module
from harness.mapping.flavours import OFFSET, Flavour, Lab, set_up

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
VA = 0x7000_0000_0000
PAGE = Page(VirtAddr(VA))
FRAME = PhysFrame(PhysAddr(0x5000))


class Tlb:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[int | str] = []

    def invlpg(self, va: int) -> None:
        self.told.append(va)

    def flush_all(self) -> None:
        self.told.append("all")


@pytest.fixture
def mapped() -> Lab:
    lab = set_up(Flavour.OFFSET_2M)
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    return lab


def leaf(lab: Lab) -> int:
    for table in lab.boot.tables():
        if table.level == 1 and int(table.first) == VA:
            return lab.memory.read_u64(int(table.frame.start_address))
    raise AssertionError


def test_loads_and_stores_leave_their_marks(mapped: Lab) -> None:
    assert leaf(mapped) == 0x5003
    mapped.memory.write_u64(0x5010, 7)
    assert mapped.space.read_u64(VA + 0x10) == 7
    assert leaf(mapped) == 0x5023
    mapped.space.write_u64(VA + 0x18, 8)
    assert mapped.memory.read_u64(0x5018) == 8
    assert leaf(mapped) == 0x5063


def test_words_are_loaded_and_stored_together(mapped: Lab) -> None:
    words = np.arange(10, 14, dtype=np.uint64)
    mapped.space.write_words(VA + 0xFE0, words)
    assert mapped.memory.read_u64(0x5FF8) == 13
    loaded = mapped.space.read_words(VA + 0xFE0, 4)
    assert loaded.tolist() == [10, 11, 12, 13]
    loaded[:] = 0
    assert mapped.memory.read_u64(0x5FF8) == 13


@pytest.mark.parametrize(
    ("va", "rule"), [(VA + 4096, "PRESENT"), (1 << 47, "CANONICAL")], ids=["absent", "hole"]
)
def test_accesses_that_fault(mapped: Lab, va: int, rule: str) -> None:
    words = np.zeros(4, np.uint64)
    for access in (
        lambda: mapped.space.read_u64(va),
        lambda: mapped.space.write_u64(va, 0),
        lambda: mapped.space.read_words(va, 4),
        lambda: mapped.space.write_words(va, words),
    ):
        with pytest.raises(AccessFault) as caught:
            access()
        assert (caught.value.walk.va, caught.value.walk.rule) == (va, rule)


def test_a_mapper_is_a_supervisor_whatever_the_cpl(mapped: Lab) -> None:
    space = AddressSpace(mapped.memory, mapped.space.cpu.replace(cpl=3))
    assert OffsetPageTable(space, OFFSET).translate_addr(VA) == PhysAddr(0x5000)


def test_write_protection_can_be_switched_off(mapped: Lab) -> None:
    mapped.mapper.update_flags(PAGE, P).flush()
    with pytest.raises(AccessFault):
        mapped.space.write_u64(VA, 1)
    mapped.space.without_write_protect().write_u64(VA, 1)
    assert mapped.memory.read_u64(0x5000) == 1
    assert mapped.space.cpu.wp


def test_receipts_tell_the_tlb() -> None:
    tlb = Tlb()
    MapperFlush(PAGE, tlb).flush()
    MapperFlushAll(tlb).flush_all()
    MapperFlush(PAGE, tlb).ignore()
    MapperFlushAll(tlb).ignore()
    assert tlb.told == [VA, "all"]


def test_an_address_space_passes_invalidations_on() -> None:
    tlb = Tlb()
    lab = set_up(Flavour.OFFSET_2M, tlb=tlb)
    lab.mapper.map_to(PAGE, FRAME, P | W, lab.frames).flush()
    lab.mapper.set_flags_p3_entry(PAGE, P | W).flush_all()
    lab.space.without_write_protect().invlpg(5)
    assert tlb.told == [VA, "all", 5]
    quiet = set_up(Flavour.OFFSET_2M)
    quiet.space.invlpg(0)
    quiet.space.flush_all()


@pytest.mark.parametrize(
    ("receipt", "text"),
    [
        (lambda: MapperFlush(PAGE, Tlb()), "MapperFlush(Page(VirtAddr(0x7000_0000_0000), "),
        (lambda: MapperFlushAll(Tlb()), "MapperFlushAll()"),
    ],
)
def test_a_dropped_receipt_warns(receipt: type, text: str) -> None:
    with pytest.warns(FlushDropped) as caught:
        receipt()
    message = str(caught[0].message)
    assert message.startswith(f"a receipt must be flushed or ignored, got {text}")
    assert message.endswith(" dropped")


def test_a_used_receipt_is_quiet() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MapperFlush(PAGE, Tlb()).flush()
        MapperFlush(PAGE, Tlb()).ignore()
        gc.collect()
    assert not caught


def test_every_mapper_translates(lab: Lab) -> None:
    translator: Translate = lab.mapper
    assert translator.translate_addr(VA) is None
    assert isinstance(lab.mapper, Mapper)


def test_offset_is_a_kind_of_mapped() -> None:
    assert issubclass(OffsetPageTable, MappedPageTable)


def test_variants_are_caught_by_either_name() -> None:
    assert issubclass(MapToError.ParentEntryHugePage, MapToError)
    assert issubclass(MapToError.ParentEntryHugePage, errors_module.ParentEntryHugePage)
    assert not issubclass(MapToError.ParentEntryHugePage, UnmapError)


@pytest.mark.parametrize(
    "operation", ["MapToError", "UnmapError", "FlagUpdateError", "TranslateError"]
)
def test_variants_have_the_crates_names(operation: str) -> None:
    base = getattr(errors_module, operation)
    variants = [name for name in base.__annotations__ if name[0].isupper()]
    assert len(variants) in (3, 4)
    for name in variants:
        variant = getattr(base, name)
        assert variant.__qualname__ == f"{operation}.{name}"
        assert issubclass(variant, getattr(errors_module, name))


def test_errors_survive_a_trip_to_another_process(mapped: Lab) -> None:
    with pytest.raises(MapToError) as caught:
        mapped.mapper.map_to(PAGE, FRAME, P, mapped.frames)
    error = pickle.loads(pickle.dumps(caught.value))
    assert type(error) is MapToError.PageAlreadyMapped
    assert (str(error), error.frame) == (str(caught.value), FRAME)


def test_everything_public_is_listed() -> None:
    assert harness.mapping.__all__ == sorted(harness.mapping.__all__)
    for name in harness.mapping.__all__:
        assert getattr(harness.mapping, name).__doc__


MODULES = [
    "harness.frames",
    "harness.mapping.bootstrap",
    "harness.mapping.errors",
    "harness.mapping.flavours",
    "harness.mapping.identity",
    "harness.mapping.mapped",
    "harness.mapping.mapper",
    "harness.mapping.ranges",
    "harness.mapping.recursive_address",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    sources: list[ModuleType] = [
        harness.address,
        harness.cpu,
        harness.entry,
        harness.frames,
        harness.mapping,
        harness.memory,
    ]
    names = {name: getattr(module, name) for module in sources for name in module.__all__}
    result = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert result.failed == 0
    assert result.attempted > 0


def test_big_pages_of_any_size_are_loaded_through(mapped: Lab) -> None:
    big = PageSize.Size2MiB
    page = Page.containing_address(VirtAddr(VA + (1 << 30)), big)
    mapped.mapper.map_to(page, PhysFrame(PhysAddr(0), big), P | W, mapped.frames).flush()
    mapped.space.write_u64(VA + (1 << 30) + 0x5008, 99)
    assert mapped.space.read_u64(VA + 8) == 99
