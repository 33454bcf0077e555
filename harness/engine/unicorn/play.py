"""Several steps on one CPU, in order, with the TLB that the steps before left behind.

Every step starts from the CPU state that the control instructions so far have made: restoring it
brings back the registers and leaves the TLB alone (unicorn 2.1.4, docs/quirks.md, Unicorn 5). What
changes that state or the TLB is real guest code (``invlpg``, ``mov cr3``, ``wrmsr``, ...) in a
top-level slot that no step's walk reads, borrowed in every root that is loaded. Memory that a step
changes stays changed for the next one, and is put back when the last has run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from unicorn import (
    UC_ERR_FETCH_PROT,
    UC_ERR_INSN_INVALID,
    UC_HOOK_BLOCK,
    UC_HOOK_INTR,
    UC_HOOK_MEM_WRITE,
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
)
from unicorn import x86_const as x86

from harness.asm import assemble
from harness.cpu import CpuState
from harness.engine.guest.access_stubs import SNIPPETS, key_of
from harness.engine.guest.footprint import Footprint
from harness.engine.guest.reach import addresses_of, slots_reached
from harness.engine.guest.slots import spare_slot
from harness.engine.run import REGISTERS
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    DeliverStep,
    ExecuteStep,
    InvlpgStep,
    Step,
    StepResult,
    WriteStep,
)
from harness.engine.unicorn.capabilities import unsupported_state
from harness.engine.unicorn.core import (
    SCRATCH_SIZE,
    Core,
    Layout,
    Scratch,
    slot_base,
)
from harness.engine.unicorn.delivery_step import play_delivery
from harness.engine.unicorn.library import FLUSH_TLB, LIB
from harness.errors import AssemblyError, EngineError
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Observation, Outcome

__all__ = ["Player"]

_CODE, _CODE_STEP = 0x1C_0000, 32
"""Where this part of the engine keeps its code among the engine's own frames."""
_CODE_END = SCRATCH_SIZE
_NOWHERE = 1 << 63
_MASK = (1 << 64) - 1
_TABLE = 0x000F_FFFF_FFFF_F000
_SIZES = (1, 2, 4, 8)
_EFER = 0xC000_0080
_LOADS = {
    "cr0": "mov cr0, rax",
    "cr3": "mov cr3, rax",
    "cr4": "mov cr4, rax",
    "efer": "wrmsr",
    "pkru": "wrpkru",
}
_INVLPG = "invlpg [rsi]"
_LARGEST = 1 << 28
"""Bytes of RAM that are compared as a whole after an instruction."""
_NEAR = 1024
"""How far from its registers an instruction is taken to reach, in bytes."""
_LONGEST = 15
"""Bytes of an x86 instruction."""

_VECTORS = {
    6: Outcome.UNSUPPORTED,
    8: Outcome.DOUBLE_FAULT,
    12: Outcome.STACK_FAULT,
    13: Outcome.GENERAL_PROTECTION,
    14: Outcome.PAGE_FAULT,
}
_PROT = {
    AccessKind.READ: UC_PROT_READ,
    AccessKind.WRITE: UC_PROT_WRITE,
    AccessKind.FETCH: UC_PROT_EXEC,
}
_REGISTER = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in REGISTERS}
_DONE = StepResult(Observation(Outcome.MAPPED))
_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
    )
}
"""Where each general register is among the sixteen of a context."""


class _Cannot(Exception):
    """A step that this engine cannot run; the message says why."""


