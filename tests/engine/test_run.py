"""Runs: how they start and end, ports, syscall, budgets; and a guest that does anything at all."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from harness.asm import assemble
from harness.cpu import CR4, CpuState
from harness.engine.run import REGISTERS, Budget, Ending, Event, Exit, Start, vector_name
from harness.errors import InputError
from harness.machine import Machine

HLT_AT = 0x30_0000
NOT_CANONICAL = 0x8000_0000_0000

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


@pytest.fixture
def gate(guest: Guest) -> Callable[..., Any]:
    """Make gates to a ``hlt`` that lies at 3 MiB."""
    guest.memory.write(HLT_AT, b"\xf4")
    kind = type(guest).__init__.__globals__["Gate"]

    def make(handler: int | str = HLT_AT, **options: Any) -> Any:
        return kind(handler, **options)

    return make


def vectors(ended: Exit) -> list[tuple[int, int | None]]:
    return [(event.vector, event.error_code) for event in ended.events]


# syscall and sysretq (SDM volume 2B).


def run_syscall(guest: Guest, gate: Any, code: str, sce: int = 1) -> Exit:
    program = assemble(SYSCALL.format(sce=sce) + code, base=0x10_0000)
    guest.memory.write(guest.USER_FRAME, program.code[program.labels["user"] - program.base :])
    for vector in range(32):
        guest.gate(vector, gate())
    return guest.run(SYSCALL.format(sce=sce) + code)  # type: ignore[no-any-return]


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


def user_code(guest: Guest, code: str, flags: int = 0x202) -> str:
    """Put code on ring 3's page; return what enters it."""
    guest.memory.write(guest.USER_FRAME, assemble(code, base=guest.USER).code)
    return f"push 0x1b\npush 0x803000\npush {flags:#x}\npush 0x23\npush 0x800000\niretq"


def test_syscall_without_sce_is_ud_at_the_instruction(guest: Guest, gate: Any) -> None:
    ended = guest.run(user_code(guest, "nop\nsyscall"), {6: gate()})
    assert vectors(ended) == [(6, None)]
    frame = guest.frame(ended, error_code=False)
    assert (frame.rip, frame.cs) == (guest.USER + 1, 0x23)


def test_sysretq_without_sce_is_ud(guest: Guest, gate: Any) -> None:
    assert vectors(guest.run("sysretq", {6: gate()})) == [(6, None)]


def test_syscall_from_32_bit_code_is_ud(guest: Guest, gate: Any) -> None:
    enter = user_code(guest, ".byte 0x0f, 0x05")
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


def test_iretq_returns_to_ring_3_and_its_instruction(guest: Guest) -> None:
    enter = user_code(guest, "mov rbx, 5\nint 0x80\nadd rbx, 1\nint 0x81")
    gates = type(guest).__init__.__globals__["Gate"]
    ended = guest.run(
        f"{enter}\nfirst: mov rbx, 100\niretq\nlast: hlt",
        {0x80: gates("first", dpl=3), 0x81: gates("last", dpl=3)},
    )
    assert ended.registers["rbx"] == 101
    assert [event.cpl for event in ended.events] == [3, 3]


# Privilege of ports and hlt.


@pytest.mark.parametrize("code", ["hlt", "cli", "out 0xe9, al", "mov rax, cr3", "invlpg [rax]"])
def test_what_ring_3_may_not_do_is_gp(guest: Guest, gate: Any, code: str) -> None:
    ended = guest.run(user_code(guest, f"nop\n{code}"), {13: gate()})
    assert vectors(ended) == [(13, 0)]
    assert guest.frame(ended, error_code=True).rip == guest.USER + 1
    assert ended.debug == b""


def test_iopl_3_lets_ring_3_at_the_ports(guest: Guest, gate: Any) -> None:
    code = user_code(guest, "mov al, 65\nout 0xe9, al\ncli\nhlt", flags=0x3202)
    ended = guest.run(code, {13: gate()})
    assert ended.debug == b"A"
    assert vectors(ended) == [(13, 0)], "hlt is CPL 0's alone, whatever IOPL"
    assert guest.frame(ended, error_code=True).rip == guest.USER + 5


# Ports.


def test_hlt_ends_behind_it(guest: Guest) -> None:
    ended = guest.run("mov rax, 7\nhlt\nnop")
    assert (ended.ending, ended.detail) == (Ending.HALT, "it halted at 0x10000f")
    assert (ended.registers["rax"], ended.exit_code, ended.fault) == (7, None, None)


