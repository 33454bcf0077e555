"""Batches answer what single probes answer, on every column, and leave memory as it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.cpu import CR4, CpuState
from harness.engine import open_engine
from harness.engine.unicorn import UnicornEngine, hooks
from harness.engine.unicorn.batch import Batcher
from harness.engine.unicorn.library import VERSION
from harness.engine.unicorn.probe import Prober
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Outcome

P, W, U, PS = 1, 2, 4, 0x80
ACCESSES = [Access(kind, size=size) for kind in ("read", "write") for size in (1, 2, 4, 8)]  # type: ignore[arg-type]
U64 = NDArray[np.uint64]

Tables = Any
"""conftest.Tables: test modules do not import one another."""


@pytest.fixture(params=["compiled", "python"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with the hooks that numba compiles, and with the same ones as Python."""
    if request.param == "python":
        monkeypatch.setattr(hooks, "compiled", lambda: None)
    else:
        assert hooks.compiled() is not None, "the tests need the extra `fast`"
    return str(request.param)


def furnish(tables: Tables) -> None:
    """Tables with a bit of everything, and a recursive slot."""
    rng = np.random.default_rng(7)
    memory = tables.memory
    frames = memory.view(tables.FRAMES, 0x1_0000)
    frames[:] = rng.integers(0, 256, len(frames), np.uint8)
    leaf = tables.leaf
    leaf(0, tables.frame(0) | P | W | U)
    leaf(1, tables.frame(1) | P | U)
    leaf(2, tables.frame(17) | P | W)
    leaf(3, 0)
    leaf(4, tables.HOLE | P | W | U)
    leaf(5, tables.frame(5) | P | 1 << 45)
    leaf(6, tables.PT | P | W | U)  # the page table itself
    leaf(7, tables.PML4 | P | W | U)  # the root
    leaf(8, tables.frame(8) | P | W | U | 3 << 59)
    leaf(9, tables.frame(16) | P | W | U)
    memory.write_u64(tables.PD + 8, 0x4000_0000 | P | W | U | PS)  # 2 MiB that are not there
    memory.write_u64(tables.PD + 16, tables.HOLE | P | W | U)  # a table that is not there
    memory.write_u64(tables.PML4 + 8 * 511, tables.PML4 | P | W | U)
    # Wherever the engine wants to put its own code, there is something.
    for slot in range(0x1D0, 0x1F0):
        memory.write_u64(tables.PML4 + 8 * slot, tables.PDPT | P | W | U)


def places(tables: Tables, rng: np.random.Generator, count: int) -> U64:
    """Addresses that need the borrowed slot in every position, recursion, faults and splits."""
    slots = np.array([tables.SLOT, 511, 0x1E0, 0x1DF, 0x1DE, 0, 100])
    upper = np.array([0, 0, 0, 1, 2, 0x1E0, 0x1DF, 511, tables.SLOT])
    lower = np.array([*range(10), 0x1E0, 0x1DF, 0x1DE, 511])
    offsets = np.array([0, 8, 0xF00, 0xF04, 0xEF8, 0x28, 0xFF8, 0xFF9, 0xFFC, 0xFFE, 0xFFF, 0xEFD])
    va = rng.choice(slots, count) << 39 | rng.choice(upper[:1], count) << 30
    va |= rng.choice(upper, count) << 21 | rng.choice(lower, count) << 12
    va |= rng.choice(offsets, count)
    wide = rng.random(count) < 0.15
    va[wide] |= rng.choice(upper, int(wide.sum())) << 30
    vas = va.astype(np.uint64)
    high = vas >> np.uint64(47) & np.uint64(1) == 1
    vas[high] |= np.uint64(0xFFFF << 48)
    broken = rng.random(count) < 0.1
    vas[broken] ^= np.uint64(1 << 50)
    return vas


def agree(tables: Tables, cpu: CpuState, vas: U64, access: Access) -> None:
    """Ask both ways and compare all that both say."""
    before = tables.memory.buffer.copy()
    columns = tables.engine.probe_many(cpu, vas, access)
    assert np.array_equal(tables.memory.buffer, before), "memory is as it was"
    assert len(columns) == len(vas)
    for va, seen in zip(vas.tolist(), columns, strict=True):
        alone = tables.engine.probe(cpu, va, access)
        if access.is_write and alone.outcome is Outcome.MAPPED:
            assert seen.value == 0
            seen_value, alone_value = None, None
        else:
            seen_value, alone_value = seen.value, alone.value
        assert (seen.outcome, seen.error_code, seen.cr2, seen.pa, seen_value) == (
            *(alone.outcome, alone.error_code, alone.cr2, alone.pa),
            alone_value,
        ), f"{access!r} of {va:#x} in {cpu!r}"


