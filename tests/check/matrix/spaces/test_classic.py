"""``Classic`` against a second, closed-form statement of kvm-unit-tests' enumeration.

The model here is written from its description in docs/matrix.md: boolean formulas on arrays of
bits. It has nothing in common with the walker, with ``bulk``, or with how a space is built.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.check.matrix.block import FRAME_2M, FRAME_4K, TABLES, Block
from harness.check.matrix.predict import ROWS, BlockWalker
from harness.check.matrix.spaces import Classic
from harness.outcome import Outcome

DOCS = Path(__file__).parents[4] / "docs" / "matrix.md"
LEGAL, FAULTING = 19_169_280, 17_637_664

ENTRY_BITS = (
    *("pte.p", "pte.rw", "pte.us", "pte.a", "pte.d", "pte.nx", "pte.bit51"),
    *("pde.p", "pde.rw", "pde.us", "pde.a", "pde.d", "pde.pse", "pde.nx", "pde.bit51", "pde.bit13"),
    *("pdpte.rw", "leaf.key"),
)
CPU_BITS = (
    *("pkru.ad", "pkru.wd", "user", "write", "fetch", "twice", "efer.nxe", "cr0.wp", "cr4.pke"),
)
P, W, U, RSVD, FETCH, PK = (1 << bit for bit in range(6))
NO_FAULT = 64

_Bools = NDArray[np.bool_]


def entry_arrays() -> dict[str, _Bools]:
    codes = np.arange(1 << len(ENTRY_BITS))
    return {name: codes >> at & 1 == 1 for at, name in enumerate(ENTRY_BITS)}


def legal_cpu(on: dict[str, bool]) -> bool:
    return not (on["fetch"] and on["write"]) and (
        on["cr4.pke"] or not (on["pkru.ad"] or on["pkru.wd"])
    )


def legal_entries(on: dict[str, _Bools], *, nxe: bool) -> _Bools:
    reserved = [on["pte.bit51"], on["pde.bit51"], on["pde.bit13"]]
    if not nxe:
        reserved += [on["pte.nx"], on["pde.nx"]]
    several: _Bools = np.sum(reserved, axis=0) > 1
    return ~several & ~(on["pde.bit13"] & ~on["pde.pse"])


def outcomes(on: dict[str, _Bools], cpu: dict[str, bool]) -> NDArray[np.intp]:
    """Give the error code of each combination, or ``NO_FAULT``."""
    user, write, fetch, nxe = cpu["user"], cpu["write"], cpu["fetch"], cpu["efer.nxe"]
    big = on["pde.pse"]
    small = ~big
    xd_reserved = not nxe
    absent_pde = ~on["pde.p"]
    bad_pde = ~absent_pde & (on["pde.bit51"] | on["pde.bit13"] | (on["pde.nx"] & xd_reserved))
    reads_pte = ~absent_pde & ~bad_pde & small
    absent_pte = reads_pte & ~on["pte.p"]
    bad_pte = reads_pte & on["pte.p"] & (on["pte.bit51"] | (on["pte.nx"] & xd_reserved))
    user_page = on["pde.us"] & (big | on["pte.us"])
    writable = on["pdpte.rw"] & on["pde.rw"] & (big | on["pte.rw"])
    no_execute = on["pde.nx"] | (small & on["pte.nx"])

    denied = np.zeros(len(big), bool)
    if user:
        denied |= ~user_page
    if write and (user or cpu["cr0.wp"]):
        denied |= ~writable
    if fetch:
        denied |= no_execute
    key = np.zeros(len(big), bool)
    if cpu["cr4.pke"] and not fetch:
        wd_counts = cpu["pkru.wd"] and write and (user or cpu["cr0.wp"])
        key = on["leaf.key"] & user_page & (cpu["pkru.ad"] or wd_counts)

    absent, bad = absent_pde | absent_pte, bad_pde | bad_pte
    base = W * write + U * user + (FETCH if fetch and nxe else 0)
    judged = np.where(key, P | PK | base, np.where(denied, P | base, NO_FAULT))
    result: NDArray[np.intp] = np.where(absent, base, np.where(bad, P | RSVD | base, judged))
    return result


def cpu_states() -> list[dict[str, bool]]:
    values = product((False, True), repeat=len(CPU_BITS))
    return [dict(zip(CPU_BITS, state, strict=True)) for state in values]


@lru_cache(maxsize=1)
def model() -> Counter[int]:
    """Count all legal combinations by error code."""
    every = entry_arrays()
    result: Counter[int] = Counter()
    for nxe in (False, True):
        legal = legal_entries(every, nxe=nxe)
        on = {name: bits[legal] for name, bits in every.items()}
        for cpu in cpu_states():
            if cpu["efer.nxe"] == nxe and not cpu["twice"] and legal_cpu(cpu):
                counts = np.bincount(outcomes(on, cpu), minlength=NO_FAULT + 1)
                # A supervisor's read before it does not change what becomes of an access.
                result.update(
                    {code: 2 * count for code, count in enumerate(counts.tolist()) if count}
                )
    return result


def predicted(blocks: list[Block]) -> Counter[int]:
    ledger = BlockWalker()
    result: Counter[int] = Counter()
    for block in blocks:
        for start in range(0, len(block), ROWS):
            answer = ledger.predict(block.rows(slice(start, start + ROWS)))
            mapped = answer.outcome == Outcome.MAPPED.code
            assert (mapped | (answer.outcome == Outcome.PAGE_FAULT.code)).all()
            counts = np.bincount(np.where(mapped, NO_FAULT, answer.error_code))
            result.update({code: count for code, count in enumerate(counts.tolist()) if count})
    return result


def test_the_model_has_the_counts_of_kvm_unit_tests() -> None:
    counts = model()
    assert sum(counts.values()) == LEGAL
    assert LEGAL - counts[NO_FAULT] == FAULTING


def test_the_documented_table_is_the_models() -> None:
    rows = re.findall(r"^\| `(0x[0-9a-f]+)` \|[^|]*\| ([0-9,]+) \|$", DOCS.read_text(), re.M)
    documented = {int(code, 16): int(count.replace(",", "")) for code, count in rows}
    counts = model()
    assert documented == {code: count for code, count in counts.items() if code != NO_FAULT}
    assert f"{counts[NO_FAULT]:,}" in DOCS.read_text()


@pytest.mark.parametrize("levels", [4, 5])
def test_the_space_has_as_many_cases(levels: int) -> None:
    space = Classic(levels)
    assert len(space) == LEGAL
    assert space.total == 1 << 27
    assert [group[:3] for group in space.groups] == [("classic", LEGAL, "exhaustive")]


def test_what_is_pruned_and_why() -> None:
    # Of 512 CPU states: a quarter fetch and write; of the rest 3/4 x 1/2 have keys without PKE.
    rows = 1 << 18
    on = entry_arrays()
    thirteen = on["pde.bit13"] & ~on["pde.pse"]
    several = sum(
        120 * int((~legal_entries(on, nxe=nxe) & ~thirteen).sum()) for nxe in (False, True)
    )
    assert Classic(4).pruned() == {
        "a fetch is no write": 128 * rows,
        "PKRU says nothing while CR4.PKE = 0": 144 * rows,
        "bit 13 is an address bit of a PDE that leads to a table": 240 * int(thirteen.sum()),
        "one reserved bit at a time, XD being one while NXE = 0": several,
    }
    assert sum(Classic(4).pruned().values()) + LEGAL == 1 << 27


def codes_of(entries: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Name the bits of ENTRY_BITS that columns of four entries have, as a number each."""
    _, pdpte, pde, pte = entries
    big = pde >> np.uint64(7) & np.uint64(1)
    leaf = np.where(big == 1, pde, pte)
    where = {"p": 0, "rw": 1, "us": 2, "a": 5, "d": 6, "pse": 7, "nx": 63, "bit51": 51, "bit13": 13}
    result = np.zeros(entries.shape[1], np.int64)
    for at, name in enumerate(ENTRY_BITS):
        level, _, short = name.partition(".")
        if name == "leaf.key":
            bits = leaf >> np.uint64(59) & np.uint64(1)
        else:
            entry = {"pte": pte, "pde": pde, "pdpte": pdpte}[level]
            bits = entry >> np.uint64(where[short]) & np.uint64(1)
        result |= bits.astype(np.int64) << at
    return result


