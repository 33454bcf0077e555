"""Tell a stack fault from a general-protection fault.

A non-canonical address raises #SS when the access goes through SS, else #GP (SDM 3A 6.15).
Unicorn 2.1.4 raises #GP for both. The instruction says which it is: a memory operand based on RSP
or RBP goes through SS, unless a prefix says otherwise, and so does all that pushes and pops.

>>> through_stack(bytes.fromhex("50"), 0, {"rsp": 0x8000_0000_0000}.get)  # push rax
True
>>> through_stack(bytes.fromhex("488b00"), 0, {"rax": 0x8000_0000_0000}.get)  # mov rax, [rax]
False
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.unicorn.core import Core

__all__ = ["goes_through_stack", "through_stack"]

_PUSHES = frozenset({"push", "pushfq", "pushf", "call", "enter"})
_POPS = frozenset({"pop", "popfq", "popf", "ret", "retf", "retfq", "iretq", "iretd", "leave"})
_MASK = (1 << 64) - 1
_CS64 = 1 << 15
"""unicorn 2.1.4: the hflags bit of a 64-bit code segment."""
_LONGEST_INSTRUCTION = 15


@functools.cache
def _decoder() -> Any:
    import capstone

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return decoder


def goes_through_stack(core: Core, rip: int, levels: int) -> bool:
    """Say whether the instruction that has just raised #GP(0) deserves #SS.

    :param levels: 4 or 5, for what is canonical.
    """
    core.save()
    if not core.d[core.at.hflags // 4] & _CS64:
        return False

    def register(name: str) -> int | None:
        number = getattr(x86, f"UC_X86_REG_{name.upper()}", None)
        return None if number is None else int(core.uc.reg_read(number))

    return through_stack(core.fetch(rip, _LONGEST_INSTRUCTION), rip, register, levels)


def through_stack(
    code: bytes, rip: int, register: Callable[[str], int | None], levels: int = 4
) -> bool:
    """Say whether the non-canonical address of a 64-bit instruction went through SS.

    :param code: its bytes, as many as can be read.
    :param rip: where it is.
    :param register: gives the value of a general register by its 64-bit name.
    :param levels: 4 or 5, for what is canonical.
    """
    decoded = next(_decoder().disasm(code, rip, 1), None)
    if decoded is None:
        return False
    for operand in decoded.operands:
        if operand.type != _memory() or decoded.mnemonic in ("lea", "nop"):
            continue
        memory = operand.mem
        base = decoded.reg_name(memory.base) or ""
        index = decoded.reg_name(memory.index) or ""
        address = memory.disp + (register(index) or 0) * memory.scale
        address += rip + decoded.size if base == "rip" else register(base) or 0
        if not is_canonical(address & _MASK, levels):
            segment = decoded.reg_name(memory.segment)
            return segment == "ss" or (not segment and base in ("rsp", "rbp"))
    name = decoded.mnemonic.split()[-1]
    if name not in _PUSHES | _POPS:
        return False
    top = register("rbp" if name == "leave" else "rsp") or 0
    touched = top - 8 if name in _PUSHES else top
    return not is_canonical(touched & _MASK, levels)


def _memory() -> int:
    from capstone import CS_OP_MEM

    return int(CS_OP_MEM)
