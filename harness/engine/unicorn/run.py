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
    UC_MEM_FETCH_UNMAPPED,
    UC_PROT_EXEC,
    UC_QUERY_TIMEOUT,
    Uc,
    UcError,
)
from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.guest.ports import Ports
from harness.engine.run import PAGE_FAULT, REGISTERS, Budget, Ending, Event, Exit, Start
from harness.engine.unicorn.capabilities import unsupported_control
from harness.engine.unicorn.core import Core, Layout, Scratch
from harness.engine.unicorn.deliver import WITH_ERROR_CODE, Pending, deliver, port_fault
from harness.engine.unicorn.stack import goes_through_stack
from harness.engine.unicorn.state import EFER, Judge, Refused
from harness.errors import InputError, NoMemory
from harness.memory import PhysicalMemory

__all__ = ["Runner"]

_NOWHERE = 1 << 63
_DEBUG_EXCEPTION, _BREAKPOINT, _INVALID_OPCODE, _STACK_FAULT, _PROTECTION = 1, 3, 6, 12, 13
_INT3, _ICEBP, _HLT = b"\xcc", b"\xf1", b"\xf4"
_SINGLE_STEP = 1 << 14
"""Of DR6 (BS): the trap that RFLAGS.TF asked for, not the fault of a breakpoint."""
_NOT_CANONICAL = Pending(_PROTECTION, 0)
_PUSHF = b"\x9c"
_STAR, _LSTAR, _FMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
_SCE = 1 << 0
_RF, _TF = 1 << 16, 1 << 8
_PAE, _CS64 = 1 << 5, 1 << 15
_PAGING, _PROTECTED = 1 << 31, 1 << 0
_PROTECTED_MODE = 0xB0
"""unicorn 2.1.4: hflags of 32-bit code and stack in protected mode."""
_FLAT_STACK = 0x00CF_9300
"""A writable 32-bit data segment over all 4 GiB; without it the stack would wrap at 64 KiB."""
_MODE_BITS = 0xC000 | 3
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
        self._no_memory: tuple[int, int] | None = None
        self._step_from: int | None = None
        self._ports = Ports()
        self._port: tuple[int, int] | None = None
        self._frozen: bytes | None = None
        self._events: list[Event] = []
        self._dropped = 0
        self._counted: int | None = None
        self._limit = 0

    def run(self, start: Start, budget: Budget) -> Exit:
        """Run from a start until the guest ends, or its budget does.

        :raises InputError: for a register that does not exist.
        """
        self._reset()
        self._judge = Judge(self._core, start)
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
            uc.reg_write(x86.UC_X86_REG_MSR, (EFER, 0))
            core.save()
            hflags = core.d[core.at.hflags // 4]
            core.d[core.at.hflags // 4] = hflags & ~_MODE_BITS | _PROTECTED_MODE
            core.d[core.at.stack_flags // 4] = _FLAT_STACK
        else:
            reason = unsupported_control(start.cpu)
            if reason is not None:
                raise InputError(reason)
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
            self._pending, self._syscall, self._no_memory = None, False, None
            rip = self._rip()
            if self._step_from is not None:
                self._arm(rip)
            failed = None
            try:
                uc.emu_start(rip, stop, timeout=left)
            except UcError as error:
                failed = error
            rip = self._rip()
            if self._step_from is not None:
                if self._stepped(rip):
                    continue
            elif self._too_early(rip):
                self._step_from = rip
                continue
            if failed is not None:
                self._failed(failed)
            if self._sysenter is not None:
                raise _Ended(
                    Ending.UNSUPPORTED,
                    f"sysenter at {self._sysenter:#x} is not executed by this engine",
                )
            if self._frozen is not None:
                self._thaw(self._frozen)
            if self._port is not None:
                self._refuse_port(*self._port)
            code = self._ports.exit_code
            if code is not None:
                raise _Ended(Ending.EXIT, f"it wrote to the exit port: exit code {code}")
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
                if self._core.fetch(rip - 1, 1) != _HLT:
                    raise _Ended(Ending.UNSUPPORTED, f"Unicorn stopped at {rip:#x} for no reason")
                raise _Ended(Ending.HALT, f"it halted at {rip:#x}")

    def _failed(self, error: UcError) -> None:
        if self._no_memory is not None:
            pa, kind = self._no_memory
            how = _HOW.get(kind, "access")
            raise _Ended(Ending.NO_MEMORY, f"it tried to {how} physical address {pa:#x}, not RAM")
        if error.errno == UC_ERR_INSN_INVALID:
            self._pending = Pending(_INVALID_OPCODE)
            if self._core.fetch(self._rip(), 1) == _ICEBP:  # unicorn 2.1.4 does not know it
                self._move(self._rip() + 1)
                self._pending = Pending(_DEBUG_EXCEPTION, trap=True)
            return
        raise _Ended(Ending.UNSUPPORTED, f"Unicorn stopped with an error of its own: {error}")

    def _deliver(self, pending: Pending) -> None:
        try:
            long_mode = self._judge.look()
        except Refused as refused:
            raise _Ended(Ending.UNSUPPORTED, str(refused)) from None
        rip, levels = self._rip(), self._judge.levels
        if not long_mode:
            self._note([Event(pending.vector, pending.error_code, None, rip, 0)])
            raise _Ended(
                Ending.UNSUPPORTED,
                f"exception {pending.vector} came before long mode, where none is delivered",
            )
        if not is_canonical(rip, levels):
            raise _Ended(
                Ending.UNSUPPORTED,
                f"it went to {rip:#x}, not canonical: a CPU raises #GP at the instruction that "
                "goes there, and Unicorn only behind it",
            )
        if pending == _NOT_CANONICAL and goes_through_stack(self._core, rip, levels):
            pending = Pending(_STACK_FAULT, 0)
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
        if not in_64_bit or not uc.reg_read(x86.UC_X86_REG_MSR, EFER) & _SCE:
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

    def _end(self, ending: Ending, detail: str) -> Exit:
        uc, core = self._core.uc, self._core
        core.save()
        cpl = core.d[core.at.hflags // 4] & 3
        rflags = int(uc.reg_read(x86.UC_X86_REG_EFLAGS))
        control = self._judge.control()
        try:
            pkru = core.d[core.at.pkru // 4]
            cpu = self._judge.state(control, rflags=rflags, pkru=pkru, cpl=cpl)
        except Refused as refused:
            ending, detail, cpu = Ending.UNSUPPORTED, str(refused), None
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
            serial=bytes(self._ports.serial),
            debug=bytes(self._ports.debug),
            exit_code=self._ports.exit_code,
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
        if self._frozen is not None:
            uc.emu_stop()
            return
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
        return after - (
            1 if vector == _BREAKPOINT and self._core.fetch(after - 1, 1) == _INT3 else 2
        )

    def _dr6(self) -> int:
        return int(self._core.uc.reg_read(x86.UC_X86_REG_DR6))

    def _on_no_memory(
        self, _uc: Uc, kind: int, pa: int, _size: int, _value: int, _data: Any
    ) -> bool:
        self._no_memory = pa, kind
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

    def _on_in(self, uc: Uc, port: int, size: int, _data: Any) -> int:
        return 0 if self._closed(uc, port, size) else self._ports.read(port, size)

    def _on_out(self, uc: Uc, port: int, size: int, value: int, _data: Any) -> None:
        if not self._closed(uc, port, size):
            self._ports.write(port, size, value)
            if self._ports.exit_code is not None:
                self._freeze(uc)

    def _closed(self, uc: Uc, port: int, size: int) -> bool:
        """Whether an access to a port must not happen; unicorn 2.1.4 does not look at IOPL."""
        if self._frozen is not None:
            return True
        core = self._core
        core.save()
        if not uc.reg_read(x86.UC_X86_REG_CR0) & _PROTECTED:
            return False
        cpl = core.d[core.at.hflags // 4] & 3
        if cpl <= int(uc.reg_read(x86.UC_X86_REG_EFLAGS)) >> 12 & 3:
            return False
        self._port = port, size
        self._freeze(uc)
        return True

    def _freeze(self, uc: Uc) -> None:
        """Let nothing happen behind this instruction.

        unicorn 2.1.4: emu_stop ends a run only behind the translated block. What the block still
        does to the registers is undone by :meth:`_thaw`, and a root table that maps nothing keeps
        it from memory.
        """
        self._core.save()
        self._frozen = bytes(self._core.state)
        cr0 = uc.reg_read(x86.UC_X86_REG_CR0)
        if not cr0 & _PAGING:
            uc.reg_write(x86.UC_X86_REG_CR4, uc.reg_read(x86.UC_X86_REG_CR4) | _PAE)
            uc.reg_write(x86.UC_X86_REG_CR0, cr0 | _PAGING | _PROTECTED)
        uc.reg_write(x86.UC_X86_REG_CR3, self._core.layout.scratch + Scratch.EMPTY)
        uc.emu_stop()

    def _thaw(self, frozen: bytes) -> None:
        core = self._core
        core.state[:] = frozen
        core.restore()
        core.flush()
        self._frozen = None

    def _refuse_port(self, port: int, size: int) -> None:
        """Raise #GP for a port that ring 3 may not use."""
        self._port = None
        try:
            self._pending = port_fault(self._core, port, size)
        except NoMemory as error:
            raise _Ended(
                Ending.NO_MEMORY, f"the TSS's I/O map needs memory at {error.pa:#x}, not RAM"
            ) from None
        if self._pending is None:
            raise _Ended(
                Ending.UNSUPPORTED,
                f"port {port:#x} at {self._rip():#x} is open by the TSS's I/O map alone, "
                "which this engine does not execute",
            )

    # Code at the end of a page.
    #
    # unicorn 2.1.4: a block of code that runs on into the next page is translated, and faults,
    # before its first instruction is executed. Its instructions are then run one by one.

    def _too_early(self, rip: int) -> bool:
        """Whether what stopped the CPU is the fetch of an instruction behind the one at RIP."""
        uc = self._core.uc
        if uc.reg_read(x86.UC_X86_REG_EFLAGS) & _TF:
            return False
        if self._no_memory is not None:
            pa, kind = self._no_memory
            here = self._core.translate(rip, UC_PROT_EXEC)
            return kind == UC_MEM_FETCH_UNMAPPED and here is not None and here >> 12 != pa >> 12
        pending = self._pending
        return (
            pending is not None
            and pending.vector == PAGE_FAULT
            and not pending.software
            and uc.reg_read(x86.UC_X86_REG_CR2) == (rip | 0xFFF) + 1
        )

    def _arm(self, rip: int) -> None:
        uc = self._core.uc
        if self._core.fetch(rip, 1) == _PUSHF:
            raise _Ended(
                Ending.UNSUPPORTED,
                f"pushf at {rip:#x}, before a page that is missing, is not executed by this engine",
            )
        self._core.forget_exception()
        uc.reg_write(x86.UC_X86_REG_EFLAGS, uc.reg_read(x86.UC_X86_REG_EFLAGS) | _TF)

    def _stepped(self, rip: int) -> bool:
        """Take single-stepping back; return whether the next instruction is to be stepped too."""
        uc, before = self._core.uc, self._step_from
        assert before is not None
        uc.reg_write(x86.UC_X86_REG_EFLAGS, uc.reg_read(x86.UC_X86_REG_EFLAGS) & ~_TF)
        done = self._pending is not None and self._pending.vector == _DEBUG_EXCEPTION
        if done and self._pending is not None and self._pending.trap:
            uc.reg_write(x86.UC_X86_REG_DR6, self._dr6() & ~_SINGLE_STEP)
            self._pending = None
            self._step_from = rip if before < rip <= before | 0xFFF else None
            return True
        self._step_from = None
        return False


_REGISTER = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in REGISTERS}
_HOW = {19: "read", 20: "write to", 21: "fetch from"}
