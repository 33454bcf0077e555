"""Jumps, far jumps and bare addresses: what our own encodings refuse."""

from __future__ import annotations

import pytest

from harness.asm import assemble
from harness.errors import AssemblyError

FAR = "a far jump or call must have a selector:offset or a memory operand"
FAR_MEMORY = "a far target in memory must be `fword ptr` (16:32) or `tbyte ptr` (16:64)"


@pytest.mark.parametrize(
    ("statement", "bits", "reason"),
    [
        ("jmp far 0x1000", 64, FAR),
        ("call far rax", 64, FAR),
        ("jmp far [rax], 5", 64, FAR),
        ("jmp far qword ptr [rax]", 64, FAR_MEMORY),
        ("jmp far tbyte ptr [eax]", 32, FAR_MEMORY),
        ("push 8:16", 32, "selector:offset must be the target of a jmp or call"),
        (
            "ljmp 0x10000:0",
            32,
            "a far target must be a 16-bit selector and a 32-bit offset, not 0x10000:0x0",
        ),
        (
            "ljmp 8:1 << 32",
            32,
            "a far target must be a 16-bit selector and a 32-bit offset, not 0x8:0x100000000",
        ),
        ("mov ebx, [1 << 64]", 64, "an address must fit 64 bits, not be 0x10000000000000000"),
        ("jmp 1 << 64", 64, "a jump target must be a 64-bit address, not 0x10000000000000000"),
        ("jmp 1 << 32", 32, "a jump target must be a 32-bit address, not 0x100000000"),
        ("movabs rbx, [0x1000]", 64, "movabs must have al, ax, eax or rax beside an address"),
        (
            "mov rbx, gs:[0x80000000]",
            64,
            "an address without a register must be within 2 GiB of address 0, not 0x8000_0000: "
            "load it in a register first",
        ),
    ],
)
def test_refused(statement: str, bits: int, reason: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(statement, base=0x1000, bits=bits)
    assert f"`{statement}`: {reason}" in str(caught.value)


def test_equal_statements_are_assembled_once() -> None:
    from harness.asm.encode import _encode_anywhere

    _encode_anywhere.cache_clear()
    assemble(".rept 100\nmov rax, [rbx]\n.endr", base=0)
    assert _encode_anywhere.cache_info().misses == 1
