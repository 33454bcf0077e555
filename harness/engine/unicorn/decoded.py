"""Instructions of a guest, decoded, and the addresses that their operands give.

>>> found = decode(bytes.fromhex("488b4510"), 0x1000)  # mov rax, [rbp + 0x10]
>>> found.mnemonic, hex(found.address({"rbp": 0x2000}.get)), found.through_stack
('mov', '0x2010', True)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unicorn import x86_const as x86

__all__ = ["LONGEST", "Decoded", "Registers", "decode", "register_of"]

LONGEST = 15
"""Bytes of an instruction at most (SDM 2A, 2.3.11)."""

_MASK = (1 << 64) - 1
_STACK_BASES = ("rsp", "rbp", "esp", "ebp")
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")

Registers = Callable[[str], int | None]
"""Gives a register by its name."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One instruction.

    :ivar at: its address.
    :ivar code: its bytes.
    :ivar mnemonic: Capstone's.
    :ivar operands: Capstone's text of the operands.
    :ivar long: whether it is 64-bit code.
    """

    at: int
    code: bytes
    mnemonic: str
    operands: str
    long: bool

    @property
    def after(self) -> int:
        """The address behind it."""
        return self.at + len(self.code) & _MASK

    @property
    def name(self) -> str:
        """The mnemonic without ``rep``, ``lock`` and their kin."""
        return self.mnemonic.split()[-1]

    @property
    def prefixes(self) -> bytes:
        """The bytes before the opcode, REX among them where it is 64-bit code."""
        count = 0
        while count < len(self.code) and (
            self.code[count] in _PREFIXES or (self.long and self.code[count] >> 4 == 4)
        ):
            count += 1
        return self.code[:count]

    @property
    def opcode(self) -> bytes:
        """What follows the prefixes."""
        return self.code[len(self.prefixes) :]

    @property
    def rex(self) -> int:
        """The REX prefix that counts: the one right before the opcode; 0 without one."""
        last = self.prefixes[-1:]
        return last[0] if self.long and last and last[0] >> 4 == 4 else 0

    @property
    def operand_size(self) -> int:
        """2, 4 or 8 bytes, as the prefixes say for an instruction whose default is 4."""
        if self.rex & 8:
            return 8
        return 2 if 0x66 in self.prefixes else 4

    def memory(self) -> Any:
        """Give Capstone's memory operand, None without one."""
        for operand in _detailed(self.code, self.at, self.long):
            if operand.type == _memory_type():
                return operand
        return None

    def registers(self) -> list[str]:
        """Name the operands that are registers, in order."""
        return [
            name
            for operand in _detailed(self.code, self.at, self.long)
            if operand.type == _register_type()
            for name in (_names(self.long)(operand.reg) or "",)
        ]

    def immediate(self) -> int | None:
        """Give the first operand that is a number."""
        for operand in _detailed(self.code, self.at, self.long):
            if operand.type == _immediate_type():
                return int(operand.imm) & _MASK
        return None

    @property
    def through_stack(self) -> bool:
        """Whether the memory operand goes through SS.

        In 64-bit mode only FS and GS override: other prefixes are ignored (SDM 1, 3.3.7.1).
        """
        operand = self.memory()
        if operand is None or self._override() is not None:
            return False
        name = _names(self.long)
        return (name(operand.mem.base) or "") in _STACK_BASES

    def _override(self) -> str | None:
        found = [prefix for prefix in self.prefixes if prefix in (0x64, 0x65)]
        return {0x64: "fs", 0x65: "gs"}[found[-1]] if found else None

    def address(self, register: Registers) -> int:
        """Return the linear address of the memory operand.

        :param register: gives registers by their 64-bit names, and ``fs_base`` and ``gs_base``.
        :raises ValueError: when it has none.
        """
        operand = self.memory()
        if operand is None:
            raise ValueError(f"{self.mnemonic} {self.operands} has no memory operand")
        memory, name = operand.mem, _names(self.long)
        base, index = name(memory.base) or "", name(memory.index) or ""
        address = memory.disp
        if base in ("rip", "eip"):
            address += self.after
        elif base:
            address += _full(register, base)
        if index and index not in ("riz", "eiz"):
            address += _full(register, index) * memory.scale
        if (0x67 in self.prefixes) == self.long:
            address &= 0xFFFF_FFFF
        override = self._override()
        if override is not None:
            address += register(f"{override}_base") or 0
        return int(address) & (_MASK if self.long else 0xFFFF_FFFF)


def _full(register: Registers, name: str) -> int:
    value = int(register(_WIDE.get(name, name)) or 0)
    return value & 0xFFFF_FFFF if name in _WIDE else value


_WIDE = {
    **{f"e{name}": f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"r{number}d": f"r{number}" for number in range(8, 16)},
}


def register_of(uc: Any) -> Registers:
    """Return what gives the registers of a Unicorn CPU by name."""

    def register(name: str) -> int | None:
        number = getattr(x86, f"UC_X86_REG_{name.upper()}", None)
        return None if number is None else int(uc.reg_read(number))

    return register


@functools.lru_cache(maxsize=4096)
def decode(code: bytes, at: int, long: bool = True) -> Decoded | None:
    """Decode the instruction that some bytes begin with; None where there is none.

    :param long: 64-bit code, else 32-bit.
    """
    for address, size, mnemonic, operands in _decoder(long).disasm_lite(code, at, 1):
        return Decoded(address, code[:size], mnemonic, operands, long)
    return None


@functools.lru_cache(maxsize=4096)
def _detailed(code: bytes, at: int, long: bool) -> list[Any]:
    found = next(_decoder(long, detail=True).disasm(code, at, 1), None)
    return [] if found is None else list(found.operands)


def _names(long: bool) -> Callable[[int], str | None]:
    return _decoder(long, detail=True).reg_name  # type: ignore[no-any-return]


@functools.cache
def _decoder(long: bool, detail: bool = False) -> Any:
    import capstone

    decoder = capstone.Cs(
        capstone.CS_ARCH_X86, capstone.CS_MODE_64 if long else capstone.CS_MODE_32
    )
    decoder.detail = detail
    return decoder


@functools.cache
def _memory_type() -> int:
    from capstone import CS_OP_MEM

    return int(CS_OP_MEM)


@functools.cache
def _register_type() -> int:
    from capstone import CS_OP_REG

    return int(CS_OP_REG)


@functools.cache
def _immediate_type() -> int:
    from capstone import CS_OP_IMM

    return int(CS_OP_IMM)
