"""Judge the control registers that a guest has loaded.

Unicorn 2.1.4 lets a guest load what a CPU refuses with #GP, and bits whose feature it does not
have: what follows is not what a CPU does. A :class:`Judge` looks at the registers wherever a run
comes by, at each exception and at the end, and says so by :class:`Refused`, whose message is the
end of the run in a sentence.
"""

from __future__ import annotations

from unicorn import x86_const as x86

from harness.cpu import CpuFeatures, CpuState
from harness.engine.run import Start
from harness.engine.unicorn.capabilities import unsupported_control
from harness.engine.unicorn.core import Core
from harness.errors import CpuStateError

__all__ = ["EFER", "Judge", "Refused"]

EFER = 0xC000_0080
_LMA = 1 << 10


class Refused(Exception):
    """A CPU could not be in this state, or this engine cannot."""


class Judge:
    """Follows one run.

    :param start: where it starts.
    """

    def __init__(self, core: Core, start: Start) -> None:
        self._core = core
        self._features = start.cpu.features if start.cpu is not None else CpuFeatures()
        self._seen: dict[str, int] = {}
        self.levels = start.cpu.levels if start.cpu is not None else 0
        """Of page tables; 0 until the guest is seen in long mode."""

    def control(self) -> dict[str, int]:
        """Read CR0, CR3, CR4 and EFER."""
        read = self._core.uc.reg_read
        return {
            "cr0": int(read(x86.UC_X86_REG_CR0)),
            "cr3": int(read(x86.UC_X86_REG_CR3)),
            "cr4": int(read(x86.UC_X86_REG_CR4)),
            "efer": int(read(x86.UC_X86_REG_MSR, EFER)),
        }

    def look(self) -> bool:
        """Judge what has changed since the last time; return whether this is long mode.

        :raises Refused: when it must not have
        """
        control = self.control()
        if control != self._seen:
            self.state(control)
            self._seen = control
        return bool(control["efer"] & _LMA)

    def state(
        self, control: dict[str, int], *, rflags: int = 2, pkru: int = 0, cpl: int = 0
    ) -> CpuState | None:
        """Return the CPU's state, None outside long mode.

        :raises Refused: when no CPU could be in it, or this one cannot
        """
        if not control["efer"] & _LMA:
            if self.levels:
                raise Refused("it left long mode, which is not modelled")
            return None
        try:
            cpu = CpuState(
                cr0=control["cr0"],
                cr3=control["cr3"],
                cr4=control["cr4"],
                efer=control["efer"],
                rflags=rflags,
                pkru=pkru,
                cpl=cpl,
                features=self._features,
            )
        except CpuStateError as error:
            raise Refused(
                f"it loaded control registers that a CPU refuses, and Unicorn does not: {error}"
            ) from None
        reason = unsupported_control(cpu)
        if reason is not None:
            raise Refused(f"it turned on what is not there: {reason}")
        if self.levels not in (0, cpu.levels):
            raise Refused(
                "it changed CR4.LA57 in long mode, which a CPU refuses, and Unicorn does not"
            )
        self.levels = cpu.levels
        return cpu
