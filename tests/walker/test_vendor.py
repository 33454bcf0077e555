"""What AMD's manual says otherwise: bit 8 of a PML4E and of a PML5E is reserved."""

from __future__ import annotations

import pytest

from harness.cpu import CpuFeatures, CpuState
from harness.memory import PhysicalMemory
from harness.walker import bulk, walk


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("fast", [True, False])
def test_bit_8_is_reserved_in_a_pml4e_of_amd_alone(level: int, fast: bool) -> None:
    memory = PhysicalMemory(0x8000)
    for table in (1, 2, 3, 4):
        own = 0x100 if 5 - table == level else 0
        memory.write_u64(table << 12, (table + 1) << 12 | 0x7 | own)
    amd = CpuState(cr3=0x1000, features=CpuFeatures(vendor="amd"))
    for cpu in (amd, CpuState(cr3=0x1000)):
        found = walk(memory, cpu, 0)
        refused = level == 4 and cpu is amd
        assert (found.rule, found.level) == (("RSVD_PS", 4) if refused else ("COMBINE", 1))
        assert found.error_code == (0x9 if refused else None)
        many = bulk(memory, cpu, [0], fast=fast)
        assert many.error_code[0] == (found.error_code or 0)


def test_of_five_levels_the_root_too() -> None:
    memory = PhysicalMemory(0x8000)
    memory.write_u64(0x1000, 0x2107)
    cpu = CpuState.from_json({"cr3": "0x1000", "cr4": "0x1020", "vendor": "amd"})
    assert (walk(memory, cpu, 0).rule, walk(memory, cpu, 0).level) == ("RSVD_PS", 5)
    assert CpuState.from_json(cpu.to_json()) == cpu
