"""What the engine borrows is not a guest's: tables that lead there are refused, and runs end."""

from __future__ import annotations

import numpy as np
import pytest

from harness.cpu import CpuState
from harness.engine import open_engine
from harness.engine.run import Ending
from harness.engine.steps import AccessStep, InvlpgStep, Step, WriteStep
from harness.machine import Machine
from harness.memory import PhysicalMemory
from harness.outcome import Access, Outcome

OURS = 0xFF_FFE0_0000
CPU = CpuState(cr3=0x1000)


def tables(leaf: int, level: int = 1) -> PhysicalMemory:
    memory = PhysicalMemory(0x1_0000)
    for table in range(1, 5 - level):
        memory.write_u64(table << 12, (table + 1) << 12 | 7)
    memory.write_u64((5 - level) << 12 | (0x20 if level == 1 else 0), leaf)
    return memory


@pytest.mark.parametrize(
    ("leaf", "level"),
    [
        (OURS | 7, 2),
        (OURS + 0x1F_F000 | 7, 2),
        (OURS + 0x8000 | 7, 3),
    ],
)
@pytest.mark.parametrize("kind", ["read", "write", "fetch"])
def test_tables_that_lead_to_the_engine_are_refused(leaf: int, level: int, kind: str) -> None:
    memory = tables(leaf, level)
    va = 0x3FE0_4000 if level == 3 and leaf & 0x80 else 0x4120 if level == 1 else 0x4000
    before = memory.buffer.copy()
    with open_engine("unicorn", memory) as engine:
        seen = engine.probe(CPU, va, kind)
        assert seen.outcome is Outcome.UNSUPPORTED
        assert "where there is no RAM and this engine keeps its own code" in str(seen.reason)
        many = engine.probe_many(CPU, np.array([va, 1 << 45], np.uint64), kind)
        assert [Outcome.from_code(code) for code in many.outcome] == [
            Outcome.UNSUPPORTED,
            Outcome.PAGE_FAULT,
        ]
        # The engine still does its duties.
        memory.write_u64(0x1000, 0)
        assert engine.probe(CPU, va, kind).outcome is Outcome.PAGE_FAULT
        memory.write_u64(0x1000, before[0x1000:0x1008].view(np.uint64)[0])
    assert (memory.buffer == before).all()


def test_steps_that_write_such_an_entry_are_refused() -> None:
    memory = tables(0x5007)
    steps: list[Step] = [
        AccessStep(0x4120, Access.of("read", size=8)),
        WriteStep({0x4020: OURS | 7}),
        InvlpgStep(0x4000),
        AccessStep(0x4120, Access.of("write", size=8)),
    ]
    with open_engine("unicorn", memory) as engine:
        results = engine.play(CPU, steps)
    assert {result.seen.outcome for result in results} == {Outcome.UNSUPPORTED}


@pytest.mark.parametrize("access", ["mov rax, [0x800010]", "mov [0x800010], rax"])
@pytest.mark.parametrize("at", [OURS, OURS + 0x8000])
def test_a_run_that_comes_there_finds_no_memory(access: str, at: int) -> None:
    with Machine(0x40_0000) as machine:
        machine.map(0x80_0000, at, 0x1000, "W")
        ended = machine.run(f"mov eax, 1\n{access}\nhlt")
        assert ended.ending is Ending.NO_MEMORY
        again = machine.run("mov eax, 2\nhlt")
        assert (again.ending, again.registers["rax"]) == (Ending.HALT, 2)
        assert machine.probe(0x1000).pa == 0x1000


@pytest.mark.parametrize(
    ("leaf", "level", "va"),
    [(OURS | 7, 1, 0x4120), (OURS | 0x87, 2, 0x4000), (0xFF_C000_0087, 3, 0x3FE0_4000)],
)
@pytest.mark.parametrize("kind", ["read", "write", "fetch"])
def test_a_page_that_lies_there_is_no_memory(leaf: int, level: int, va: int, kind: str) -> None:
    memory = tables(leaf, level)
    with open_engine("unicorn", memory) as engine:
        for _ in range(3):
            assert engine.probe(CPU, va, kind).outcome is Outcome.NO_MEMORY
            many = engine.probe_many(CPU, np.array([va, 1 << 45], np.uint64), kind)
            assert [Outcome.from_code(code) for code in many.outcome] == [
                Outcome.NO_MEMORY,
                Outcome.PAGE_FAULT,
            ]
