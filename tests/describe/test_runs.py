"""Fault reports of runs: what the instruction did, not what the engine's error code suggests."""

from __future__ import annotations

import dataclasses

from harness.cpu import CpuState
from harness.describe.runs import page_fault_report
from harness.engine.run import Event
from harness.memory import PhysicalMemory


def test_an_error_code_does_not_make_an_access_implicit() -> None:
    memory = PhysicalMemory(0x20_0000)
    cpu = CpuState(cr3=0x1000)
    fault = Event(14, 0, 0x4000, 0x10_0000, 3)
    told = page_fault_report(memory, cpu, fault)
    assert "a user read" in told
    assert "that is the engine's mistake" in told
    own = page_fault_report(memory, cpu, dataclasses.replace(fault, implicit=True))
    assert "an implicit supervisor read" in own
    assert "mistake" not in own