@pytest.fixture
def furnished(tables: Tables, how: str) -> Tables:
    furnish(tables)
    tables.how = how
    return tables


@pytest.mark.parametrize("access", ACCESSES, ids=str)
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_batch_is_what_single_probes_are(furnished: Tables, access: Access, cpl: int) -> None:
    rng = np.random.default_rng(access.size + 10 * cpl)
    cpu = furnished.cpu.replace(cpl=cpl)
    agree(furnished, cpu, places(furnished, rng, 400), access)


@pytest.mark.parametrize(
    "change",
    [
        {"cr4": int(CR4.PAE | CR4.SMAP)},
        {"cr4": int(CR4.PAE | CR4.SMAP), "rflags": 0x4_0002},
        {"cr4": int(CR4.PAE | CR4.PKE), "pkru": 0x40, "cpl": 3},
        {"cr4": int(CR4.PAE | CR4.PKE), "pkru": 0x80, "cpl": 3},
        {"cr0": 0x8004_0033},
        {"efer": 0x500},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["read", "write"])
def test_in_other_states(furnished: Tables, change: dict[str, Any], kind: str) -> None:
    rng = np.random.default_rng(3)
    cpu = furnished.cpu.replace(**change)
    agree(furnished, cpu, places(furnished, rng, 200), Access(AccessKind(kind), size=8))


def test_with_five_levels(furnished: Tables) -> None:
    root = furnished.LOW + 0x8000
    for slot in (0, 255, 256, 0x1E0, 0x1DF):
        furnished.memory.write_u64(root + 8 * slot, furnished.PML4 | P | W | U)
    rng = np.random.default_rng(5)
    vas = places(furnished, rng, 300) & np.uint64((1 << 48) - 1)
    vas |= rng.choice(np.array([0, 255, 256, 0x1E0, 0x1DF, 7]), 300).astype(np.uint64) << np.uint64(
        48
    )
    vas[vas >> np.uint64(56) & np.uint64(1) == 1] |= np.uint64(0xFE << 56)
    vas[::17] ^= np.uint64(1 << 60)
    cpu = CpuState(cr3=root, cr4=int(CR4.PAE | CR4.LA57))
    for kind in AccessKind.READ, AccessKind.WRITE:
        agree(furnished, cpu, vas, Access(kind, size=8))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 60),
    access=st.sampled_from(ACCESSES),
    cpl=st.sampled_from([0, 3]),
    wp=st.booleans(),
)
def test_any_batch(seed: int, count: int, access: Access, cpl: int, wp: bool) -> None:
    tables = shared_tables()
    vas = places(tables, np.random.default_rng(seed), count)
    cpu = tables.cpu.replace(cpl=cpl, cr0=0x8005_0033 if wp else 0x8004_0033)
    agree(tables, cpu, vas, access)


_SHARED: dict[str, Any] = {}
_make: dict[str, Callable[[], Any]] = {}


@pytest.fixture(autouse=True)
def remember(request: pytest.FixtureRequest) -> None:
    """Hypothesis does not take fixtures of a function: hand it the class."""
    _make["tables"] = request.getfixturevalue("tables_class")


def shared_tables() -> Any:
    if not _SHARED:
        _SHARED["tables"] = _make["tables"]()
        furnish(_SHARED["tables"])
    return _SHARED["tables"]


@pytest.mark.parametrize("slot", [*range(0, 512, 37), *range(0x1DC, 0x1E4)])
def test_the_borrowed_slot_at_every_place(tables: Tables, slot: int) -> None:
    """An address with the same index at every level, and at the offset."""
    furnish(tables)
    top = 0xFFFF << 48 if slot >= 256 else 0
    parts = [slot << 39, slot << 30, slot << 21, slot << 12, slot << 3]
    vas = np.array([top | sum(parts[n:], parts[0] if n else 0) for n in range(5)], np.uint64)
    for access in (Access(AccessKind.READ, size=8), Access(AccessKind.WRITE, size=1)):
        agree(tables, tables.cpu, vas, access)


