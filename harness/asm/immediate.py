"""Numbers in instructions: what wraps, what fits, and what needs the long form of ``mov``."""

from __future__ import annotations

from dataclasses import replace

from harness.asm.instruction import Immediate, Instruction, Memory, Register
from harness.asm.refusal import Refusal
from harness.asm.verify import immediate_range

__all__ = ["check_immediate", "is_wide_move", "needs_movabs", "signed", "wrapped"]

_SIGNED_32 = frozenset({"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test", "mov"}) | {
    "imul"
}


def wrapped(insn: Instruction, bits: int) -> Instruction:
    """Wrap complements and negations to the width of their operand."""
    operands = list(insn.operands)
    for position, operand in enumerate(operands):
        if isinstance(operand, Immediate) and operand.wraps:
            low, high = immediate_range(insn, position, bits)
            if low < 0 and -high - 1 <= operand.value < low:
                operands[position] = Immediate(operand.value + high + 1)
    return replace(insn, operands=tuple(operands))


def check_immediate(insn: Instruction) -> None:
    """Say what an operation of 64 bits takes: a number of 32 bits with a sign."""
    if insn.mnemonic not in _SIGNED_32 or len(insn.operands) < 2:
        return
    first, last = insn.operands[0], insn.operands[-1]
    is_64 = (isinstance(first, Register) and first.kind == "general" and first.width == 64) or (
        isinstance(first, Memory) and first.size == 8
    )
    is_move = insn.mnemonic == "mov" and isinstance(first, Register)
    if not (is_64 and isinstance(last, Immediate)) or is_move:
        return
    if not -(1 << 31) <= signed(last.value, 64) < 1 << 31:
        raise Refusal(
            f"a 64-bit {insn.mnemonic} takes a number of 32 bits with a sign, -0x80000000 to "
            f"0x7fffffff, not {last.value:#x}: load it in a register first"
        )


def needs_movabs(insn: Instruction) -> bool:
    if not is_wide_move(insn):
        return False
    value = insn.operands[1]
    assert isinstance(value, Immediate)
    return not -(1 << 31) <= signed(value.value, 64) < 1 << 31


def is_wide_move(insn: Instruction) -> bool:
    return (
        insn.mnemonic in ("mov", "movabs")
        and len(insn.operands) == 2
        and isinstance(insn.operands[0], Register)
        and insn.operands[0].kind == "general"
        and insn.operands[0].width == 64
        and isinstance(insn.operands[1], Immediate)
    )


def signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value