@pytest.mark.parametrize("levels", [4, 5])
def test_every_cpu_state_meets_every_legal_row_of_entries(levels: int) -> None:
    space = Classic(levels)
    legal = {nxe: np.flatnonzero(legal_entries(entry_arrays(), nxe=nxe)) for nxe in (False, True)}
    met: dict[tuple[object, ...], list[NDArray[np.int64]]] = {}
    known: dict[tuple[int, int], NDArray[np.int64]] = {}  # blocks share their entries
    end = 0
    for first, block in space.blocks():
        assert first == end
        end = first + len(block)
        at = block.entries.__array_interface__["data"][0], len(block)
        if at not in known:
            known[at] = codes_of(block.entries[-4:])
        cpu, access = block.cpu, block.access
        assert cpu.pkru >> 4 == 3, "key 2 is denied everything"
        assert cpu.pkru & 3 == 0
        assert (cpu.levels, cpu.smep, cpu.smap, cpu.cr3) == (levels, False, False, TABLES[0])
        state: tuple[object, ...] = (
            cpu.nxe,
            cpu.wp,
            cpu.pke,
            cpu.pkru,
            cpu.user,
            access,
            block.supervisor_reads_first,
        )
        met.setdefault(state, []).append(known[at])
    assert end == LEGAL
    assert len(met) == 240
    for state, codes in met.items():
        assert np.array_equal(np.sort(np.concatenate(codes)), legal[bool(state[0])])


