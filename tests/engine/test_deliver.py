"""Delivery of exceptions, against SDM volume 3A chapter 6; every expectation is the manual's."""

from typing import Any

import pytest

from harness.cpu import CR4, RFLAGS, CpuState
from harness.engine.run import Ending

RF, IF, TF = int(RFLAGS.RF), int(RFLAGS.IF), int(RFLAGS.TF)
MISSING = 0x7000_0000

Guest = Any
"""conftest.Guest: test modules do not import one another."""


def vectors(ended: Any) -> list[tuple[int, int | None, bool]]:
    """Vector, error code and whether a handler was entered, of each event."""
    return [(e.vector, e.error_code, e.handler is not None) for e in ended.events]


def unmap(guest: Guest, va: int) -> None:
    step = guest.machine.walk(va).steps[-1]
    guest.memory.write_u64(step.address, 0)


# The frame (6.14.2).


def test_the_frame_of_a_fault_in_ring_0(guest: Guest) -> None:
    ended = guest.run("stc\nfault: mov rax, [0x70000000]\nhlt\nhandler: hlt", {14: "handler"})
    frame = guest.frame(ended, error_code=True)
    assert guest.entered(ended, "handler")
    assert frame.error_code == 0
    assert frame.rip == guest.program.labels["fault"]
    assert frame.cs == 0x08
    assert frame.rflags == RF | 2 | 1, "RF, so that the instruction is not trapped again"
    assert (frame.rsp, frame.ss) == (guest.RSP, 0x10)
    assert ended.registers["rsp"] % 16 == 0, "aligned before six words are pushed"
    assert ended.control["cr2"] == MISSING


def test_the_stack_is_aligned_whatever_rsp_was(guest: Guest) -> None:
    for rsp in range(0x8_0000, 0x8_0010):
        ended = guest.run("ud2\nhandler: hlt", {6: "handler"}, rsp=rsp)
        assert ended.registers["rsp"] == (rsp & ~15) - 40
        assert guest.frame(ended, error_code=False).rsp == rsp


def test_ring_3_enters_ring_0_on_rsp0(guest: Guest, gate: Any) -> None:
    ended = guest.run("hlt\nuser: mov rax, [0x1000]", {14: gate()}, user=True)
    frame = guest.frame(ended, error_code=True)
    assert ended.cpl == 0
    assert ended.registers["rsp"] == guest.RSP0 - 48
    assert frame.error_code == 0b101, "present and user"
    assert (frame.rip, frame.cs) == (guest.USER, 0x23)
    assert (frame.rsp, frame.ss) == (guest.USER_STACK, 0x1B)
    assert frame.rflags == RF | IF | 2
    assert ended.events[0].cpl == 3


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("ist", [1, 2])
def test_ist_switches_the_stack_from_any_ring(
    guest: Guest, gate: Any, user: bool, ist: int
) -> None:
    ended = guest.run("ud2\nuser: ud2", {6: gate(ist=ist)}, user=user)
    assert ended.registers["rsp"] == guest.IST[ist - 1] - 40
    assert guest.frame(ended, error_code=False).rsp == (guest.USER_STACK if user else guest.RSP)


def test_an_interrupt_gate_clears_if_and_a_trap_gate_does_not(guest: Guest, gate: Any) -> None:
    for trap in (False, True):
        ended = guest.run("sti\nnop\nint 0x80", {0x80: gate(trap=trap)})
        assert bool(ended.rflags & IF) is trap
        assert guest.frame(ended, error_code=False).rflags & IF


def test_an_int_pushes_the_address_behind_it_and_no_rf(guest: Guest) -> None:
    ended = guest.run("int 0x80\nafter: hlt\nhandler: hlt", {0x80: "handler"})
    frame = guest.frame(ended, error_code=False)
    assert frame.rip == guest.program.labels["after"]
    assert not frame.rflags & RF


def test_an_int_to_a_vector_with_an_error_code_pushes_none(guest: Guest) -> None:
    ended = guest.run("int 14\nafter: hlt\nhandler: hlt", {14: "handler"})
    assert guest.frame(ended, error_code=False).rip == guest.program.labels["after"]
    assert vectors(ended) == [(14, None, True)]


