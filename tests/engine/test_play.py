"""Steps on one CPU: the TLB lives between them, and memory is put back after the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.cpu import CR4, CpuState
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    DeliverStep,
    ExecuteStep,
    InvlpgStep,
    Step,
    StepResult,
    WriteStep,
)
from harness.errors import EngineError
from harness.outcome import Access, AccessKind, Outcome

P, W, U, A, D = 1, 2, 4, 0x20, 0x40
READ = Access(AccessKind.READ, 8)
WRITE = Access(AccessKind.WRITE, 8)
FETCH = Access(AccessKind.FETCH)

Tables = Any
"""conftest.Tables: test modules do not import one another."""


def play(tables: Tables, *steps: Step, cpu: CpuState | None = None) -> list[StepResult]:
    before = tables.memory.buffer.copy()
    results = tables.engine.play(cpu or tables.cpu, steps)
    assert np.array_equal(tables.memory.buffer, before), "everything is put back"
    assert len(results) == len(steps)
    return list(results)


def told(results: list[StepResult]) -> list[Any]:
    return [r.seen.outcome if r.seen.pa is None else r.seen.pa for r in results]


@pytest.fixture
def page(tables: Tables) -> AccessStep:
    tables.leaf(1, tables.frame(1) | P | W | U)
    tables.memory.write_u64(tables.frame(1), 0x1111)
    tables.memory.write_u64(tables.frame(2), 0x2222)
    return AccessStep(tables.page(1), READ)


def moved(tables: Tables, to: int = 2, bits: int = P | W | U) -> WriteStep:
    return WriteStep({tables.PT + 8: tables.frame(to) | bits})


def test_what_is_not_invalidated_is_used_again(tables: Tables, page: AccessStep) -> None:
    one, two = tables.frame(1), tables.frame(2)
    results = play(tables, page, moved(tables), page, InvlpgStep(tables.page(1) + 5), page)
    assert told(results) == [one, Outcome.MAPPED, one, Outcome.MAPPED, two]
    assert [r.seen.value for r in results] == [0x1111, None, 0x1111, None, 0x2222]
    assert results[2].seen.changed == {}
    assert results[4].seen.changed == {tables.PT + 8: A}


@pytest.mark.parametrize(
    "load", [ControlStep("cr3", 0x10_0000), ControlStep("cr4", int(CR4.PAE | CR4.PGE))]
)
def test_loads_invalidate(tables: Tables, page: AccessStep, load: ControlStep) -> None:
    assert load.register != "cr3" or load.value == tables.PML4
    assert told(play(tables, page, moved(tables), load, page))[-1] == tables.frame(2)


def test_a_global_translation_outlives_cr3(tables: Tables, page: AccessStep) -> None:
    # unicorn 2.1.4 does not keep them: what the engine shows is one of two permitted things.
    cpu = tables.cpu.replace(cr4=int(CR4.PAE | CR4.PGE))
    tables.leaf(1, tables.frame(1) | P | W | 0x100)
    results = play(tables, page, moved(tables), ControlStep("cr3", tables.PML4), page, cpu=cpu)
    assert told(results)[-1] in (tables.frame(1), tables.frame(2))


def test_another_root_shows_another_space(tables: Tables, page: AccessStep) -> None:
    other = tables.LOW + 0x8000
    load = ControlStep("cr3", other)
    results = play(tables, page, load, page, ControlStep("cr3", tables.PML4), page)
    assert told(results)[2] is Outcome.PAGE_FAULT
    assert told(results)[4] == tables.frame(1)


def test_each_step_has_its_own_privilege_level(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    steps = [AccessStep(tables.page(1), READ, cpl) for cpl in (0, 3, None, 3)]
    results = play(tables, *steps)
    assert [r.seen.error_code for r in results] == [None, 5, None, 5]


def test_control_bits_change_under_cached_translations(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P)
    read, write = AccessStep(tables.page(1), READ), AccessStep(tables.page(1), WRITE)
    off, on = tables.cpu.cr0 & ~(1 << 16), tables.cpu.cr0
    results = play(
        tables, read, write, ControlStep("cr0", off), write, ControlStep("cr0", on), write
    )
    assert [r.seen.error_code for r in results] == [None, 3, None, None, None, 3]


def test_pkru_is_loaded_after_an_msr(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P | U | 1 << 59)
    read = AccessStep(tables.page(1), READ)
    cpu = tables.cpu.replace(cr4=int(CR4.PAE | CR4.PKE), pkru=0)
    efer = ControlStep("efer", tables.cpu.efer & ~0x800)
    results = play(tables, read, efer, ControlStep("pkru", 4), read, cpu=cpu)
    assert results[-1].seen.error_code == 0x21


def test_rflags_matter_to_smap(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P | U)
    read = AccessStep(tables.page(1), READ)
    cpu = tables.cpu.replace(cr4=int(CR4.PAE | CR4.SMAP))
    results = play(tables, read, ControlStep("rflags", 0x4_0002), read, cpu=cpu)
    assert [r.seen.outcome for r in results][::2] == [Outcome.PAGE_FAULT, Outcome.MAPPED]


def test_a_store_stays_for_the_steps_behind_it(tables: Tables, page: AccessStep) -> None:
    store = AccessStep(page.va, WRITE, value=0xABCD)
    first, second = play(tables, store, page)
    assert (first.seen.changed[tables.frame(1)], second.seen.value) == (0x1111 ^ 0xABCD, 0xABCD)
    assert first.seen.changed[tables.PT + 8] == A | D


def test_a_store_through_an_alias_of_its_own_entry(tables: Tables) -> None:
    tables.leaf(3, tables.PT | P | W)
    tables.leaf(1, tables.frame(1) | P)
    new = tables.frame(2) | P
    edit = AccessStep(tables.page(3) + 8, WRITE, value=new)
    read = AccessStep(tables.page(1), READ)
    results = play(tables, read, edit, InvlpgStep(read.va), read)
    assert told(results)[::3] == [tables.frame(1), tables.frame(2)]
    own = AccessStep(tables.page(3) + 24, WRITE, value=0)
    results = play(tables, own, own, InvlpgStep(own.va), own)
    assert told(results) == [tables.PT + 24] * 2 + [Outcome.MAPPED, Outcome.PAGE_FAULT]


def test_a_write_over_two_pages_is_seen_in_both_and_put_back(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    tables.leaf(2, tables.frame(17) | P | W)
    (result,) = play(tables, AccessStep(tables.page(2) - 4, WRITE))
    assert result.seen.changed[tables.frame(1) + 0xFF8] == 0xA5A5_A5A5 << 32
    assert result.seen.changed[tables.frame(17)] == 0xA5A5_A5A5


def test_a_fetch_sees_its_own_page_and_not_what_is_decoded_ahead(tables: Tables) -> None:
    first = tables.leaf(1, tables.frame(1) | P)
    second = tables.leaf(2, tables.frame(2) | P)
    fetch = AccessStep(tables.page(2) - 1, FETCH)
    seen, behind = play(tables, fetch, AccessStep(tables.page(2), READ))
    assert (seen.seen.outcome, seen.seen.pa) == (Outcome.MAPPED, tables.frame(1) + 0xFFF)
    assert seen.seen.changed.get(first) == A
    assert second not in seen.seen.changed
    assert behind.seen.changed == {second: A}


def test_faults_come_one_after_another_as_themselves(tables: Tables) -> None:
    steps = [AccessStep(tables.page(n), access) for n in (1, 2) for access in (READ, WRITE, FETCH)]
    results = play(tables, *steps, AccessStep(1 << 47, READ))
    assert [r.seen.error_code for r in results] == [0, 2, 0x10, 0, 2, 0x10, 0]
    assert [r.seen.cr2 for r in results[:-1]] == [step.va for step in steps]
    assert results[-1].seen.outcome is Outcome.GENERAL_PROTECTION


def test_memory_that_is_not_there(tables: Tables) -> None:
    tables.leaf(1, tables.HOLE | P | W)
    steps = [AccessStep(tables.page(1) + 8, access) for access in (READ, WRITE, FETCH)]
    results = play(tables, *steps)
    assert [(r.seen.outcome, r.seen.pa) for r in results] == [
        (Outcome.NO_MEMORY, tables.HOLE + 8)
    ] * 3


def test_an_instruction_leaves_registers_and_every_word(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    registers = {"rdi": tables.page(2) - 4, "rcx": 8, "rax": 0xFF}
    (result,) = play(tables, ExecuteStep("rep stosb", registers))
    assert result.seen.outcome is Outcome.PAGE_FAULT
    assert (result.registers["rcx"], result.registers["rdi"]) == (4, tables.page(2))
    assert result.registers["rip"] == result.start
    assert result.seen.changed[tables.frame(1) + 0xFF8] == 0xFFFF_FFFF << 32


def test_a_call_ends_where_it_goes(tables: Tables) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    tables.memory.write_u64(tables.frame(1), 0x1234_5678)
    registers = {"rsi": tables.page(1), "rsp": tables.page(1) + 0x100}
    (result,) = play(tables, ExecuteStep("call qword ptr [rsi]", registers))
    assert (result.seen.outcome, result.registers["rip"]) == (Outcome.MAPPED, 0x1234_5678)
    assert result.seen.changed[tables.frame(1) + 0xF8] == result.start + 2


def test_a_delivery_without_an_idt_shuts_down(tables: Tables) -> None:
    (result,) = play(tables, DeliverStep(6, idt=(0, 0)))
    assert result.seen.outcome is Outcome.SHUTDOWN
    assert [event.vector for event in result.events] == [6, 13, 8]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (ControlStep("cr4", int(CR4.PAE | CR4.PKS)), "does not implement PKS"),
        (ControlStep("cr3", 0x7000_0000), "the root table at 0x70000000 must be in RAM"),
        (AccessStep(0, Access(AccessKind.READ, 16)), "a step reads or writes 1, 2, 4 or 8 bytes"),
        (AccessStep(0, Access(implicit=True)), "a step reads or writes 1, 2, 4 or 8 bytes"),
        (WriteStep({0x4000_0000: 1}), "memory at 0x40000000 must be RAM"),
        (ExecuteStep("frobnicate rax"), "`frobnicate rax`"),
        (
            ExecuteStep(
                "nop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop"
            ),
            "one instruction must be executed",
        ),
        (ExecuteStep("ud2"), "ud2 is not executed by Unicorn, or raises #UD"),
    ],
)
def test_what_cannot_be_run_is_said_and_ends_the_sequence(
    tables: Tables, page: AccessStep, step: Step, reason: str
) -> None:
    first, second, third = play(tables, page, step, page)
    assert first.seen.outcome is Outcome.MAPPED
    assert second.unsupported
    assert reason in (second.seen.reason or "")
    assert third.unsupported


def test_a_root_outside_ram_is_unsupported(tables: Tables, page: AccessStep) -> None:
    (result,) = play(tables, page, cpu=tables.cpu.replace(cr3=0x7000_0000))
    assert "must be in RAM" in (result.seen.reason or "")


def test_a_step_that_breaks_puts_everything_back(
    tables: Tables, page: AccessStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(tables, page)
    before = tables.memory.buffer.copy()

    def breaks(*_: object) -> None:
        raise EngineError("broken for the test")

    monkeypatch.setattr(tables.engine._player, "_judge", breaks)
    store = AccessStep(page.va, WRITE)
    with pytest.raises(EngineError, match="broken for the test"):
        tables.engine.play(tables.cpu, [moved(tables), store])
    assert np.array_equal(tables.memory.buffer, before)


def test_sequences_know_nothing_of_one_another(tables: Tables, page: AccessStep) -> None:
    first = play(tables, page, moved(tables), page)
    other = play(tables, AccessStep(tables.page(1), WRITE), ControlStep("efer", 0x500))
    for _ in range(3):
        assert play(tables, page, moved(tables), page) == first
        assert play(tables, AccessStep(tables.page(1), WRITE), ControlStep("efer", 0x500)) == other


def test_a_store_to_a_table_does_not_reach_the_engine_s_own_slot(tables: Tables) -> None:
    tables.leaf(1, tables.PML4 | P | W)
    for slot in range(0x1D8, 0x1E8):
        (result,) = play(tables, AccessStep(tables.page(1) + 8 * slot, WRITE))
        assert result.seen.pa == tables.PML4 + 8 * slot