class Player:
    """A CPU for sequences of steps."""

    def __init__(self, memory: PhysicalMemory, layout: Layout, scratch: Scratch) -> None:
        self._memory = memory
        self._layout = layout
        self._scratch = scratch
        self._footprint = Footprint(memory)
        self._words = self._footprint.words
        self._core = core = Core(memory, layout, scratch)
        self._places: dict[str, tuple[int, int]] = {}
        self._next = _CODE
        self._value = ctypes.c_uint64()
        self._value_at = ctypes.byref(self._value)
        self._registers = core.at.registers // 8
        self._rsp, self._rsi = self._registers + 4, self._registers + 6
        self._rip, self._hflags = core.at.rip // 8, core.at.hflags // 4
        self._own = (0, 0)
        self._vector: int | None = None
        self._wrote: int | None = None
        self._error_code = self._cr2 = 0
        self._holes: list[int] = []
        core.uc.hook_add(UC_HOOK_INTR, self._on_exception)
        core.uc.hook_add(UC_HOOK_MEM_WRITE, self._on_write)
        core.uc.hook_add(UC_HOOK_BLOCK, self._on_block)
        for base, size in layout.holes(memory):
            core.uc.mmio_map(base, size, self._on_hole_read, base, self._on_hole_write, base)

    def close(self) -> None:
        """Give back what Unicorn holds."""
        self._footprint.release()
        self._core.close()

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        """Run the steps and put memory back; the result has one entry for each step.

        A step that cannot be run is ``unsupported``, and so is all that follows it.
        """
        results: list[StepResult] = []
        try:
            self._begin(cpu, steps)
            for step in steps:
                results.append(self._step(step))
                if results[-1].unsupported:
                    raise _Cannot("a step before it could not be run")
        except _Cannot as cannot:
            reason = Observation(Outcome.UNSUPPORTED, reason=str(cannot))
            results += [StepResult(reason)] * (len(steps) - len(results))
        finally:
            self._footprint.put_back()
        return results

    def _begin(self, cpu: CpuState, steps: Sequence[Step]) -> None:
        reason = unsupported_state(cpu)
        if reason is not None:
            raise _Cannot(reason)
        self._cpu = cpu
        self._footprint.root, self._footprint.levels = cpu.root, cpu.levels
        self._vas = addresses_of(steps)
        slot = spare_slot(slots_reached(self._footprint, steps), also=range(0xFF, 0, -1))
        if slot is None:
            raise _Cannot("the steps must leave a top-level slot for the engine's own code")
        self._slot = slot
        core = self._core
        self._base = core.template(cpu)
        self._borrow(cpu.root)
        self._look_around()
        core.state[:] = self._base
        core.restore()
        LIB.uc_ctl(core.handle, FLUSH_TLB)

    def _step(self, step: Step) -> StepResult:
        match step:
            case AccessStep():
                return self._access(step)
            case WriteStep(words=words):
                for pa, word in words.items():
                    offset = self._memory.offset(pa)
                    if offset < 0:
                        raise _Cannot(f"memory at {pa:#x} must be RAM")
                    self._footprint.remember(offset >> 3)
                    self._words[offset >> 3] = word
                self._look_around()
                return _DONE
            case InvlpgStep(va=va):
                self._run(_INVLPG, {"rsi": va})
                return _DONE
            case ControlStep(register=register, value=value):
                self._load(register, value)
                return _DONE
            case ExecuteStep():
                return self._execute(step)
            case DeliverStep():
                return self._deliver(step)

    # Memory: what is looked at, and what is put back.

    def _look_around(self) -> None:
        self._footprint.look_around(self._vas)

    def _photograph(self) -> None:
        if self._memory.size > _LARGEST:
            raise _Cannot(f"an instruction is played in at most {_LARGEST:#x} bytes of RAM")
        self._footprint.photograph()

    def _all_changes(self) -> dict[int, int]:
        changed = self._footprint.all_changes()
        self._look_around()
        return changed

    def _borrow(self, root: int) -> None:
        """Show the engine's own frames in the top-level slot that is free for it."""
        offset = self._memory.offset(root)
        if offset < 0:
            raise _Cannot(f"the root table at {root:#x} must be in RAM for the steps' own code")
        index = (offset >> 3) + self._slot
        self._footprint.remember(index)
        self._words[index] = self._scratch.entry[self._cpu.levels]

    # The CPU.

    def _place(self, instruction: str) -> tuple[int, int]:
        """Return where an instruction is among the engine's own frames, and where it ends."""
        found = self._places.get(instruction)
        if found is None:
            try:
                code = assemble(instruction, base=0).code
            except AssemblyError as error:
                raise _Cannot(str(error)) from error
            if not 0 < len(code) <= _LONGEST:
                raise _Cannot(f"one instruction must be executed, not {instruction!r}")
            if self._next + _CODE_STEP > _CODE_END:
                self._places.clear()
                self._next = _CODE
                self._core.uc.ctl_flush_tb()
            self._scratch.put(self._next, code)
            found = self._next, self._next + len(code)
            self._places[instruction] = found
            self._next += _CODE_STEP
        return found

    def _arm(self, cpl: int | None = None) -> None:
        """Take the state that the steps so far have made, at a privilege level."""
        core = self._core
        core.state[:] = self._base
        if cpl is not None:
            core.d[self._hflags] = core.d[self._hflags] & ~3 | cpl
        self._vector = self._wrote = None
        self._holes.clear()

    def _go(self, start: int, end: int) -> int:
        core = self._core
        core.restore()
        self._own = (start, end)
        error = int(LIB.uc_emu_start(core.handle, start, end if end > start else _NOWHERE, 0, 0))
        failed = core.uc._hook_exception
        if failed is not None:
            raise failed
        return error

    def _run(self, instruction: str, registers: dict[str, int]) -> None:
        """Execute one of the supervisor's own instructions, which must not fail."""
        start, end = self._place(instruction)
        base = slot_base(self._slot, self._supervisor())
        self._arm(0)
        for name, value in registers.items():
            self._core.q[self._registers + _NUMBERS[name]] = value
        if self._go(base + start, base + end) or self._vector is not None:
            raise EngineError(f"{instruction} raised exception {self._vector}")

    def _supervisor(self) -> CpuState:
        return self._cpu if self._cpu.cpl == 0 else self._cpu.replace(cpl=0)

    def _load(self, register: str, value: int) -> None:
        cpu = self._cpu.replace(**{register: value})
        reason = unsupported_state(cpu)
        if reason is not None:
            raise _Cannot(reason)
        core = self._core
        if register == "cr3":
            self._borrow(cpu.root)
        if register == "rflags" or (register == "pkru" and not cpu.pke):
            self._arm()  # no TLB knows of it
            if register == "pkru":
                core.d[core.at.pkru // 4] = value
            core.restore()
            if register == "rflags":
                core.uc.reg_write(x86.UC_X86_REG_EFLAGS, cpu.rflags)
        else:
            registers = {"rax": value, "rcx": 0, "rdx": 0}
            if register == "efer":
                registers = {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32, "rcx": _EFER}
            self._run(_LOADS[register], registers)
        core.save()
        core.d[self._hflags] = core.d[self._hflags] & ~3 | cpu.cpl
        self._base = bytes(core.state)
        self._cpu = cpu
        self._look_around()

    # Accesses.

    def _access(self, step: AccessStep) -> StepResult:
        access, va = step.access, step.va
        if access.implicit or access.size not in ((1,) if access.is_fetch else _SIZES):
            raise _Cannot("a step reads or writes 1, 2, 4 or 8 bytes explicitly, or fetches one")
        cpl = self._cpu.cpl if step.cpl is None else step.cpl
        last = va + access.size - 1 & _MASK
        spans = va >> 12 != last >> 12
        whole = spans and access.is_write
        if whole:
            self._photograph()
        self._arm(cpl)
        fetched: dict[int, int] = {}
        if access.is_fetch:
            fetched = self._fetched_alone(va, cpl)
            error = self._go(va, 0)
        else:
            start, end = self._place(SNIPPETS[key_of(access)])
            at_cpl = self._cpu if cpl == self._cpu.cpl else self._cpu.replace(cpl=cpl)
            base = slot_base(self._slot, at_cpl)
            q = self._core.q
            q[self._registers] = step.value
            q[self._rsp if access.stack else self._rsi] = va
            error = self._go(base + start, base + end)
        seen = self._judge(va, last, access, error, spans)
        changed = self._all_changes() if whole else self._footprint.changes()
        if access.is_fetch:
            self._take_back(changed)
            changed = fetched
        if access.is_write:
            self._look_around()
        return StepResult(Observation(*seen, changed))

    def _judge(
        self, va: int, last: int, access: Access, error: int, spans: bool
    ) -> tuple[Outcome, int | None, int | None, int | None, int | None]:
        """Say what the hooks saw, while the CPU still is as the access left it."""
        core = self._core
        vector = self._vector
        if vector is None or (access.is_fetch and self._went_through(va)):
            if error and not (access.is_fetch and error == UC_ERR_FETCH_PROT):
                raise EngineError(f"Unicorn stopped a step at {va:#x} with error {error}")
            value = None
            if access.kind is AccessKind.READ:
                LIB.uc_reg_read(core.handle, x86.UC_X86_REG_RAX, self._value_at)
                value = self._value.value & ((1 << 8 * access.size) - 1)
            # What is stored may be the entry that led there. Otherwise the TLB is asked first, and
            # gives the address that the access had.
            pa = self._wrote
            if pa is None:
                pa = core.translate(va, _PROT[access.kind])
            if pa is None:
                raise EngineError(f"Unicorn mapped {va:#x} for a {access.kind} and then did not")
            if self._memory.offset(pa) < 0:
                return Outcome.NO_MEMORY, None, None, pa, None
            if spans:
                upper = core.translate(last & ~0xFFF, _PROT[access.kind])
                if upper is not None and self._memory.offset(upper) < 0:
                    return Outcome.NO_MEMORY, None, None, upper, None
            return Outcome.MAPPED, None, None, pa, value
        holes = self._holes
        if holes and spans and self._cr2 >> 12 != va >> 12:  # those of the lower page are read
            lower = core.translate(va, _PROT[access.kind])
            holes = [pa for pa in holes if lower is None or pa >> 12 != lower >> 12]
        if holes:
            return Outcome.NO_MEMORY, None, None, holes[0] & ~7, None
        outcome = _VECTORS.get(vector)
        if outcome is None or outcome is Outcome.UNSUPPORTED:
            raise EngineError(f"a step at {va:#x} raised exception {vector}")
        cr2 = self._cr2 if outcome is Outcome.PAGE_FAULT else None
        return outcome, self._error_code, cr2, None, None

    def _went_through(self, va: int) -> bool:
        """Whether the first byte was fetched, and the rest of its instruction was not."""
        if self._vector == 13:
            return self._core.translate(va, UC_PROT_EXEC) is not None
        return self._vector == 14 and self._cr2 >> 12 != va >> 12

    def _fetched_alone(self, va: int, cpl: int) -> dict[int, int]:
        """Translate for a fetch and tell what that changes, before more than it is fetched.

        Unicorn decodes ahead, over the end of the page, and so translates the next one too.
        """
        core = self._core
        core.restore()
        core.translate(va, UC_PROT_EXEC)
        changed = self._footprint.changes()
        for index in self._footprint.chain((va | 0xFFF) + 1 & _MASK):
            self._footprint.watch(index)
        self._arm(cpl)
        return changed

    def _take_back(self, changed: dict[int, int]) -> None:
        """Undo changes of entries, and let them be made anew when they are asked for."""
        self._footprint.take_back(changed)
        if changed:
            self._core.flush()

    # Instructions.

    def _execute(self, step: ExecuteStep) -> StepResult:
        start, end = self._place(step.instruction)
        cpl = self._cpu.cpl if step.cpl is None else step.cpl
        base = slot_base(self._slot, self._cpu.replace(cpl=cpl))
        self._photograph()
        self._arm(cpl)
        core = self._core
        for name, number in _NUMBERS.items():
            core.q[self._registers + number] = step.registers.get(name, 0)
        error = self._go(base + start, base + end)
        vector = self._vector
        if vector is None:  # else the hook has saved the state at the exception
            core.save()
        registers = {name: core.q[self._registers + n] for name, n in _NUMBERS.items()}
        registers["rip"] = core.q[self._rip]
        if vector == 14 and registers["rip"] != base + start:
            vector = None  # the fetch of what it jumps to is not part of it
        outcome = Outcome.MAPPED if vector is None else _VECTORS.get(vector, Outcome.UNSUPPORTED)
        changed = self._all_changes()
        if outcome is Outcome.UNSUPPORTED:
            raise _Cannot(f"{step.instruction} raised exception {vector}")
        if self._holes:
            raise _Cannot(f"{step.instruction} reached {self._holes[0]:#x}, which is not RAM")
        if error == UC_ERR_INSN_INVALID:
            raise _Cannot(f"{step.instruction} is not executed by Unicorn, or raises #UD")
        if error and vector is None and registers["rip"] == base + start:
            raise EngineError(f"Unicorn stopped {step.instruction} with error {error}")
        seen = Observation(
            outcome,
            None if vector is None else self._error_code,
            self._cr2 if vector == 14 else None,
            changed=changed,
        )
        return StepResult(seen, registers, start=base + start)

    # Deliveries.

    def _deliver(self, step: DeliverStep) -> StepResult:
        cpl = self._cpu.cpl if step.cpl is None else step.cpl
        self._photograph()
        self._arm(cpl)
        played = play_delivery(self._core, step, cpl)
        if self._holes:
            raise _Cannot(f"the delivery reached {self._holes[0]:#x}, which is not RAM")
        played.seen.changed.update(self._all_changes())
        return played

    # Hooks.

    def _on_exception(self, _uc: Uc, vector: int, _data: object) -> None:
        core = self._core
        core.save()
        if self._vector is None:
            self._vector = vector
            self._error_code = core.d[core.at.error_code // 4]
            self._cr2 = core.q[core.at.cr2 // 8]
        LIB.uc_emu_stop(core.handle)

    def _on_block(self, _uc: Uc, address: int, _size: int, _data: object) -> None:
        start, end = self._own
        if not start <= address < end:
            LIB.uc_emu_stop(self._core.handle)

    def _on_write(
        self, _uc: Uc, _access: int, pa: int, size: int, _value: int, _data: object
    ) -> None:
        # The store itself has not happened yet. On a second page the photograph sees it.
        if self._wrote is None:
            self._wrote = pa
        if self._footprint.photographed:
            return
        offset = self._memory.offset(pa)
        if offset < 0:
            return
        for index in range(offset >> 3, (offset + size - 1 >> 3) + 1):
            self._footprint.watch(index)

    def _on_hole_read(self, _uc: Uc, offset: int, _size: int, base: int) -> int:
        self._holes.append(base + offset)
        return 0

    def _on_hole_write(self, _uc: Uc, offset: int, _size: int, _value: int, base: int) -> None:
        self._holes.append(base + offset)
