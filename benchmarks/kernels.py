"""How fast the guest translates, as ratios to the plainest guest loops that make the same loads.

``python benchmarks/kernels.py`` prints one line for each of the two translate kernels. The bare
loops load the same five words for each address and store one, and check nothing: no present bit,
no page size, no canonical form. What is compared runs in turns within one process, on the same
machine and the same addresses; the ratio is the median over the turns. Seconds are the thread's CPU
time, for a guest runs within one thread, and another process on the same core says nothing of it.

The arrays begin 37 pages apart modulo the size of the TLB. unicorn 2.1.4: its TLB has one place for
each page number modulo its size, which changes from run to run; arrays that share their places
throw each other out, and then the same run takes three times as long.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from turns import MIB, compare, report

from harness.address import PageSize
from harness.asm import Program, assemble
from harness.engine.run import Budget, Ending
from harness.kernels import STACK, read_kernel
from harness.machine import KERNEL_BASE, Machine
from harness.resources import asm_dir

__all__ = ["measure"]

COUNT = MIB
TURNS = 9
TARGET_PER_SECOND = 5e6
TARGET_RATIO = 0.8
OFFSET, SLOT = 0x180_0000_0000, 511
PAGES = 0x7000_0000_0000
"""Where 64 MiB in 4 KiB pages are, the addresses that are translated."""
ARRAYS, ARRAYS_PA = 0x4000_0000, 64 * MIB
RESULTS = 8 * COUNT + 37 * 4096

_LOOP = """
    mov r8, 0x000ffffffffff000
    mov rbx, cr3
    and rbx, r8
    add rbx, rcx
next:
    mov r9, [rdi]
{loads}
    and rax, r8
    and r9d, 0xfff
    or rax, r9
    mov [rsi], rax
    add rdi, 8
    add rsi, 8
    dec rdx
    jnz next
    hlt
"""
_THROUGH_THE_MAP = """
    mov rax, r9
    shr rax, 36
    and eax, 0xff8
    mov rax, [rbx + rax]
""" + "".join(
    f"""
    and rax, r8
    add rax, rcx
    mov r10, r9
    shr r10, {shift}
    and r10d, 0xff8
    mov rax, [rax + r10]
"""
    for shift in (27, 18, 9)
)
_THROUGH_THE_SLOT = """
    mov rax, r9
    shr rax, 36
    and eax, 0xff8
    mov rax, [r12 + rax]
    mov rax, r9
    shr rax, 27
    and eax, 0x1ffff8
    mov rax, [r13 + rax]
    mov rax, r9
    shr rax, 18
    and eax, 0x3ffffff8
    mov rax, [r14 + rax]
    mov rax, r9
    shr rax, 9
    and rax, r11
    mov rax, [r15 + rax]
"""
_BASES = {
    "r11": 0x7F_FFFF_FFF8,
    "r12": 0xFFFF_FFFF_FFFF_F000,
    "r13": 0xFFFF_FFFF_FFE0_0000,
    "r14": 0xFFFF_FFFF_C000_0000,
    "r15": 0xFFFF_FF80_0000_0000,
}


def measure() -> list[dict[str, Any]]:
    """Run both measurements.

    :returns: dictionaries with ``name``, ``ratio`` (speed against the bare loop), ``target`` (the
        least ratio wanted; None when 5 million addresses a second are reached, which do as well),
        ``per_second``, ``bare_per_second``, ``traced_mib`` (the most that one run of ours
        allocated in Python) and ``peak_rss_mib`` (of the process, up to then)
    """
    with Machine(96 * MIB, identity=2 * MIB) as machine:
        machine.map(OFFSET, 0, 96 * MIB, "W", PageSize.Size2MiB)
        machine.map(ARRAYS, ARRAYS_PA, 20 * MIB, "W", PageSize.Size2MiB)
        machine.map(PAGES, 0, 64 * MIB, "W")
        machine.map_recursive(SLOT)
        vas = np.random.default_rng(1).integers(PAGES, PAGES + 64 * MIB, COUNT, dtype=np.uint64)
        machine.memory.view(ARRAYS_PA, vas.nbytes).view(np.uint64)[:] = vas
        return [
            _compare(machine, "translate-offset", OFFSET, _THROUGH_THE_MAP, {}),
            _compare(machine, "translate-recursive", SLOT, _THROUGH_THE_SLOT, _BASES),
        ]


def _compare(
    machine: Machine, name: str, rcx: int, loads: str, more: Mapping[str, int]
) -> dict[str, Any]:
    kernel = read_kernel(asm_dir() / f"{name}.asm").assemble()
    bare = assemble(_LOOP.format(loads=loads), base=KERNEL_BASE)
    registers = {"rdi": ARRAYS, "rsi": ARRAYS + RESULTS, "rdx": COUNT, "rcx": rcx, "rsp": STACK}

    def ours() -> float:
        return _seconds(machine, kernel, registers)

    def theirs() -> float:
        return _seconds(machine, bare, {**registers, **more})

    for run in (ours, theirs):
        machine.memory.view(ARRAYS_PA + RESULTS, 8 * COUNT)[:] = 0
        run()
        _check(machine)
    result = compare(
        f"{name} in the guest, against the plainest loop of the same loads",
        COUNT,
        ours,
        theirs,
        turns=TURNS,
    )
    if result["per_second"] < TARGET_PER_SECOND:
        result["target"] = TARGET_RATIO
    return result


def _seconds(machine: Machine, program: Program, registers: Mapping[str, int]) -> float:
    start = time.thread_time()
    ended = machine.run(program, registers=registers, budget=Budget(seconds=60))
    seconds = time.thread_time() - start
    assert ended.ending is Ending.HALT, ended.detail
    return seconds


def _check(machine: Machine) -> None:
    vas = machine.memory.view(ARRAYS_PA, 8 * COUNT).view(np.uint64)
    got = machine.memory.view(ARRAYS_PA + RESULTS, 8 * COUNT).view(np.uint64)
    assert (got == vas - np.uint64(PAGES)).all(), "a loop that is measured must be right"


if __name__ == "__main__":
    sys.exit(report(measure()))
