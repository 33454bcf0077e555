"""The columns of ``bulk`` against ``walk``, numpy against numba, and both against QEMU."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import VirtAddr
from harness.cpu import CpuState
from harness.errors import AddressError
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Outcome
from harness.snapshot.sets import PageTableSet
from harness.walker import RULES, BulkWalk, Walk, bulk, walk
from harness.walker.rules import CACHING

COLUMNS = ("outcome", "rule", "level", "error_code", "cr2", "pa", "raw", "page_size")
CPU = CpuState(cr3=0x1000)
WAYS = [False]
if importlib.util.find_spec("numba"):
    WAYS.append(True)


def row_of(answer: Walk) -> dict[str, int]:
    # What bulk must say where walk says this.
    second = answer.second
    decided = answer
    if second is not None and (not answer.completed or answer.pa == second.pa):
        decided = second
    return {
        "outcome": answer.outcome.code,
        "rule": RULES.index(answer.rule),
        "level": answer.level or 0,
        "error_code": answer.error_code or 0,
        "cr2": answer.cr2 or 0,
        "pa": answer.pa or 0,
        "raw": decided.steps[-1].raw if decided.steps else 0,
        "page_size": answer.page_size or 0,
    }


def differences(answers: BulkWalk, expected: list[dict[str, int]]) -> list[tuple[int, str]]:
    return [
        (row, column)
        for column in COLUMNS
        for row, (got, want) in enumerate(
            zip(getattr(answers, column).tolist(), [line[column] for line in expected], strict=True)
        )
        if got != want
    ]


@pytest.mark.parametrize("fast", WAYS)
def test_the_cases(cases: Any, fast: bool) -> None:
    for case in cases:
        if "refused" not in case.expect:
            answers = bulk(case.memory, case.cpu, [case.va], case.access, fast=fast)
            expected = row_of(walk(case.memory, case.cpu, case.va, case.access))
            assert not differences(answers, [expected]), case.why


@settings(deadline=None, derandomize=True, max_examples=120)
@given(seed=st.integers(0, 1 << 32))
def test_says_what_walk_says(randomly: Any, seed: int) -> None:
    some = randomly(seed, 250)
    expected = [row_of(walk(some.memory, some.cpu, va, some.access)) for va in some.vas.tolist()]
    for fast in WAYS:
        answers = bulk(some.memory, some.cpu, some.vas, some.access, fast=fast)
        assert not differences(answers, expected), f"fast={fast}"


def test_random_tables_exercise_every_rule(randomly: Any) -> None:
    """The property above means something: its questions end in every rule, at every depth."""
    rules: set[str] = set()
    split = deep = 0
    for seed in range(150):
        some = randomly(seed, 250)
        answers = bulk(some.memory, some.cpu, some.vas, some.access, fast=False)
        rules |= {RULES[rule] for rule in set(answers.rule.tolist())}
        deep += int((answers.completed & (answers.level == 1)).sum())
        split += int(((answers.cr2 != 0) & (answers.cr2 != some.vas)).sum())
    never_alone = {"MODE", "PAT", "KEY", "ERR", "SPLIT", "A", "D", "A_ON_FAULT", "SELF"}
    assert rules == set(RULES) - never_alone - {"CR3", *CACHING}  # these roots are in RAM
    assert deep > 1000
    assert split > 100


@pytest.mark.parametrize("fast", WAYS)
def test_a_root_outside_ram(fast: bool) -> None:
    answers = bulk(PhysicalMemory(0x1000), CPU, [0x12_3456, 1 << 47], fast=fast)
    assert answers.outcome.tolist() == [
        Outcome.NO_MEMORY.code,
        Outcome.GENERAL_PROTECTION.code,
    ]
    assert [RULES[rule] for rule in answers.rule] == ["CR3", "CANONICAL"]
    assert answers.pa.tolist() == [0x1000, 0]
    assert answers.page_size.tolist() == [0, 0]


@pytest.mark.parametrize("fast", WAYS)
def test_agrees_with_qemu_on_every_row(real: PageTableSet, fast: bool) -> None:
    cpu = real.cpu.replace(cpl=0, rflags=real.cpu.rflags | 1 << 18)  # past SMAP, as `info tlb`
    truth = real.truth
    vas = np.array(truth.va, np.uint64)
    answers = bulk(real.memory, cpu, vas, fast=fast)
    assert answers.completed.all()
    assert (answers.pa == truth.pa).all()
    letters = np.uint64(1 << 63 | 0x1FE)
    assert ((answers.raw ^ truth.flags) & letters == 0).all()
    assert (answers.page_size == truth.page_size).all()
    assert (answers.level == truth.level).all()

    gaps = bulk(real.memory, cpu, real.unmapped.va, fast=fast)
    faults = gaps.outcome == Outcome.PAGE_FAULT.code
    refused = gaps.outcome == Outcome.GENERAL_PROTECTION.code
    assert (faults | refused).all()
    assert {RULES[rule] for rule in set(gaps.rule[faults].tolist())} <= {"PRESENT"}


@pytest.fixture
def tables() -> PhysicalMemory:
    memory = PhysicalMemory(0x10000)
    for address, raw in (0x1000, 0x2027), (0x2000, 0x3027), (0x3000, 0x4027):
        memory.write_u64(address, raw)
    for page in range(512):
        memory.write_u64(0x4000 + 8 * page, 0x5063 if page % 3 else 0)
    return memory


@pytest.mark.parametrize("fast", WAYS)
@pytest.mark.parametrize("count", [0, 1, 0x3FFF, 0x4000, 0x4001, 0x9001])
def test_arrays_longer_than_a_chunk(tables: PhysicalMemory, count: int, fast: bool) -> None:
    vas = np.arange(count, dtype=np.uint64) * np.uint64(0x1003) % np.uint64(0x20_0000)
    answers = bulk(tables, CPU, vas, fast=fast)
    assert len(answers) == count
    mapped = vas >> np.uint64(12) & np.uint64(511)
    expected = np.where(mapped % 3 != 0, np.uint64(0x5000) | vas & np.uint64(0xFFF), np.uint64(0))
    assert (answers.pa == expected).all()


def test_addresses_of_any_kind(tables: PhysicalMemory) -> None:
    expected = bulk(tables, CPU, np.array([0x1001, 0x2002], np.uint64)).pa.tolist()
    assert expected == [0x5001, 0x5002]
    for vas in (
        [0x1001, 0x2002],
        (VirtAddr(0x1001), VirtAddr(0x2002)),
        np.array([0x1001, 0x2002]),
        np.array([0x1001, 0, 0x2002, 0], np.uint64)[::2],
        iter([0x1001, 0x2002]),
    ):
        assert bulk(tables, CPU, vas).pa.tolist() == expected
    assert len(bulk(tables, CPU, [])) == 0


@pytest.mark.parametrize(
    ("vas", "message"),
    [
        ([1 << 64], "a virtual address must fit in 64 bits, not 0x1_0000_0000_0000_0000"),
        ([-1], "a virtual address must fit in 64 bits, not -0x1"),
        (np.array([5, -1]), "a virtual address must fit in 64 bits, not -0x1"),
        (
            np.array([1.0]),
            "virtual addresses must be a one-dimensional array of integers, "
            "not 1-dimensional of float64",
        ),
        (
            np.zeros((2, 2), np.uint64),
            "virtual addresses must be a one-dimensional array of integers, "
            "not 2-dimensional of uint64",
        ),
    ],
)
def test_bad_addresses(tables: PhysicalMemory, vas: Any, message: str) -> None:
    with pytest.raises(AddressError) as refusal:
        bulk(tables, CPU, vas)
    assert str(refusal.value) == message


BULK = sys.modules["harness.walker.bulk"]
FAST = "harness.walker._fast"


def test_without_numba(tables: PhysicalMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, FAST, None)
    monkeypatch.setattr(BULK, "_WORTH_LOADING", 1)
    assert bulk(tables, CPU, [0x1001] * 1000).pa.tolist() == [0x5001] * 1000
    with pytest.raises(ImportError):
        bulk(tables, CPU, [0x1001], fast=True)


@pytest.mark.skipif(len(WAYS) < 2, reason="numba is not installed")
def test_numba_is_loaded_when_many_addresses_were_asked_for(
    tables: PhysicalMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, FAST, raising=False)
    monkeypatch.setattr(BULK, "_WORTH_LOADING", 1000)
    monkeypatch.setattr(BULK, "_asked", 0)
    for loaded in (False, False, True, True):
        assert bulk(tables, CPU, [0x1001] * 400).pa.tolist() == [0x5001] * 400
        assert (FAST in sys.modules) is loaded


@pytest.mark.parametrize("fast", WAYS)
def test_rows_of_a_split_access_tell_of_the_page_that_decided(
    tables: PhysicalMemory, fast: bool
) -> None:
    # Pages 1, 2 are mapped, 3 is not; an access from 1 to 2, and one from 2 to 3.
    access = Access(AccessKind.READ, size=8)
    answers = bulk(tables, CPU, [0x1FFC, 0x2FFC, 0x2FF8], access, fast=fast)
    assert [RULES[rule] for rule in answers.rule] == ["COMBINE", "PRESENT", "COMBINE"]
    assert answers.cr2.tolist() == [0, 0x3000, 0]
    assert answers.pa.tolist() == [0x5FFC, 0, 0x5FF8]
    assert answers.raw.tolist() == [0x5063, 0, 0x5063]


@pytest.mark.parametrize("fast", WAYS)
def test_walks_from_a_root_of_its_own_for_each_address(randomly: Any, fast: bool) -> None:
    some = randomly(11, 250)
    frames = np.arange(1, 17, dtype=np.uint64) << np.uint64(12)
    roots = np.resize(frames, len(some.vas))

    answers = bulk(some.memory, some.cpu, some.vas, some.access, roots=roots, fast=fast)

    expected = [
        row_of(walk(some.memory, some.cpu.replace(cr3=root), va, some.access))
        for root, va in zip(roots.tolist(), some.vas.tolist(), strict=True)
    ]
    assert not differences(answers, expected)
    assert len({(row["rule"], row["level"]) for row in expected}) > 1


def test_refuses_another_number_of_roots() -> None:
    with pytest.raises(AddressError, match="there must be a root for each of 2 addresses"):
        bulk(PhysicalMemory(0x4000), CPU, [0, 1], roots=np.zeros(3, np.uint64))
