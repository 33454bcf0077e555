"""syscall and sysretq, there and back, and where they are #UD (SDM volume 2B)."""

from typing import Any

from harness.asm import assemble
from harness.engine.run import Ending, Exit

Guest = Any
"""conftest.Guest: test modules do not import one another."""

SYSCALL = """
    mov ecx, 0xc0000080
    rdmsr
    or eax, {sce}
    wrmsr
    mov ecx, 0xc0000081         // STAR: ring 0 from 0x08, ring 3 from 0x10
    xor eax, eax
    mov edx, 0x00100008
    wrmsr
    mov ecx, 0xc0000082         // LSTAR
    lea rax, [rip + entry]
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084         // FMASK
    mov eax, 0x201
    wrmsr
    push 0x1b
    push 0x803000
    push 0x202
    push 0x23
    push 0x800000
    iretq
"""


def vectors(ended: Exit) -> list[tuple[int, int | None]]:
    return [(event.vector, event.error_code) for event in ended.events]


def test_syscall_and_sysretq_there_and_back(guest: Guest, gate: Any) -> None:
    source = (
        SYSCALL.format(sce=1)
        + """
    entry:
        mov r12, rcx
        mov r13, r11
        mov r14, cs
        mov r15, ss
        pushfq
        pop rbp
        mov rdi, [0x1000]           // a supervisor's page
        mov rbx, rsp
        sysretq
    user:
        stc
        syscall
        mov r8, cs
        mov r9, ss
        pushfq
        pop r10
        mov rsi, [0x1000]           // faults at CPL 3
    """
    )
    program = assemble(f"mov ax, 0x28\nltr ax\n{source}", base=0x10_0000)
    at = program.labels["user"] - program.base
    guest.memory.write(guest.USER_FRAME, program.code[at:])
    ended = guest.run(source, {14: gate()})
    r = ended.registers
    assert r["r12"] == guest.USER + 3, "RCX is the address behind syscall"
    assert r["r13"] == 0x203, "R11 is RFLAGS"
    assert (r["r14"], r["r15"]) == (0x08, 0x10), "STAR[47:32]"
    assert r["rbp"] == 0x2, "FMASK took IF and CF"
    assert r["rdi"] != 0, "CPL 0"
    assert r["rbx"] == guest.USER_STACK, "RSP is not touched"
    assert (r["r8"], r["r9"]) == (0x23, 0x1B), "STAR[63:48] + 16 and + 8, RPL 3"
    assert r["r10"] == 0x203, "from R11"
    assert vectors(ended) == [(14, 0b101)], "CPL 3 again"


def test_syscall_without_sce_is_ud_at_the_instruction(guest: Guest, gate: Any) -> None:
    ended = guest.run(guest.user_code("nop\nsyscall"), {6: gate()})
    assert vectors(ended) == [(6, None)]
    frame = guest.frame(ended, error_code=False)
    assert (frame.rip, frame.cs) == (guest.USER + 1, 0x23)


def test_sysretq_without_sce_is_ud(guest: Guest, gate: Any) -> None:
    assert vectors(guest.run("sysretq", {6: gate()})) == [(6, None)]


def test_syscall_from_32_bit_code_is_ud(guest: Guest, gate: Any) -> None:
    enter = guest.user_code(".byte 0x0f, 0x05")
    ended = guest.run(
        "mov ecx, 0xc0000080\nrdmsr\nor eax, 1\nwrmsr\n"
        f"mov rax, 0x00cffa000000ffff\nmov [0x20020], rax\n{enter}",
        {6: gate()},
    )
    assert vectors(ended) == [(6, None)]
    assert guest.frame(ended, error_code=False).rip == guest.USER


def test_sysenter_is_not_executed_wrongly(guest: Guest, gate: Any) -> None:
    ended = guest.run("sysenter", {13: gate()})
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail == "sysenter at 0x100007 is not executed by this engine"


def test_iretq_returns_to_ring_3_and_its_instruction(guest: Guest, gate: Any) -> None:
    enter = guest.user_code("mov rbx, 5\nint 0x80\nadd rbx, 1\nint 0x81")
    ended = guest.run(
        f"{enter}\nfirst: mov rbx, 100\niretq\nlast: hlt",
        {0x80: gate("first", dpl=3), 0x81: gate("last", dpl=3)},
    )
    assert ended.registers["rbx"] == 101
    assert [event.cpl for event in ended.events] == [3, 3]
