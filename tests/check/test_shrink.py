"""Shrinking keeps what is needed, and only that."""

from __future__ import annotations

from harness.check.case import Case
from harness.check.generate import generate
from harness.check.shrink import shrink
from harness.cpu import CpuState
from harness.outcome import Access


def test_what_does_not_matter_goes() -> None:
    cpu = CpuState(cr3=0x1018, cr4=0x70_0020, rflags=0x4_0002, pkru=0x5555_5554, cpl=3)
    case = Case(
        cpu, 0x10000, {0x1000: 0x2067, 0x2000: 0xFF, 0x3000: 1}, 0x123, Access.of("write", size=8)
    )

    small = shrink(case, lambda case: case.memory.get(0x2000, 0) & 0x82 == 0x82)

    assert small.memory == {0x2000: 0x82}
    assert small.cpu == CpuState(cr3=0x1000, cpl=3)
    assert small.access == Access.of("read", size=1)
    assert small.va == 0


def test_what_matters_stays() -> None:
    case = next(generate(1, 1))

    assert shrink(case, lambda candidate: False) == case
    words = case.memory.keys()
    assert shrink(case, lambda candidate: candidate.memory.keys() == words).memory.keys() == words


def test_it_ends_after_so_many_tries() -> None:
    tried = 0

    def differs(_: Case) -> bool:
        nonlocal tried
        tried += 1
        return False

    shrink(next(generate(2, 1)), differs, tries=7)

    assert tried == 7