def test_a_single_step_traps_behind_each_instruction(guest: Guest) -> None:
    ended = guest.run(
        """
        pushfq
        or qword ptr [rsp], 0x100
        popfq
        nop
        nop
        and qword ptr [rsp], -0x101
        popfq
        hlt
    handler:
        inc rbx
        cmp rbx, 2
        jne back
        and qword ptr [rsp + 16], -0x101
    back:
        iretq
        """,
        {1: "handler"},
    )
    assert [e.rip - guest.program.base for e in ended.events] == [0x12, 0x13]
    assert ended.ending is Ending.HALT


def test_a_breakpoint_register_faults_before_its_instruction_once(guest: Guest) -> None:
    ended = guest.run(
        """
        lea rax, [rip + here]
        mov dr0, rax
        mov eax, 3
        mov dr7, rax
        nop
    here:
        inc rcx
        hlt
    handler:
        inc rbx
        iretq
        """,
        {1: "handler"},
    )
    assert [e.rip for e in ended.events] == [guest.program.labels["here"]]
    assert (ended.registers["rbx"], ended.registers["rcx"]) == (1, 1), "RF let it go on"


def test_int1_is_a_trap(guest: Guest) -> None:
    ended = guest.run(".byte 0xf1\nafter: hlt\nhandler: hlt", {1: "handler"})
    frame = guest.frame(ended, error_code=False)
    assert frame.rip == guest.program.labels["after"]
    assert not frame.rflags & RF


def test_32_bit_code_in_long_mode_enters_a_64_bit_handler(guest: Guest, gate: Any) -> None:
    guest.memory.write_u64(guest.gdt[0] + 0x20, 0x00CF_FA00_0000_FFFF)
    try:
        # mov eax, [0x1000] in 32-bit code
        ended = guest.run(
            "mov rax, 0x00cffa000000ffff\nmov [0x20020], rax\nhlt\nuser: .byte 0xa1, 0, 0x10, 0, 0",
            {14: gate()},
            user=True,
        )
    finally:
        guest.memory.write_u64(guest.gdt[0] + 0x20, 0x0020_FA00_0000_0000)
    frame = guest.frame(ended, error_code=True)
    assert (frame.rip, frame.cs, frame.error_code) == (guest.USER, 0x23, 5)
    assert (ended.cpl, ended.control["cr2"]) == (0, 0x1000)


# Any number of them.


def test_a_thousand_faults_of_three_kinds_and_none_is_lost(guest: Guest) -> None:
    ended = guest.run(
        f"""
        mov ecx, 334
    again:
        mov rax, [{MISSING}]
        mov eax, 0x80
        mov ds, eax
        ud2
        dec ecx
        jnz again
        hlt
    page:
        mov r9, 8
        jmp drop
    general:
        mov r9, 2
    drop:
        add rsp, 8
        jmp step
    undefined:
        mov r9, 2
    step:
        add [rsp], r9
        inc rbx
        iretq
        """,
        {14: "page", 13: "general", 6: "undefined"},
    )
    assert ended.ending is Ending.HALT
    assert ended.registers["rbx"] == 1002
    assert vectors(ended) == [(14, 0, True), (13, 0x80, True), (6, None, True)] * 334


def test_events_beyond_those_kept_are_counted(guest: Guest, monkeypatch: Any) -> None:
    monkeypatch.setattr("harness.engine.unicorn.run._KEPT_EVENTS", 5)
    ended = guest.run(
        "mov ecx, 12\nagain: int3\ndec ecx\njnz again\nhlt\nhandler: iretq", {3: "handler"}
    )
    assert (len(ended.events), ended.dropped) == (5, 7)


# int n (volume 2, INT n: DPL of the gate against CPL; no double fault).


def test_ring_3_may_use_a_gate_of_dpl_3(guest: Guest, gate: Any) -> None:
    ended = guest.run("hlt\nuser: int 0x80", {0x80: gate(dpl=3)}, user=True)
    assert (ended.cpl, vectors(ended)) == (0, [(0x80, None, True)])
    assert guest.frame(ended, error_code=False).rip == guest.USER + 2


