# ruff: noqa: E501 - a row is a line
"""The instructions that a kernel executes: right on this engine, done by the harness, or refused.

Each row of the table is a kernel; ``docs/instructions.md`` is made from the rows::

    python tests/engine/preflight/test_instructions.py > docs/instructions.md
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from harness import read_kernel
from harness.resources import asm_dir

ROOT = Path(__file__).parents[3]


class Row(NamedTuple):
    """One group of instructions.

    ``code`` runs in ring 0; what it raises is caught and ends it. ``raises`` is a list such as
    ``#PF 0x2``; ``unsupported`` ends the run; nothing is a run to its end.
    """

    names: str
    says: str
    source: str
    code: str
    raises: str


RIGHT = (
    Row("mov, and all that loads", "a read", "2B MOV", "mov rax, [0x901000]", "#PF 0x0"),
    Row("mov, and all that stores", "a write", "2B MOV", "mov [0x900000], rax", "#PF 0x3"),
    Row("cmovcc", "reads whatever the condition", "2A CMOVcc", "xor eax, eax\ncmovnz rax, [rbx]", "#PF 0x0"),
    Row("add, xchg, lock …", "a write, checked before the read", "2A ADD", "lock inc qword ptr [0x900000]", "#PF 0x3"),
    Row("push, call", "a write below RSP", "2B PUSH", "mov rsp, 0x901100\npush rax", "#PF 0x2"),
    Row("pop, ret, leave", "a read at RSP", "2B POP", "mov rsp, 0x901100\npop rax", "#PF 0x0"),
    Row("movs, stos, cmps, scas, lods", "restarted where they faulted", "2B MOVS", "mov rdi, 0x800ff8\nmov ecx, 2\nrep stosq", "#PF 0x2"),
    Row("lgdt, lidt (operand)", "10 bytes are read", "2A LGDT", "lgdt [0x901000]", "#PF 0x0"),
    Row("sgdt, sidt", "10 bytes are written", "2B SGDT", "sgdt [0x900000]", "#PF 0x3"),
    Row("cmpxchg16b", "must be aligned to 16", "2A CMPXCHG16B", "cmpxchg16b [0x800008]", "#GP 0x0"),
    Row("fxsave, fxrstor", "must be aligned to 16", "2A FXSAVE", "mov rax, cr4\nor rax, 0x200\nmov cr4, rax\nfxsave [0x800008]", "#GP 0x0"),
    Row("movups, movdqu, lddqu", "need not be aligned", "2B MOVUPS", "mov rax, cr4\nor rax, 0x200\nmov cr4, rax\nmovups xmm0, [0x800001]", ""),
    Row("invlpg, prefetcht0, nop", "access nothing", "2A INVLPG", "invlpg [0x901000]\nprefetcht0 [0x901000]\nnop dword ptr [rbx]", ""),
    Row("lea", "accesses nothing", "2A LEA", "lea rax, [rbx]", ""),
)  # fmt: skip
DONE = (
    Row("clflush, clflushopt, clwb", "a read of a byte", "2A CLFLUSH", "clflush [0x901000]", "#PF 0x0"),
    Row("monitor", "a read of a byte", "2B MONITOR", "mov rax, rbx\nxor ecx, ecx\nxor edx, edx\nmonitor", "#PF 0x0"),
    Row("enter", "a write at the last RSP must be possible", "2A ENTER", "mov rsp, 0x800100\nenter 0x2000, 0", "#PF 0x2"),
    Row("movaps, and SSE operands of 16 bytes", "must be aligned to 16", "2A 2.4", "mov rax, cr4\nor rax, 0x200\nmov cr4, rax\nmovaps xmm0, [0x800001]", "#GP 0x0"),
    Row("paddb, pxor … with memory", "must be aligned to 16", "2A 2.4", "mov rax, cr4\nor rax, 0x200\nmov cr4, rax\npxor xmm0, [0x800008]", "#GP 0x0"),
    Row("mov cr0", "refused bits and combinations", "2B MOV CR", "mov rax, 0xa0050033\nmov cr0, rax", "#GP 0x0"),
    Row("mov cr3", "bits 63:MAXPHYADDR", "2B MOV CR", "mov rax, 0x20000001000\nmov cr3, rax", "#GP 0x0"),
    Row("mov cr4", "reserved bits, PAE and LA57 in long mode", "2B MOV CR", "mov rax, 0x8020\nmov cr4, rax", "#GP 0x0"),
    Row("mov cr8, mov dr", "bits that must be 0", "2B MOV DR", "mov rax, 0x100000000\nmov dr7, rax", "#GP 0x0"),
    Row("wrmsr", "reserved bits of EFER, types of PAT, canonical addresses", "2D WRMSR", "mov ecx, 0xc0000082\nmov edx, 0x8000\nwrmsr", "#GP 0x0"),
    Row("wrfsbase, wrgsbase", "canonical addresses", "2D WRFSBASE", "mov rax, cr4\nor rax, 0x10000\nmov cr4, rax\nmov rax, 0x800000000000\nwrgsbase rax", "#GP 0x0"),
    Row("lgdt, lidt, lldt, ltr (base)", "canonical addresses", "2A LGDT", "mov rax, 0x800000000000\nmov [0x800002], rax\nlgdt [0x800000]", "#GP 0x0"),
    Row("iretq, retfq", "the stack with the CPL's rights, canonical RIP, A of CS and SS", "2A IRET", "push KERNEL_CODE\nmov rax, 0x800000000000\npush rax\nretfq", "#GP 0x0"),
    Row("call far, jmp far", "the same", "2A CALL", "mov rax, 0x800000000000\nmov [0x800000], rax\nmov word ptr [0x800008], KERNEL_CODE\nmov rdx, 0x800000\njmp far tbyte ptr [rdx]", "#GP 0x0"),
    Row("jmp, ret, call", "canonical RIP, at the jump", "2A JMP", "mov rax, 0x800000000000\njmp rax", "#GP 0x0"),
    Row("sysret, sysexit", "canonical RIP", "2B SYSRET", "mov rcx, 0x800000000000\nmov r11, 2\nsysretq", "#GP 0x0"),
    Row("mov sreg, pop fs, lss …, lar, lsl, verr", "descriptors are read without AC", "3A 4.6.1", "mov rax, 0x900000\nmov [0x800002], rax\nmov ax, KERNEL_DATA\nmov ds, ax", ""),
    Row("syscall", "all of it", "2B SYSCALL", "mov ecx, 0xc0000080\nrdmsr\nor eax, 1\nwrmsr\nmov ecx, 0xc0000082\nlea rax, [rip + there]\nxor edx, edx\nwrmsr\nmov ecx, 0xc0000081\nmov edx, 0x100008\nxor eax, eax\nwrmsr\nsyscall\nthere:", ""),
    Row("int n, int3, exceptions", "gate, descriptor (GDT or LDT), TSS, frame, A of CS", "3A 6.14", "int3", "#BP"),
    Row("in, out", "IOPL and the TSS's I/O map", "1 19.5.2", "mov al, 'x'\nout 0xe9, al", ""),
    Row("CS, DS, ES, SS overrides", "are ignored, also behind FS or GS", "1 3.3.7.1", "mov rbp, 0x800000000000\n.byte 0x3e\nmov rax, [rbp]", "#SS 0x0"),
    Row("code over the end of a page", "what comes before the fetch is executed", "3A 4.7", "mov byte ptr [0x800fff], 0x90\nmov rax, 0x800fff\njmp rax", "#PF 0x10"),
)  # fmt: skip
REFUSED = (
    Row("rdmsr, wrmsr of other MSRs", "Unicorn gives 0 and takes all", "2D WRMSR", "mov ecx, 0x48\nrdmsr", "unsupported"),
    Row("mov cr4: PCIDE, PKS, CET, LAM_SUP, LASS, FRED, UINTR, KL, VMXE, SMXE", "not implemented", "2B MOV CR", "mov rax, 0x20020\nmov cr4, rax", "unsupported"),
    Row("sysenter", "not implemented", "2B SYSENTER", "sysenter", "unsupported"),
    Row("call gates", "not implemented", "2A CALL", "lea rdx, [rip + gdt]\nmov dword ptr [rdx + 0x10], 0x80000\nmov dword ptr [rdx + 0x14], 0x8c00\nmov word ptr [0x800008], 0x10\nmov rdx, 0x800000\njmp far tbyte ptr [rdx]", "unsupported"),
    Row("popf, iret, sysret: AC at CPL 3 with CR0.AM", "alignment checks are not implemented", "3A 6.15 #AC", "mov rax, cr0\nor rax, 0x40000\nmov cr0, rax\npush USER_DATA\npush 0x800800\npush 0x40002\npush USER_CODE\npush 0x800000\niretq", "unsupported"),
    Row("in, out by the I/O map alone", "not implemented", "1 19.5.2", "", ""),
)  # fmt: skip
GROUPS = {
    "Right on this engine": RIGHT,
    "Done by the harness": DONE,
    "Refused: the run ends as `unsupported`": REFUSED,
}
ROWS = [row for rows in GROUPS.values() for row in rows if row.code]
_HEAD = """# Instructions

