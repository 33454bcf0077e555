"""The guest's translations agree with the walker and the mappers, over random tables.

Three kernels translate addresses of the tables that they run on. The tables here are random: pages
of all sizes, tables, entries that are not present but not zero, and every flag that does not
reserve or deny anything. The kernels' own pages, and the arrays, are in slot 0.
"""

import functools
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.address import PageSize, is_canonical
from harness.engine.run import Budget, Ending, Start
from harness.kernels import Kernel, read_kernel
from harness.machine import Machine
from harness.mapping.identity import IdentityPageTable
from harness.mapping.mapper import Mapper
from harness.mapping.offset import OffsetPageTable
from harness.mapping.recursive import RecursivePageTable
from harness.mapping.space import AddressSpace
from harness.memory import PhysicalMemory
from harness.resources import asm_dir
from harness.walker import BulkWalk, bulk

MIB = 1 << 20
OFFSET = 0x180_0000_0000
RAM = 40 * MIB
RANDOM_TABLES = range(2 * MIB, 14 * MIB, 4096)
ADDRESSES, RESULTS = 16 * MIB, 25 * MIB
ARRAYS = 0x4000_0000
"""Where physical 16 to 34 MiB, the addresses and the results, are mapped."""
NONE = (1 << 64) - 1

P, A, PS, G, PAT = 1 << 0, 1 << 5, 1 << 7, 1 << 8, 1 << 12
PAT_4K = PS
WEIGHTS = {4: (4, 1, 5, 0), 3: (1, 1, 6, 2), 2: (1, 1, 6, 2), 1: (2, 1, 0, 7)}
"""By level: how often an entry is nothing, something that is not present, a table, a page."""
LIKELY = (*range(10), 256, *range(508, 512))
"""The indices that are used, at every level."""


@functools.cache
def kernel(name: str) -> Kernel:
    return read_kernel(asm_dir() / f"{name}.asm")


def machine_with(seed: int, slot: int | None) -> Machine:
    machine = Machine(RAM, identity=MIB + 0x1_0000)
    machine.map(OFFSET, 0, RAM, "W", PageSize.Size2MiB)
    machine.map(ARRAYS, 16 * MIB, 18 * MIB, "W", PageSize.Size2MiB)
    if slot is not None:
        machine.map_recursive(slot)
    grow(machine.memory, machine.cpu.root, 4, Random(seed), iter(RANDOM_TABLES).__next__)
    return machine


def grow(
    memory: PhysicalMemory, table: int, level: int, rng: Random, frame: Callable[[], int]
) -> None:
    words = memory.frame(table)
    for index in LIKELY:
        if words[index]:
            continue
        flags = rng.choice((0, 1, rng.getrandbits(7) << 52 | rng.getrandbits(3) << 9))
        flags |= rng.getrandbits(1) << 63 | rng.getrandbits(6) << 1 | P
        [kind] = rng.choices(("nothing", "not present", "table", "page"), WEIGHTS[level])
        if kind == "not present":
            words[index] = rng.getrandbits(64) & ~P
        elif kind == "table":
            below = frame()
            words[index] = flags & ~PS | below
            grow(memory, below, level - 1, rng, frame)
        elif kind == "page":
            address = rng.getrandbits(40) & -(1 << 12 + 9 * (level - 1))
            words[index] = flags & ~PS | address | rng.choice((0, G))
            if level == 1:
                words[index] |= rng.choice((0, 0, PAT_4K))
            else:
                words[index] |= PS | rng.choice((0, PAT))


def random_addresses(seed: int, count: int) -> NDArray[np.uint64]:
    rng = np.random.default_rng(seed)
    likely = np.array(LIKELY, np.uint64)
    found = rng.integers(0, 4096, count, dtype=np.uint64)
    for level in range(4):
        index = likely[rng.integers(0, len(LIKELY), count)]
        anywhere = rng.random(count) < 0.03
        index[anywhere] = rng.integers(0, 512, int(anywhere.sum()), dtype=np.uint64)
        found |= index << np.uint64(12 + 9 * level)
    upper = (found >> np.uint64(47) & np.uint64(1)).astype(bool)
    found[upper] |= np.uint64(0xFFFF << 48)
    odd = rng.random(count) < 0.01
    found[odd] = rng.integers(0, 1 << 64, int(odd.sum()), dtype=np.uint64)
    return found


