"""Run guest code until it ends, whatever it does.

Unicorn stops at every exception; between two stretches of guest code :mod:`.deliver` takes the
exception to the guest's own IDT. Ports, ``hlt`` and the budgets are as a kernel's tests expect.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

from unicorn import (
    UC_ERR_INSN_INVALID,
    UC_HOOK_CODE,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_MEM_UNMAPPED,
    UC_PROT_EXEC,
    UC_QUERY_TIMEOUT,
    Uc,
    UcError,
)
from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.cpu import CpuFeatures, CpuState
from harness.engine.run import REGISTERS, Budget, Ending, Event, Exit, Start
from harness.engine.unicorn.core import Core, Layout, Scratch, unsupported_control
from harness.engine.unicorn.deliver import WITH_ERROR_CODE, Pending, deliver
from harness.engine.unicorn.stack import through_stack
from harness.errors import CpuStateError, InputError, NoMemory
from harness.memory import PhysicalMemory

__all__ = ["Runner"]

_NOWHERE = 1 << 63
_DEBUG_EXCEPTION, _BREAKPOINT, _INVALID_OPCODE, _STACK_FAULT, _PROTECTION = 1, 3, 6, 12, 13
_INT3, _ICEBP = b"\xcc", b"\xf1"
_SINGLE_STEP = 1 << 14
"""Of DR6 (BS): the trap that RFLAGS.TF asked for, not the fault of a breakpoint."""
_LONGEST_INSTRUCTION = 15
_EFER, _STAR, _LSTAR, _FMASK = 0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0084
_LMA, _SCE = 1 << 10, 1 << 0
_RF = 1 << 16
_PAE, _LA57, _CS64 = 1 << 5, 1 << 12, 1 << 15
_PAGING, _PROTECTED = 1 << 31, 1 << 0
_PROTECTED_MODE = 0xB0
"""unicorn 2.1.4: hflags of 32-bit code and stack in protected mode."""
_FLAT_STACK = 0x00CF_9300
"""A writable 32-bit data segment over all 4 GiB; without it the stack would wrap at 64 KiB."""
_MODE_BITS = 0xC000 | 3
_SERIAL, _LINE_CONTROL, _LINE_STATUS, _DEBUG, _EXIT = 0x3F8, 0x3FB, 0x3FD, 0xE9, 0xF4
_READY = 0x60
_KEPT_EVENTS = 10_000


class _Ended(Exception):
    def __init__(self, ending: Ending, detail: str) -> None:
        super().__init__(detail)
        self.ending = ending
        self.detail = detail


class Runner:
    """A CPU for whole runs."""

    def __init__(self, memory: PhysicalMemory, layout: Layout, scratch: Scratch) -> None:
        self._core = core = Core(memory, layout, scratch)
        self._memory = memory
        uc = core.uc
        uc.hook_add(UC_HOOK_INTR, self._on_exception)
        uc.hook_add(UC_HOOK_MEM_UNMAPPED, self._on_no_memory)
        uc.hook_add(UC_HOOK_INSN, self._on_in, aux1=x86.UC_X86_INS_IN)
        uc.hook_add(UC_HOOK_INSN, self._on_out, aux1=x86.UC_X86_INS_OUT)
        uc.hook_add(UC_HOOK_INSN, self._on_syscall, aux1=x86.UC_X86_INS_SYSCALL)
        uc.hook_add(UC_HOOK_INSN, self._on_sysenter, aux1=x86.UC_X86_INS_SYSENTER)
        self._reset()

    def close(self) -> None:
        """Give back what Unicorn holds."""
        self._core.close()

    def _reset(self) -> None:
        self._pending: Pending | None = None
        self._syscall = False
        self._sysenter: int | None = None
        self._no_memory: tuple[int, str] | None = None
        self._judged: dict[str, int] = {}
        self._exit_code: int | None = None
        self._serial = bytearray()
        self._debug = bytearray()
        self._line_control = 0
        self._events: list[Event] = []
        self._dropped = 0
        self._counted: int | None = None
        self._limit = 0
        self._features = CpuFeatures()
        self._levels = 0
        """Of page tables; 0 until the guest is in long mode."""

    def run(self, start: Start, budget: Budget) -> Exit:
        """Run from a start until the guest ends, or its budget does.

        :raises InputError: for a register that does not exist.
        """
        self._reset()
        self._begin(start)
        counter = None
        if budget.instructions is not None:
            self._counted, self._limit = 0, budget.instructions
            counter = self._core.uc.hook_add(UC_HOOK_CODE, self._on_instruction)
        try:
            self._loop(start, time.monotonic() + budget.seconds, budget)
        except _Ended as ended:
            return self._end(ended.ending, ended.detail)
        finally:
            if counter is not None:
                self._core.uc.hook_del(counter)

    def _begin(self, start: Start) -> None:
        core = self._core
        uc = core.uc
        if start.cpu is None:
            core.power_on()
            # unicorn 2.1.4: a new CPU has EFER.LMA, and only leaving paging takes it away.
            uc.reg_write(x86.UC_X86_REG_CR4, _PAE)
            uc.reg_write(x86.UC_X86_REG_CR0, _PAGING | _PROTECTED)
            uc.reg_write(x86.UC_X86_REG_CR0, 0x11)
            uc.reg_write(x86.UC_X86_REG_CR4, 0)
            uc.reg_write(x86.UC_X86_REG_MSR, (_EFER, 0))
            core.save()
            hflags = core.d[core.at.hflags // 4]
            core.d[core.at.hflags // 4] = hflags & ~_MODE_BITS | _PROTECTED_MODE
            core.d[core.at.stack_flags // 4] = _FLAT_STACK
        else:
            reason = unsupported_control(start.cpu)
            if reason is not None:
                raise InputError(reason)
            self._features = start.cpu.features
            self._levels = start.cpu.levels
            core.state[:] = core.template(start.cpu)
        core.restore()
        core.flush()
        uc.ctl_flush_tb()
        for name, value in start.registers.items():
            if name not in REGISTERS:
                raise InputError(f"a register must be one of {', '.join(REGISTERS)}, not {name!r}")
            uc.reg_write(_REGISTER[name], value)
        uc.reg_write(x86.UC_X86_REG_CS, start.cs)
        uc.reg_write(x86.UC_X86_REG_SS, start.ss)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, *start.gdt, 0))
        uc.reg_write(x86.UC_X86_REG_IDTR, (0, *start.idt, 0))
        core.save()
        if start.cpu is not None:
            hflags = core.d[core.at.hflags // 4]
            core.d[core.at.hflags // 4] = hflags & ~3 | start.cpu.cpl
        core.q[core.at.rip // 8] = start.rip
        core.restore()

    def _loop(self, start: Start, deadline: float, budget: Budget) -> NoReturn:
        uc = self._core.uc
        stop = _NOWHERE if start.stop is None else start.stop
        while True:
            left = int((deadline - time.monotonic()) * 1e6)
            if left <= 0:
                raise _Ended(Ending.SECONDS, f"it still ran after {budget.seconds:g} s")
            self._pending, self._syscall = None, False
            rip = int(uc.reg_read(x86.UC_X86_REG_RIP))
            try:
                uc.emu_start(rip, stop, timeout=left)
            except UcError as error:
                self._failed(error)
            rip = int(uc.reg_read(x86.UC_X86_REG_RIP))
            if self._sysenter is not None:
                raise _Ended(
                    Ending.UNSUPPORTED,
                    f"sysenter at {self._sysenter:#x} is not executed by this engine",
                )
            if self._exit_code is not None:
                raise _Ended(Ending.EXIT, f"it wrote to the exit port: exit code {self._exit_code}")
            if self._pending is not None:
                self._deliver(self._pending)
            elif self._syscall:
                self._enter_kernel(rip)
            elif self._counted is not None and self._counted > self._limit:
                self._counted = self._limit
                raise _Ended(Ending.INSTRUCTIONS, f"it still ran after {self._limit} instructions")
            elif rip == stop:
                raise _Ended(Ending.STOP, f"it reached {rip:#x}")
            elif not uc.query(UC_QUERY_TIMEOUT):
                raise _Ended(Ending.HALT, f"it halted at {rip:#x}")

    def _failed(self, error: UcError) -> None:
        if self._no_memory is not None:
            pa, how = self._no_memory
            raise _Ended(Ending.NO_MEMORY, f"it tried to {how} physical address {pa:#x}, not RAM")
        if error.errno == UC_ERR_INSN_INVALID:
            self._pending = Pending(_INVALID_OPCODE)
            if self._code(self._rip(), 1) == _ICEBP:  # unicorn 2.1.4 does not know it
                self._move(self._rip() + 1)
                self._pending = Pending(_DEBUG_EXCEPTION, trap=True)
            return
        raise _Ended(Ending.UNSUPPORTED, f"Unicorn stopped with an error of its own: {error}")

    def _deliver(self, pending: Pending) -> None:
        if not self._core.uc.reg_read(x86.UC_X86_REG_MSR, _EFER) & _LMA:
            self._note([Event(pending.vector, pending.error_code, None, self._rip(), 0)])
            raise _Ended(
                Ending.UNSUPPORTED,
                f"exception {pending.vector} came before long mode, where none is delivered",
            )
        control = self._control()
        if control != self._judged:
            self._judge(control)
            self._judged = control
        rip, levels = self._rip(), 5 if control["cr4"] & _LA57 else 4
        if not is_canonical(rip, levels):
            raise _Ended(
                Ending.UNSUPPORTED,
                f"it went to {rip:#x}, not canonical: a CPU raises #GP at the instruction that "
                "goes there, and Unicorn only behind it",
            )
        if pending.vector == _PROTECTION and pending.error_code == 0:
            pending = self._stack_fault(pending, rip, levels)
        try:
            events, entered = deliver(self._core, pending)
        except NoMemory as error:
            raise _Ended(
                Ending.NO_MEMORY,
                f"exception {pending.vector} needs memory at {error.pa:#x}, not RAM",
            ) from None
        self._note(events)
        if not entered:
            raise _Ended(Ending.SHUTDOWN, "a triple fault: no handler could be entered")

    def _stack_fault(self, pending: Pending, rip: int, levels: int) -> Pending:
        """Make #SS of a #GP whose access went through SS."""
        core = self._core
        core.save()
        if not core.d[core.at.hflags // 4] & _CS64:
            return pending

        def register(name: str) -> int | None:
            return int(core.uc.reg_read(_REGISTER[name])) if name in _REGISTER else None

        code = self._code(rip, _LONGEST_INSTRUCTION)
        if through_stack(code, rip, register, levels):
            return Pending(_STACK_FAULT, 0)
        return pending

    def _code(self, rip: int, size: int) -> bytes:
        """Read what the CPU has just fetched; less, where the next page is not there."""
        uc, found = self._core.uc, b""
        cr2 = uc.reg_read(x86.UC_X86_REG_CR2)  # a translation that fails overwrites it
        while size:
            pa = self._core.translate(rip, UC_PROT_EXEC)
            count = min(size, 0x1000 - (rip & 0xFFF))
            if pa is None or not self._memory.contains(pa, count):
                break
            found += self._memory.read(pa, count)
            rip, size = rip + count, size - count
        uc.reg_write(x86.UC_X86_REG_CR2, cr2)
        return found

    def _note(self, events: list[Event]) -> None:
        self._events += events
        if len(self._events) > _KEPT_EVENTS:
            self._dropped += len(self._events) - _KEPT_EVENTS
            del self._events[_KEPT_EVENTS:]

    def _enter_kernel(self, rip: int) -> None:
        """Do what ``syscall`` does (SDM 2B): Unicorn 2.1.4 executes it as a no-op."""
        uc, core = self._core.uc, self._core
        core.save()
        in_64_bit = core.d[core.at.hflags // 4] & _CS64
        if not in_64_bit or not uc.reg_read(x86.UC_X86_REG_MSR, _EFER) & _SCE:
            self._move(rip - 2)
            self._deliver(Pending(_INVALID_OPCODE))
            return
        flags = int(uc.reg_read(x86.UC_X86_REG_EFLAGS))
        star = uc.reg_read(x86.UC_X86_REG_MSR, _STAR)
        selector = star >> 32 & 0xFFFC
        uc.reg_write(x86.UC_X86_REG_RCX, rip)
        uc.reg_write(x86.UC_X86_REG_R11, flags & ~_RF)
        uc.reg_write(
            x86.UC_X86_REG_EFLAGS, flags & ~(uc.reg_read(x86.UC_X86_REG_MSR, _FMASK) | _RF) | 2
        )
        uc.reg_write(x86.UC_X86_REG_CS, selector)
        uc.reg_write(x86.UC_X86_REG_SS, selector + 8)
        target = uc.reg_read(x86.UC_X86_REG_MSR, _LSTAR)
        core.save()
        core.q[core.at.rip // 8] = target
        core.d[core.at.hflags // 4] &= ~3
        core.restore()

    def _control(self) -> dict[str, int]:
        uc = self._core.uc
        return {
            "cr0": int(uc.reg_read(x86.UC_X86_REG_CR0)),
            "cr3": int(uc.reg_read(x86.UC_X86_REG_CR3)),
            "cr4": int(uc.reg_read(x86.UC_X86_REG_CR4)),
            "efer": int(uc.reg_read(x86.UC_X86_REG_MSR, _EFER)),
        }

    def _judge(
        self, control: dict[str, int], *, rflags: int = 2, pkru: int = 0, cpl: int = 0
    ) -> CpuState | None:
        """Return the CPU's state, None outside long mode.

        Unicorn 2.1.4 lets a guest load what a CPU refuses with #GP, and bits whose feature it does
        not have: what follows would not be what a CPU does.

        :raises _Ended: when that has happened
        """
        if not control["efer"] & _LMA:
            if self._levels:
                raise _Ended(Ending.UNSUPPORTED, "it left long mode, which is not modelled")
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
            raise _Ended(
                Ending.UNSUPPORTED,
                f"it loaded control registers that a CPU refuses, and Unicorn does not: {error}",
            ) from None
        reason = unsupported_control(cpu)
        if reason is not None:
            raise _Ended(Ending.UNSUPPORTED, f"it turned on what is not there: {reason}")
        if self._levels not in (0, cpu.levels):
            raise _Ended(
                Ending.UNSUPPORTED,
                "it changed CR4.LA57 in long mode, which a CPU refuses, and Unicorn does not",
            )
        self._levels = cpu.levels
        return cpu

    def _end(self, ending: Ending, detail: str) -> Exit:
        uc, core = self._core.uc, self._core
        core.save()
        cpl = core.d[core.at.hflags // 4] & 3
        rflags = int(uc.reg_read(x86.UC_X86_REG_EFLAGS))
        control = self._control()
        try:
            cpu = self._judge(control, rflags=rflags, pkru=core.d[core.at.pkru // 4], cpl=cpl)
        except _Ended as ended:
            ending, detail, cpu = ended.ending, ended.detail, None
        control["cr2"] = int(uc.reg_read(x86.UC_X86_REG_CR2))
        return Exit(
            ending=ending,
            detail=detail,
            rip=self._rip(),
            rflags=rflags,
            cpl=cpl,
            registers={name: int(uc.reg_read(_REGISTER[name])) for name in REGISTERS},
            control=dict(sorted(control.items())),
            events=tuple(self._events),
            dropped=self._dropped,
            serial=bytes(self._serial),
            debug=bytes(self._debug),
            exit_code=self._exit_code,
            instructions=self._counted,
            cpu=cpu,
        )

    def _rip(self) -> int:
        return int(self._core.uc.reg_read(x86.UC_X86_REG_RIP))

    def _move(self, rip: int) -> None:
        core = self._core
        core.save()
        core.q[core.at.rip // 8] = rip
        core.restore()

    # Hooks.

    def _on_exception(self, uc: Uc, vector: int, _data: Any) -> None:
        core = self._core
        core.save()
        software = bool(core.d[core.at.software // 4])
        error_code = None
        if vector in WITH_ERROR_CODE and not software:
            error_code = core.d[core.at.error_code // 4]
        self._pending = Pending(
            vector,
            error_code,
            software,
            trap=vector == _DEBUG_EXCEPTION and bool(self._dr6() & _SINGLE_STEP),
            origin=self._origin(vector, core.q[core.at.rip // 8]) if software else None,
        )
        uc.emu_stop()

    def _origin(self, vector: int, after: int) -> int:
        """Return the address of the ``int3`` or ``int n`` that ends at an address."""
        return after - (1 if vector == _BREAKPOINT and self._code(after - 1, 1) == _INT3 else 2)

    def _dr6(self) -> int:
        return int(self._core.uc.reg_read(x86.UC_X86_REG_DR6))

    def _on_no_memory(
        self, _uc: Uc, kind: int, pa: int, _size: int, _value: int, _data: Any
    ) -> bool:
        self._no_memory = pa, _HOW.get(kind, "access")
        return False

    def _on_instruction(self, uc: Uc, _address: int, _size: int, _data: Any) -> None:
        assert self._counted is not None
        self._counted += 1
        if self._counted > self._limit:
            uc.emu_stop()

    def _on_syscall(self, uc: Uc, _data: Any) -> None:
        self._syscall = True
        uc.emu_stop()

    def _on_sysenter(self, uc: Uc, _data: Any) -> None:
        self._sysenter = self._rip()
        uc.emu_stop()

    def _on_in(self, _uc: Uc, port: int, size: int, _data: Any) -> int:
        if port == _LINE_STATUS:
            return _READY
        if port == _LINE_CONTROL:
            return self._line_control
        if port == _DEBUG:
            return _DEBUG
        if _SERIAL <= port < _SERIAL + 8:
            return 0
        return (1 << 8 * size) - 1

    def _on_out(self, uc: Uc, port: int, size: int, value: int, _data: Any) -> None:
        if port == _SERIAL and not self._line_control & 0x80:
            self._serial.append(value & 0xFF)
        elif port == _LINE_CONTROL:
            self._line_control = value & 0xFF
        elif port == _DEBUG:
            self._debug.append(value & 0xFF)
        elif port == _EXIT:
            self._exit_code = (value & (1 << 8 * size) - 1) << 1 | 1
            uc.emu_stop()


_REGISTER = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in REGISTERS}
_HOW = {19: "read", 20: "write to", 21: "fetch from"}