def test_reads_of_the_root_around_the_borrowed_slot(tables: Tables) -> None:
    furnish(tables)
    for size in (1, 2, 4, 8):
        at = 8 * 0x1E0
        vas = np.arange(at - size - 1, at + 10, dtype=np.uint64) + np.uint64(tables.page(7))
        agree(tables, tables.cpu, vas, Access(AccessKind.READ, size=size))
        agree(tables, tables.cpu, vas, Access(AccessKind.WRITE, size=size))


def test_reads_that_touch_an_entry_that_another_probe_changes(tables: Tables) -> None:
    """From each byte before it to each byte behind it: entry 2, of which page 2's read sets A."""
    furnish(tables)
    for size in (1, 2, 4, 8):
        around = np.arange(16 - size, 25, dtype=np.uint64) + np.uint64(tables.page(6))
        vas = np.concatenate([np.array([tables.page(2)], np.uint64), around])
        agree(tables, tables.cpu, vas, Access(AccessKind.READ, size=size))


@pytest.mark.parametrize("faults", [False, True])
def test_reads_of_the_engine_s_own_frames(tables: Tables, faults: bool) -> None:
    """They lie outside RAM; the hook does not see them, and that is noticed."""
    furnish(tables)
    tables.leaf(8, (1 << 40) - 0x20_0000 | P | W | U)
    order = [0, 1, 8, 2, 9] if not faults else [0, 8, 3, 1, 2, 3, 8]
    vas = np.array([tables.page(n) for n in order], np.uint64)
    agree(tables, tables.cpu, vas, Access(AccessKind.READ, size=8))
    agree(tables, tables.cpu, vas, Access(AccessKind.WRITE, size=8))


def test_of_no_addresses(furnished: Tables) -> None:
    for kind in ("read", "write", "fetch"):
        assert len(furnished.engine.probe_many(furnished.cpu, [], kind)) == 0


def test_more_addresses_than_one_batch_takes(tables: Tables) -> None:
    furnish(tables)
    vas = places(tables, np.random.default_rng(2), 3 * hooks.BATCH + 17)
    inside = vas[(vas & np.uint64(0xFFF)) <= np.uint64(0xFF8)]
    assert len(inside) > 2 * hooks.BATCH
    access = Access(AccessKind.READ, size=8)
    columns = tables.engine.probe_many(tables.cpu, inside, access)
    again = tables.engine.probe_many(tables.cpu, inside[::-1], access)
    for name in ("outcome", "error_code", "cr2", "pa"):
        assert np.array_equal(getattr(columns, name), getattr(again, name)[::-1]), name
    mapped = columns.outcome == Outcome.MAPPED.code
    assert np.array_equal(columns.value[mapped], again.value[::-1][mapped])
    rows = np.random.default_rng(3).integers(0, len(inside), 100).tolist()
    for row in rows:
        alone = tables.engine.probe(tables.cpu, int(inside[row]), access)
        seen = columns[row]
        assert (seen.outcome, seen.error_code, seen.cr2, seen.pa, seen.value) == (
            *(alone.outcome, alone.error_code, alone.cr2, alone.pa),
            alone.value,
        )


def test_probes_of_a_batch_do_not_see_one_another_s_writes(furnished: Tables) -> None:
    """A write lands, is noted, and is taken back before the next probe reads."""
    page = furnished.page(0)
    value = furnished.memory.read_u64(furnished.frame(0))
    vas = np.array([page] * 5, np.uint64)
    furnished.engine.probe_many(furnished.cpu, vas, Access(AccessKind.WRITE, size=8))
    columns = furnished.engine.probe_many(furnished.cpu, vas, Access(AccessKind.READ, size=8))
    assert columns.value.tolist() == [value] * 5


def test_writes_into_the_tables_in_use(furnished: Tables) -> None:
    """A store into the page table in the middle of a batch must not lead later walks astray."""
    write = Access(AccessKind.WRITE, size=8)
    vas = np.array(
        [furnished.page(6) + 8 * n for n in range(12)]
        + [furnished.page(0), furnished.page(1), furnished.page(2)]
        + [furnished.page(7) + 8 * furnished.SLOT, furnished.page(0)],
        np.uint64,
    )
    agree(furnished, furnished.cpu, vas, write)


# Which way a probe goes.


