"""Runs: how they start and end, budgets, and guests that go astray."""

from typing import Any

import pytest

from harness.asm import assemble
from harness.cpu import CR4, CpuState
from harness.engine.run import REGISTERS, Budget, Ending, Exit, Start
from harness.errors import InputError

NOT_CANONICAL = 0x8000_0000_0000

Guest = Any
"""conftest.Guest: test modules do not import one another."""


def vectors(ended: Exit) -> list[tuple[int, int | None]]:
    return [(event.vector, event.error_code) for event in ended.events]


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
    ("code", "length"),
    [
        ("jmp rax", 2),
        ("call rax", 2),
        ("push rax\nret", 1),
        ("push 0\npush rax\nret 8", 3),
        ("mov [0x300000], rax\njmp [0x300000]", 7),
        ("mov [0x300000], rax\ncall [0x300000]", 7),
        ("push 0x10\npush 0x80000\npush 2\npush 8\npush rax\niretq", 2),
        ("push 8\npush rax\nretfq", 2),
    ],
)
def test_a_jump_to_a_non_canonical_address_is_gp_at_the_jump(
    guest: Guest, gate: Any, code: str, length: int
) -> None:
    *before, jump = code.split("\n")
    first = [f"mov rax, {NOT_CANONICAL:#x}", *before, "mov r15, rsp", f"here: {jump}"]
    ended = guest.run("\n".join([*first, "hlt", "gp: lea r14, [rip + here]\nhlt"]), {13: "gp"})
    assert vectors(ended) == [(13, 0)]
    assert ended.ending is Ending.HALT
    # Nothing has changed: the frame lies below the stack as it was before the jump.
    assert (ended.events[0].rip, ended.registers["rsp"]) == (
        ended.registers["r14"],
        (ended.registers["r15"] & ~15) - 48,
    )
    assert ended.events[0].note == "0x800000000000 is not canonical"


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
    ("bit", "name"),
    [(13, "VMXE"), (17, "PCIDE"), (19, "KL"), (23, "CET"), (24, "PKS"), (27, "LASS"), (32, "FRED")],
)
def test_what_unicorn_lacks_ends_the_run_before_it_is_loaded(
    guest: Guest, bit: int, name: str
) -> None:
    ended = guest.run(f"mov rax, cr4\nbts rax, {bit}\nmov cr4, rax\nmov ebx, 1\nhlt")
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail.startswith(
        f"it turned on CR4.{name}, which Unicorn does not implement, at 0x"
    )
    assert (ended.control["cr4"], ended.registers["rbx"]) == (0x20, 0)


@pytest.mark.parametrize(
    "code",
    [
        "mov rax, cr4\nbtr rax, 5\nmov cr4, rax",
        "mov rax, cr4\nbts rax, 12\nmov cr4, rax",
        "mov rax, cr4\nbts rax, 15\nmov cr4, rax",
        "mov rax, cr4\nbts rax, 40\nmov cr4, rax",
        "mov rax, cr3\nbts rax, 45\nmov cr3, rax",
        "mov rax, cr0\nbtr rax, 31\nmov cr0, rax",
        "mov rax, cr0\nbts rax, 29\nmov cr0, rax",
        "mov rax, cr0\nbts rax, 33\nmov cr0, rax",
        "mov eax, 16\nmov cr8, rax",
        "mov rax, 0x100000000\nmov dr7, rax",
        "mov ecx, 0xc0000080\nrdmsr\nbts eax, 1\nwrmsr",
        "mov ecx, 0xc0000080\nrdmsr\nbtr eax, 8\nwrmsr",
        "mov ecx, 0x277\nmov eax, 2\nxor edx, edx\nwrmsr",
        *(
            f"mov ecx, {msr:#x}\nxor eax, eax\nmov edx, 0x8000\nwrmsr"
            for msr in (
                0x175,
                0x176,
                *range(0xC000_0082, 0xC000_0084),
                *range(0xC000_0100, 0xC000_0103),
            )
        ),
        "mov rax, 0x800000000000\nmov [0x300002], rax\nlidt [0x300000]",
    ],
)
def test_a_refused_value_is_gp_and_changes_nothing(guest: Guest, code: str) -> None:
    *before, last = code.split("\n")
    source = "\n".join(
        [*before, f"here: {last}", "mov ebx, 1\nhlt", "gp: lea r14, [rip + here]\nhlt"]
    )
    ended = guest.run(source, {13: "gp"})
    assert vectors(ended) == [(13, 0)], ended.detail
    assert (ended.events[0].rip, ended.registers["rbx"]) == (ended.registers["r14"], 0)
    assert (ended.control["cr0"], ended.control["cr4"]) == (0x8005_0033, 0x20)
    assert (ended.control["cr3"], ended.control["efer"]) == (0x1000, 0xD00)


def test_bits_of_cr0_that_do_not_exist_stay_0(guest: Guest) -> None:
    ended = guest.run("mov rax, cr0\nmov rcx, rax\nbts rax, 20\nmov cr0, rax\nmov rbx, cr0\nhlt")
    assert ended.registers["rbx"] == ended.registers["rcx"]
    assert ended.registers["rax"] == ended.registers["rcx"] | 1 << 20


@pytest.mark.parametrize("code", ["rdmsr", "wrmsr"])
def test_an_msr_that_is_not_there_is_not_answered(guest: Guest, code: str) -> None:
    ended = guest.run(f"mov ecx, 0x48\n{code}\nhlt")
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail.startswith("Unicorn does not implement MSR 0x48, at 0x")


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


def test_a_32_bit_start_has_paging_off_and_no_long_mode(guest: Guest) -> None:
    ended = guest.protected(
        "mov ecx, 0xc0000080\nrdmsr\nmov ebx, eax\nmov eax, cr0\npush eax\npop esi\nhlt",
        registers={"rsp": 0x8_0000},
    )
    assert (ended.registers["rbx"], ended.registers["rsi"]) == (0, 0x11)
    assert ended.control == {"cr0": 0x11, "cr2": 0, "cr3": 0, "cr4": 0, "efer": 0}
    assert ended.cpu is None


def test_a_32_bit_start_after_a_64_bit_run(guest: Guest) -> None:
    guest.run("mov rax, [0x70000000]")
    assert guest.protected("mov eax, [0x3f0000]\nhlt").ending is Ending.HALT
    assert guest.run("hlt").ending is Ending.HALT


@pytest.mark.parametrize(("code", "vector"), [("ud2", 6), ("int 0x80", 0x80), ("int3", 3)])
def test_an_exception_before_long_mode_is_unsupported(guest: Guest, code: str, vector: int) -> None:
    ended = guest.protected(code)
    assert ended.ending is Ending.UNSUPPORTED
    assert ended.detail == (f"exception {vector} came before long mode, where none is delivered")
    assert [event.vector for event in ended.events] == [vector]


def test_a_physical_address_that_is_not_ram_before_long_mode(guest: Guest) -> None:
    ended = guest.protected("mov eax, [0x70000000]\nhlt")
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