def test_the_serial_port(guest: Guest) -> None:
    ended = guest.run(
        """
        mov dx, 0x3fb
        mov al, 0x83            // DLAB: the data port is the divisor
        out dx, al
        mov dx, 0x3f8
        mov al, 1
        out dx, al
        mov dx, 0x3fb
        in al, dx
        movzx r8, al
        mov al, 3
        out dx, al
        mov dx, 0x3fd
        in al, dx
        movzx r9, al
        mov dx, 0x3f8
        mov al, 'A'
        out dx, al
        lea rsi, [rip + text]
        mov ecx, 5
        rep outsb
        mov dx, 0x1234          // nothing is there
        in eax, dx
        mov r10, rax
        hlt
    text:
        .ascii "hello"
        """
    )
    assert ended.serial == b"Ahello"
    assert ended.registers["r8"] == 0x83
    assert ended.registers["r9"] == 0x60, "transmitter empty"
    assert ended.registers["r10"] == 0xFFFF_FFFF


def test_the_debug_port(guest: Guest) -> None:
    ended = guest.run("mov al, 'd'\nout 0xe9, al\nin al, 0xe9\nmovzx rbx, al\nhlt")
    assert (ended.debug, ended.registers["rbx"]) == (b"d", 0xE9)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("mov al, 0\nout 0xf4, al", 1),
        ("mov al, 16\nout 0xf4, al", 33),
        ("mov rax, -1\nout 0xf4, al", 0x1FF),
        ("mov ax, 0x1234\nout 0xf4, ax", 0x2469),
        ("mov eax, 0x12345678\nout 0xf4, eax", 0x2468_ACF1),
    ],
)
def test_the_exit_port(guest: Guest, code: str, exit_code: int) -> None:
    ended = guest.run(f"{code}\nmov rbx, 1\nhlt")
    assert (ended.ending, ended.exit_code) == (Ending.EXIT, exit_code)
    assert ended.detail == f"it wrote to the exit port: exit code {exit_code}"
    assert ended.registers["rbx"] == 0, "nothing runs behind it"


def test_nothing_happens_behind_the_exit_port(guest: Guest) -> None:
    ended = guest.run(
        "mov [0x200000], rbx\nstc\nhere: out 0xf4, al\nclc\nmov rbx, 1\n"
        "mov qword ptr [0x200000], 7\nmov al, 'x'\nout 0xe9, al\nmov cr3, rbx\nhlt"
    )
    assert ended.rip == guest.program.labels["here"]
    assert (ended.registers["rbx"], ended.rflags, ended.debug) == (0, 3, b"")
    assert guest.memory.read_u64(0x20_0000) == 0
    assert ended.control["cr3"] == guest.machine.cpu.cr3


def test_nothing_happens_behind_the_exit_port_without_paging(guest: Guest) -> None:
    ended = protected(
        guest.machine, "mov al, 1\nout 0xf4, al\nmov dword ptr [0x200000], 7\nmov ebx, 7\nhlt"
    )
    assert (ended.exit_code, ended.registers["rbx"]) == (3, 0)
    assert guest.memory.read_u64(0x20_0000) == 0
    assert (ended.control["cr0"], ended.control["cr4"]) == (0x11, 0)


@pytest.mark.parametrize("code", ["out 0xe9, al", "in al, 0xe9", "mov dx, 0x3f8\nrep outsb"])
def test_the_io_map_of_the_tss_closes_ports(guest: Guest, gate: Any, code: str) -> None:
    guest.memory.write(0x2_2066, b"\x68\0" + b"\xff" * 0x100)
    short = 0x0000_8900_0000_0000 | 0x2_2000 << 16 | 0x167
    enter = user_code(guest, code)
    ended = guest.run(
        f"mov rax, {short:#x}\nmov [0x20028], rax\nmov ax, 0x28\nltr ax\n{enter}", {13: gate()}
    )
    assert vectors(ended) == [(13, 0)]


def test_a_port_that_the_io_map_opens_is_unsupported(guest: Guest, gate: Any) -> None:
    guest.memory.write(0x2_2066, b"\x68\0" + b"\0" * 0x100)
    long = 0x0000_8900_0000_0000 | 0x2_2000 << 16 | 0x167
    enter = user_code(guest, "out 0xe9, al")
    ended = guest.run(
        f"mov rax, {long:#x}\nmov [0x20028], rax\nmov ax, 0x28\nltr ax\n{enter}", {13: gate()}
    )
    assert (ended.ending, ended.debug) == (Ending.UNSUPPORTED, b"")
    assert ended.detail == (
        "port 0xe9 at 0x800000 is open by the TSS's I/O map alone, "
        "which this engine does not execute"
    )


