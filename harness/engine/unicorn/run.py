"""Run guest code until it ends, whatever it does.

Unicorn stops at every exception; between two stretches of guest code :mod:`.deliver` takes the
exception to the guest's own IDT. Ports, ``hlt`` and the budgets are as a kernel's tests expect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

from unicorn import (
    UC_ERR_INSN_INVALID,
    UC_HOOK_CODE,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_UNMAPPED,
    UC_HOOK_MEM_WRITE,
    Uc,
    UcError,
)
from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.run import PAGE_FAULT, REGISTERS, Budget, Ending, Event, Exit, Start
from harness.engine.unicorn.accesses import Raised
from harness.engine.unicorn.astray import back_to_jump
from harness.engine.unicorn.borrowed import leads_there, refusal
from harness.engine.unicorn.capabilities import unsupported_run
from harness.engine.unicorn.clock import Clock
from harness.engine.unicorn.core import SCRATCH_SIZE, Core, Layout, Scratch
from harness.engine.unicorn.decoded import LONGEST, Decoded, decode
from harness.engine.unicorn.deliver import WITH_ERROR_CODE, Pending, deliver
from harness.engine.unicorn.known_in_runs import accessed_in_faulting_1g
from harness.engine.unicorn.otherwise import otherwise
from harness.engine.unicorn.port_gate import PortGate
from harness.engine.unicorn.preflight import Go, Unable, need_of, preflight
from harness.engine.unicorn.stack import goes_through_stack
from harness.engine.unicorn.state import EFER, Judge, Refused
from harness.engine.unicorn.stepping import Stepping
from harness.engine.unicorn.watch import Watch
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
_ROOT = 0x000F_FFFF_FFFF_F000
_PAE = 1 << 5
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
        uc = core.uc
        self._watch = Watch(core, scratch)
        self._gate = PortGate(core, self._watch)
        self._step = Stepping(core)
        uc.hook_add(UC_HOOK_INTR, self._on_exception)
        uc.hook_add(UC_HOOK_MEM_UNMAPPED, self._on_no_memory)
        own = layout.scratch, layout.scratch + SCRATCH_SIZE - 1
        # Guests have no RAM here; the one page that is left is the root of a frozen CPU.
        uc.mem_unmap(layout.scratch + 0x1000, SCRATCH_SIZE - 0x1000)
        kinds = UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE
        uc.hook_add(kinds, self._on_borrowed, begin=own[0], end=own[1])
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
        self._step.at = None
        self._once: Go | None = None
        self._borrowed: tuple[int, int] | None = None
        self._watch.begin()
        self._gate.begin()
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
            with Clock(self._core.uc, budget.seconds) as clock:
                self._loop(start, clock, budget)
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
            reason = unsupported_run(start.cpu)
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

    def _loop(self, start: Start, clock: Clock, budget: Budget) -> NoReturn:
        stop = _NOWHERE if start.stop is None else start.stop
        while True:
            if clock.late:
                raise _Ended(Ending.SECONDS, f"it still ran after {budget.seconds:g} s")
            self._pending, self._syscall, self._no_memory = None, False, None
            self._stepped_once = False
            rip = self._rip()
            if self._step.at is not None:
                self._arm(rip)
            failed = self._start(rip, stop)
            rip = self._rip()
            if self._borrowed is not None:
                raise _Ended(
                    Ending.NO_MEMORY,
                    f"it tried to access physical address {self._borrowed[0]:#x}, not RAM",
                )
            watched, stopped = self._watch.take()
            if watched and self._pending is None and failed is None:
                if self._step.at is not None:
                    self._step.disarm()
                if stopped is not None:
                    self._look(*stopped)
                continue
            if self._step.at is not None:
                if self._step.done(rip, self._pending):
                    continue
            elif self._step.too_early(rip, self._pending, self._no_memory, self._judge.levels or 4):
                self._step.at = rip
                continue
            if failed is not None:
                self._failed(failed)
            if self._sysenter is not None:
                raise _Ended(
                    Ending.UNSUPPORTED,
                    f"sysenter at {self._sysenter:#x} is not executed by this engine",
                )
            self._gate.thaw()
            self._look_at_ports()
            code = self._gate.ports.exit_code
            if code is not None:
                raise _Ended(Ending.EXIT, f"it wrote to the exit port: exit code {code}")
            if self._pending is not None:
                self._deliver(self._pending)
            elif self._syscall:
                self._enter_kernel(rip)
            elif self._counted is not None and self._counted > self._limit:
                self._counted = self._limit
                raise _Ended(Ending.INSTRUCTIONS, f"it still ran after {self._limit} instructions")
            elif self._stepped_once:
                continue
            elif rip == stop:
                raise _Ended(Ending.STOP, f"it reached {rip:#x}")
            elif not clock.late:
                if self._core.fetch(rip - 1, 1) != _HLT:
                    raise _Ended(Ending.UNSUPPORTED, f"Unicorn stopped at {rip:#x} for no reason")
                raise _Ended(Ending.HALT, f"it halted at {rip:#x}")

    def _arm(self, rip: int) -> None:
        try:
            self._step.arm(rip)
        except Unable as unable:
            raise _Ended(Ending.UNSUPPORTED, str(unable)) from None

    def _look_at_ports(self) -> None:
        """Raise what an access to a port raises."""
        try:
            self._pending = self._gate.fault() or self._pending
        except NoMemory as error:
            raise _Ended(
                Ending.NO_MEMORY, f"the TSS's I/O map needs memory at {error.pa:#x}, not RAM"
            ) from None
        except Unable as unable:
            raise _Ended(Ending.UNSUPPORTED, str(unable)) from None

    def _start(self, rip: int, stop: int) -> UcError | None:
        """Let the CPU run until something stops it."""
        go, self._once = self._once, None
        try:
            if go is None:
                self._core.uc.emu_start(rip, stop)
            else:
                with otherwise(self._core, rip, go):
                    self._core.uc.emu_start(rip, stop, count=1)
                self._stepped_once = True
        except UcError as error:
            return error
        return None

    def _look(self, instruction: Decoded, need: str) -> None:
        """Look at the instruction that the CPU stands before, and let it be executed, or not."""
        if self._counted is not None:
            self._counted -= 1  # it is counted again when it is executed
        try:
            go = preflight(self._core, instruction, need)
        except Raised as error:
            self._core.forget_exception()
            self._step.at = None
            self._deliver(
                Pending(error.vector, error.error_code, implicit=error.implicit), error.why
            )
            return
        except Unable as unable:
            raise _Ended(Ending.UNSUPPORTED, f"{unable}, at {instruction.at:#x}") from None
        except NoMemory as error:
            raise _Ended(
                Ending.NO_MEMORY,
                f"{instruction.mnemonic} at {instruction.at:#x} needs memory at {error.pa:#x}, "
                "not RAM",
            ) from None
        self._core.forget_exception()
        self._watch.let(instruction.at)
        self._once = None if go.plain else go

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

    def _deliver(self, pending: Pending, note: str | None = None) -> None:
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
        if pending.vector == PAGE_FAULT:
            self._check_borrowed()
            entry = accessed_in_faulting_1g(self._core, pending.error_code or 0)
            if entry is not None:
                raise _Ended(
                    Ending.UNSUPPORTED,
                    f"a reserved bit of the 1 GiB page's entry at {entry:#x} faulted, and Unicorn "
                    "sets A there, which no CPU does (a-in-faulting-1g-page)",
                )
        if not is_canonical(rip, levels):
            if pending != _NOT_CANONICAL or not back_to_jump(self._core, self._watch.last_block()):
                raise _Ended(
                    Ending.UNSUPPORTED,
                    f"it stood at {rip:#x}, not canonical, and no jump led there",
                )
            note = f"{rip:#x} is not canonical"
        elif (
            note is None
            and pending == _NOT_CANONICAL
            and goes_through_stack(self._core, rip, levels)
        ):
            pending = Pending(_STACK_FAULT, 0)
        try:
            events, entered = deliver(self._core, pending)
        except NoMemory as error:
            raise _Ended(
                Ending.NO_MEMORY,
                f"exception {pending.vector} needs memory at {error.pa:#x}, not RAM",
            ) from None
        if note is not None and events[0].note is None:
            events[0] = replace(events[0], note=note)
        self._note(events)
        if not entered:
            raise _Ended(Ending.SHUTDOWN, "a triple fault: no handler could be entered")

    def _check_borrowed(self) -> None:
        """End the run where its tables have led to the engine's own frames: there is no RAM."""
        core = self._core
        va = int(core.uc.reg_read(x86.UC_X86_REG_CR2))
        root = int(core.uc.reg_read(x86.UC_X86_REG_CR3)) & _ROOT
        if leads_there(core.layout, core.memory, root, self._judge.levels or 4, [va]):
            raise _Ended(Ending.NO_MEMORY, refusal(core.layout))

    def _on_borrowed(self, uc: Uc, kind: int, pa: int, _size: int, _value: int, _data: Any) -> None:
        if self._borrowed is None:
            self._borrowed = pa, kind
        uc.emu_stop()

    def _note(self, events: list[Event]) -> None:
        self._events += events
        if len(self._events) > _KEPT_EVENTS:
            self._dropped += len(self._events) - _KEPT_EVENTS
            del self._events[_KEPT_EVENTS:]

    def _enter_kernel(self, rip: int) -> None:
        """Do what ``syscall`` does (SDM 2B): Unicorn 2.1.4 executes it as a no-op."""
        uc, core = self._core.uc, self._core
        if not core.in_64_bit_code or not uc.reg_read(x86.UC_X86_REG_MSR, EFER) & _SCE:
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
            serial=bytes(self._gate.ports.serial),
            debug=bytes(self._gate.ports.debug),
            exit_code=self._gate.ports.exit_code,
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

    def _on_exception(self, uc: Uc, vector: int, _data: Any) -> None:
        core = self._core
        if self._gate.frozen is not None:
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
            implicit=vector == PAGE_FAULT and self._reads_descriptors(),
            trap=vector == _DEBUG_EXCEPTION and bool(self._dr6() & _SINGLE_STEP),
            origin=self._origin(vector, core.q[core.at.rip // 8]) if software else None,
        )
        uc.emu_stop()

    def _origin(self, vector: int, after: int) -> int:
        """Return the address of the ``int3`` or ``int n`` that ends at an address."""
        return after - (
            1 if vector == _BREAKPOINT and self._core.fetch(after - 1, 1) == _INT3 else 2
        )

    def _reads_descriptors(self) -> bool:
        """Whether CR2 lies in a descriptor table that the instruction at RIP reads."""
        core = self._core
        rip = self._rip()
        found = decode(core.fetch(rip, LONGEST), rip, core.in_64_bit_code)
        if found is None or need_of(found, 4) not in ("segment", "far", "far-return", "table"):
            return False
        cr2 = int(core.uc.reg_read(x86.UC_X86_REG_CR2))
        tables = (x86.UC_X86_REG_GDTR, x86.UC_X86_REG_LDTR, x86.UC_X86_REG_TR)
        return any(
            base <= cr2 <= base + limit
            for _, base, limit, _ in (core.uc.reg_read(table) for table in tables)
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


_REGISTER = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in REGISTERS}
_HOW = {19: "read", 20: "write to", 21: "fetch from"}