@pytest.mark.parametrize("levels", [4, 5])
def test_what_every_entry_holds_besides(levels: int) -> None:
    _, block = next(Classic(levels).blocks(0, 50_000))
    upper = block.entries[: levels - 3]
    assert (upper == np.array(TABLES[1 : levels - 2], np.uint64)[:, None] + 0x27).all()
    pdpte, pde, pte = block.entries[-3:]
    assert set(pdpte.tolist()) == {TABLES[levels - 2] | 0x25}
    big = pde & np.uint64(0x80) != 0
    assert big.any()
    assert (~big).any()
    address = np.uint64(0xFF_FFFF_D000)  # without bit 13
    assert set((pde[big] & address).tolist()) == {FRAME_2M}
    assert set((pde[~big] & np.uint64(0xFF_FFFF_F000)).tolist()) == {TABLES[levels - 1]}
    key = pde >> np.uint64(59) & np.uint64(15)
    assert set(key[~big].tolist()) == {2}
    assert set(key[big].tolist()) <= {0, 1}
    assert set((pte & np.uint64(0xFF_FFFF_F000)).tolist()) == {FRAME_4K}


def test_the_pdpte_is_the_same_throughout_a_block() -> None:
    for _, block in Classic(4).blocks():
        assert (block.entries[:2, 0] == block.entries[:2, -1]).all()
        assert (block.entries[1] == block.entries[1, 0]).all()


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("state", [0, 100, 151, 239])
def test_the_walker_agrees_with_the_model(levels: int, state: int) -> None:
    # The first 120 states have NXE = 0 and 45,056 rows each, the others 114,688.
    first = state * 45_056 + max(state - 120, 0) * (114_688 - 45_056)
    space = Classic(levels)
    names = set(space.bits(first))
    blocks = [block for _, block in space.blocks(first, 45_056 if state < 120 else 114_688)]
    assert {(block.cpu, block.access, block.supervisor_reads_first) for block in blocks} == {
        (blocks[0].cpu, blocks[0].access, blocks[0].supervisor_reads_first)
    }
    cpu = {name: name in names for name in CPU_BITS}
    every = entry_arrays()
    legal = legal_entries(every, nxe=cpu["efer.nxe"])
    counts = Counter(outcomes({name: bits[legal] for name, bits in every.items()}, cpu).tolist())
    assert predicted(blocks) == counts


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4, 5])
def test_the_walker_agrees_with_the_model_on_all_cases(levels: int) -> None:
    assert predicted([block for _, block in Classic(levels).blocks()]) == model()