@pytest.mark.parametrize(
    ("code", "vector", "address"),
    [("int 0x80", 0x80, 0), ("nop\nint3", 3, 1), (".byte 0xcd, 3", 3, 0), ("int 14", 14, 0)],
)
def test_ring_3_may_not_use_a_gate_of_dpl_0(
    guest: Guest, gate: Any, code: str, vector: int, address: int
) -> None:
    ended = guest.run(f"hlt\nuser: {code}\nhlt", {vector: gate(), 13: gate()}, user=True)
    assert vectors(ended) == [(vector, None, False), (13, vector * 8 + 2, True)]
    frame = guest.frame(ended, error_code=True)
    assert (frame.error_code, frame.rip) == (vector * 8 + 2, guest.USER + address)
    assert frame.rflags & RF, "the int is to be run again"


def test_a_hardware_exception_does_not_look_at_dpl(guest: Guest, gate: Any) -> None:
    ended = guest.run("hlt\nuser: ud2", {6: gate(dpl=0)}, user=True)
    assert vectors(ended) == [(6, None, True)]


def test_int_n_to_a_gate_that_is_not_present_is_np(guest: Guest, gate: Any) -> None:
    for vector in (0x80, 13):  # never a double fault, whatever its number
        ended = guest.run(f"int {vector}", {vector: gate(present=False), 11: gate()})
        assert vectors(ended) == [(vector, None, False), (11, vector * 8 + 2, True)]


# When delivery fails (6.15, table 6-5). The error codes of what is not asked for have EXT.


def test_a_benign_exception_whose_gate_is_not_present_is_np(guest: Guest, gate: Any) -> None:
    ended = guest.run("ud2", {6: gate(present=False), 11: gate()})
    assert vectors(ended) == [(6, None, False), (11, 6 * 8 + 3, True)]
    assert ended.events[0].note == "the IDT's gate for #UD is not present"


def test_a_benign_exception_beyond_the_idt_is_gp(guest: Guest, gate: Any) -> None:
    guest.idt = (guest.idt[0], 14 * 16 + 15)
    ended = guest.run("int 0x20", {13: gate()})
    assert vectors(ended) == [(0x20, None, False), (13, 0x20 * 8 + 2, True)]
    assert ended.events[0].note == "the IDT, limit 0xef, has no gate for int 0x20"


def test_contributory_on_contributory_is_a_double_fault(guest: Guest, gate: Any) -> None:
    ended = guest.run(
        "mov eax, 0x80\nmov ds, eax", {13: gate(present=False), 11: gate(), 8: gate(ist=1)}
    )
    assert vectors(ended) == [(13, 0x80, False), (8, 0, True)]
    assert ended.registers["rsp"] == guest.IST[0] - 48
    assert guest.frame(ended, error_code=True).error_code == 0


def test_a_page_fault_on_contributory_is_a_page_fault(guest: Guest, gate: Any) -> None:
    unmap(guest, 0x1F_F000)
    ended = guest.run(
        "mov rsp, 0x200000\nmov eax, 0x80\nmov ds, eax", {13: gate(), 14: gate(ist=1)}
    )
    assert vectors(ended) == [(13, 0x80, False), (14, 2, True)]
    assert ended.control["cr2"] == 0x20_0000 - 48


def test_a_page_fault_on_a_page_fault_is_a_double_fault(guest: Guest, gate: Any) -> None:
    unmap(guest, 0x1F_F000)
    ended = guest.run(
        f"mov rsp, 0x200000\nfault: mov rax, [{MISSING}]", {14: gate(), 8: gate(ist=1)}
    )
    assert vectors(ended) == [(14, 0, False), (8, 0, True)]
    assert guest.frame(ended, error_code=True).rip == guest.program.labels["fault"]
    assert ended.control["cr2"] == 0x20_0000 - 48, "of the second"


def test_contributory_on_a_page_fault_is_a_double_fault(guest: Guest, gate: Any) -> None:
    ended = guest.run(f"mov rax, [{MISSING}]", {14: gate(present=False), 8: gate()})
    assert vectors(ended) == [(14, 0, False), (8, 0, True)]


