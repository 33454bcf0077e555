"""The checker by itself: bytes that do not mean what the source says are refused."""

from __future__ import annotations

import pytest

from harness.asm.expression import Constants
from harness.asm.instruction import parse
from harness.asm.refusal import Refusal
from harness.asm.verify import disassemble, verify

# source, bytes of something else, bits, part of the reason
WRONG = [
    ("mov rax, rbx", "4889c8", 64, "the operand must be rbx"),
    ("mov rax, rbx", "89d8", 64, "the operand must be rax"),
    ("mov rax, rbx", "4839d8", 64, "the instruction must be mov, not cmp"),
    ("mov rax, rbx", "4889d890", 64, "one instruction"),
    ("mov rax, rbx", "4889", 64, "one instruction"),
    ("mov rax, rbx", "", 64, "one instruction"),
    ("mov rax, 5", "4889d8", 64, "the operand must be an immediate"),
    ("mov rax, 5", "48c7c006000000", 64, "the immediate must be 0x5"),
    ("mov rax, 0x80000000", "48c7c000000080", 64, "the immediate must be 0x80000000"),
    ("mov rax, [rbx]", "4889d8", 64, "the operand must be in memory"),
    ("mov rax, [rbx]", "488b01", 64, "the address must be made of rbx"),
    ("mov rax, [rbx + rcx*4]", "488b04cb", 64, "the address must be made of rbx + rcx*4"),
    ("mov rax, [rcx + rbx]", "488b040b", 64, "the address must be made of rcx + rbx*1"),
    ("mov rax, [rbx + 8]", "488b4309", 64, "the displacement must be 0x8"),
    ("mov rax, [0x1000]", "488b0500100000", 64, "the address must be 0x1000, not 0x2000"),
    ("mov rax, [rip + 8]", "488b0509000000", 64, "the displacement must be 0x8"),
    ("mov rax, gs:[rbx]", "488b03", 64, "the segment must be the one in the source"),
    ("mov rax, [rbx]", "65488b03", 64, "the segment must be the one in the source"),
    ("mov rax, [rbx]", "67488b03", 64, "the address must be made of rbx"),
    ("add dword ptr [rbx], 1", "48830301", 64, "the memory operand must be 4 bytes, not 8"),
    ("push [rbx]", "66ff33", 64, "the memory operand must be 8 bytes"),
    ("push 5", "666a05", 64, "push of a number must push 8 bytes, not 2"),
    ("push ds", "661e", 32, "the operand size must not be overridden"),
    ("lgdt [0x5100]", "660f011500510000", 32, "the operand size must not be overridden"),
    ("jmp far [rax]", "ff20", 64, "the jmp must be far"),
    ("jmp [rax]", "ff28", 64, "the jmp must be near"),
    ("call far [rax]", "ff10", 64, "the call must be far"),
    ("jmp 8:0x10100", "66ea00010800", 32, "the far target must be 0x8:0x10100"),
    ("je 0x1010", "7510", 64, "the instruction must be je, not jne"),
    ("je 0x1010", "7410", 64, "the target must be 0x1010"),
    ("add eax, ebx", "f001d8", 64, "one instruction"),
    ("add [rax], ebx", "f00118", 64, "the prefixes must be none, not lock"),
    ("lock add [rax], ebx", "0118", 64, "the prefixes must be lock, not none"),
    ("rep movsb", "f2a4", 64, "the prefixes must be rep, not repne"),
    ("movsb", "a5", 64, "the instruction must be movsb, not movsd"),
    ("nop", "6690", 64, "the operand size must not be overridden"),
    ("nop", "6790", 64, "the address size must not be overridden"),
    ("mov rax, 8:16", "4889d8", 64, "selector:offset must be the only operand"),
    ("mov rax, [rbx + (1 << 64)]", "488b03", 64, "the displacement must fit 64 bits"),
    ("mov eax, [ebx + (1 << 32)]", "678b03", 64, "the displacement must fit 32 bits"),
    ("mov rax, dr8", "440f21c0", 64, "a debug register must be one of dr0 to dr7"),
    ("imul eax, ebx, 3", "0fafc3", 64, "must have 3 operands, not 2"),
    ("movzx eax, [rax]", "0fb600", 64, "the size of the memory operand must be written"),
    ("shl [rax], cl", "d220", 64, "the size of the memory operand must be written"),
    ("sub eax, ebx", "29c3", 64, "the operand must be eax"),
]


@pytest.mark.parametrize(("source", "code", "bits", "reason"), WRONG)
def test_wrong_bytes(source: str, code: str, bits: int, reason: str) -> None:
    insn = parse(source, Constants({}))
    with pytest.raises(Refusal) as caught:
        verify(insn, bytes.fromhex(code), bits, 0xFF9)
    assert reason in caught.value.reason
    assert caught.value.made == disassemble(bytes.fromhex(code), bits, 0xFF9)


# Other encodings of the same meaning agree.
SAME = [
    ("mov rax, rbx", "488bc3", 64),
    ("mov rax, rbx", "4889d8", 64),
    ("mov rax, 5", "48b80500000000000000", 64),
    ("mov rax, [0x1000]", "488b0500000000", 64),
    ("mov rax, [0x1000]", "488b042500100000", 64),
    ("mov rax, [0x1000]", "48a10010000000000000", 64),
    ("test rax, [rbx]", "488503", 64),
    ("xchg rbx, rax", "4893", 64),
    ("jnae 0x1010", "7215", 64),
    ("and eax, 0xfffffff0", "83e0f0", 64),
]


@pytest.mark.parametrize(("source", "code", "bits"), SAME)
def test_same_meaning(source: str, code: str, bits: int) -> None:
    verify(parse(source, Constants({})), bytes.fromhex(code), bits, 0xFF9)


def test_disassemble_shows_what_cannot_be_decoded() -> None:
    assert disassemble(bytes.fromhex("90f08918"), 64, 0) == "nop; undecodable bytes f0 89 18"
    assert disassemble(bytes.fromhex("66cf"), 64, 0) == "iretw"
