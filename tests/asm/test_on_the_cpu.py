"""The CPU as judge: what was written is what happens, or it was refused.

Unicorn runs the assembled statement with paging off, and Python does the same arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.asm import assemble
from harness.errors import AssemblyError

unicorn = pytest.importorskip("unicorn")

BASE = 0x10_0000
RAX = {64: "rax", 32: "eax", 16: "ax", 8: "al"}
OTHERS = ["rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r12", "r13", "r15"]

EDGES = st.sampled_from(
    [n + d for n in (0, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 63, 1 << 64)
     for d in (-1, 0, 1)]
)  # fmt: skip
NUMBERS = st.one_of(EDGES, EDGES.map(operator.neg), st.integers(-(1 << 64), 1 << 65))
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "mov": lambda a, b: b,
    "add": operator.add,
    "sub": operator.sub,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "imul": operator.mul,
}


def attempt(statement: str) -> bytes | None:
    """Assemble, or return None for what is refused."""
    try:
        return assemble(statement, base=BASE).code
    except AssemblyError:
        return None


def run(code: bytes, registers: dict[str, int]) -> dict[str, int]:
    """Run a few instructions, and return the registers after them."""
    from unicorn import x86_const

    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    machine.mem_map(BASE, 0x1000)
    machine.mem_write(BASE, code)
    ids = {name: getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in (*OTHERS, "rax")}
    for name, value in registers.items():
        machine.reg_write(ids[name], value)
    machine.emu_start(BASE, BASE + len(code))
    return {name: machine.reg_read(number) for name, number in ids.items()}


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(OPERATIONS)), st.sampled_from([8, 16, 32, 64]), NUMBERS, NUMBERS)
def test_arithmetic_with_immediates(name: str, width: int, before: int, number: int) -> None:
    before %= 1 << 64
    code = attempt(f"{name} {RAX[width]}, {number}")
    if code is None:
        fits = -(1 << (width - 1)) <= number < 1 << width
        narrow = -(1 << 31) <= (number + (1 << 63)) % (1 << 64) - (1 << 63) < 1 << 31
        # Refused only for a reason: too big, no such form, or beyond a 32-bit immediate.
        assert not fits or (name == "imul" and width == 8) or (width == 64 and not narrow)
        return
    mask = (1 << width) - 1
    result = OPERATIONS[name](before & mask, number) & mask
    if width < 32:
        result |= before & ~mask
    assert run(code, {"rax": before})["rax"] == result


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([None, *OTHERS]),
    st.sampled_from([None, *OTHERS]),
    st.sampled_from([1, 2, 4, 8]),
    NUMBERS,
    st.lists(st.integers(0, (1 << 64) - 1), min_size=len(OTHERS), max_size=len(OTHERS)),
)
def test_addresses(
    base: str | None, index: str | None, scale: int, disp: int, values: list[int]
) -> None:
    terms = [term for term in (base, index and f"{index}*{scale}") if term]
    registers = dict(zip(OTHERS, values, strict=True))
    code = attempt(f"lea rax, [{' + '.join([*terms, f'({disp})'])}]")
    if code is None:
        signed = (disp + (1 << 63)) % (1 << 64) - (1 << 63)
        fits = -(1 << 31) <= signed < 1 << 31 and -(1 << 63) <= disp < 1 << 64
        assert not fits
        return
    wanted = disp + registers.get(base or "", 0) + registers.get(index or "", 0) * scale
    assert run(code, registers)["rax"] == wanted % (1 << 64)


@pytest.mark.parametrize(
    ("source", "rax"),
    [
        ("mov rax, [table + 8]\njmp end\n.align 8\ntable: .quad 1, 2\nend:", 2),
        ("lea rax, [rip + x]\nsub rax, x\nx:", 0),
        ("call f\njmp end\nf: mov eax, 5\nret\nend:", 5),
        ("mov ecx, 3\nxor eax, eax\n1: inc eax\nloop 1b", 3),
        ("mov rax, -1\nshl rax, 60\nshr rax", 0x7800_0000_0000_0000),
        ("lea rdi, [buffer]\nmov al, 7\nmov ecx, 8\nrep stosb\nmov rax, [buffer]\njmp end\n"
         "buffer: .quad 0\nend:", 0x0707_0707_0707_0707),
        ("push 0xffff\npop rax", 0xFFFF),
        ("push -1\npop rax", (1 << 64) - 1),
    ],
)  # fmt: skip
def test_programs(source: str, rax: int) -> None:
    stack = f"lea rsp, [{BASE + 0x1000}]\n"
    assert run(assemble(stack + source, base=BASE).code, {})["rax"] == rax