def test_a_page_fault_on_a_benign_exception_is_a_page_fault(guest: Guest, gate: Any) -> None:
    unmap(guest, 0x1F_F000)
    ended = guest.run("mov rsp, 0x200000\nud2", {6: gate(), 14: gate(ist=1)})
    assert vectors(ended) == [(6, None, False), (14, 2, True)]


def test_an_idt_that_is_not_mapped_ends_in_shutdown(guest: Guest, gate: Any) -> None:
    unmap(guest, guest.idt[0])
    ended = guest.run("ud2", {6: gate(), 14: gate(), 8: gate()})
    assert ended.ending is Ending.SHUTDOWN
    assert ended.detail == "a triple fault: no handler could be entered"
    assert vectors(ended) == [(6, None, False), (14, 0, False), (8, 0, False)]
    assert ended.fault == ended.events[0]
    assert ended.control["cr2"] == guest.idt[0] + 8 * 16


def test_a_third_fault_shuts_down(guest: Guest, gate: Any) -> None:
    unmap(guest, 0x1F_F000)
    ended = guest.run(f"mov rsp, 0x200000\nmov rax, [{MISSING}]", {14: gate(), 8: gate()})
    assert ended.ending is Ending.SHUTDOWN
    assert vectors(ended) == [(14, 0, False), (8, 0, False)]


def test_a_stack_that_is_not_canonical_is_ss(guest: Guest, gate: Any) -> None:
    ended = guest.run("mov rsp, 0x8000000000000000\nud2", {6: gate(), 12: gate(ist=1)})
    assert vectors(ended) == [(6, None, False), (12, 1, True)]


def test_a_handler_that_is_not_canonical_is_gp(guest: Guest, gate: Any) -> None:
    ended = guest.run("ud2\nint 0x80", {6: gate(1 << 63), 13: gate()})
    assert vectors(ended) == [(6, None, False), (13, 1, True)]
    assert guest.frame(ended, error_code=True).rsp == guest.RSP, "nothing was lost of the stack"


@pytest.mark.parametrize(
    ("selector", "error_code", "note"),
    [
        (0x00, 0x00, "the gate's code selector is null"),
        (0x10, 0x10, "selector 0x10 is not 64-bit code for CPL 0"),
        (0x20, 0x20, "selector 0x20 is not 64-bit code for CPL 0"),
        (0x0C, 0x0C, "the LDT has no descriptor for selector 0xc"),
        (0x88, 0x88, "the GDT has no descriptor for selector 0x88"),
    ],
)
def test_a_gate_to_no_code_segment_is_gp(
    guest: Guest, gate: Any, selector: int, error_code: int, note: str
) -> None:
    ended = guest.run("ud2", {6: gate(selector=selector), 13: gate()})
    assert vectors(ended) == [(6, None, False), (13, error_code | 1, True)]
    assert ended.events[0].note == note


def test_a_code_segment_that_is_not_present_is_np(guest: Guest, gate: Any) -> None:
    ended = guest.run("ud2", {6: gate(selector=0x38), 11: gate()})
    assert vectors(ended) == [(6, None, False), (11, 0x39, True)]
    assert ended.events[0].note == "the code segment 0x38 is not present"


def test_a_tss_too_short_for_the_stack_is_ts(guest: Guest, gate: Any) -> None:
    short = 0x0000_8900_0000_0000 | 0x2_2000 << 16 | 43  # up to IST1
    source = f"""
        mov rax, {short:#x}
        mov [0x20028], rax
        mov ax, 0x28
        ltr ax
        ud2
    """
    ended = guest.run(source, {6: gate(ist=2), 10: gate()})
    assert vectors(ended) == [(6, None, False), (10, 0x28 | 1, True)]
    assert ended.events[0].note == "the TSS, limit 0x2b, does not hold IST2"
    ended = guest.run(source, {6: gate(ist=1), 10: gate()})
    assert vectors(ended) == [(6, None, True)]


# The CPU's own accesses are a supervisor's, and implicit (4.6.1).


