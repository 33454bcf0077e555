"""A guest that stands before an instruction, as the checks see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.unicorn.accesses import Accesses, Raised
from harness.engine.unicorn.core import Core
from harness.engine.unicorn.decoded import Decoded, Registers, register_of
from harness.engine.unicorn.deliver import descriptor_table
from harness.engine.unicorn.state import EFER

__all__ = [
    "AC",
    "AM",
    "GP",
    "LMA",
    "PG",
    "SMAP",
    "SS",
    "Descriptor",
    "Go",
    "Guest",
    "Unable",
]

GP, SS = 13, 12
LMA = 1 << 10
PG, AM = 1 << 31, 1 << 18
SMAP, _LA57 = 1 << 21, 1 << 12
AC = 1 << 18
_MASK = (1 << 64) - 1


class Unable(Exception):
    """This engine cannot execute the instruction; the message says why."""


@dataclass(frozen=True, slots=True)
class Go:
    """Unicorn may execute the instruction.

    :ivar registers: general registers that it needs to be different meanwhile.
    :ivar without_smap: with SMAP off meanwhile; every access has been judged.
    :ivar code: with these bytes in place of its own.
    """

    registers: dict[str, int] = field(default_factory=dict)
    without_smap: bool = False
    code: bytes | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is different."""
        return not self.registers and not self.without_smap and self.code is None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A segment descriptor as it lies in a table.

    :ivar at: its linear address.
    :ivar raw: its first 8 bytes.
    """

    at: int
    raw: bytes

    @property
    def access(self) -> int:
        """Its type, S, DPL and P."""
        return self.raw[5]

    @property
    def dpl(self) -> int:
        """The privilege level."""
        return self.access >> 5 & 3

    @property
    def is_code(self) -> bool:
        """Whether it is a present code segment."""
        return self.access & 0x98 == 0x98

    @property
    def conforming(self) -> bool:
        """Whether a code segment conforms."""
        return bool(self.access & 4)

    def returns_to(self, rpl: int) -> bool:
        """Whether a return to a privilege level may load this code segment (SDM 2B, RET)."""
        return self.dpl <= rpl if self.conforming else self.dpl == rpl

    @property
    def long(self) -> bool:
        """Whether a code segment is 64-bit."""
        return bool(self.raw[6] & 0x20)


class Guest:
    """The CPU before an instruction.

    :param core: the CPU.
    :param instruction: the instruction at RIP.
    """

    def __init__(self, core: Core, instruction: Decoded) -> None:
        self.core = core
        self.instruction = instruction
        self.register: Registers = register_of(core.uc)
        core.save()
        self.cpl = core.d[core.at.hflags // 4] & 3
        self.cr0 = self.get("cr0")
        self.cr4 = self.get("cr4")
        self.efer = int(core.uc.reg_read(x86.UC_X86_REG_MSR, EFER))
        self.flags = int(core.uc.reg_read(x86.UC_X86_REG_EFLAGS))

    def get(self, name: str) -> int:
        """Read a register that exists."""
        value = self.register(name)
        assert value is not None, name
        return value

    @property
    def smap_bypassed(self) -> bool:
        """Whether Unicorn lets AC count for implicit accesses."""
        return bool(self.cr4 & SMAP and self.flags & AC and self.cpl < 3)

    def canonical(self, va: int) -> bool:
        """Whether an address is canonical in the guest's paging mode."""
        return is_canonical(va & _MASK, 5 if self.cr4 & _LA57 else 4)

    def read(self, va: int, size: int, what: str) -> bytes:
        """Read as the guest itself."""
        with Accesses(self.core, implicit=False) as explicit:
            return explicit.read(va, size, what)

    def touch(self, va: int, size: int, what: str, *, write: bool, stack: bool) -> None:
        """Make an access of the guest's own without data.

        :param stack: through SS: an address that is not canonical is #SS, not #GP.
        """
        try:
            with Accesses(self.core, implicit=False) as explicit:
                explicit.touch(va, size, what, write=write)
        except Raised as error:
            if error.vector == GP and stack:
                raise Raised(SS, 0, error.why) from None
            raise

    def word_of_operand(self, size: int) -> int | None:
        """Read a register or memory operand; None where that faults, as it will again."""
        registers = self.instruction.registers()
        if self.instruction.memory() is None:
            name = _wide(registers[-1])
            return self.get(name) & ((1 << 8 * size) - 1)
        data = self.operand(size)
        return None if data is None else int.from_bytes(data, "little")

    def operand(self, size: int) -> bytes | None:
        """Read the memory operand; None where that faults, as it will again."""
        try:
            return self.read(self.instruction.address(self.register), size, "the operand")
        except Raised:
            return None

    def descriptor(self, selector: int, size: int = 8) -> Descriptor | None:
        """Read a descriptor as the CPU does, None for a null selector and one beyond the limit.

        :raises Raised: a #PF of the table's.
        """
        if not selector & 0xFFFC:
            return None
        name, base, limit = descriptor_table(self.core, selector)
        if (selector | 7) > limit:
            return None
        at = base + (selector & 0xFFF8) & _MASK
        with Accesses(self.core, implicit=True) as own:
            return Descriptor(at, own.read(at, size, f"the {name}'s descriptor"))

    def mark_accessed(self, found: Descriptor) -> None:
        """Set the A bit of a segment's descriptor where it is clear (SDM 3A 3.4.5.1)."""
        if not found.access & 1:
            with Accesses(self.core, implicit=True) as own:
                own.write(found.at + 5, bytes([found.access | 1]), "the descriptor's A bit")


def _wide(name: str) -> str:
    if name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
        return f"r{name}"
    if name[0] == "e":
        return f"r{name[1:]}"
    return name.rstrip("dw") if name[:2] in ("r8", "r9", "r1") else name
