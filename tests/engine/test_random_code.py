"""A guest that does anything at all: a run ends in an Exit, and the host lives."""

import json
from random import Random
from typing import Any

import pytest

from harness.engine.run import REGISTERS, Budget, Exit, Start
from harness.machine import Machine

Guest = Any
"""conftest.Guest: test modules do not import one another."""


def anything(machine: Machine, idt: tuple[int, int], gdt: tuple[int, int], seed: int) -> Exit:
    rng = Random(seed)
    code = rng.randbytes(0x1000)
    machine.memory.write(0x10_0000, code)
    machine.memory.write(0x20_0000, code)
    values = (
        lambda: rng.getrandbits(64),
        lambda: rng.randrange(0x40_0000),
        lambda: 0x80_0000 + rng.randrange(0x4000),
    )
    registers = {name: rng.choice(values)() for name in REGISTERS}
    if rng.random() < 0.7:
        registers["rsp"] = 0x8_0000
    budget = Budget(seconds=0.2, instructions=500)
    if seed % 3 == 0:
        start = Start(rip=0x10_0000, cpu=machine.cpu, gdt=gdt, idt=idt, registers=registers)
    elif seed % 3 == 1:
        cpu = machine.cpu.replace(cpl=3)
        start = Start(
            rip=0x80_0000, cpu=cpu, gdt=gdt, idt=idt, cs=0x23, ss=0x1B, registers=registers
        )
    else:
        registers = {name: value & 0xFFFF_FFFF for name, value in registers.items()}
        start = Start(rip=0x10_0000, cpu=None, gdt=gdt, registers=registers)
    return machine.engine.run(start, budget)


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_random_code_always_ends_in_an_exit(guest: Guest, gate: Any, first: int) -> None:
    pristine = guest.memory.buffer.copy()
    for seed in range(first, first + 40):
        guest.memory.buffer[:] = pristine
        rng = Random(~seed)
        for vector in range(256):
            if rng.random() < 0.8:
                at = 0x10_0000 + rng.randrange(0x1000)
                guest.gate(vector, gate(at, ist=rng.choice((0, 0, 1)), dpl=rng.choice((0, 3))))
        ended = anything(guest.machine, guest.idt, guest.gdt, seed)
        assert isinstance(ended, Exit), f"seed {seed}"
        json.dumps(ended.to_json())
    guest.memory.buffer[:] = pristine
    assert guest.run("mov rax, 5\nhlt").registers["rax"] == 5, "and the CPU is as good as new"
