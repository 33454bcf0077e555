"""Shrinking keeps the cause and what it needs, and only that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.address import VirtAddr
from harness.check.bench import Bench
from harness.check.cause import cause_of
from harness.check.findings.finding import Finding, finding_of
from harness.check.findings.roots import root_causes
from harness.check.judge.compare import Judgement
from harness.check.model.words import words_of
from harness.check.question import DEFAULT_RAM, Question
from harness.check.shrink.access import shrink_access
from harness.check.shrink.finding import shrink_finding
from harness.cpu import CpuState
from harness.engine.unicorn import UnicornEngine
from harness.fuzz.groups import generate
from harness.fuzz.spaces import RAM
from harness.fuzz.steer import DEFAULTS
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessLike, Observation, Outcome
from harness.walker import walk

# A table that stands for two levels of its own walk stays one: such a case is small, not plain.
NOT_RECURSIVE = {**DEFAULTS, "recursive": 0.0, "shared": 0.0}


def test_what_does_not_matter_goes() -> None:
    cpu = CpuState(cr3=0x1018, cr4=0x70_0020, rflags=0x4_0002, pkru=0x5555_5554, cpl=3)
    case = Question.of_access(
        cpu, 0x10000, {0x1000: 0x2067, 0x2000: 0xFF, 0x3000: 1}, 0x123, Access.of("write", size=8)
    )

    small = shrink_access(case, lambda case: case.memory.get(0x2000, 0) & 0x82 == 0x82)

    assert small.memory == {0x2000: 0x82}
    assert small.cpu == CpuState(cr3=0x1000, cpl=3)
    assert small.access == Access.of("read", size=1)
    assert small.va == 0
    assert [(region.base, region.size) for region in small.ram] == [(0, DEFAULT_RAM)]


def test_what_matters_stays() -> None:
    case = next(generate(1, 1))

    assert shrink_access(case, lambda candidate: False) == case
    words = case.memory.keys()
    assert (
        shrink_access(case, lambda candidate: candidate.memory.keys() == words).memory.keys()
        == words
    )


def test_it_ends_after_so_many_tries() -> None:
    tried = 0

    def differs(_: Question) -> bool:
        nonlocal tried
        tried += 1
        return False

    shrink_access(next(generate(2, 1)), differs, tries=7)

    assert tried == 7


def test_most_goes_in_a_few_tries() -> None:
    words = {0x1000 + 8 * number: (1 << 64) - 1 for number in range(500)}
    case = Question.of_access(CpuState(cr3=0x1000), RAM, words, 0x7FFF_FFFF_F123, Access.of("read"))
    tried = 0

    def differs(case: Question) -> bool:
        nonlocal tried
        tried += 1
        return case.memory.get(0x1800, 0) & 0x40 == 0x40

    assert shrink_access(case, differs).memory == {0x1800: 0x40}
    assert tried < 150


def test_tables_and_indices_come_down() -> None:
    """A walk anywhere becomes one through 0x1000, 0x2000, ... at index 0."""
    va = 0xFFFF_8123_4567_8ABC
    tables = (0x1_0004_5000, 0x3_F000, 0x1_0000_7000, 0x2_2000)
    words = {}
    for level, table in zip((4, 3, 2, 1), tables, strict=True):
        below = (*tables, 0x1_0008_8000)[5 - level]
        words[table | va >> 9 * level & 0xFF8] = below | 0x167 & ~4
    case = Question.of_access(CpuState(cr3=tables[0], cpl=3), RAM, words, va, Access.of("read"))

    def differs(case: Question) -> bool:
        found = walk(case.build(), case.cpu, case.va, case.access)
        return (found.rule, found.level) == ("USER_US", 1)

    small = shrink_access(case, differs)

    assert small.memory == {0x1000: 0x2001, 0x2000: 0x3001, 0x3000: 0x4001, 0x4000: 0x1}
    assert (small.va, small.cpu.cr3) == (0, 0x1000)


def test_five_levels_become_four_where_that_does_not_matter() -> None:
    words = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5007, 0x5000: 0x6003}
    cpu = CpuState(cr3=0x1000, cr4=0x1020, cpl=3)
    case = Question.of_access(cpu, 0x10000, words, 0x123, Access.of("read"))

    def differs(case: Question) -> bool:
        found = walk(case.build(), case.cpu, case.va, case.access)
        return (found.rule, found.level) == ("USER_US", 1)

    small = shrink_access(case, differs)

    assert small.cpu == CpuState(cr3=0x1000, cpl=3)
    assert len(small.memory) == 4


class Flawed(UnicornEngine):
    """Unicorn, but for one flaw: what ``flaw`` makes of a right answer."""

    flaw = "wp"

    def probe(self, cpu: CpuState, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        if self.flaw == "wp":  # CR0.WP does not count
            return super().probe(cpu.replace(cr0=cpu.cr0 & ~(1 << 16)), va, access)
        if self.flaw == "smap":
            return super().probe(cpu.replace(cr4=cpu.cr4 & ~(1 << 21)), va, access)
        seen = super().probe(cpu, va, access)
        if self.flaw == "rsvd" and seen.error_code is not None and seen.error_code & 8:
            return Observation(seen.outcome, seen.error_code & ~1, seen.cr2, changed=seen.changed)
        if self.flaw == "a" and seen.outcome is Outcome.MAPPED:
            kept = {at: bits & ~0x20 for at, bits in seen.changed.items()}
            kept = {at: bits for at, bits in kept.items() if bits}
            return Observation(seen.outcome, None, None, seen.pa, None, kept)
        return seen


EXPECTED = {"wp": "WP", "smap": "SMAP", "rsvd": "ERR", "a": "A"}


def flawed(flaw: str) -> type[Flawed]:
    return type("Flawed", (Flawed,), {"flaw": flaw})


@pytest.fixture(scope="module", params=EXPECTED)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(RAM, flawed(request.param)) as bench:
        yield bench


def bits_set(case: Question) -> int:
    return sum(word.bit_count() for word in case.memory.values())


# Every example walks and probes dozens of cases, and the bench is as it was after each of them.
@settings(max_examples=12, deadline=None)
@given(start=st.integers(0, 1 << 20))
def check_shrinking(bench: Bench, start: int) -> None:
    for case in generate(11, 400, start=start):
        answer = bench.ask(case).engines[0]
        if answer.judgement is not Judgement.DIVERGE:
            continue
        finding = finding_of(case, answer)
        if not finding.explained:
            continue

        found = shrink_finding(finding, type(bench.engine))

        small = found.question
        assert small is not None
        assert found.verdict is not None
        assert found.verdict.walk is not None
        again = cause_of(
            words_of(small), found.verdict.walk, found.verdict.result.seen, bench.engine
        )
        assert finding.explanations[0].key in again.keys
        pages = 2 if (small.va & 0xFFF) + small.access.size > 0x1000 else 1
        # A CPU that takes five levels for four reads one entry more.
        levels = small.cpu.levels + (finding.explanations[0].rule == "MODE")
        assert len(small.memory) <= pages * levels
        # Nothing more can be left out of it.
        again_small = shrink_finding(found, type(bench.engine)).question
        assert again_small is not None
        assert bits_set(again_small) == bits_set(small)
        break


def test_shrinking_keeps_the_cause_and_one_walk(bench: Bench) -> None:
    check_shrinking(bench)


@pytest.mark.parametrize("flaw", EXPECTED)
def test_a_finding_shrinks_to_a_plain_case(flaw: str) -> None:
    engine = flawed(flaw)
    with Bench(RAM, engine) as bench:
        found: dict[str, Finding] = {}
        for number, case in enumerate(generate(5, 1200, knobs=NOT_RECURSIVE)):
            answer = bench.ask(case).engines[0]
            if answer.judgement is Judgement.DIVERGE:
                finding = finding_of(case, answer, number)
                found.setdefault(finding.key, finding)
    finding = next(f for f in root_causes(found.values()) if f.rule == EXPECTED[flaw])

    small = shrink_finding(finding, engine)

    assert (small.key, small.rule, small.first) == (finding.key, finding.rule, finding.first)
    question = small.question
    assert question is not None
    case = question
    assert case.va < 0x1000
    assert len(case.memory) <= case.cpu.levels
    assert all(at < 0x6000 for at in case.memory)
    assert [(region.base, region.size) for region in case.ram] == [(0, DEFAULT_RAM)]
    assert small.as_if
    assert small.verdict is not None
    assert small.verdict.walk is not None
    assert small.verdict.walk.rule == walk(case.build(), case.cpu, case.va, case.access).rule


def test_it_is_deterministic() -> None:
    case = next(case for case in generate(9, 50) if case.access.is_write)

    def differs(case: Question) -> bool:
        memory: PhysicalMemory = case.build()
        return walk(memory, case.cpu, case.va, case.access).outcome is Outcome.PAGE_FAULT

    assert shrink_access(case, differs) == shrink_access(case, differs)