def run(machine: Machine, name: str, vas: NDArray[np.uint64], rcx: int) -> NDArray[np.uint64]:
    """Run the guest once over all the addresses, and give its results."""
    machine.memory.view(ADDRESSES, vas.nbytes).view(np.uint64)[:] = vas
    results = machine.memory.view(RESULTS, vas.nbytes).view(np.uint64)
    results[:] = 0x5555
    ended = machine.run(
        kernel(name).assemble(),
        registers={
            "rdi": ARRAYS,
            "rsi": ARRAYS + RESULTS - ADDRESSES,
            "rdx": len(vas),
            "rcx": rcx,
            "rsp": 0x8_0000,
        },
        start=Start(rip=0, cpu=machine.cpu),
        budget=Budget(seconds=50),
    )
    assert ended.ending is Ending.HALT, ended.detail
    assert not ended.events
    return results.copy()


def predicted(machine: Machine, vas: NDArray[np.uint64]) -> tuple[BulkWalk, NDArray[np.uint64]]:
    found = bulk(machine.memory, machine.cpu, vas)
    return found, np.where(found.completed, found.pa, np.uint64(NONE))


def assert_same(vas: NDArray[np.uint64], got: NDArray[np.uint64], want: NDArray[np.uint64]) -> None:
    wrong = np.flatnonzero(got != want)
    assert not len(wrong), [(hex(vas[i]), hex(got[i]), hex(want[i])) for i in wrong[:5]]


