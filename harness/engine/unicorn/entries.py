"""One access under many versions of the entries that it walks, as a loop in the guest.

The loop takes a row of columns: it writes the row's entries into the page tables, executes INVLPG,
makes the access (in ring 3 after a SYSRET), and logs the entries as the access left them. A fault
is noted by a hook that sends the loop on to its next row (:func:`on_exception`, compiled where
numba is installed). A million rows a second pass this way, with every row as independent of the
others as INVLPG makes it.

What the access reached is told by the frames where it may land: their *landing words* are stamped
with an instruction that names them, so that what a read gives, what a fetch executes and where a
write arrives all tell the physical address.

The engine's own pages are supervisor pages in a top-level slot that the walk does not use; behind
them a window shows the edited frames, and ring 3 executes from an alias of the same code.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from unicorn import UC_HOOK_INTR
from unicorn import x86_const as x86

from harness.asm import assemble
from harness.cpu import CpuState
from harness.engine.guest.slots import slots_of, spare_slot
from harness.engine.unicorn import hooks
from harness.engine.unicorn.core import Core, Layout, Scratch, slot_base
from harness.engine.unicorn.hooks import NOTHING
from harness.engine.unicorn.library import LIB
from harness.engine.unicorn.live import live_state
from harness.errors import EngineError
from harness.memory import PhysicalMemory
from harness.outcome import UNKNOWN_PA, Access, AccessKind, EntryObservations, Outcome

__all__ = ["MOST_WORDS", "ROWS", "EntryLoop", "on_exception"]

ROWS = 0x2000
"""Rows in one go: their columns stay in a core's cache."""

MOST_WORDS = 8
"""Words that one row may edit: as many as there are registers left for their addresses."""

# Rows in the engine's frames: what to write, the value, what was found. A row stays within few
# pages, since INVLPG of a part of a large page empties the whole TLB (unicorn 2.1.4, cputlb.c).
_ROWS = 0x2_0000
# Offsets in the borrowed slot: what the supervisor sees in its third 2 MiB are the edited frames.
_WINDOW = 0x40_0000
_WINDOW_TABLE = 0x6000
_DIRECTORY = 0x3000
_CODE = 0xA000
_CODE_STEP = 0x200
_CODE_END = 0x1_0000

_REGISTERS = ("r8", "r9", "r10", "r12", "r13", "r14", "r15", "rdx")
_NUMBERS = (8, 9, 10, 12, 13, 14, 15, 2)
_RBX, _RSP, _RBP, _RSI, _RDI = 3, 4, 5, 6, 7
_SIZES = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
_TOKEN = 0xA5A5_A5A5_A5A5_A500
"""What is written; its low byte is 0, and a fetch leaves there which landing it executed."""
# mov, add, or, xor al, number; jmp rsp. Their first bytes differ, so that one byte tells them.
_STAMPS = (b"\xb0\x01", b"\x04\x02", b"\x0c\x03", b"\x34\x04")
_STAMP_END = b"\xff\xe4\x90\x90\x90\x90"
_SCE, _EFER, _STAR = 1 << 0, 0xC000_0080, 0xC000_0081
_SELECTORS = 0x13 << 48 | 0x08 << 32  # SYSRET: CS = 0x10 + 16 + 3, SS = 0x10 + 8 + 3
_PRESENT_WRITABLE = 0x63
_BREAKPOINT = 3
_STATE_WORDS = 0x400
"""More than any offset of the state; nothing is read or written but what has one."""