<!-- made by: python tests/engine/preflight/test_instructions.py > docs/instructions.md -->

What a kernel executes that touches memory, segments, control registers or MSRs, on the engine
`unicorn` (Unicorn 2.1.4). Before an instruction that Unicorn executes wrongly a run stops; the
harness makes the missing access or check through the CPU's own MMU, raises what the manual says, or
ends the run (`harness/engine/unicorn/preflight/`). Each row is a kernel that the tests run. Sources
are volumes of the Intel SDM.
"""


def page() -> str:
    """Return docs/instructions.md."""
    parts = [_HEAD]
    for title, rows in GROUPS.items():
        parts.append(
            f"\n## {title}\n\n| instructions | what is looked at | source |\n|---|---|---|\n"
        )
        parts += [f"| {row.names} | {row.says} | SDM {row.source} |\n" for row in rows]
    return "".join(parts)


_KERNEL = """; {names}
; [machine]
; ram = "4M"
; map = [
;   {{ va = 0x800000, pa = 0x200000, size = "4K", flags = "W" }},
;   {{ va = 0x900000, pa = 0x201000, size = "4K", flags = "" }},
; ]
.include "include/selectors.inc"
    call install_tables
{gates}
    mov rsp, 0x300000
    mov rbx, 0x901000
{code}
    hlt
