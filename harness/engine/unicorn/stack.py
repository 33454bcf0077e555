"""Tell a stack fault from a general-protection fault.

A non-canonical address raises #SS when the access goes through SS, else #GP (SDM 3A 6.15).
Unicorn 2.1.4 raises #GP for both. The instruction says which it is: a memory operand based on RSP
or RBP goes through SS, unless FS or GS overrides, and so does all that pushes and pops.

>>> through_stack(bytes.fromhex("50"), 0, {"rsp": 0x8000_0000_0100}.get)  # push rax
True
>>> through_stack(bytes.fromhex("488b00"), 0, {"rax": 0x8000_0000_0000}.get)  # mov rax, [rax]
False
"""

from __future__ import annotations

from harness.address import is_canonical
from harness.engine.unicorn.core import Core
from harness.engine.unicorn.decoded import LONGEST, Registers, decode, register_of

__all__ = ["goes_through_stack", "through_stack"]

_PUSHES = frozenset({"push", "pushfq", "pushf", "call", "enter"})
_POPS = frozenset({"pop", "popfq", "popf", "ret", "retf", "retfq", "iretq", "iretd", "leave"})
_MASK = (1 << 64) - 1


def goes_through_stack(core: Core, rip: int, levels: int) -> bool:
    """Say whether the instruction that has just raised #GP(0) deserves #SS.

    :param levels: 4 or 5, for what is canonical.
    """
    if not core.in_64_bit_code:
        return False
    return through_stack(core.fetch(rip, LONGEST), rip, register_of(core.uc), levels)


def through_stack(code: bytes, rip: int, register: Registers, levels: int = 4) -> bool:
    """Say whether the non-canonical address of a 64-bit instruction went through SS.

    :param code: its bytes, as many as can be read.
    :param rip: where it is.
    :param register: gives the value of a general register by its 64-bit name.
    :param levels: 4 or 5, for what is canonical.
    """
    decoded = decode(code, rip)
    if decoded is None:
        return False
    name = decoded.name
    has_operand = decoded.memory() is not None and name not in ("lea", "nop")
    if has_operand and not is_canonical(decoded.address(register), levels):
        return decoded.through_stack
    if name not in _PUSHES | _POPS:
        return False
    top = register("rbp" if name == "leave" else "rsp") or 0
    touched = top - 8 if name in _PUSHES else top
    return not is_canonical(touched & _MASK, levels)
