"""Code at the end of a page, executed one instruction at a time.

Unicorn 2.1.4 translates a block of code that runs on into the next page as one, and raises what the
fetch of that page raises before the block's first instruction is executed (docs/quirks.md,
Unicorn 18). Whatever the exception is, the block's instructions are then executed one by one.
"""

from __future__ import annotations

from unicorn import UC_MEM_FETCH_UNMAPPED, UC_PROT_EXEC
from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.run import PAGE_FAULT
from harness.engine.unicorn.core import Core
from harness.engine.unicorn.deliver import Pending
from harness.engine.unicorn.preflight import Unable

__all__ = ["Stepping"]

_DEBUG_EXCEPTION, _PROTECTION = 1, 13
_NOT_CANONICAL = Pending(_PROTECTION, 0)
_PUSHF = b"\x9c"
_TF = 1 << 8
_MASK = (1 << 64) - 1
_SINGLE_STEP = 1 << 14
"""Of DR6 (BS): the trap that RFLAGS.TF asked for, not the fault of a breakpoint."""


class Stepping:
    """Steps one CPU where a block of code must not be executed as one.

    :ivar at: the instruction that is stepped next; None where blocks are executed.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.at: int | None = None

    def too_early(
        self, rip: int, pending: Pending | None, missing: tuple[int, int] | None, levels: int
    ) -> bool:
        """Say whether what stopped the CPU is the fetch of an instruction behind the one at RIP.

        :param pending: an exception.
        :param missing: address and kind of an access to what is not RAM.
        :param levels: 4 or 5, for what is canonical.
        """
        uc, behind = self._core.uc, (rip | 0xFFF) + 1 & _MASK
        if uc.reg_read(x86.UC_X86_REG_EFLAGS) & _TF:
            return False
        if missing is not None:
            pa, kind = missing
            here = self._core.translate(rip, UC_PROT_EXEC)
            return kind == UC_MEM_FETCH_UNMAPPED and here is not None and here >> 12 != pa >> 12
        if pending is None or pending.software:
            return False
        if pending.vector == PAGE_FAULT:
            return bool(uc.reg_read(x86.UC_X86_REG_CR2) == behind)
        return (
            pending == _NOT_CANONICAL
            and is_canonical(rip, levels)
            and not is_canonical(behind, levels)
        )

    def arm(self, rip: int) -> None:
        """Let the CPU stop behind the next instruction.

        :raises Unable: where that would show in what the instruction does.
        """
        uc = self._core.uc
        if self._core.fetch(rip, 1) == _PUSHF:
            raise Unable(
                f"pushf at {rip:#x}, before a page that is missing, is not executed by this engine"
            )
        self._core.forget_exception()
        uc.reg_write(x86.UC_X86_REG_EFLAGS, uc.reg_read(x86.UC_X86_REG_EFLAGS) | _TF)

    def disarm(self) -> None:
        """Give the guest its own RFLAGS.TF back, which is 0."""
        uc = self._core.uc
        uc.reg_write(x86.UC_X86_REG_EFLAGS, uc.reg_read(x86.UC_X86_REG_EFLAGS) & ~_TF)

    def done(self, rip: int, pending: Pending | None) -> bool:
        """Take single-stepping back; return whether the instruction was just stepped over."""
        before = self.at
        assert before is not None
        self.disarm()
        self.at = None
        if pending is None or pending.vector != _DEBUG_EXCEPTION or not pending.trap:
            return False
        dr6 = int(self._core.uc.reg_read(x86.UC_X86_REG_DR6))
        self._core.uc.reg_write(x86.UC_X86_REG_DR6, dr6 & ~_SINGLE_STEP)
        self._core.forget_exception()
        if before < rip <= before | 0xFFF:
            self.at = rip
        return True