@pytest.fixture
def singles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The addresses of the single probes that are made."""
    asked: list[int] = []
    probe = Prober.probe

    def noting(self: Prober, cpu: CpuState, va: int, access: Access) -> Any:
        asked.append(va)
        return probe(self, cpu, va, access)

    monkeypatch.setattr(Prober, "probe", noting)
    return asked


def test_what_stays_within_a_page_runs_in_the_guest(tables: Tables, singles: list[int]) -> None:
    furnish(tables)
    vas = np.array([tables.page(n) for n in range(9)], np.uint64)
    tables.engine.probe_many(tables.cpu, vas, Access(AccessKind.WRITE, size=8))
    assert singles == []
    tables.engine.probe_many(tables.cpu, vas, "read")
    assert singles == [tables.page(6)], "it reads the entry in which the batch has set A"


def test_what_spans_pages_and_fetches_are_single_probes(tables: Tables, singles: list[int]) -> None:
    furnish(tables)
    spanning = tables.page(1) + 0xFFF
    vas = np.array([tables.page(0), spanning, tables.page(1)], np.uint64)
    tables.engine.probe_many(tables.cpu, vas, Access(AccessKind.READ, size=2))
    assert singles == [spanning]
    singles.clear()
    tables.engine.probe_many(tables.cpu, vas, "fetch")
    assert singles == vas.tolist()


@pytest.mark.parametrize(("pkru", "batched"), [(0, True), (1, False), (2, False), (4, True)])
def test_ring_3_without_key_0_is_probed_one_by_one(
    tables: Tables, singles: list[int], pkru: int, batched: bool
) -> None:
    furnish(tables)
    cpu = tables.cpu.replace(cr4=int(CR4.PAE | CR4.PKE), pkru=pkru, cpl=3)
    vas = np.array([tables.page(0), tables.page(8)], np.uint64)
    columns = tables.engine.probe_many(cpu, vas, "read")
    assert (singles == []) is batched
    key_0 = Outcome.PAGE_FAULT if pkru == 1 else Outcome.MAPPED
    assert [seen.outcome for seen in columns] == [key_0, Outcome.MAPPED]
    assert Batcher.takes(cpu.replace(cpl=0))


def test_a_root_outside_ram_is_unsupported(tables: Tables) -> None:
    cpu = tables.cpu.replace(cr3=tables.HOLE)
    columns = tables.engine.probe_many(cpu, [0, 1])
    assert [seen.outcome for seen in columns] == [Outcome.UNSUPPORTED] * 2
    assert columns.reason == "the root table at 0x40000000 must be in RAM for the probe's own code"


def test_many_regions() -> None:
    regions = [(n << 21, 0x1000) for n in range(20)]
    memory = PhysicalMemory(regions)
    memory.write_u64(0, 0x20_0000 | P | W | U)
    memory.write_u64(0x20_0000, 0x40_0000 | P | W | U)
    memory.write_u64(0x40_0000, 0x60_0000 | P | W | U)
    for n in range(20):
        memory.write_u64(0x60_0000 + 8 * n, n << 21 | P | W | U)
        memory.write_u64((n << 21) + 0x800, n)
    cpu = CpuState(cr3=0)
    before = memory.buffer.copy()
    with open_engine("unicorn", memory) as engine:
        vas = np.array([n << 12 | 0x800 for n in range(21)], np.uint64)
        read = engine.probe_many(cpu, vas, Access(AccessKind.READ, size=8))
        assert read.value[:20].tolist() == list(range(20))
        assert read[20].outcome is Outcome.PAGE_FAULT
        engine.probe_many(cpu, vas, Access(AccessKind.WRITE, size=8))
    assert np.array_equal(memory.buffer, before)


def test_what_goes_wrong_in_a_hook_is_raised(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "compiled", lambda: None)

    def broken(*_: object) -> None:
        raise RuntimeError("a bug in a hook")

    monkeypatch.setattr(hooks, "on_read", broken)
    furnish(tables)
    before = tables.memory.buffer.copy()
    with pytest.raises(RuntimeError, match="a bug in a hook"):
        tables.engine.probe_many(tables.cpu, [tables.page(0)])
    assert np.array_equal(tables.memory.buffer, before)


def test_the_engine_says_its_name(tables: Tables) -> None:
    assert isinstance(tables.engine, UnicornEngine)
    assert (tables.engine.name, tables.engine.version) == ("unicorn", VERSION)
