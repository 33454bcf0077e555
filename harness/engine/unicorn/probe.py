"""One access at a time, each from a pristine CPU and memory.

The access is a real instruction that runs in a top-level slot which the walk under test does not
read. Afterwards everything is put back: the slot, the entries that the access changed, and the
bytes that a write overwrote.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from unicorn import (
    UC_ERR_FETCH_PROT,
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
from harness.cpu import CR0, CR4, CpuState
from harness.engine.guest.access_stubs import (
    SNIPPETS,
    WIDEST_AT_ONCE,
    key_of,
)
from harness.engine.guest.footprint import table_words
from harness.engine.guest.slots import slots_of, spare_slot, words_of_page
from harness.engine.unicorn.capabilities import unsupported_access, unsupported_state
from harness.engine.unicorn.core import Core, Layout, Scratch, slot_base
from harness.engine.unicorn.library import FLUSH_TLB, LIB
from harness.engine.unicorn.overwritten import Overwritten
from harness.errors import EngineError
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Observation, Outcome

__all__ = ["Prober"]

_SNIPPET_BYTES = 16
_SELECTOR = 8
_WRITTEN = 0xA5A5_A5A5_A5A5_A5A5

_VECTORS = {
    8: Outcome.DOUBLE_FAULT,
    12: Outcome.STACK_FAULT,
    13: Outcome.GENERAL_PROTECTION,
    14: Outcome.PAGE_FAULT,
}
_NOWHERE = 1 << 63
"""Never reached: unicorn 2.1.4 translates the stop address when it ends, which sets A bits."""

_ONE_INSTRUCTION = 1 << 3
"""unicorn 2.1.4: HF_INHIBIT_IRQ in hflags ends a block after one instruction; blocks of a page of
zeros would be 512 instructions long, and take half a millisecond to translate."""

_MASK = (1 << 64) - 1
_AC = 1 << 18
_PROT = {
    AccessKind.READ: UC_PROT_READ,
    AccessKind.WRITE: UC_PROT_WRITE,
    AccessKind.FETCH: UC_PROT_EXEC,
}
_Seen = tuple[Outcome, int | None, int | None, int | None, int | None]
"""Outcome, error code, CR2, physical address, value."""

_OSFXSR, _EM, _TS = int(CR4.OSFXSR), int(CR0.EM), int(CR0.TS)
_IN_PARTS_OVER_ITS_OWN_WALK = (
    "Unicorn makes a write of more than 8 bytes in parts, and the lower page's part would "
    "overwrite an entry that translates the upper page"
)


class _Ahead(NamedTuple):
    """What a write over a page boundary finds on its second page, before anything happened.

    ``pa`` is where it lies, None when there is no RAM; ``entries`` are the words that the second
    page's translation reads, as that translation leaves them.
    """

    pa: int | None
    entries: dict[int, int]


class _Events:
    """What the hooks of one CPU saw during one probe."""

    __slots__ = ("after", "cr2", "error_code", "holes", "vector")

    def __init__(self) -> None:
        self.vector: int | None = None
        self.error_code = 0
        self.cr2 = 0
        self.holes: list[int] = []
        self.after: list[int] | None = None


class Prober:
    """Answers single probes: reads and writes on one CPU, fetches on another.

    The second CPU stops at every block of code, which would slow the first.
    """

    def __init__(self, memory: PhysicalMemory, layout: Layout, scratch: Scratch) -> None:
        self._memory = memory
        self._layout = layout
        self._scratch = scratch
        self._overwritten = Overwritten(memory, layout, scratch)
        self._words = memory.words.data
        self._code: dict[tuple[str, int, bool, bool], tuple[int, int]] = {}
        for number, (key, text) in enumerate(SNIPPETS.items()):
            code = assemble(text, base=0).code
            at = Scratch.CODE + number * _SNIPPET_BYTES
            scratch.put(at, code)
            self._code[key] = (at, at + len(code))
        self._first = memory.regions[0]
        self._value = ctypes.c_uint64()
        self._value_at = ctypes.byref(self._value)
        self._events = _Events()
        self._chain: list[int] = []
        self._own = 0
        self._last_cpu: CpuState | None = None
        self._last_template = b""
        self._last_reason: str | None = None
        self._last_wide: bytes | None = None
        self._fetcher: Core | None = None
        self._data = core = self._new_core()
        self._prepare_wide(core)
        core.uc.hook_add(UC_HOOK_MEM_WRITE, self._on_write)
        self._rax = core.at.registers // 8
        self._rsp = self._rax + 4
        self._rsi = self._rax + 6

    def close(self) -> None:
        """Give back what Unicorn holds."""
        self._words.release()
        for core in (self._data, self._fetcher):
            if core is not None:
                core.close()

    def probe(self, cpu: CpuState, va: int, access: Access) -> Observation:
        """Make one access from pristine state and put everything back."""
        if cpu is not self._last_cpu:
            self._last_reason = unsupported_state(cpu)
            if self._last_reason is None:
                self._last_template = self._data.template(cpu)
            self._last_cpu = cpu
            self._last_wide = None
        if self._last_reason is not None:
            return Observation(Outcome.UNSUPPORTED, reason=self._last_reason)
        if access.is_fetch:
            return self._fetch(cpu, va, access)
        code = self._code.get(key_of(access))
        if code is None:
            return Observation(Outcome.UNSUPPORTED, reason=unsupported_access(access))
        return self._access(cpu, va, access, code)

    def _access(self, cpu: CpuState, va: int, access: Access, code: tuple[int, int]) -> Observation:
        root = self._memory.offset(cpu.root)
        if root < 0:
            return Observation(
                Outcome.UNSUPPORTED,
                reason=f"the root table at {cpu.root:#x} must be in RAM for the probe's own code",
            )
        core, words = self._data, self._words
        last = (va + access.size - 1) & _MASK
        spans = va >> 12 != last >> 12
        self._chain = chain = self._chain_of(cpu, va)
        self._own = len(chain)
        if spans:
            chain += self._chain_of(cpu, last)
        before = [words[i] for i in chain]
        slot = self._free_slot(cpu.levels, va, last)
        borrowed = (root >> 3) + slot
        lent = words[borrowed]
        words[borrowed] = self._scratch.entry[cpu.levels]
        self._events = events = _Events()
        base = slot_base(slot, cpu)
        second = None
        try:
            if spans and access.is_write:
                second = self._second_page(cpu, last, access)
                if second.pa is not None:
                    self._overwritten.keep(second.pa, (last & 0xFFF) + 1)
            core.state[:] = self._template(access)
            if access.implicit:
                self._aim_gdt(core, va)
            else:
                core.q[self._rax] = _WRITTEN
                core.q[self._rsp if access.stack else self._rsi] = va
            core.restore()
            LIB.uc_ctl(core.handle, FLUSH_TLB)
            error = LIB.uc_emu_start(core.handle, base + code[0], base + code[1], 0, 0)
            after = [words[i] for i in chain]
            left = 0
            if events.after is not None:
                if second is not None and self._hits_its_own_walk(va, access):
                    return Observation(Outcome.UNSUPPORTED, reason=_IN_PARTS_OVER_ITS_OWN_WALK)
                left = 0 if events.vector is None else self._overwritten.changed()
                self._before_the_store(after, events.after, second)
            result = self._judge(core, va, last, access, error, spans)
        finally:
            self._overwritten.undo()
            words[borrowed] = lent
            for i, old in zip(chain, before, strict=True):
                words[i] = old
        if result[0].has_pa:
            left = 0
        return self._observation(result, chain, before, after, left)

    def _before_the_store(self, after: list[int], read: list[int], second: _Ahead | None) -> None:
        """Correct entries that the store itself may have hit: as translation left them.

        :param after: all entries after the access.
        :param read: those of the first page, read when it was translated and not yet stored to.
        :param second: what :meth:`_second_page` saw.
        """
        own = len(read)
        after[:own] = read
        if second is None:
            return
        hit = self._overwritten.words()
        first = dict(zip(self._chain, read, strict=False))
        for at in range(own, len(after)):
            i = self._chain[at]
            if i in hit:
                after[at] = second.entries[i] | first.get(i, 0)

    def _hits_its_own_walk(self, va: int, access: Access) -> bool:
        """Whether the lower page's part was stored before the upper page's walk read it."""
        if access.size <= WIDEST_AT_ONCE:
            return False
        lower = self._overwritten.words_of_page(va)
        return not lower.isdisjoint(self._chain[self._own :])

    def _fetch(self, cpu: CpuState, va: int, access: Access) -> Observation:
        if access.size != 1:
            return Observation(Outcome.UNSUPPORTED, reason=unsupported_access(access))
        core, words = self._fetching_core(), self._words
        self._chain = chain = self._chain_of(cpu, va)
        # Unicorn decodes ahead, over the end of the page if an instruction crosses it.
        ahead = self._chain_of(cpu, (va & ~0xFFF) + 0x1000 & _MASK)
        before = [words[i] for i in chain]
        before_ahead = [words[i] for i in ahead]
        self._events = _Events()
        try:
            core.state[:] = self._last_template
            core.d[core.at.hflags // 4] |= _ONE_INSTRUCTION
            core.restore()
            LIB.uc_ctl(core.handle, FLUSH_TLB)
            error = LIB.uc_emu_start(core.handle, va, _NOWHERE, 0, 0)
            after = [words[i] for i in chain]
            result = self._judge(core, va, va, access, error, spans=False)
        finally:
            for i, old in zip(chain + ahead, before + before_ahead, strict=True):
                words[i] = old
        return self._observation(result, chain, before, after)

    def _judge(
        self, core: Core, va: int, last: int, access: Access, error: int, spans: bool
    ) -> _Seen:
        """Say what the hooks saw, while the CPU still is as the access left it."""
        failed = core.uc._hook_exception
        if failed is not None:
            raise failed
        events = self._events
        vector = events.vector
        if vector is None or self._went_through(va, access):
            if error and not (access.is_fetch and error == UC_ERR_FETCH_PROT):
                raise EngineError(f"Unicorn stopped a probe of {va:#x} with error {error}")
            return self._mapped(core, va, last, access, spans)
        if events.holes:
            outside = self._hole_in_walk(core, va, access, spans)
            if outside is not None:
                return Outcome.NO_MEMORY, None, None, outside, None
        outcome = _VECTORS.get(vector)
        if outcome is None:
            raise EngineError(f"a probe of {va:#x} raised exception {vector}")
        cr2 = events.cr2 if outcome is Outcome.PAGE_FAULT else None
        return outcome, events.error_code, cr2, None, None

    def _went_through(self, va: int, access: Access) -> bool:
        """Whether an exception came after the access itself had succeeded."""
        events = self._events
        if access.is_fetch:  # the first byte was there, the rest of the instruction was not
            if events.vector == 13:
                return self._fetching_core().translate(va, UC_PROT_EXEC) is not None
            return events.vector == 14 and events.cr2 >> 12 != va >> 12
        # A far pointer was read, and its selector names no descriptor.
        return access.size == 6 and events.vector == 13 and events.error_code != 0

    def _mapped(self, core: Core, va: int, last: int, access: Access, spans: bool) -> _Seen:
        kind = access.kind
        value = None
        # What was stored may lie in its own walk.
        self._overwritten.undo()
        if access.implicit:
            self._supervise(core)
        elif kind is AccessKind.READ:
            value = self._value_read(core, access.size)
        pa = core.translate(va, _PROT[kind])
        if pa is None:
            raise EngineError(f"Unicorn mapped {va:#x} for a {kind} and then did not")
        if self._memory.offset(pa) < 0:
            return Outcome.NO_MEMORY, None, None, pa, None
        if spans:
            second = core.translate(last & ~0xFFF & _MASK, _PROT[kind])
            if second is not None and self._memory.offset(second) < 0:
                return Outcome.NO_MEMORY, None, None, second, None
        return Outcome.MAPPED, None, None, pa, value

    def _value_read(self, core: Core, size: int) -> int | None:
        if size == 6:  # a selector that names no descriptor is not kept
            return None
        if size == 10:
            mantissa, exponent = core.uc.reg_read(x86.UC_X86_REG_FP7)  # pushed on an empty stack
            return int(mantissa) | int(exponent) << 64
        if size == 16:
            return int(core.uc.reg_read(x86.UC_X86_REG_XMM0))
        LIB.uc_reg_read(core.handle, x86.UC_X86_REG_RAX, self._value_at)
        return self._value.value & ((1 << 8 * size) - 1)

    def _hole_in_walk(self, core: Core, va: int, access: Access, spans: bool) -> int | None:
        """Where a walk that ended in a fault had read a table outside RAM."""
        holes = self._events.holes
        if spans and self._events.cr2 >> 12 != va >> 12:
            if access.implicit:
                self._supervise(core)
            first = core.translate(va, _PROT[access.kind])
            if first is not None:  # the lower page's own bytes, in aligned words, are no entry
                holes = [pa for pa in holes if not first & ~7 <= pa <= first | 0xFFF]
        return holes[0] & ~7 if holes else None

    def _observation(
        self, seen: _Seen, chain: list[int], before: list[int], after: list[int], stored: int = 0
    ) -> Observation:
        """Add the entries that changed."""
        changed = {
            self._memory.address(i << 3): old ^ new
            for i, old, new in zip(chain, before, after, strict=True)
            if old != new
        }
        return Observation(*seen, changed, stored=stored)

    def _aim_gdt(self, core: Core, va: int) -> None:
        core.restore()
        core.uc.reg_write(x86.UC_X86_REG_GDTR, (0, (va - _SELECTOR) & _MASK, 0xFFFF, 0))
        core.save()
        core.q[self._rax] = _SELECTOR

    def _supervise(self, core: Core) -> None:
        """Make the CPU translate as it does for its own accesses: CPL 0, AC clear."""
        core.save()
        hflags = core.d[core.at.hflags // 4]
        core.d[core.at.hflags // 4] = hflags & ~3
        core.restore()
        if hflags & 3 == 3:  # unicorn 2.1.4 heeds AC below CPL 3 although the access is implicit
            flags = core.uc.reg_read(x86.UC_X86_REG_EFLAGS)
            core.uc.reg_write(x86.UC_X86_REG_EFLAGS, flags & ~_AC)
        core.flush()

    def _second_page(self, cpu: CpuState, last: int, access: Access) -> _Ahead:
        """Look ahead at what a write over the page boundary finds and overwrites there."""
        core = self._data
        core.state[:] = self._last_template
        core.restore()
        core.flush()
        touched = self._chain_of(cpu, last)
        before = [self._words[i] for i in touched]
        pa = core.translate(last & ~0xFFF & _MASK, _PROT[access.kind])
        entries = {i: self._words[i] for i in touched}
        for i, value in zip(touched, before, strict=True):
            self._words[i] = value
        self._events.holes.clear()
        if pa is None or self._memory.offset(pa) < 0:
            pa = None
        return _Ahead(pa, entries)

    def _template(self, access: Access) -> bytes:
        """Return the pristine context for an access, SSE and x87 on where it needs them."""
        cpu = self._last_cpu
        assert cpu is not None
        if access.size <= WIDEST_AT_ONCE or (cpu.cr4 & _OSFXSR and not cpu.cr0 & (_EM | _TS)):
            return self._last_template
        if self._last_wide is None:
            self._last_wide = self._data.template(
                cpu.replace(cr0=cpu.cr0 & ~(_EM | _TS), cr4=cpu.cr4 | _OSFXSR)
            )
        return self._last_wide

    @staticmethod
    def _prepare_wide(core: Core) -> None:
        """Give XMM0 what wide writes store, and far pointers no descriptor to load."""
        core.uc.reg_write(x86.UC_X86_REG_XMM0, _WRITTEN << 64 | _WRITTEN)
        for table in (x86.UC_X86_REG_GDTR, x86.UC_X86_REG_LDTR):
            core.uc.reg_write(table, (0, 0, 0, 0))
        core.keep()

    def _chain_of(self, cpu: CpuState, va: int) -> list[int]:
        """Return the words that any walk of an address could read, whatever their bits say."""
        return table_words(self._words, self._memory.offset, cpu.root, cpu.levels, va)

    @staticmethod
    def _free_slot(levels: int, first: int, last: int) -> int:
        """Return a top-level slot that neither the walk nor the access itself can read."""
        used = slots_of(levels, first)
        used += words_of_page(first, last)
        if first >> 12 != last >> 12:
            used += slots_of(levels, last)
        slot = spare_slot(used)
        assert slot is not None, "one access leaves more than two hundred slots"
        return slot

    # Hooks and the CPUs that carry them.

    def _new_core(self) -> Core:
        core = Core(self._memory, self._layout, self._scratch)

        def on_exception(_uc: Uc, vector: int, _data: object) -> None:
            core.save()
            events = self._events
            if events.vector is None:
                events.vector = vector
                events.error_code = core.d[core.at.error_code // 4]
                events.cr2 = core.q[core.at.cr2 // 8]
            LIB.uc_emu_stop(core.handle)

        core.uc.hook_add(UC_HOOK_INTR, on_exception)
        for base, size in self._layout.holes(self._memory):
            core.uc.mmio_map(base, size, self._on_hole_read, base, self._on_hole_write, base)
        return core

    def _fetching_core(self) -> Core:
        if self._fetcher is None:
            self._fetcher = core = self._new_core()

            def on_block(_uc: Uc, _address: int, _size: int, _data: object) -> None:
                LIB.uc_emu_stop(core.handle)

            core.uc.hook_add(UC_HOOK_BLOCK, on_block)
        return self._fetcher

    def _on_write(
        self, _uc: Uc, _access: int, pa: int, size: int, _value: int, _data: object
    ) -> None:
        # The MMU has set its A and D bits; the store itself has not happened yet.
        events = self._events
        if events.after is None:
            events.after = [self._words[i] for i in self._chain[: self._own]]
        self._overwritten.keep(pa, min(size, 0x1000 - (pa & 0xFFF)))

    def _on_hole_read(self, _uc: Uc, offset: int, _size: int, base: int) -> int:
        self._events.holes.append(base + offset)
        return 0

    def _on_hole_write(self, _uc: Uc, offset: int, _size: int, _value: int, base: int) -> None:
        self._events.holes.append(base + offset)
