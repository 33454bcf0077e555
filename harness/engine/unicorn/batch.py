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
    UC_HOOK_MEM_READ_AFTER,
    UC_HOOK_MEM_WRITE,
)

from harness.asm import assemble
from harness.cpu import CpuState
from harness.engine.unicorn import hooks
from harness.engine.unicorn.capabilities import PHYSICAL_BITS
from harness.engine.unicorn.core import (
    SCRATCH_SIZE,
    Core,
    Layout,
    Scratch,
    slot_base,
)
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
    dec rcx
    jnz next
done:
    nop
"""
_ACCESS = {
    AccessKind.READ: "mov {register}, [rsi]",
    AccessKind.WRITE: "mov [rsi], {register}",
}
_REGISTER = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
_RAX, _RCX, _RDI = 0, 1, 7
_TABLE = np.uint64(0x000F_FFFF_FFFF_F000)
_FRAME_WORDS = 9
"""Of a word's index: the bits below the frame's number."""
_CODE_STEP = 64
_PKRU_DENIES = 3
_NEVER = (1 << 63, 1 << 63)
"""Physical addresses that no access reaches."""
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
        self._failures: list[BaseException] = []
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
        root = self._memory.offset(cpu.root) >> 3
        lent = int(self._words[root + slot])
        self._words[root + slot] = scratch.entry[cpu.levels]
        start = Scratch.ADDRESSES // 8
        scratch.words[start : start + count] = vas
        for column in hooks.COLUMNS:
            at = int(s[column])
            s[at : at + count] = NOTHING
        s[hooks.NOW] = s[hooks.LOST] = 0

        template = core.template(cpu)
        core.state[:] = template
        base = slot_base(slot, cpu)
        loop, resume, done = self._code[size]
        registers = core.at.registers // 8
        core.q[registers + _RAX] = 0
        core.q[registers + _RCX] = count
        core.q[registers + _RDI] = base + Scratch.ADDRESSES
        s[hooks.RESUME], s[hooks.ARRAY] = base + resume, base + Scratch.ADDRESSES
        s[hooks.LENT_SIZE] = 0
        core.restore()
        LIB.uc_ctl(core.handle, FLUSH_TLB)
        error = LIB.uc_emu_start(core.handle, base + loop, base + done, 0, 0)
        if s[hooks.LENT_SIZE]:
            ctypes.memmove(int(s[hooks.LENT_HOST]), int(s[hooks.SELF]) + 8 * hooks.LENT_BYTES, size)
        self._words[root + slot] = lent
        changed = []
        for chain, old in chains:
            differs = self._words.take(chain) != old
            if differs.any():
                changed.append(chain[differs])
                self._words[changed[-1]] = old[differs]
        if self._failures:
            raise self._failures.pop()
        if error:
            raise EngineError(f"Unicorn stopped a batch of {count} probes with error {error}")
        self._collect(count, size, out)
        if self._kind is AccessKind.READ and (s[hooks.LOST] or s[hooks.NOW] != count):
            return np.arange(count)  # a read reached the engine's own frames
        if self._kind is AccessKind.WRITE or not changed:
            return np.empty(0, np.intp)
        return self._read_changed(np.concatenate(changed), size, out)

    def _read_changed(
        self, changed: NDArray[np.int64], size: int, out: Observations
    ) -> NDArray[np.intp]:
        """Find the rows that read one of these words."""
        # Frames first: hardly any probe reads a page table.
        frames = np.zeros((len(self._words) >> _FRAME_WORDS) + 1, np.bool_)
        frames[changed >> _FRAME_WORDS] = True
        offsets = self._memory.offsets(out.pa)  # -1, outside RAM, finds the spare mark at the end
        rows = np.nonzero(frames.take(offsets >> 12))[0]
        if not len(rows):
            return rows
        first = offsets[rows] >> 3
        last = offsets[rows] + (size - 1) >> 3
        return rows[np.isin(first, changed) | np.isin(last, changed)]

    def _collect(self, count: int, size: int, out: Observations) -> None:
        columns = {
            name: self._s[int(self._s[name]) : int(self._s[name]) + count] for name in hooks.COLUMNS
        }
        faulted = columns[hooks.VECTOR] != NOTHING
        out.pa[:] = columns[hooks.PA]
        outside = ~faulted & (self._memory.offsets(out.pa) < 0)
        out.outcome[outside] = Outcome.NO_MEMORY.code
        if self._kind is AccessKind.READ:
            out.value[:] = columns[hooks.VALUE]
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

    def _chains(
        self, cpu: CpuState, vas: NDArray[np.uint64]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
        """Level by level, the indices of the words that walks could read, and those words."""
        chains = []
        tables: Any = np.uint64(cpu.root)
        for level in range(cpu.levels, 0, -1):
            entries = vas >> np.uint64(9 * level)
            entries &= np.uint64(0xFF8)
            entries |= tables
            offsets = self._memory.offsets(entries)
            if int(offsets.min(initial=0)) < 0:
                inside = offsets >= 0
                offsets, vas = offsets[inside], vas[inside]
            offsets >>= 3
            chains.append((offsets, self._words.take(offsets)))
            tables = chains[-1][1] & _TABLE
        return chains

    def _assemble(self) -> dict[int, tuple[int, int, int]]:
        found = {}
        access = _ACCESS[self._kind]
        first = 0x400 if self._kind is AccessKind.READ else 0x600
        for number, (size, register) in enumerate(_REGISTER.items()):
            at = Scratch.CODE + first + number * _CODE_STEP
            text = _LOOP.format(access=access.format(register=register))
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
        s[hooks.NEXT_AT] = at.registers // 8 + _RDI
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
        """Hook exceptions and the probes' own accesses.

        unicorn 2.1.4: the bounds of a memory hook are physical, and an access that a hook lets
        pass costs a fraction of one that it takes. A read hook that takes nothing makes every
        access come by where hooks are called at all.
        """
        first = self._layout.scratch
        array = first + Scratch.ADDRESSES, first + Scratch.ADDRESSES + 8 * BATCH - 1
        own = [(UC_HOOK_INTR, "fault", (0, NOTHING))]
        if self._kind is AccessKind.READ:
            own += [
                (UC_HOOK_MEM_READ, "next", _NEVER),
                (UC_HOOK_MEM_READ_AFTER, "read", (0, first - 1)),
            ]
            if first + SCRATCH_SIZE < 1 << PHYSICAL_BITS:
                above = first + SCRATCH_SIZE, (1 << PHYSICAL_BITS) - 1
                own.append((UC_HOOK_MEM_READ_AFTER, "read", above))
        else:
            own += [
                (UC_HOOK_MEM_READ, "next", array),
                (UC_HOOK_MEM_WRITE, "write", (0, NOTHING)),
            ]
        callbacks = hooks.compiled() or hooks.interpreted(self._s, self._failures)
        self._callbacks.append(callbacks)
        for kind, name, bounds in own:
            self._hook(kind, callbacks[name], bounds)
        for base, size in self._layout.holes(self._memory):
            self._map_hole(base, size, callbacks)

    def _map_hole(self, base: int, size: int, callbacks: dict[str, Any]) -> None:
        hole = np.array([base, self._s.ctypes.data], np.uint64)
        self._callbacks.append(hole)
        status = LIB.uc_mmio_map(
            self._core.handle,
            base,
            size,
            ctypes.c_void_p(hooks.address(callbacks["hole_read"])),
            ctypes.c_void_p(hole.ctypes.data),
            ctypes.c_void_p(hooks.address(callbacks["hole_write"])),
            ctypes.c_void_p(hole.ctypes.data),
        )
        if status:
            raise EngineError(f"Unicorn must map the hole at {base:#x}: error {status}")

    def _hook(self, kind: int, callback: Any, bounds: tuple[int, int]) -> None:
        number = ctypes.c_size_t()
        status = LIB.uc_hook_add(
            self._core.handle,
            ctypes.byref(number),
            kind,
            ctypes.c_void_p(hooks.address(callback)),
            ctypes.c_void_p(self._s.ctypes.data),
            ctypes.c_uint64(bounds[0]),
            ctypes.c_uint64(bounds[1]),
        )
        if status:
            raise EngineError(f"Unicorn must take a hook: error {status}")
