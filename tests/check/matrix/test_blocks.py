"""Blocks of cases: predicted as ``walk`` predicts each one, observed, and every difference told."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.check.findings.reproducer import reproduce
from harness.check.findings.tally import Cell
from harness.check.matrix.block import FRAME_1G, FRAME_2M, FRAME_4K, TABLES, VA4, VA5, Block
from harness.check.matrix.blocks import BlockBench
from harness.check.matrix.predict import ROWS, BlockWalker
from harness.cpu import CR0, CR4, EFER, CpuState
from harness.engine import Engine
from harness.engine.steps import AccessStep
from harness.engine.unicorn import UnicornEngine
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, EntryObservations, Outcome
from harness.walker import RULES, Walk, walk

P, RW, US, A, D, PS, XD = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 63))
FLAWS = ((51, 0.03), (41, 0.01), (13, 0.03), (20, 0.01), (62, 0.2), (8, 0.2), (12, 0.0))


def block(
    seed: int = 1,
    count: int = 200,
    *,
    levels: int = 4,
    kind: AccessKind = AccessKind.READ,
    size: int = 1,
    cpl: int = 0,
    supervisor_reads_first: bool = False,
) -> Block:
    """Random entries of every kind under a random CPU state."""
    rng = np.random.default_rng(seed)
    found = np.zeros((levels, count), np.uint64)
    for bit, share in ((P, 0.93), (RW, 0.8), (US, 0.8), (A, 0.5), (D, 0.5), (XD, 0.1)):
        found |= np.where(rng.random(found.shape) < share, np.uint64(bit), np.uint64(0))
    for number, share in FLAWS:
        # Bits 13 and 20 are reserved in big pages only, and an address in others.
        wrong = rng.random(found.shape) < share
        if number < 30:
            wrong[[0, levels - 1]] = False
        found |= np.where(wrong, np.uint64(1 << number), np.uint64(0))
    for depth in range(levels):
        level = levels - depth
        big = np.full(count, level == 1)
        if level in (2, 3):
            big = rng.random(count) < 0.3
            found[depth] |= np.where(big, np.uint64(PS), np.uint64(0))
            found[depth] &= np.where(big, ~np.uint64(0), ~np.uint64(1 << 13 | 1 << 20))
        frame = {1: FRAME_4K, 2: FRAME_2M, 3: FRAME_1G}.get(level, 0)
        below = TABLES[depth + 1] if level > 1 else 0
        found[depth] |= np.where(big, np.uint64(frame), np.uint64(below))
    cr4 = CR4.PAE | (CR4.LA57 if levels == 5 else 0)
    for switch in (CR4.SMEP, CR4.SMAP, CR4.PKE):
        cr4 |= switch if rng.random() < 0.3 else 0
    cpu = CpuState(
        cr0=int(CR0.PE | CR0.ET | CR0.NE | CR0.PG | (CR0.WP if rng.random() < 0.5 else 0)),
        cr3=TABLES[0],
        cr4=int(cr4),
        efer=int(EFER.LME | EFER.LMA | (EFER.NXE if rng.random() < 0.7 else 0)),
        pkru=int(rng.integers(0, 1 << 32)),
        cpl=cpl,
    )
    return Block(
        cpu, Access(kind, size), VA5 if levels == 5 else VA4, found, supervisor_reads_first
    )


blocks = st.builds(
    block,
    seed=st.integers(0, 1 << 32),
    count=st.just(40),
    levels=st.sampled_from((4, 5)),
    kind=st.sampled_from(tuple(AccessKind)),
    cpl=st.sampled_from((0, 3)),
    supervisor_reads_first=st.booleans(),
)


@pytest.fixture(scope="module")
def bench() -> Iterator[BlockBench]:
    with BlockBench() as opened:
        yield opened


@pytest.fixture(scope="module")
def ledger() -> BlockWalker:
    return BlockWalker()


def alone(some: Block, row: int) -> Walk:
    case = some.question(row)
    step = case.steps[-1]
    assert isinstance(step, AccessStep)
    return walk(case.build(), case.cpu, step.va, step.access)


@given(some=blocks)
def test_predicts_what_walk_predicts(ledger: BlockWalker, some: Block) -> None:
    some = dataclasses.replace(some, supervisor_reads_first=False)
    found = ledger.predict(some)
    for row in range(len(some)):
        told = alone(some, row)
        assert found.outcome[row] == told.outcome.code
        assert RULES[found.rule[row]] == told.rule
        assert found.level[row] == (told.level or 0)
        assert found.error_code[row] == (told.error_code or 0)
        assert found.cr2[row] == (told.cr2 or 0)
        assert found.pa[row] == (told.pa or 0)
        for bits, wanted in ((found.must, told.sets), (found.may, told.may_set)):
            listed = {at: int(bits[depth, row]) for depth, at in enumerate(some.at)}
            assert {at: value for at, value in listed.items() if value} == wanted


@given(some=blocks)
def test_of_two_accesses_it_predicts_what_both_leave(ledger: BlockWalker, some: Block) -> None:
    found = ledger.predict(dataclasses.replace(some, supervisor_reads_first=True))
    supervisor = dataclasses.replace(
        some, cpu=some.cpu.replace(cpl=0), access=Access(AccessKind.READ, some.access.size)
    )
    for row in range(len(some)):
        first, last = alone(supervisor, row), alone(some, row)
        assert found.outcome[row] == last.outcome.code
        for depth, at in enumerate(some.at):
            must = first.sets.get(at, 0) | last.sets.get(at, 0)
            assert found.must[depth, row] == must
            may = first.may_set.get(at, 0) | last.may_set.get(at, 0)
            assert found.may[depth, row] == may & ~must


@given(some=blocks)
def test_the_cpu_agrees(bench: BlockBench, some: Block) -> None:
    tally = bench.ask(some)

    assert set(tally.judgements) <= {"agree", "known", "open"}, tally.findings
    assert tally.cases == tally.judgements.total() == len(some)


def test_the_plain_way_counts_the_same(bench: BlockBench) -> None:
    with BlockBench(singly=True) as plain:
        for seed, kind in enumerate(AccessKind):
            for cpl, supervisor_reads_first in ((0, False), (3, True)):
                some = block(
                    seed, 300, kind=kind, cpl=cpl, supervisor_reads_first=supervisor_reads_first
                )
                assert plain.ask(some).to_json() == bench.ask(some).to_json()


def test_counts_outcomes_and_coverage(bench: BlockBench) -> None:
    some = block(5, ROWS + 700, kind=AccessKind.WRITE, cpl=3)

    tally = bench.ask(some)

    walks = [alone(some, row) for row in range(len(some))]
    outcomes = Counter(
        str(told.outcome) + ("" if told.error_code is None else f" {told.error_code:#x}")
        for told in walks
    )
    assert tally.outcomes == outcomes
    decided = Counter(Cell(told.rule, told.level, "write", "user4") for told in walks)
    assert {key: tally.coverage[key] for key in decided} == decided
    dirtied = sum(any(bits & D for bits in told.sets.values()) for told in walks if told.level == 1)
    assert dirtied == tally.coverage[Cell("D", 1, "write", "user4")] > 0
    errors = sum(told.error_code is not None and told.level == 2 for told in walks)
    assert errors == tally.coverage[Cell("ERR", 2, "write", "user4")] > 0


def test_a_case_stands_alone() -> None:
    some = block(7, 50, cpl=3)

    assert reproduce(some.question(13)).judgement == "agree"
    assert some.question(13).single is not None
    assert some.question(13).memory == dict(zip(some.at, some.entries[:, 13].tolist(), strict=True))


def test_a_case_of_two_accesses_is_a_scenario() -> None:
    some = block(7, 50, cpl=3, supervisor_reads_first=True, kind=AccessKind.WRITE)

    told = some.question(13)

    assert reproduce(told).judgement == "agree"
    first, last = told.steps
    assert first == AccessStep(VA4, Access(AccessKind.READ), cpl=0)
    assert last == AccessStep(VA4, Access(AccessKind.WRITE))


Flaw = Callable[[EntryObservations, NDArray[np.uint64]], None]


class Flawed(UnicornEngine):
    """Unicorn with a flaw in what it tells of many versions of entries."""

    flaw: Flaw

    def probe_entries(self, *args: Any, **kwargs: Any) -> EntryObservations:
        seen = super().probe_entries(*args, **kwargs)
        type(self).flaw(seen, args[4])
        return seen


def flawed(flaw: Flaw) -> Callable[[PhysicalMemory], Engine]:
    return type("Planted", (Flawed,), {"flaw": staticmethod(flaw)})


def _lose_dirty(seen: EntryObservations, entries: NDArray[np.uint64]) -> None:
    seen.after[-1] &= ~np.uint64(D) | entries[-1]


def _wrong_code(seen: EntryObservations, _: NDArray[np.uint64]) -> None:
    seen.error_code[seen.outcome == Outcome.PAGE_FAULT.code] ^= 4


def _wrong_cr2(seen: EntryObservations, _: NDArray[np.uint64]) -> None:
    seen.cr2[seen.outcome == Outcome.PAGE_FAULT.code] &= ~np.uint64(0xFFF)


def _wrong_page(seen: EntryObservations, _: NDArray[np.uint64]) -> None:
    seen.pa[seen.outcome == Outcome.MAPPED.code] += np.uint64(0x1000)


def _no_fault(seen: EntryObservations, _: NDArray[np.uint64]) -> None:
    seen.outcome[seen.outcome == Outcome.PAGE_FAULT.code] = Outcome.MAPPED.code


def _lose_accessed(seen: EntryObservations, entries: NDArray[np.uint64]) -> None:
    seen.after[0] = entries[0]


@pytest.mark.parametrize(
    ("flaw", "rule"),
    [
        (_lose_dirty, "D"),
        (_wrong_code, "ERR"),
        (_wrong_cr2, "ERR"),
        (_wrong_page, None),
        (_no_fault, None),
        (_lose_accessed, "A"),
    ],
)
def test_a_flaw_is_a_finding(flaw: Flaw, rule: str | None) -> None:
    some = block(9, 400, kind=AccessKind.WRITE, cpl=0)
    with BlockBench(flawed(flaw)) as bench:
        tally = bench.ask(some, np.arange(1000, 1400))

    found = [f for f in tally.findings.values() if f.judgement == "diverge"]
    assert tally.judgements["diverge"] == sum(finding.count for finding in found) > 10
    assert tally.judgements.total() == 400
    if rule is not None:
        assert {finding.rule for finding in found} == {rule}
    for finding in found:
        assert 1000 <= finding.first < 1400
        assert finding.question == some.question(finding.first - 1000)


def test_a_flaw_in_two_accesses_is_a_finding() -> None:
    some = block(9, 400, kind=AccessKind.WRITE, cpl=3, supervisor_reads_first=True)
    with BlockBench(flawed(_lose_dirty)) as bench:
        tally = bench.ask(some)

    found = [f for f in tally.findings.values() if f.judgement == "diverge"]
    assert {finding.rule for finding in found} == {"D"}
    # The engine's play is right: what its columns show needs no first access.
    for finding in found:
        assert finding.question is not None
        assert finding.question.single is not None
        assert finding.question.memory.keys() == set(some.at)


def test_an_entry_that_nobody_would_change_is_looked_after() -> None:
    """D set in the root's entry, which is the same in all cases and is not written anew."""

    class Meddler(UnicornEngine):
        def probe_entries(self, *args: Any, **kwargs: Any) -> EntryObservations:
            seen = super().probe_entries(*args, **kwargs)
            at = args[3]
            if TABLES[0] | VA4 >> 36 & 0xFF8 in at:
                seen.after[at.index(TABLES[0] | VA4 >> 36 & 0xFF8), 3] |= D
            else:
                root = TABLES[0] | VA4 >> 36 & 0xFF8
                self.memory.write_u64(root, self.memory.read_u64(root) | D)
            return seen

    some = block(2, 20)
    some.entries[0] = TABLES[1] | P | RW | US | A
    with BlockBench(Meddler) as bench:
        tally = bench.ask(some)

    assert tally.judgements["diverge"] == 1
    [finding] = [f for f in tally.findings.values() if f.judgement == "diverge"]
    assert finding.first == 3


def test_what_the_engine_cannot_have_is_unsupported(bench: BlockBench) -> None:
    some = block(2, 20)
    some = dataclasses.replace(some, cpu=some.cpu.replace(cr4=some.cpu.cr4 | int(CR4.PCIDE)))

    tally = bench.ask(some)

    assert tally.judgements == {"unsupported": 20}
    assert tally.unsupported.total() == 20


def test_memory_is_as_large_before_and_after(bench: BlockBench) -> None:
    before = bench.memory.buffer.copy()
    bench.ask(block(3, 100))
    at = block(3, 100).at
    after = bench.memory.buffer.copy()
    for pa in at:
        after[pa : pa + 8] = before[pa : pa + 8]

    assert np.array_equal(before, after)