def canonical(vas: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.array([va for va in vas.tolist() if is_canonical(va, 4)], np.uint64)


@pytest.mark.parametrize("seed", range(6))
def test_through_the_physical_map_as_the_walker_says(seed: int) -> None:
    with machine_with(seed, None) as machine:
        vas = random_addresses(seed, 20_000)
        found, want = predicted(machine, vas)
        assert_same(vas, run(machine, "translate-offset", vas, OFFSET), want)
        sizes = found.page_size[found.completed]
        assert all((sizes == size).sum() > 50 for size in PageSize)
        assert (~found.completed).sum() > 1000


@pytest.mark.parametrize("slot", [511, 510, 300, 256, 255, 100, 12])
def test_through_any_recursive_slot_as_the_walker_says(slot: int) -> None:
    with machine_with(slot, slot) as machine:
        vas = random_addresses(slot, 20_000)
        _, want = predicted(machine, vas)
        assert_same(vas, run(machine, "translate-recursive", vas, slot), want)


def test_4k_only_finds_4_kib_pages_and_none_else() -> None:
    with machine_with(7, None) as machine:
        vas = canonical(random_addresses(7, 20_000))
        found, want = predicted(machine, vas)
        # The crate's frame(): bit 7 is an error at every level, though at level 1 it is PAT.
        refused = (found.page_size != 4096) | (found.raw & np.uint64(PAT_4K) != 0)
        want[refused] = NONE
        assert (want != NONE).sum() > 1000
        assert (found.completed & (found.page_size == 4096) & refused).sum() > 50
        assert_same(vas, run(machine, "translate-4k-only", vas, OFFSET), want)


@pytest.mark.parametrize("name", ["translate-offset", "translate-4k-only"])
def test_flags_in_cr3_are_no_part_of_the_address(name: str) -> None:
    with machine_with(8, None) as machine:
        machine.map(0x1234_5678_9000, 0x20_0000, 0x1000)
        machine.cpu = machine.cpu.replace(cr3=machine.cpu.cr3 | 0x18)  # PWT and PCD
        [got] = run(machine, name, np.array([0x1234_5678_9123], np.uint64), OFFSET)
        assert got == 0x20_0123


@pytest.mark.parametrize("name", ["translate-offset", "translate-recursive"])
def test_one_million_addresses_in_one_batch(name: str) -> None:
    with machine_with(99, 400) as machine:
        vas = random_addresses(99, 1_000_000)
        _, want = predicted(machine, vas)
        rcx = OFFSET if name == "translate-offset" else 400
        assert_same(vas, run(machine, name, vas, rcx), want)


def test_the_host_twins_give_the_same() -> None:
    """The mappers, which go through the same trick's virtual addresses."""
    with machine_with(3, 509) as machine:
        vas = canonical(random_addresses(3, 4_000))
        space = AddressSpace(machine.memory, machine.cpu)
        twins: dict[str, tuple[Mapper, int]] = {
            "translate-offset": (OffsetPageTable(space, OFFSET), OFFSET),
            "translate-recursive": (RecursivePageTable.from_slot(space, 509), 509),
        }
        for name, (twin, rcx) in twins.items():
            got = run(machine, name, vas, rcx)
            for va, pa in zip(vas.tolist(), got.tolist(), strict=True):
                says = twin.translate_addr(va)
                assert pa == (NONE if says is None else int(says)), hex(va)


def test_a_translation_is_where_the_cpu_reads() -> None:
    """What the guest computes is what the MMU does, not only what the walker says."""
    with machine_with(5, None) as machine:
        # Random pages reach beyond RAM; probes only tell the address of those within.
        vas = random_addresses(5, 1_500)
        got = run(machine, "translate-offset", vas, OFFSET)
        for va, pa in zip(vas.tolist(), got.tolist(), strict=True):
            seen = machine.probe(va)
            assert (seen.pa is None) == (pa == NONE), hex(va)
            assert seen.pa in (None, pa), hex(va)


@pytest.mark.parametrize("seed", range(4))
def test_the_level_4_table_is_listed_as_the_lecture_does(seed: int) -> None:
    name = "active-level-4-table"
    with machine_with(seed, 100) as machine:
        entries = machine.memory.frame(machine.cpu.root)
        ended = machine.run(
            kernel(name).assemble(),
            registers={"rdi": OFFSET, "rsp": 0x8_0000},
            start=Start(rip=0, cpu=machine.cpu),
        )
        assert ended.ending is Ending.HALT
        lines = [
            f"L4 Entry {index:02x}: {int(raw):#018x}" for index, raw in enumerate(entries) if raw
        ]
        printed = ended.serial.decode().splitlines()
        assert printed[-1] == "FIN"
        # Entry 3, the map's, is read and so gets its A bit in the course of the listing.
        assert [line[:13] for line in printed[:-1]] == [line[:13] for line in lines]
        assert [unmarked(line) for line in printed[:-1]] == [unmarked(line) for line in lines]
        assert ended.registers["rax"] == OFFSET + machine.cpu.root
        assert ended.registers["rbx"] == len(lines)


def unmarked(line: str) -> int:
    return int(line.split(": ")[1], 16) & ~A


def test_identity_mapped_tables_are_the_offset_map_at_0() -> None:
    """The kernel for the physical map, with offset 0, is the identity mapping's translation."""
    with Machine(RAM, identity=RAM) as machine:
        machine.map(0x1234_5600_0000, 0x70_0000, 0x20_0000)
        space = AddressSpace(machine.memory, machine.cpu)
        vas = np.arange(0x1234_5600_0000, 0x1234_5620_0000, 0x801, dtype=np.uint64)
        machine.memory.view(ADDRESSES, vas.nbytes).view(np.uint64)[:] = vas
        ended = machine.run(
            kernel("translate-offset").assemble(),
            registers={"rdi": ADDRESSES, "rsi": RESULTS, "rdx": len(vas), "rcx": 0},
            start=Start(rip=0, cpu=machine.cpu),
        )
        assert ended.ending is Ending.HALT
        twin = IdentityPageTable(space)
        got = machine.memory.view(RESULTS, vas.nbytes).view(np.uint64)
        assert got.tolist() == [int(twin.translate_addr(va) or 0) for va in vas.tolist()]
        assert machine.walk(int(vas[1])).pa == got[1]