@pytest.mark.parametrize("ac", [False, True])
@pytest.mark.parametrize("user", [False, True])
def test_smap_guards_the_idt_whatever_ac(guest: Guest, gate: Any, ac: bool, user: bool) -> None:
    for step in guest.machine.walk(guest.idt[0]).steps:
        guest.memory.write_u64(step.address, step.raw | 4)
    flags = int(RFLAGS.AC) if ac else 0
    for smap in (False, True):
        cpu = CpuState(
            cr3=guest.machine.cpu.cr3,
            cr4=int(CR4.PAE | (CR4.SMAP if smap else CR4(0))),
            rflags=flags,
        )
        ended = guest.run("ud2\nuser: ud2", {6: gate(), 14: gate(), 8: gate()}, cpu=cpu, user=user)
        if smap:
            assert ended.ending is Ending.SHUTDOWN
            assert vectors(ended) == [(6, None, False), (14, 1, False), (8, 0, False)]
        else:
            assert vectors(ended) == [(6, None, True)]


def test_ring_3_reaches_an_idt_on_supervisor_pages(guest: Guest, gate: Any) -> None:
    assert not guest.machine.walk(guest.idt[0]).rights.user
    ended = guest.run("hlt\nuser: int 0x80", {0x80: gate(dpl=3)}, user=True)
    assert vectors(ended) == [(0x80, None, True)]


def test_the_accesses_of_delivery_set_a_and_d(guest: Guest, gate: Any) -> None:
    accessed, dirty = 0x20, 0x40
    pages = {"idt": guest.idt[0], "gdt": guest.gdt[0], "tss": 0x2_2000, "stack": guest.IST[0] - 1}
    entries = {name: guest.machine.walk(va).steps[-1].address for name, va in pages.items()}

    def clear() -> None:
        for entry in entries.values():
            guest.memory.write_u64(entry, guest.memory.read_u64(entry) & ~(accessed | dirty))

    clear()
    ended = guest.run("ud2", {6: gate(ist=1)})
    assert vectors(ended) == [(6, None, True)]
    bits = {name: guest.memory.read_u64(entry) for name, entry in entries.items()}
    assert all(word & accessed for word in bits.values())
    assert bits["stack"] & dirty
    assert not bits["idt"] & dirty


def test_a_stack_outside_ram_ends_the_run(guest: Guest, gate: Any) -> None:
    guest.machine.map(0xA0_0000, 0x700_0000, 0x1000, "W")
    ended = guest.run("mov rsp, 0xa00800\nud2", {6: gate()})
    assert ended.ending is Ending.NO_MEMORY
    assert ended.detail == "exception 6 needs memory at 0x70007d8, not RAM"


# #SS or #GP.


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        ("push rax", 12),
        ("pop rax", 12),
        ("mov rax, [rsp]", 12),
        ("mov [rsp + 8], rax", 12),
        ("mov rbp, rsp\nmov rax, [rbp - 8]", 12),
        ("mov rbp, rsp\nleave", 12),
        ("call 0x100000", 12),
        ("ret", 12),
        ("mov rsi, rsp\nmov rax, [rsi]", 13),
        ("mov rsi, rsp\nmov rax, [rsi + rcx * 8]", 13),
        ("mov rsi, rsp\nmov rsp, 0x80000\npush qword ptr [rsi]", 13),
    ],
)
def test_through_ss_is_a_stack_fault(guest: Guest, gate: Any, code: str, vector: int) -> None:
    ended = guest.run(f"mov rsp, 0x800000001000\n{code}", {12: gate(ist=1), 13: gate(ist=1)})
    assert vectors(ended) == [(vector, 0, True)]


def test_leave_pops_from_rbp(guest: Guest, gate: Any) -> None:
    ended = guest.run("mov rbp, 0x800000000000\nleave", {12: gate(ist=1), 13: gate(ist=1)})
    assert vectors(ended) == [(12, 0, True)]
    ended = guest.run(
        "mov rbp, rsp\npush rax\nmov rax, 0x800000000000\nmov rax, [rax]\nleave",
        {12: gate(ist=1), 13: gate(ist=1)},
    )
    assert vectors(ended) == [(13, 0, True)]
