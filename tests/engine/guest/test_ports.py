"""Ports, hlt and what ring 3 may do; nothing happens behind the exit port."""

from typing import Any

import pytest

from harness.engine.run import Ending, Exit

Guest = Any
"""conftest.Guest: test modules do not import one another."""


def vectors(ended: Exit) -> list[tuple[int, int | None]]:
    return [(event.vector, event.error_code) for event in ended.events]


# Privilege of ports and hlt.


@pytest.mark.parametrize("code", ["hlt", "cli", "out 0xe9, al", "mov rax, cr3", "invlpg [rax]"])
def test_what_ring_3_may_not_do_is_gp(guest: Guest, gate: Any, code: str) -> None:
    ended = guest.run(guest.user_code(f"nop\n{code}"), {13: gate()})
    assert vectors(ended) == [(13, 0)]
    assert guest.frame(ended, error_code=True).rip == guest.USER + 1
    assert ended.debug == b""


def test_iopl_3_lets_ring_3_at_the_ports(guest: Guest, gate: Any) -> None:
    code = guest.user_code("mov al, 65\nout 0xe9, al\ncli\nhlt", flags=0x3202)
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
    ended = guest.protected("mov al, 1\nout 0xf4, al\nmov dword ptr [0x200000], 7\nmov ebx, 7\nhlt")
    assert (ended.exit_code, ended.registers["rbx"]) == (3, 0)
    assert guest.memory.read_u64(0x20_0000) == 0
    assert (ended.control["cr0"], ended.control["cr4"]) == (0x11, 0)


@pytest.mark.parametrize("code", ["out 0xe9, al", "in al, 0xe9", "mov dx, 0x3f8\nrep outsb"])
def test_the_io_map_of_the_tss_closes_ports(guest: Guest, gate: Any, code: str) -> None:
    guest.memory.write(0x2_2066, b"\x68\0" + b"\xff" * 0x100)
    short = 0x0000_8900_0000_0000 | 0x2_2000 << 16 | 0x167
    enter = guest.user_code(code)
    ended = guest.run(
        f"mov rax, {short:#x}\nmov [0x20028], rax\nmov ax, 0x28\nltr ax\n{enter}", {13: gate()}
    )
    assert vectors(ended) == [(13, 0)]


def test_a_port_that_the_io_map_opens_is_unsupported(guest: Guest, gate: Any) -> None:
    guest.memory.write(0x2_2066, b"\x68\0" + b"\0" * 0x100)
    long = 0x0000_8900_0000_0000 | 0x2_2000 << 16 | 0x167
    enter = guest.user_code("out 0xe9, al")
    ended = guest.run(
        f"mov rax, {long:#x}\nmov [0x20028], rax\nmov ax, 0x28\nltr ax\n{enter}", {13: gate()}
    )
    assert (ended.ending, ended.debug) == (Ending.UNSUPPORTED, b"")
    assert ended.detail == (
        "port 0xe9 at 0x800000 is open by the TSS's I/O map alone, "
        "which this engine does not execute"
    )
