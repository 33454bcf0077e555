"""More of each kind of report: what neither a report nor a row of the table holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import read_kernel
from harness.engine.run import Ending, Exit
from harness.kernels import KernelResult
from harness.resources import asm_dir

_HEAD = """; a kernel
; [machine]
; ram = "4M"
; map = [
;   { va = 0x800000, pa = 0x200000, size = "4K", flags = "WU" },
;   { va = 0x801000, pa = 0x201000, size = "4K", flags = "WU" },
;   { va = 0x7ffffffff000, pa = 0x202000, size = "4K", flags = "W" },
; ]
.include "include/selectors.inc"
    call install_tables
    lea rax, [rip + caught]
    mov ecx, 13
    call set_gate
    lea rax, [rip + caught]
    mov ecx, 3
    call set_gate
"""
_TAIL = """
    hlt
caught:
    mov r15, [rip + gdt + 8]
    hlt
.include "include/exceptions.inc"
"""
_TO_RING_3 = """
    lea rsi, [rip + ring3]
    mov rdi, 0x201000
    mov ecx, ring3_end - ring3
    rep movsb
    push USER_DATA
    push 0x800800
    push 0x2
    push USER_CODE
    push 0x801000
    iretq
ring3:
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "include").symlink_to(asm_dir() / "include")
    return tmp_path


def run(folder: Path, code: str) -> KernelResult:
    kernel = folder / "k.asm"
    kernel.write_text(_HEAD + code + _TAIL)
    return read_kernel(kernel).run()


def raised(ended: Exit) -> list[tuple[int, int | None, int]]:
    return [(event.vector, event.error_code, event.rip) for event in ended.events]


@pytest.mark.parametrize(("am", "ending"), [(True, Ending.UNSUPPORTED), (False, Ending.HALT)])
def test_popf_of_ac_in_ring_3_is_refused_where_alignment_would_be_checked(
    folder: Path, am: bool, ending: Ending
) -> None:
    change = "bts" if am else "btr"
    code = f"    mov rax, cr0\n    {change} rax, 18\n    mov cr0, rax\n{_TO_RING_3}"
    code += "\n    push 0x40002\n    popfq\n    int3\nring3_end:\n"
    assert run(folder, code).exit.ending is ending


@pytest.mark.parametrize(
    ("code", "rip"),
    [
        ("e8fb000000", 0x7FFF_FFFF_FF80),  # call .+0x100
        ("e9fb000000", 0x7FFF_FFFF_FF80),  # jmp .+0x100
        ("31c07478", 0x7FFF_FFFF_FF8E),  # xor eax, eax; je .+0x7a at the page's end
    ],
)
def test_a_direct_jump_over_the_edge_is_gp_at_the_jump(folder: Path, code: str, rip: int) -> None:
    data = bytes.fromhex(code)
    start = rip if len(data) == 5 else rip - 2
    bytes_ = ", ".join(map(hex, data))
    ended = run(
        folder,
        f"    lea rsi, [rip + there]\n    mov rdi, {0x20_2000 + (start & 0xFFF):#x}\n"
        f"    mov ecx, {len(data)}\n    rep movsb\n    mov rsp, 0x300000\n"
        f"    mov qword ptr [0x2ffff8], 0x77\n    mov rbx, {start:#x}\n    jmp rbx\n"
        f"there: .byte {bytes_}\n",
    ).exit
    assert raised(ended) == [(13, 0, rip)]
    # SS of the frame: nothing was pushed before it.
    assert ended.registers["rsp"] == 0x30_0000 - 48


def test_loop_over_the_edge_is_refused(folder: Path) -> None:
    ended = run(
        folder,
        "    mov word ptr [0x202ff0], 0x7fe2\n    mov ecx, 2\n"
        "    mov rbx, 0x7ffffffffff0\n    jmp rbx\n",
    ).exit
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.registers["rcx"] == 2, "and nothing was counted down"


_ACCESSED = 1 << 40


@pytest.mark.parametrize(
    ("code", "accessed"),
    [
        ("    push KERNEL_CODE\n    lea rax, [rip + there]\n    push rax\n    retfq\nthere:", True),
        (
            "    mov rdx, 0x800000\n    lea rax, [rip + there]\n    mov [rdx], rax\n"
            "    mov word ptr [rdx + 8], KERNEL_CODE\n    jmp far tbyte ptr [rdx]\nthere:",
            True,
        ),
        ("    nop", False),
    ],
)
def test_a_far_transfer_marks_its_code_segment(folder: Path, code: str, accessed: bool) -> None:
    ended = run(folder, f"{code}\n    mov r15, [rip + gdt + 8]\n").exit
    assert ended.ending is Ending.HALT
    assert bool(ended.registers["r15"] & _ACCESSED) is accessed


def test_a_delivery_marks_its_code_segment(folder: Path) -> None:
    ended = run(folder, "    int3\n").exit
    assert ended.registers["r15"] & _ACCESSED


def test_a_return_that_is_refused_marks_nothing(folder: Path) -> None:
    # A code segment of DPL 0 in the place of the kernel's data, returned to with RPL 3.
    code = (
        "    mov rcx, 0x00209a0000000000\n    mov [rip + gdt + 0x10], rcx\n"
        "    push USER_DATA\n    push 0x800800\n    push 0x13\n    push 0x801000\n    retfq\n"
    )
    kernel = run(folder, code)
    ended = kernel.exit
    assert [(event.vector, event.error_code) for event in ended.events] == [(13, 0x10)]
    found = kernel.machine.memory.read_u64(kernel.program.labels["gdt"] + 0x10)
    assert found == 0x0020_9A00_0000_0000