# Budgets.


def test_an_endless_loop_ends_with_its_time(guest: Guest) -> None:
    ended = guest.run("again: jmp again", budget=Budget(seconds=0.1))
    assert (ended.ending, ended.detail) == (Ending.SECONDS, "it still ran after 0.1 s")


def test_an_endless_loop_ends_with_its_instructions(guest: Guest) -> None:
    ended = guest.run("again: inc rbx\njmp again", budget=Budget(instructions=1002))
    assert ended.ending is Ending.INSTRUCTIONS
    assert ended.detail == "it still ran after 1002 instructions"
    assert (ended.instructions, ended.registers["rbx"]) == (1002, 500), "with two for ltr"


def test_a_run_within_its_budget_counts_itself(guest: Guest) -> None:
    ended = guest.run("nop\nnop\nhlt", budget=Budget(instructions=5))
    assert (ended.ending, ended.instructions) == (Ending.HALT, 5)
    assert guest.run("hlt").instructions is None


@pytest.mark.parametrize("budget", [Budget(seconds=0.2), Budget(instructions=999)])
def test_an_endless_fault_ends_with_the_budget(guest: Guest, budget: Budget) -> None:
    ended = guest.run(
        "mov rax, [0x70000000]\nhandler: add rsp, 8\niretq", {14: "handler"}, budget=budget
    )
    assert ended.ending in (Ending.SECONDS, Ending.INSTRUCTIONS)
    assert len(ended.events) > 50
    assert ended.fault is None, "every one was delivered"


def test_the_next_run_begins_anew(guest: Guest) -> None:
    guest.run("mov al, 'x'\nout 0xe9, al\nmov r8, 1\nmov rsp, 0\nint3")
    ended = guest.run("hlt")
    assert (ended.debug, ended.events, ended.registers["r8"]) == (b"", (), 0)


# Astray.


def test_a_jump_into_a_page_that_is_not_there(guest: Guest) -> None:
    ended = guest.run("mov rax, 0xb00000\njmp rax\nhandler: hlt", {14: "handler"})
    frame = guest.frame(ended, error_code=True)
    assert (frame.error_code, frame.rip, ended.control["cr2"]) == (0x10, 0xB0_0000, 0xB0_0000)


def test_a_jump_into_zeroes_ends(guest: Guest) -> None:
    ended = guest.run("mov rbx, 0x200000\njmp rbx", budget=Budget(seconds=3, instructions=5000))
    assert ended.ending is Ending.INSTRUCTIONS


# A block of code that runs on into a missing page: all before the end happens first.


def at_the_end(guest: Guest, code: str) -> int:
    """Put code at the very end of RAM, behind which nothing is mapped."""
    made = assemble(code, base=0).code
    guest.memory.write(0x40_0000 - len(made), made)
    return 0x40_0000 - len(made)


def test_falling_off_the_end_of_ram_is_a_page_fault_there(guest: Guest) -> None:
    at = at_the_end(guest, "mov [0x200000], rbx\npush rbx\nstc\nnop")
    ended = guest.run(f"mov rbx, {at}\njmp rbx\nhandler: hlt", {14: "handler"})
    frame = guest.frame(ended, error_code=True)
    assert (frame.rip, ended.control["cr2"]) == (0x40_0000, 0x40_0000)
    assert guest.memory.read_u64(0x20_0000) == at
    assert frame.rsp == guest.RSP - 8
    assert frame.rflags == 0x1_0003, "CF by stc, RF by the fault; no TF of the engine's own"
    assert vectors(ended) == [(14, 0x10)]


def test_an_instruction_that_crosses_into_a_missing_page(guest: Guest) -> None:
    guest.memory.write(0x3F_FFFC, bytes.fromhex("90 48 b8 11"))  # nop; mov rax, ...
    ended = guest.run("mov rbx, 0x3ffffc\njmp rbx\nhandler: hlt", {14: "handler"})
    frame = guest.frame(ended, error_code=True)
    assert (frame.rip, ended.control["cr2"]) == (0x3F_FFFD, 0x40_0000)


def test_an_exit_before_a_missing_page(guest: Guest) -> None:
    at = at_the_end(guest, "mov al, 3\nout 0xf4, al")
    ended = guest.run(f"mov rbx, {at}\njmp rbx")
    assert (ended.exit_code, ended.events) == (7, ())