_TEMPLATE = """
next:
{write}
    invlpg [rsi]
{first_read}
{enter}
resume:
    mov [rdi + {value}], rax
{log}
    add rdi, {stride}
    dec rbx
    jnz next
done:
    nop
.align 16
user:
    {access}
user_end:
    int3
"""
_FIRST_READ = """
first:
    mov {register}, [rsi]
second:
"""
# RCX and R11 become RIP and RFLAGS.
_SYSRET = """
    mov rax, {token:#x}
    mov rcx, rbp
    mov r11, {flags:#x}
    sysretq
"""
_DIRECT = """
    mov rax, {token:#x}
    {access}
"""
_ACCESSES = {
    AccessKind.READ: "mov {register}, [rsi]",
    AccessKind.WRITE: "mov [rsi], {register}",
    AccessKind.FETCH: "jmp rsi",
}
_OUTCOMES = {12: Outcome.STACK_FAULT, 13: Outcome.GENERAL_PROTECTION, 14: Outcome.PAGE_FAULT}

# The hook's words: who and where, the loop's labels, where in the array its two columns begin, and
# which words of the CPU's state hold what.
HANDLE, STATE, COPIED, FAULT, CR2, START, STRIDE, FIRST, SECOND, RESUME = range(10)
RIP_AT, ROW_AT, CR2_AT, ERROR_AT, ERROR_SHIFT, PREVIOUS_AT, PREVIOUS_MASK = range(10, 17)
CPL_AT, CPL_MASK, HEADER = range(17, 20)

_Array = NDArray[np.uint64]


def on_exception(s: _Array, state: _Array, vector: int) -> None:
    """Note an exception and send the loop on; forget the exception, or the next one is lost.

    unicorn 2.1.4, docs/quirks.md, Unicorn 2 and 3: forgetting it and leaving ring 3 are both done
    in the state.
    """
    if s[COPIED]:
        hooks.save(s[HANDLE], s[STATE])
    rip = s[RIP_AT]
    if state[rip] == s[FIRST]:  # the first of two accesses, whose outcome is nobody's business
        state[rip] = s[SECOND]
    else:
        if vector != _BREAKPOINT:
            row = (state[s[ROW_AT]] - s[START]) // s[STRIDE]
            code = state[s[ERROR_AT]] >> s[ERROR_SHIFT] & 0xFFFF_FFFF
            s[s[FAULT] + row] = code | vector << 32
            s[s[CR2] + row] = state[s[CR2_AT]]
        state[rip] = s[RESUME]
    state[s[PREVIOUS_AT]] |= s[PREVIOUS_MASK]
    state[s[CPL_AT]] &= s[CPL_MASK]
    if s[COPIED]:
        hooks.restore(s[HANDLE], s[STATE])


