"""Many reads or writes in one run: a loop in the guest takes address after address from an array.

Exceptions are noted by a hook that sends the loop on to its next probe. A batch answers what
:meth:`Prober.probe` answers, but for the entries that each access changed: those of the whole batch
are put back at its end. A read of an entry in which another probe of the batch has set a bit is not
answered at all, and left for a probe of its own.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from unicorn import (
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
)

from harness.asm import assemble
from harness.cpu import CpuState
from harness.engine.unicorn import hooks
from harness.engine.unicorn.core import SCRATCH_SIZE, Core, Layout, Scratch, slot_base
from harness.engine.unicorn.hooks import BATCH, HEADER, NOTHING
from harness.engine.unicorn.library import FLUSH_TLB, LIB
from harness.errors import EngineError
from harness.memory import PhysicalMemory
from harness.outcome import AccessKind, Observations, Outcome

__all__ = ["Batcher"]

_LOOP = """
next:
    mov rsi, [rdi]
    add rdi, 8
    {access}
resume:
    {keep}
    dec rcx
    jnz next
done:
    nop
"""
_ACCESS = {
    AccessKind.READ: ("mov {register}, [rsi]", "mov [rbx], rax\n    add rbx, 8"),
    AccessKind.WRITE: ("mov [rsi], {register}", ""),
}
_REGISTER = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
_RAX, _RCX, _RBX, _RDI = 0, 1, 3, 7
_TABLE = np.uint64(0x000F_FFFF_FFFF_F000)
_CODE_STEP = 64
_PKRU_DENIES = 3
_OUTCOMES = np.full(256, Outcome.UNSUPPORTED.code, np.uint8)
_OUTCOMES[8] = Outcome.DOUBLE_FAULT.code
_OUTCOMES[12] = Outcome.STACK_FAULT.code
_OUTCOMES[13] = Outcome.GENERAL_PROTECTION.code
_OUTCOMES[14] = Outcome.PAGE_FAULT.code


class Batcher:
    """A CPU for batches of reads, or of writes: their hooks differ."""

    def __init__(
        self, memory: PhysicalMemory, layout: Layout, scratch: Scratch, kind: AccessKind
    ) -> None:
        self._memory = memory
        self._scratch = scratch
        self._layout = layout
        self._kind = kind
        self._core = Core(memory, layout, scratch)
        self._words = memory.words
        context = -(-self._core.at.size // 8)
        self._s = np.zeros(HEADER + context + BATCH * len(hooks.COLUMNS), np.uint64)
        self._code = self._assemble()
        self._fill_header(context)
        self._callbacks: list[Any] = []
        self._marks: NDArray[np.bool_] | None = None
        self._add_hooks()

    def close(self) -> None:
        """Give back what Unicorn holds."""
        self._core.close()

    @staticmethod
    def takes(cpu: CpuState) -> bool:
        """Whether ring 3 may read the batch's own pages, which have protection key 0."""
        return not (cpu.cpl == 3 and cpu.pke and cpu.pkru & _PKRU_DENIES)

    def run(
        self, cpu: CpuState, vas: NDArray[np.uint64], slot: int, size: int, out: Observations
    ) -> NDArray[np.intp]:
        """Probe up to ``BATCH`` addresses, none of which may need the top-level slot.

        :returns: the rows that are not answered
        """
        count = len(vas)
        core, s, scratch = self._core, self._s, self._scratch
        chains = self._chains(cpu, vas)
        before = [self._words[chain] for chain in chains]
        root = self._memory.offset(cpu.root) >> 3
        lent = int(self._words[root + slot])
        self._words[root + slot] = scratch.entry[cpu.levels]
        start = Scratch.ADDRESSES // 8
        scratch.words[start : start + count] = vas
        for column in hooks.COLUMNS:
            at = int(s[column])
            s[at : at + count] = NOTHING

        template = core.template(cpu)
        core.state[:] = template
        base = slot_base(slot, cpu)
        loop, resume, done = self._code[size]
        registers = core.at.registers // 8
        core.q[registers + _RAX] = 0
        core.q[registers + _RCX] = count
        core.q[registers + _RBX] = base + Scratch.VALUES
        core.q[registers + _RDI] = base + Scratch.ADDRESSES
        s[hooks.RESUME] = base + resume
        s[hooks.LENT_SIZE] = 0
        core.restore()
        LIB.uc_ctl(core.handle, FLUSH_TLB)
        error = LIB.uc_emu_start(core.handle, base + loop, base + done, 0, 0)
        failed = core.uc._hook_exception
        if s[hooks.LENT_SIZE]:
            ctypes.memmove(int(s[hooks.LENT_HOST]), int(s[hooks.SELF]) + 8 * hooks.LENT_BYTES, size)
        self._words[root + slot] = lent
        changed = []
        for chain, old in zip(chains, before, strict=True):
            new = self._words[chain]
            if not np.array_equal(new, old):
                changed.append(chain[new != old])
                self._words[chain] = old
        if failed is not None:
            raise failed
        if error:
            raise EngineError(f"Unicorn stopped a batch of {count} probes with error {error}")
        self._collect(count, size, out)
        if self._kind is not AccessKind.READ or not changed:
            return np.empty(0, np.intp)
        return self._read_changed(np.concatenate(changed), size, out)

    def _read_changed(
        self, changed: NDArray[np.int64], size: int, out: Observations
    ) -> NDArray[np.intp]:
        """Find the rows that read one of these words."""
        if self._marks is None:
            self._marks = np.zeros(len(self._words) + 1, np.bool_)
        self._marks[changed] = True
        offsets = self._memory.offsets(out.pa)  # -1, outside RAM, finds the spare mark at the end
        hit = self._marks[offsets >> 3]
        if size > 1:
            hit |= self._marks[offsets + (size - 1) >> 3] & (offsets >= 0)
        self._marks[changed] = False
        return np.nonzero(hit)[0]

    def _collect(self, count: int, size: int, out: Observations) -> None:
        columns = {
            name: self._s[int(self._s[name]) : int(self._s[name]) + count] for name in hooks.COLUMNS
        }
        faulted = columns[hooks.VECTOR] != NOTHING
        out.pa[:] = columns[hooks.PA]
        outside = ~faulted & (self._memory.offsets(out.pa) < 0)
        out.outcome[outside] = Outcome.NO_MEMORY.code
        if self._kind is AccessKind.READ:
            start = Scratch.VALUES // 8
            out.value[:] = self._scratch.words[start : start + count]
            if size < 8:
                out.value &= np.uint64((1 << 8 * size) - 1)
        if not faulted.any():
            return
        vectors = columns[hooks.VECTOR][faulted]
        out.outcome[faulted] = _OUTCOMES[vectors & np.uint64(255)]
        out.error_code[faulted] = columns[hooks.ERROR][faulted]
        in_walk = faulted & (columns[hooks.HOLE] != NOTHING)
        out.outcome[in_walk] = Outcome.NO_MEMORY.code
        out.error_code[in_walk] = 0
        out.pa[in_walk] = columns[hooks.HOLE][in_walk] & ~np.uint64(7)
        in_page = out.outcome == Outcome.PAGE_FAULT.code
        out.cr2[in_page] = columns[hooks.CR2][in_page]

    def _chains(self, cpu: CpuState, vas: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
        """Level by level, the word indices that walks of these addresses could read."""
        chains = []
        tables = np.full(len(vas), cpu.root, np.uint64)
        for level in range(cpu.levels, 0, -1):
            entries = tables | ((vas >> np.uint64(9 * level + 3)) & np.uint64(511)) << np.uint64(3)
            offsets = self._memory.offsets(entries)
            inside = offsets >= 0
            if not inside.all():
                offsets, vas = offsets[inside], vas[inside]
            chains.append(offsets >> 3)
            tables = self._words[chains[-1]] & _TABLE
        return chains

    def _assemble(self) -> dict[int, tuple[int, int, int]]:
        found = {}
        access, keep = _ACCESS[self._kind]
        first = 0x400 if self._kind is AccessKind.READ else 0x600
        for number, (size, register) in enumerate(_REGISTER.items()):
            at = Scratch.CODE + first + number * _CODE_STEP
            text = _LOOP.format(access=access.format(register=register), keep=keep)
            program = assemble(text, base=at)
            self._scratch.put(at, program.code)
            found[size] = (at, program.labels["resume"], program.labels["done"])
        return found

    def _fill_header(self, context: int) -> None:
        s, core = self._s, self._core
        at = core.at
        s[hooks.FIRST] = self._layout.scratch + Scratch.ADDRESSES
        s[hooks.END] = self._layout.scratch + Scratch.ADDRESSES + 8 * BATCH
        s[hooks.HANDLE] = core.handle.value
        s[hooks.SELF] = s.ctypes.data
        s[hooks.CONTEXT] = HEADER
        s[hooks.ERROR_AT], s[hooks.ERROR_SHIFT] = at.error_code // 8, at.error_code % 8 * 8
        s[hooks.PREVIOUS_AT] = at.previous // 8
        s[hooks.PREVIOUS_MASK] = 0xFFFF_FFFF << (at.previous % 8 * 8)
        s[hooks.CR2_AT], s[hooks.RIP_AT] = at.cr2 // 8, at.rip // 8
        for number, column in enumerate(hooks.COLUMNS):
            s[column] = HEADER + context + number * BATCH
        s[HEADER : HEADER + context].view(np.uint8)[: at.size] = core.state
        regions = [
            *self._memory.region_pointers(),
            (self._layout.scratch, SCRATCH_SIZE, self._scratch.pointer),
        ]
        if len(regions) > hooks.MAX_REGIONS:
            raise EngineError(
                f"RAM must be at most {hooks.MAX_REGIONS - 1} regions, not {len(regions) - 1}"
            )
        s[hooks.REGIONS] = len(regions)
        for number, (base, size, host) in enumerate(regions):
            first = hooks.REGION + 3 * number
            s[first : first + 3] = base, base + size, host

    def _add_hooks(self) -> None:
        s, uc = self._s, self._core.uc
        fast = hooks.compiled()
        holes = self._layout.holes(self._memory)
        if fast is None:
            uc.hook_add(UC_HOOK_INTR, lambda _uc, vector, _d: hooks.on_fault(s, vector))
            uc.hook_add(UC_HOOK_MEM_READ, lambda _uc, _k, pa, _size, _v, _d: hooks.on_read(s, pa))
            if self._kind is AccessKind.WRITE:
                uc.hook_add(
                    UC_HOOK_MEM_WRITE,
                    lambda _uc, _k, pa, size, _v, _d: hooks.on_write(s, pa, size),
                )
            for base, size in holes:
                uc.mmio_map(base, size, self._hole_read, base, _ignore, None)
            return
        self._add_compiled(UC_HOOK_INTR, fast["fault"])
        self._add_compiled(UC_HOOK_MEM_READ, fast["read"])
        if self._kind is AccessKind.WRITE:
            self._add_compiled(UC_HOOK_MEM_WRITE, fast["write"])
        for base, size in holes:
            hole = np.array([base, s.ctypes.data], np.uint64)
            self._callbacks.append(hole)
            status = LIB.uc_mmio_map(
                self._core.handle,
                base,
                size,
                ctypes.c_void_p(fast["hole_read"].address),
                ctypes.c_void_p(hole.ctypes.data),
                ctypes.c_void_p(fast["hole_write"].address),
                ctypes.c_void_p(hole.ctypes.data),
            )
            if status:
                raise EngineError(f"Unicorn must map the hole at {base:#x}: error {status}")

    def _add_compiled(self, kind: int, hook: Any) -> None:
        number = ctypes.c_size_t()
        status = LIB.uc_hook_add(
            self._core.handle,
            ctypes.byref(number),
            kind,
            ctypes.c_void_p(hook.address),
            ctypes.c_void_p(self._s.ctypes.data),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if status:
            raise EngineError(f"Unicorn must take a compiled hook: error {status}")

    def _hole_read(self, _uc: Any, offset: int, _size: int, base: int) -> int:
        hooks.on_hole(self._s, base + offset)
        return 0


def _ignore(*_: object) -> None:
    """Let a write to memory that is not there go nowhere."""