def test_a_fault_before_a_missing_page(guest: Guest) -> None:
    at = at_the_end(guest, "nop\nmov rax, [0x70000000]\nnop")
    ended = guest.run(f"mov rbx, {at}\njmp rbx\nhandler: hlt", {14: "handler"})
    assert (ended.events[0].rip, ended.control["cr2"]) == (at + 1, 0x7000_0000)


def test_a_data_fault_at_the_start_of_the_next_page_is_delivered_once(guest: Guest) -> None:
    at = at_the_end(guest, "nop\nmov rax, [0x400000]\nnop")
    ended = guest.run(f"mov rbx, {at}\njmp rbx\nhandler: hlt", {14: "handler"})
    assert vectors(ended) == [(14, 0)]
    assert ended.events[0].rip == at + 1


def test_a_handler_maps_the_missing_page_and_the_guest_goes_on(guest: Guest) -> None:
    guest.machine.map(0xA0_0000, 0x20_5000, 0x2000, "W")
    entry = guest.machine.walk(0xA0_1000).steps[-1].address
    guest.memory.write_u64(entry, guest.memory.read_u64(entry) & ~1)
    guest.memory.write(0x20_6000 - 4, assemble("inc rcx\nnop", base=0).code)
    guest.memory.write(0x20_6000, b"\xf4")
    ended = guest.run(
        f"""
        mov rbx, 0xa00ffc
        jmp rbx
    handler:
        add rsp, 8
        or qword ptr [{entry}], 1
        invlpg [0xa01000]
        iretq
        """,
        {14: "handler"},
    )
    assert (ended.ending, ended.rip) == (Ending.HALT, 0xA0_1001)
    assert ended.registers["rcx"] == 1, "executed once"


def test_code_that_runs_on_into_memory_that_is_not_there(guest: Guest) -> None:
    guest.machine.map(0x40_0000, 0x700_0000, 0x1000, "W")
    at = at_the_end(guest, "mov rcx, 9\nnop")
    ended = guest.run(f"mov rbx, {at}\njmp rbx")
    assert (ended.ending, ended.rip, ended.registers["rcx"]) == (Ending.NO_MEMORY, 0x40_0000, 9)
    assert ended.detail == "it tried to fetch from physical address 0x7000000, not RAM"


def test_pushf_before_a_missing_page_is_not_executed_wrongly(guest: Guest) -> None:
    at = at_the_end(guest, "pushfq\nnop")
    ended = guest.run(f"mov rbx, {at}\njmp rbx\nhandler: hlt", {14: "handler"})
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail == (
        "pushf at 0x3ffffe, before a page that is missing, is not executed by this engine"
    )


@pytest.mark.parametrize(
    "code", ["jmp rax", "push rax\nret", "push 0x10\npush 0x80000\npush 2\npush 8\npush rax\niretq"]
)
def test_a_jump_to_a_non_canonical_address_is_not_answered(
    guest: Guest, gate: Any, code: str
) -> None:
    ended = guest.run(f"mov rax, {NOT_CANONICAL:#x}\n{code}", {13: gate()})
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail == (
        "it went to 0x800000000000, not canonical: a CPU raises #GP at the instruction that goes "
        "there, and Unicorn only behind it"
    )


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("mov rax, [0xa00010]", "read physical address 0x7000010"),
        ("mov [0xa00010], rax", "write to physical address 0x7000010"),
        ("mov rbx, 0xa00010\njmp rbx", "fetch from physical address 0x7000010"),
        ("mov rsp, 0xa00018\npush rax", "write to physical address 0x7000010"),
        ("mov rsp, 0xa00010\npop rax", "read physical address 0x7000010"),
    ],
)
def test_memory_that_is_not_there(guest: Guest, code: str, how: str) -> None:
    guest.machine.map(0xA0_0000, 0x700_0000, 0x1000, "W")
    ended = guest.run(code)
    assert (ended.ending, ended.detail) == (Ending.NO_MEMORY, f"it tried to {how}, not RAM")


def test_code_that_changes_itself(guest: Guest) -> None:
    ended = guest.run(
        """
        mov ecx, 3
        lea rdi, [rip + patched]
    again:
        mov [rdi + 1], cl
    patched:
        mov al, 0
        movzx rdx, al
        add rbx, rdx
        dec ecx
        jnz again
        hlt
        """
    )
    assert ended.registers["rbx"] == 3 + 2 + 1


def test_code_that_the_host_changes_between_runs(guest: Guest) -> None:
    for value in (1, 2, 3):
        assert guest.machine.run(f"mov rax, {value}\nhlt").registers["rax"] == value