class EntryLoop:
    """A CPU for accesses under many versions of their entries."""

    def __init__(self, memory: PhysicalMemory, layout: Layout, scratch: Scratch) -> None:
        self._memory = memory
        self._layout = layout
        self._scratch = scratch
        self._core = core = Core(memory, layout, scratch)
        self._rows = scratch.words[_ROWS >> 3 :]
        self._s = np.zeros(HEADER + 2 * ROWS, np.uint64)
        self._found = self._s[HEADER : HEADER + ROWS]
        self._cr2 = self._s[HEADER + ROWS : HEADER + 2 * ROWS]
        self._fill_header()
        self._loops: dict[tuple[Any, ...], dict[str, int]] = {}
        self._next_code = _CODE
        self._stamps: dict[int, int] = {}
        self._templates: dict[CpuState, bytes] = {}
        self._failures: list[BaseException] = []
        scratch.words[(_DIRECTORY >> 3) + 2] = layout.scratch + _WINDOW_TABLE | _PRESENT_WRITABLE
        self._callback = _compiled() or _interpreted(self._s, core.at.size, self._failures)
        number = ctypes.c_size_t()
        status = LIB.uc_hook_add(
            core.handle,
            ctypes.byref(number),
            UC_HOOK_INTR,
            ctypes.c_void_p(hooks.address(self._callback)),
            ctypes.c_void_p(self._s.ctypes.data),
            ctypes.c_uint64(0),
            ctypes.c_uint64(NOTHING),
        )
        if status:
            raise EngineError(f"Unicorn must take a hook: error {status}")

    def close(self) -> None:
        """Give back what Unicorn holds."""
        self._core.close()

    @staticmethod
    def takes(access: Access, va: int, words: int, landing_words: int) -> bool:
        """Say whether the loop makes such an access: within a word, explicit, not through SS."""
        return (
            access.size in _SIZES
            and not access.implicit
            and not access.stack
            and (va & 7) + access.size <= 8
            and (not access.is_fetch or va & 7 == 0)
            and words + (landing_words if access.is_write else 0) <= MOST_WORDS
            and landing_words <= len(_STAMPS)
        )

    def run(
        self,
        cpu: CpuState,
        va: int,
        access: Access,
        at: Sequence[int],
        entries: NDArray[np.uint64],
        landing_words: Sequence[int],
        out: EntryObservations,
        *,
        supervisor_reads_first: bool,
    ) -> bool:
        """Ask up to ``ROWS`` rows, and put back all words but A and D bits of other entries.

        :param at: the physical addresses of the words that are edited.
        :param entries: for each of them a column.
        :param landing_words: the words where the access may land.
        :param out: columns to be filled in.
        :returns: False when the loop did not come to its end; then ``out`` says nothing.
        """
        memory, core = self._memory, self._core
        count = entries.shape[1]
        edited = [*at, *landing_words] if access.is_write else list(at)
        before = [(pa, memory.read_u64(pa)) for pa in (*at, *landing_words)]
        stamps = self._number(landing_words)
        for number, pa in zip(stamps, landing_words, strict=True):
            memory.write_u64(pa, _stamp(number))
        words = len(edited)
        rows = self._rows[: count * _row_words(words)].reshape(count, _row_words(words))
        rows[:, : len(at)] = entries.T
        rows[:, len(at) : words] = [_stamp(number) for number in stamps[: words - len(at)]]
        slot = spare_slot({*slots_of(cpu.levels, va), *(pa >> 3 & 511 for pa in edited)})
        assert slot is not None, "one access leaves more than two hundred slots"
        borrowed = cpu.root + 8 * slot
        lent = memory.read_u64(borrowed)
        memory.write_u64(borrowed, self._scratch.entry[cpu.levels])
        try:
            self._prepare(
                cpu, va, access, edited, slot, count, supervisor_reads_first=supervisor_reads_first
            )
            base = slot_base(slot, cpu.replace(cpl=0))
            loop = self._loop(
                cpu, access, len(edited), supervisor_reads_first=supervisor_reads_first
            )
            error = LIB.uc_emu_start(core.handle, base + loop["next"], base + loop["done"], 0, 0)
        finally:
            memory.write_u64(borrowed, lent)
            for pa, word in before:
                memory.write_u64(pa, word)
        if self._failures:
            raise self._failures.pop()
        core.save()
        end = self._start(slot, cpu) + rows.nbytes
        if error or core.q[core.at.registers // 8 + _RDI] != end:
            return False
        landed = dict(zip(landing_words, stamps, strict=True))
        self._collect(access, va, rows[:, words], rows[:, words + 1 :].T, landed, out)
        return True

    def _number(self, landing_words: Sequence[int]) -> list[int]:
        """Return the number of each landing's stamp; a landing keeps it.

        unicorn 2.1.4: code that was translated is not looked at again when the host changes it
        (docs/quirks.md, Unicorn 6).
        """
        new = [pa for pa in landing_words if pa not in self._stamps]
        if len(self._stamps) + len(new) > len(_STAMPS):
            self._core.uc.ctl_flush_tb()
            self._stamps, new = {}, list(dict.fromkeys(landing_words))
        for pa in new:
            self._stamps[pa] = len(self._stamps)
        return [self._stamps[pa] for pa in landing_words]

    def _prepare(
        self,
        cpu: CpuState,
        va: int,
        access: Access,
        edited: Sequence[int],
        slot: int,
        count: int,
        *,
        supervisor_reads_first: bool,
    ) -> None:
        core, s = self._core, self._s
        loop = self._loop(cpu, access, len(edited), supervisor_reads_first=supervisor_reads_first)
        base = slot_base(slot, cpu.replace(cpl=0))
        user = base + Scratch.USER
        start = self._start(slot, cpu)
        self._found[:count] = 0
        s[START], s[STRIDE] = start, 8 * _row_words(len(edited))
        s[FIRST] = base + loop["first"] if supervisor_reads_first else NOTHING
        s[SECOND] = base + loop["second"] if supervisor_reads_first else NOTHING
        s[RESUME] = base + loop["resume"]
        core.state[:] = self._template(cpu)
        q, registers = core.q, core.at.registers // 8
        q[registers + _RSI] = va
        q[registers + _RDI] = start
        q[registers + _RBX] = count
        q[registers + _RBP] = user + loop["user"]
        # Where code that a fetch lands on jumps to.
        q[registers + _RSP] = user + loop["user_end"] if cpu.user else base + loop["resume"]
        window = (_WINDOW_TABLE >> 3) + np.arange(len(edited))
        self._scratch.words[window] = [pa & ~0xFFF | _PRESENT_WRITABLE for pa in edited]
        for number, pa in enumerate(edited):
            alias = base + _WINDOW + (number << 12) + (pa & 0xFFF)
            q[registers + _NUMBERS[number]] = alias
        core.restore()
        core.flush()

    def _collect(
        self,
        access: Access,
        va: int,
        value: NDArray[np.uint64],
        after: NDArray[np.uint64],
        landing_words: dict[int, int],
        out: EntryObservations,
    ) -> None:
        count, words = len(value), len(out.after)
        found = self._found[:count]
        vectors = found >> np.uint64(32)
        faulted = found != 0
        if access.is_fetch:  # else what was fetched has raised it: there was no stamp
            faulted &= (vectors == 14) & (self._cr2[:count] == va)
        out.outcome[:] = Outcome.MAPPED.code
        if faulted.any():
            out.outcome[faulted] = Outcome.UNSUPPORTED.code
            for vector, outcome in _OUTCOMES.items():
                out.outcome[faulted & (vectors == vector)] = outcome.code
        out.error_code[:] = found
        out.cr2[:] = np.where(faulted & (vectors == 14), self._cr2[:count], 0)
        out.after[:] = after[:words]
        out.pa[:] = UNKNOWN_PA
        inside = np.uint64((1 << 8 * access.size) - 1)
        for place, (pa, number) in enumerate(landing_words.items()):
            if access.is_write:
                landed = after[words + place] != _stamp(number)
            elif access.is_fetch:
                landed = value == np.uint64(_TOKEN + number + 1)
            else:
                landed = (
                    value ^ np.uint64(_stamp(number)) >> np.uint64(8 * (va & 7))
                ) & inside == 0
            out.pa[landed & ~faulted] = pa + (va & 7)

    def _start(self, slot: int, cpu: CpuState) -> int:
        return slot_base(slot, cpu.replace(cpl=0)) + _ROWS

    def _template(self, cpu: CpuState) -> bytes:
        """Return the state in which the loop starts: ring 0, and able to SYSRET."""
        found = self._templates.get(cpu)
        if found is None:
            core = self._core
            core.state[:] = core.template(cpu.replace(cpl=0))
            core.restore()
            if cpu.user:
                core.uc.reg_write(x86.UC_X86_REG_MSR, (_EFER, cpu.efer | _SCE))
                core.uc.reg_write(x86.UC_X86_REG_MSR, (_STAR, _SELECTORS))
            core.save()
            if len(self._templates) >= 256:
                self._templates.clear()
            found = self._templates[cpu] = bytes(core.state)
        return found

    def _loop(
        self, cpu: CpuState, access: Access, words: int, *, supervisor_reads_first: bool
    ) -> dict[str, int]:
        """Return the labels of a loop, as offsets in the engine's frames; assemble it first."""
        key = (
            access.kind,
            access.size,
            words,
            supervisor_reads_first,
            cpu.rflags if cpu.user else None,
        )
        found = self._loops.get(key)
        if found is not None:
            return found
        register = _SIZES[access.size]
        text = _ACCESSES[access.kind].format(register=register)
        write, log = [], []
        for number, name in enumerate(_REGISTERS[:words]):
            write += [f"mov rax, [rdi + {8 * number}]", f"mov [{name}], rax"]
            log += [f"mov rax, [{name}]", f"mov [rdi + {8 * (words + 1 + number)}], rax"]
        enter = _SYSRET if cpu.user else _DIRECT
        source = _TEMPLATE.format(
            write="\n".join(write),
            log="\n".join(log),
            first_read=_FIRST_READ.format(register=register) if supervisor_reads_first else "",
            enter=enter.format(access=text, token=_TOKEN, flags=cpu.rflags),
            access=text,
            value=8 * words,
            stride=8 * _row_words(words),
        )
        if self._next_code + _CODE_STEP > _CODE_END:
            self._next_code = _CODE
            self._loops.clear()
            self._core.uc.ctl_flush_tb()
        at, self._next_code = self._next_code, self._next_code + _CODE_STEP
        program = assemble(source, base=at)
        if len(program.code) > _CODE_STEP:
            raise EngineError(f"a loop of {len(program.code)} bytes does not fit")
        self._scratch.put(at, program.code)
        self._loops[key] = program.labels
        return program.labels

    def _fill_header(self) -> None:
        s, at = self._s, self._core.at
        live = live_state(self._core)
        s[HANDLE], s[COPIED] = self._core.handle.value, live is None
        s[STATE] = live or self._core.context.value or 0
        s[FAULT], s[CR2] = HEADER, HEADER + ROWS
        s[RIP_AT], s[CR2_AT] = at.rip // 8, at.cr2 // 8
        s[ROW_AT] = at.registers // 8 + _RDI
        s[ERROR_AT], s[ERROR_SHIFT] = at.error_code // 8, at.error_code % 8 * 8
        s[PREVIOUS_AT] = at.previous // 8
        s[PREVIOUS_MASK] = 0xFFFF_FFFF << (at.previous % 8 * 8)
        s[CPL_AT] = at.hflags // 8
        s[CPL_MASK] = NOTHING ^ 3 << (at.hflags % 8 * 8)


def _row_words(words: int) -> int:
    """Return how many words a row has: what to write, the value, what was found."""
    return 2 * words + 1


def _stamp(number: int) -> int:
    """Return the word that names a landing: code that says its number and jumps back."""
    return int.from_bytes(_STAMPS[number] + _STAMP_END, "little")


def _interpreted(s: _Array, size: int, failures: list[BaseException]) -> Any:
    state = np.ctypeslib.as_array((ctypes.c_uint64 * (size // 8)).from_address(int(s[STATE])))

    def call(_uc: int, vector: int, _data: int) -> None:
        try:
            on_exception(s, state, vector)
        except BaseException as error:  # it would be lost on its way through C
            failures.append(error)
            LIB.uc_emu_stop(ctypes.c_void_p(int(s[HANDLE])))

    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)(call)


@functools.cache
def _compiled() -> Any:
    """Compile the hook with numba, once per process; None where numba is not installed."""
    try:
        import numba
    except ImportError:
        return None
    from numba import types

    note, pointer = numba.njit(on_exception), hooks.pointer()

    @numba.cfunc(types.void(types.voidptr, types.uint32, types.voidptr))  # type: ignore[untyped-decorator]
    def exception(_uc: Any, vector: Any, data: Any) -> None:
        s = numba.carray(data, (HEADER + 2 * ROWS,), np.uint64)
        state = numba.carray(pointer(s[STATE]), (_STATE_WORDS,), np.uint64)
        note(s, state, np.uint64(vector))

    return exception
