"""Ports of a run: who may use them, and an end of the run right behind the exit port.

Unicorn 2.1.4 does not look at IOPL, and ``emu_stop`` ends a run only behind the translated block
(docs/quirks.md, Unicorn 17 and 18). So the CPU is frozen at such an instruction: what the block
still does to the registers is undone, and a root table that maps nothing keeps it from memory.
"""

from __future__ import annotations

from typing import Any

from unicorn import UC_HOOK_INSN, Uc
from unicorn import x86_const as x86

from harness.engine.guest.ports import Ports
from harness.engine.unicorn.core import Core, Scratch
from harness.engine.unicorn.deliver import Pending, port_fault
from harness.engine.unicorn.preflight import Unable
from harness.engine.unicorn.watch import Watch

__all__ = ["PortGate"]

_PAE = 1 << 5
_PAGING, _PROTECTED = 1 << 31, 1 << 0


class PortGate:
    """The ports of one CPU.

    :ivar ports: what lies behind them.
    :ivar frozen: the CPU as it was at an access that must not happen, or must be the last.
    """

    def __init__(self, core: Core, watch: Watch) -> None:
        self._core = core
        self._watch = watch
        self.begin()
        core.uc.hook_add(UC_HOOK_INSN, self._on_in, aux1=x86.UC_X86_INS_IN)
        core.uc.hook_add(UC_HOOK_INSN, self._on_out, aux1=x86.UC_X86_INS_OUT)

    def begin(self) -> None:
        """Forget the run before."""
        self.ports = Ports()
        self.frozen: bytes | None = None
        self._refused: tuple[int, int] | None = None

    def thaw(self) -> None:
        """Make a frozen CPU what it was."""
        if self.frozen is None:
            return
        core = self._core
        core.state[:] = self.frozen
        core.restore()
        core.flush()
        self.frozen = None
        self._watch.idle = False

    def fault(self) -> Pending | None:
        """Return what the last access to a port raises, None where it was allowed.

        :raises Unable: for a port that only the TSS's I/O map opens.
        :raises NoMemory: when the TSS lies outside RAM.
        """
        if self._refused is None:
            return None
        port, size = self._refused
        self._refused = None
        found = port_fault(self._core, port, size)
        if found is None:
            rip = int(self._core.uc.reg_read(x86.UC_X86_REG_RIP))
            raise Unable(
                f"port {port:#x} at {rip:#x} is open by the TSS's I/O map alone, "
                "which this engine does not execute"
            )
        return found

    def _on_in(self, uc: Uc, port: int, size: int, _data: Any) -> int:
        return 0 if self._closed(uc, port, size) else self.ports.read(port, size)

    def _on_out(self, uc: Uc, port: int, size: int, value: int, _data: Any) -> None:
        if not self._closed(uc, port, size):
            self.ports.write(port, size, value)
            if self.ports.exit_code is not None:
                self._freeze(uc)

    def _closed(self, uc: Uc, port: int, size: int) -> bool:
        """Whether an access to a port must not happen."""
        if self.frozen is not None:
            return True
        core = self._core
        core.save()
        if not uc.reg_read(x86.UC_X86_REG_CR0) & _PROTECTED:
            return False
        cpl = core.d[core.at.hflags // 4] & 3
        if cpl <= int(uc.reg_read(x86.UC_X86_REG_EFLAGS)) >> 12 & 3:
            return False
        self._refused = port, size
        self._freeze(uc)
        return True

    def _freeze(self, uc: Uc) -> None:
        self._watch.idle = True
        self._core.save()
        self.frozen = bytes(self._core.state)
        cr0 = uc.reg_read(x86.UC_X86_REG_CR0)
        if not cr0 & _PAGING:
            uc.reg_write(x86.UC_X86_REG_CR4, uc.reg_read(x86.UC_X86_REG_CR4) | _PAE)
            uc.reg_write(x86.UC_X86_REG_CR0, cr0 | _PAGING | _PROTECTED)
        uc.reg_write(x86.UC_X86_REG_CR3, self._core.layout.scratch + Scratch.EMPTY)
        uc.emu_stop()