def test_tables_that_the_host_changes_between_runs(guest: Guest) -> None:
    guest.memory.write_u64(0x20_0000, 1)
    guest.memory.write_u64(0x21_0000, 2)
    code = "mov rbx, 0x800000\nmov rax, [rbx]\nhlt"
    assert guest.machine.run(code).registers["rax"] == 1
    entry = guest.machine.walk(0x80_0000).steps[-1].address
    guest.memory.write_u64(entry, 0x21_0007)
    assert guest.machine.run(code).registers["rax"] == 2


# Control registers that a CPU refuses.


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        (
            "mov rax, cr4\nbts rax, 17\nmov cr4, rax",
            "it turned on what is not there: Unicorn does not implement PCID (CR4 = 0x20020)",
        ),
        (
            "mov rax, cr4\nbts rax, 24\nmov cr4, rax",
            "it turned on what is not there: Unicorn does not implement PKS (CR4 = 0x1000020)",
        ),
        (
            "mov rax, cr4\nbtr rax, 5\nmov cr4, rax",
            "it loaded control registers that a CPU refuses, and Unicorn does not: CR4.PAE must "
            "be 1 in long mode, not 0 as in cr4=0x0",
        ),
        (
            "mov rax, cr4\nbts rax, 12\nmov cr4, rax",
            "it changed CR4.LA57 in long mode, which a CPU refuses, and Unicorn does not",
        ),
        (
            "mov rax, cr3\nbts rax, 45\nmov cr3, rax",
            "it loaded control registers that a CPU refuses, and Unicorn does not: the bits of "
            "CR3 from bit 40 (maxphyaddr) up must be 0, not 0x2000_0000_0000 "
            "(in 0x2000_0000_1000)",
        ),
        ("mov rax, cr0\nbtr rax, 31\nmov cr0, rax", "it left long mode, which is not modelled"),
    ],
)
@pytest.mark.parametrize("then", ["hlt", "ud2"])
def test_what_a_cpu_refuses_is_unsupported(
    guest: Guest, gate: Any, code: str, detail: str, then: str
) -> None:
    ended = guest.run(f"{code}\n{then}", {6: gate(), 13: gate(), 14: gate()})
    assert (ended.ending, ended.detail, ended.cpu) == (Ending.UNSUPPORTED, detail, None)


def test_what_a_cpu_takes_is_in_the_state_at_the_end(guest: Guest) -> None:
    ended = guest.run("mov rax, cr4\nbts rax, 20\nmov cr4, rax\nhlt")
    assert ended.cpu is not None
    assert ended.cpu.smep
    assert ended.cpu.cr4 == ended.control["cr4"] == int(CR4.PAE | CR4.SMEP)


def test_a_start_that_this_engine_does_not_have_is_refused(guest: Guest) -> None:
    cpu = CpuState(cr3=guest.machine.cpu.cr3, cr4=int(CR4.PAE | CR4.PCIDE))
    with pytest.raises(InputError, match=r"^Unicorn does not implement PCID"):
        guest.run("hlt", cpu=cpu)


def test_a_register_that_does_not_exist_is_refused(guest: Guest) -> None:
    with pytest.raises(InputError) as caught:
        guest.run("hlt", eax=1)
    assert str(caught.value) == f"a register must be one of {', '.join(REGISTERS)}, not 'eax'"


# Starts.


def protected(machine: Machine, source: str, **options: Any) -> Exit:
    program = assemble(source, base=0x10_0000, bits=32)
    machine.load(program)
    return machine.engine.run(Start(rip=program.base, cpu=None, **options), Budget(seconds=5))


def test_a_32_bit_start_has_paging_off_and_no_long_mode(guest: Guest) -> None:
    ended = protected(
        guest.machine,
        "mov ecx, 0xc0000080\nrdmsr\nmov ebx, eax\nmov eax, cr0\npush eax\npop esi\nhlt",
        registers={"rsp": 0x8_0000},
    )
    assert (ended.registers["rbx"], ended.registers["rsi"]) == (0, 0x11)
    assert ended.control == {"cr0": 0x11, "cr2": 0, "cr3": 0, "cr4": 0, "efer": 0}
    assert ended.cpu is None


def test_a_32_bit_start_after_a_64_bit_run(guest: Guest) -> None:
    guest.run("mov rax, [0x70000000]")
    assert protected(guest.machine, "mov eax, [0x3f0000]\nhlt").ending is Ending.HALT
    assert guest.run("hlt").ending is Ending.HALT