caught:
    hlt
.include "include/exceptions.inc"
"""
_VECTORS = {"#UD": 6, "#BP": 3, "#SS": 12, "#GP": 13, "#PF": 14}
_GATE = """    lea rax, [rip + caught]
    mov ecx, {vector}
    call set_gate
    lea rdx, [rip + idt + {vector} * 16]
    mov byte ptr [rdx + 4], 1"""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names)
def test_an_instruction(row: Row, tmp_path: Path) -> None:
    (tmp_path / "include").symlink_to(asm_dir() / "include")
    gates = "\n".join(_GATE.format(vector=vector) for vector in _VECTORS.values())
    gates += "\n    lea rax, [rip + interrupt_stack]\n    mov [rip + tss + 36], rax"
    kernel = tmp_path / "row.asm"
    kernel.write_text(_KERNEL.format(names=row.names, gates=gates, code=row.code))
    ended = read_kernel(kernel).run().exit
    if row.raises == "unsupported":
        assert str(ended.ending) == "unsupported", (ended.ending, ended.events)
        return
    seen = [
        event.to_json()["exception"]
        + ("" if event.error_code is None else f" {event.error_code:#x}")
        for event in ended.events
    ]
    assert (str(ended.ending), seen) == ("halt", [row.raises] if row.raises else []), ended.detail


def test_the_page_is_made_from_these_rows() -> None:
    assert (ROOT / "docs" / "instructions.md").read_text() == page()


if __name__ == "__main__":
    print(page(), end="")
