"""The readable walker against the manual (cases.jsonl) and against QEMU (the real sets)."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.errors import AddressError, CpuStateError
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Outcome
from harness.snapshot.sets import PageTableSet
from harness.walker import (
    RULES,
    GeneralProtection,
    Mapped,
    OutsideRam,
    PageFault,
    Rights,
    StackFault,
    Step,
    walk,
)
from harness.walker.rules import CACHING

# QEMU's letters XGPDACTUW as bits of an entry; P (bit 7) is printed for big pages only.
LETTER_BITS = 1 << 63 | 0x1FE


def test_case(case: Any) -> None:
    if "refused" in case.expect:
        with pytest.raises(CpuStateError) as refusal:
            _ = case.cpu
        assert refusal.value.rule == case.expect["refused"]
    else:
        assert case.predict(walk) == case.expect


def test_every_rule_has_cases(cases: Any) -> None:
    about = Counter(case.about for case in cases)
    asked = set(RULES) - set(CACHING)
    assert set(about) == asked
    assert min(about.values()) >= 3
    assert {case.about for case in cases if case.levels == 5} == asked


def test_every_deciding_rule_is_decided_in_a_case(cases: Any) -> None:
    decided = {case.expect["rule"] for case in cases if "rule" in case.expect}
    never_alone = {"MODE", "PAT", "KEY", "ERR", "SPLIT", "A", "D", "A_ON_FAULT", "SELF"}
    assert decided == set(RULES) - never_alone - set(CACHING)


def tolerant(cpu: CpuState) -> CpuState:
    # QEMU's `info tlb` looks past SMAP: ask as a kernel that has said `stac`.
    return cpu.replace(cpl=0, rflags=cpu.rflags | 1 << 18)


def test_agrees_with_qemu_on_every_page(real: PageTableSet) -> None:
    cpu, truth = tolerant(real.cpu), real.truth
    step = 13 if len(truth) > 100_000 else 1  # all rows of all sets are test_bulk's
    for row in range(0, len(truth), step):
        va, pa, size, flags, _ = truth[row]
        answer = walk(real.memory, cpu, va)
        assert answer.outcome in (Outcome.MAPPED, Outcome.NO_MEMORY), hex(va)
        assert answer.page_size is not None
        assert answer.leaf is not None
        assert (answer.pa, answer.page_size.letter) == (pa, size), hex(va)
        assert answer.leaf.entry.letters == flags, hex(va)


def test_agrees_with_qemu_on_what_is_unmapped(real: PageTableSet) -> None:
    cpu = tolerant(real.cpu)
    for row in range(len(real.unmapped)):
        va, kind = real.unmapped[row]
        answer = walk(real.memory, cpu, va)
        assert answer.rule == ("CANONICAL" if kind == "noncanonical" else "PRESENT"), hex(va)


@pytest.fixture
def tables() -> PhysicalMemory:
    memory = PhysicalMemory(0x10000)
    for address, raw in (0x1000, 0x2027), (0x2000, 0x3027), (0x3000, 0x4023), (0x4020, 0x5065):
        memory.write_u64(address, raw | (1 << 59 if address == 0x4020 else 0))
    return memory


CPU = CpuState(cr3=0x1000)


def test_a_walk_tells_what_it_read(tables: PhysicalMemory) -> None:
    answer = walk(tables, CPU, 0x4123)
    leaf = Step(1, 0x4020, 1 << 59 | 0x5065)
    assert answer.steps == (
        Step(4, 0x1000, 0x2027),
        Step(3, 0x2000, 0x3027),
        Step(2, 0x3000, 0x4023),
        leaf,
    )
    assert answer.leaf == leaf
    assert leaf.entry.address == PhysAddr(0x5000)
    assert answer.page == Page(VirtAddr(0x4000), PageSize.Size4KiB)
    assert answer.frame == PhysFrame(PhysAddr(0x5000), PageSize.Size4KiB)
    assert answer.rights == Rights(user=False, writable=False, executable=True, key=1)
    assert answer.verdict == Mapped(0x5123)
    assert answer.cpu is CPU
    assert answer.access == Access(AccessKind.READ)
    assert (answer.va, answer.second, answer.culprits) == (0x4123, None, ())
    assert repr(answer) == "<Walk read of 0x4123: mapped to 0x5123 (4K)>"


def test_a_denied_page_is_still_shown(tables: PhysicalMemory) -> None:
    answer = walk(tables, CPU.replace(cpl=3), 0x4123, "write")
    assert answer.verdict == PageFault(error_code=7, cr2=0x4123)
    assert answer.page == Page(VirtAddr(0x4000), PageSize.Size4KiB)
    assert answer.rights is not None
    assert answer.page_size is None
    assert repr(answer) == "<Walk write of 0x4123: page-fault 0x7, rule USER_US at level 1>"


def test_a_walk_that_reached_no_leaf_has_no_page(tables: PhysicalMemory) -> None:
    answer = walk(tables, CPU, 0x20_0000)
    assert answer.verdict == PageFault(error_code=0, cr2=0x20_0000)
    assert (answer.leaf, answer.page, answer.frame, answer.rights) == (None,) * 4
    assert [step.level for step in answer.steps] == [4, 3, 2]


def test_other_verdicts(tables: PhysicalMemory) -> None:
    astray = 0x8000_0000_0000
    assert walk(tables, CPU, astray).verdict == GeneralProtection(0)
    through_ss = Access(AccessKind.READ, stack=True)
    assert walk(tables, CPU, astray, through_ss).verdict == StackFault(0)
    assert repr(walk(tables, CPU, astray)) == (
        "<Walk read of 0x8000_0000_0000: general-protection 0x0, rule CANONICAL>"
    )
    tables.write_u64(0x4020, 0x20007)
    assert walk(tables, CPU, 0x4123).verdict == OutsideRam(0x20123)
    tables.write_u64(0x3000, 0x30007)
    assert walk(tables, CPU, 0x4123).verdict == OutsideRam(0x30020)
    assert repr(walk(tables, CPU, 0x4123)) == "<Walk read of 0x4123: no-memory at 0x3_0020>"


@pytest.mark.parametrize(
    ("change", "cpl", "kind", "levels"),
    [
        ({0x2000: 0x3023}, 3, "read", [3, 2]),  # USER_US: two levels withhold it
        ({0x3000: 0x4027}, 3, "write", [1]),  # USER_RW
        ({0x1000: 0x2025}, 0, "write", [4, 1]),  # WP
        ({0x1000: 0x2027 | 1 << 63, 0x4020: 0x5065 | 1 << 63}, 0, "fetch", [4, 1]),  # NX
        ({0x2000: 0}, 0, "read", [3]),  # PRESENT
        ({0x2000: 1 << 50 | 1}, 0, "read", [3]),  # RSVD_ADDR
        ({0x3000: 0x30007}, 0, "read", [2]),  # ORDER: the PDE leads out of RAM
        ({}, 0, "read", []),
    ],
)
def test_culprits_are_all_entries_to_change(
    tables: PhysicalMemory, change: dict[int, int], cpl: int, kind: str, levels: list[int]
) -> None:
    for address, raw in change.items():
        tables.write_u64(address, raw)
    answer = walk(tables, CPU.replace(cpl=cpl), 0x4123, kind)
    assert [step.level for step in answer.culprits] == levels


def test_a_split_walk_shows_both_pages(tables: PhysicalMemory) -> None:
    answer = walk(tables, CPU, 0x4FFE, Access(AccessKind.READ, size=4))
    assert answer.second is not None
    assert answer.second.va == 0x5000
    assert answer.verdict == PageFault(error_code=0, cr2=0x5000) == answer.second.verdict
    assert answer.page == Page(VirtAddr(0x4000), PageSize.Size4KiB)
    assert answer.culprits == (Step(1, 0x4028, 0),)


@pytest.mark.parametrize("va", [1 << 64, -1])
def test_an_address_must_fit_in_64_bits(tables: PhysicalMemory, va: int) -> None:
    with pytest.raises(AddressError) as refusal:
        walk(tables, CPU, va)
    assert str(refusal.value) == f"a virtual address must fit in 64 bits, not {va:#_x}"


def test_a_walk_changes_nothing(tables: PhysicalMemory) -> None:
    tables.write_u64(0x4020, 0x5003)
    before = tables.buffer.tobytes()
    assert walk(tables, CPU, VirtAddr(0x4123), "write").sets == {0x4020: 0x60}
    assert tables.buffer.tobytes() == before


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_accessed_and_dirty_are_set_once(randomly: Any, seed: int) -> None:
    """After an access has set its bits, the same access has the same verdict and sets nothing."""
    some = randomly(seed, 60)
    pristine = some.memory.buffer.copy()
    for va in some.vas.tolist():
        first = walk(some.memory, some.cpu, va, some.access)
        assert not (first.sets and first.may_set)
        for address, bits in (first.sets or first.may_set).items():
            raw = some.memory.read_u64(address)
            assert bits
            assert not raw & bits
            assert not bits & ~(0x60 if first.sets else 0x20)
            some.memory.write_u64(address, raw | bits)
        again = walk(some.memory, some.cpu, va, some.access)
        assert again.verdict == first.verdict
        assert (again.rule, again.level) == (first.rule, first.level)
        assert not again.sets
        assert not again.may_set
        some.memory.buffer[:] = pristine