@pytest.mark.parametrize(("code", "vector"), [("ud2", 6), ("int 0x80", 0x80), ("int3", 3)])
def test_an_exception_before_long_mode_is_unsupported(guest: Guest, code: str, vector: int) -> None:
    ended = protected(guest.machine, code)
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail == (f"exception {vector} came before long mode, where none is delivered")
    assert [event.vector for event in ended.events] == [vector]


def test_a_physical_address_that_is_not_ram_before_long_mode(guest: Guest) -> None:
    ended = protected(guest.machine, "mov eax, [0x70000000]\nhlt")
    assert ended.detail == "it tried to read physical address 0x70000000, not RAM"


def test_a_stop_address(guest: Guest) -> None:
    ended = guest.run("mov rax, 1\nmov rax, 2\nhlt", stop=0x10_000E)
    assert (ended.ending, ended.detail) == (Ending.STOP, "it reached 0x10000e")
    assert ended.registers["rax"] == 1


def test_a_start_at_cpl_3(guest: Guest, gate: Any) -> None:
    guest.memory.write(guest.USER_FRAME, assemble("mov rax, [0x1000]", base=guest.USER).code)
    start = Start(
        rip=guest.USER, cpu=guest.machine.cpu.replace(cpl=3), cs=0x23, ss=0x1B, gdt=guest.gdt
    )
    ended = guest.machine.engine.run(start, Budget(seconds=5))
    assert vectors(ended)[0] == (14, 0b101)
    assert (ended.cpl, ended.fault) == (3, ended.events[0])


# Anything at all.


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


# The words of an Exit.


def test_the_exit_of_a_kernel_in_json(guest: Guest) -> None:
    ended = guest.run(
        "mov al, 'k'\nmov dx, 0x3f8\nout dx, al\nmov rax, [0x70000008]\nhandler: hlt",
        {14: "handler"},
    )
    given = ended.to_json()
    assert list(given) == [
        *("ending", "detail", "rip", "rflags", "cpl", "registers", "control", "events"),
        *("dropped_events", "serial", "debug", "exit_code", "instructions"),
    ]
    assert given["ending"] == "halt"
    assert given["rip"] == "0x100017"
    assert list(given["registers"]) == list(REGISTERS)
    assert given["registers"]["rdx"] == "0x3f8"
    assert given["control"] == {
        "cr0": "0x80050033",
        "cr2": "0x70000008",
        "cr3": "0x1000",
        "cr4": "0x20",
        "efer": "0xd00",
    }
    assert given["events"] == [
        {
            "exception": "#PF",
            "vector": 14,
            "error_code": "0x0",
            "cr2": "0x70000008",
            "rip": "0x10000e",
            "cpl": 0,
            "handler": "0x100016",
            "note": None,
        }
    ]
    assert (given["serial"], given["debug"], given["exit_code"]) == ("k", "", None)


def test_the_fault_is_the_first_of_those_that_shut_the_machine_down(guest: Guest) -> None:
    ended = guest.run("int3\nmov rax, [0x70000000]\nhandler: iretq", {3: "handler"})
    assert ended.ending is Ending.SHUTDOWN
    assert [event.vector for event in ended.events] == [3, 14, 8]
    assert ended.fault is ended.events[1]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            Event(14, 0x6, 0xDEAD_BEEF, 0x10_0007, 3, handler=0x20_0000),
            "#PF at 0x10_0007 (CPL 3), CR2 = 0xdead_beef, error code 0x6 = W U → handler 0x20_0000",
        ),
        (
            Event(14, 0, 0, 0x1000, 0, note="the stack at 0x8 faults"),
            "#PF at 0x1000 (CPL 0), CR2 = 0x0, error code 0x0 = 0: the stack at 0x8 faults",
        ),
        (Event(13, 0x402, None, 0x1000, 3), "#GP at 0x1000 (CPL 3), error code 0x402"),
        (Event(6, None, None, 0x1000, 0), "#UD at 0x1000 (CPL 0)"),
        (Event(14, None, None, 0x1000, 0), "#PF at 0x1000 (CPL 0)"),
    ],
)
def test_an_event_in_words(event: Event, text: str) -> None:
    assert str(event) == text


def test_the_names_of_vectors() -> None:
    assert [vector_name(n) for n in (0, 3, 8, 14, 21, 22, 0x80)] == [
        *("#DE", "#BP", "#DF", "#PF", "#CP", "int 0x16", "int 0x80")
    ]
