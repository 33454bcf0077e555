"""What the source says, before anyone assembles it."""

from __future__ import annotations

import pytest

from harness.asm.expression import Constants, Value
from harness.asm.instruction import (
    FarPointer,
    Immediate,
    Instruction,
    Memory,
    Operand,
    Register,
    parse,
)
from harness.asm.refusal import Refusal


class _Scope(Constants):
    def symbol(self, name: str) -> Value:
        return Value(0x8000, is_address=True) if name == "label" else super().symbol(name)


SCOPE = _Scope({"SIZE": 8})


def operand(text: str) -> Operand:
    insn = parse(f"x {text}", SCOPE)
    assert len(insn.operands) == 1
    return insn.operands[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("RAX", Register("rax")),
        ("st(1)", Register("st(1)")),
        ("st", Register("st(0)")),
        ("5", Immediate(5)),
        ("label", Immediate(0x8000, True)),
        ("offset label + 4", Immediate(0x8004, True)),
        ("8:0x10", FarPointer(8, 16)),
        ("[rax]", Memory(base="rax")),
        ("[RAX + RCX*8 - 16]", Memory(base="rax", index="rcx", scale=8, disp=-16)),
        ("[8 * rcx + rax]", Memory(base="rax", index="rcx", scale=8)),
        ("[rax + rcx*SIZE + SIZE*2]", Memory(base="rax", index="rcx", scale=8, disp=16)),
        ("[rcx*4]", Memory(index="rcx", scale=4)),
        ("[rax + rbp]", Memory(base="rax", index="rbp")),
        ("[rax + rsp]", Memory(base="rsp", index="rax")),
        ("[rax + -8]", Memory(base="rax", disp=-8)),
        ("[-8 + rax]", Memory(base="rax", disp=-8)),
        ("[+rax]", Memory(base="rax")),
        ("[rax - (4 - 12)]", Memory(base="rax", disp=8)),
        ("[rax + (1 << 4 | 1)]", Memory(base="rax", disp=17)),
        ("[rax + label - 4]", Memory(base="rax", disp=0x7FFC, is_address=True)),
        ("[1 << 4 | 1]", Memory(disp=17)),
        ("[label]", Memory(disp=0x8000, is_address=True)),
        ("[rip + label]", Memory(disp=0x8000, is_address=True)),
        ("[label + rip + 2]", Memory(disp=0x8002, is_address=True)),
        ("[rip + 8]", Memory(base="rip", disp=8)),
        ("qword ptr [rax]", Memory(8, base="rax")),
        ("xmmword PTR [rax]", Memory(16, base="rax")),
        ("oword ptr [rax]", Memory(16, base="rax")),
        ("dword ptr fs:[rax]", Memory(4, "fs", "rax")),
        ("gs:[0x10]", Memory(segment="gs", disp=16)),
        ("byte [rax]", Memory(1, base="rax", has_ptr=False)),
    ],
)
def test_operand(text: str, wanted: Operand) -> None:
    assert operand(text) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[rax + rcx + rdx]", "at most one base and one scaled index"),
        ("[rax*2 + rcx*4]", "at most one base and one scaled index"),
        ("[rax - rcx]", "a register must be added to an address, not subtracted: rcx"),
        ("[rax * rcx]", "must stand alone or times 1, 2, 4 or 8, not in rax*rcx"),
        ("[rax * 4 * 2 * rcx]", "must stand alone or times"),
        ("[(rax + 4)]", "must stand alone or times"),
        ("[rax + 1 << 4]", "an expression with << beside a register must have parentheses"),
        ("[rax | 4]", "must stand alone or times"),
        ("[rip + rax]", "an address relative to rip must be `[rip + label]` and no more"),
        ("[eip + 4]", "an address relative to rip"),
        ("[ax]", "an address must be made of 32- or 64-bit registers, not ax"),
        ("[xmm0]", "an address must be made of 32- or 64-bit registers, not xmm0"),
        ("[ds]", "an address must be made of 32- or 64-bit registers, not ds"),
        ("[rax][rbx]", "a memory operand must be one pair of brackets"),
        ("8[rax]", "a memory operand must be one pair of brackets"),
        ("[rax", "a memory operand must be one pair of brackets"),
        ("[]", "an expression must stand here"),
        ("[gs:0x10]", "a segment must stand before the bracket"),
        ("gs:0x10", "memory must be written with brackets, as in `gs:[0x10]`"),
        ("dword ptr 5", "dword must be followed by a memory operand"),
        ("dword 5", "dword must be followed by a memory operand"),
        ("%rax", "registers must be written without %"),
        ("rax rbx", "a name must be a constant"),
        ("rax,", "an operand must stand between the commas"),
        ("\x01", "an operand must be made of"),
        ("é", "an operand must be made of"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        operand(text)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("REP MOVSB", Instruction("movsb", prefixes=("rep",))),
        ("repz cmpsb", Instruction("cmpsb", prefixes=("rep",))),
        ("repnz scasb", Instruction("scasb", prefixes=("repne",))),
        ("sal eax, 2", Instruction("shl", (Register("eax"), Immediate(2)))),
        ("shr eax", Instruction("shr", (Register("eax"), Immediate(1)))),
        (
            "imul eax, 3",
            Instruction("imul", (Register("eax"), Register("eax"), Immediate(3))),
        ),
        ("jmp short 5", Instruction("jmp", (Immediate(5),), distance="short")),
        ("jnz near 5", Instruction("jnz", (Immediate(5),), distance="near")),
        ("jmp far ptr [rax]", Instruction("jmp", (Memory(base="rax"),), far=True)),
        ("ljmp [rax]", Instruction("jmp", (Memory(base="rax"),), far=True)),
        ("call 8:16", Instruction("call", (FarPointer(8, 16),), far=True)),
        ("jmp fword ptr [rax]", Instruction("jmp", (Memory(6, base="rax"),), far=True)),
        ("lretq", Instruction("retfq")),
    ],
)
def test_instruction(text: str, wanted: Instruction) -> None:
    assert parse(text, SCOPE) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rep", "rep must stand before an instruction"),
        ("rep lock rep nop", "an instruction must have at most two prefixes"),
        ("5 nop", "a statement must begin with a mnemonic, a label or a directive"),
        ("[rax]", "a statement must begin with a mnemonic, a label or a directive"),
    ],
)
def test_no_instruction(text: str, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(text, SCOPE)
    assert caught.value.reason == reason
