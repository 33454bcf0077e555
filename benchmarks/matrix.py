"""How fast the matrix is judged: the whole pipeline against a bare loop in a bare guest.

``python benchmarks/matrix.py`` prints one line for each measurement. The pipeline predicts, runs,
compares and counts every case, with A and D of every entry of its walk. The bare loop only edits
two entries, invalidates, reads and logs both entries and the value; a compiled hook of the fewest
lines notes each fault in a saved context. It does so over the same pairs of entries as the
pipeline, which meets them in both rings, with writes, fetches and first accesses as well; and over
plain pairs, 36 % of them faulting and none of them large, as docs/matrix.md has it.

Then: two processes against one, the cost of a case from 10^4 to 10^7 of them, and memory.
"""

import ctypes
import dataclasses
import mmap
import resource
import sys
import time
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray
from turns import compare, report, timed
from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_64, UC_PROT_ALL, Uc
from unicorn import x86_const as x86

from harness.asm import assemble
from harness.campaign import run
from harness.check.matrix.block import FRAME_4K, TABLES, VA4
from harness.check.matrix.blocks import BlockBench
from harness.check.matrix.spaces import Classic
from harness.check.matrix.work import MatrixWork
from harness.engine.unicorn import hooks
from harness.engine.unicorn.calibrate import calibrate
from harness.engine.unicorn.library import LIB

__all__ = ["measure"]

TURNS = 5
STEP = 17
ROWS = 0x2000
FAULTING = 0.36
SCALING_CASES = 19_000_000

_RAM = 0x100_0000
_SLOT = 0x1E0
_BASE = _SLOT << 39 | 0xFFFF << 48
_PDPT, _PD = 0xE0_0000, 0xE0_1000
_CODE, _PAIRS, _LOG = 0x80_0000, 0x90_0000, 0xA0_0000
_LOOP = """
next:
    mov rax, [rsi]
    mov [r8], rax
    mov rax, [rsi+8]
    mov [r9], rax
    invlpg [r10]
    mov rax, [r10]
resume:
    mov [rdi], rax
    mov rax, [r8]
    mov [rdi+8], rax
    mov rax, [r9]
    mov [rdi+16], rax
    add rsi, 16
    add rdi, 32
    dec rcx
    jnz next
done:
    nop
"""


def measure() -> list[dict[str, Any]]:
    """Run every measurement of this file.

    :returns: what :func:`turns.compare` returns, of each
    """
    space = Classic(4)
    blocks = [block for _, block in space.blocks(0, len(space)) if len(block) >= ROWS]
    # From all over: states with and without a first access, in both rings, of every kind.
    chosen = [
        dataclasses.replace(block, entries=block.entries[:, :: len(block) // ROWS])
        for block in blocks[::STEP]
    ]
    cases = sum(len(block) for block in chosen)
    results = []
    bare = _Bare()
    same = [np.ascontiguousarray(block.entries[2:].T) for block in chosen]
    plain = np.zeros((cases, 2), np.uint64)
    faulting = np.random.default_rng(0).random(cases) < FAULTING
    plain[:, 0], plain[:, 1] = TABLES[3] | 7, np.where(faulting, FRAME_4K | 6, FRAME_4K | 7)

    def bare_over_the_same() -> None:
        for pairs in same:
            bare.loop(pairs)

    with BlockBench() as bench:
        ask = timed(lambda: [bench.ask(block) for block in chosen])
        what = "matrix classic, predicted, run and compared"
        results.append(
            compare(
                f"{what}, against a bare loop over the same entries",
                cases,
                ask,
                timed(bare_over_the_same),
                turns=TURNS,
                target=0.6,
            )
        )
        results.append(
            compare(
                f"{what}, against a bare loop over small pages, {FAULTING:.0%} of them faulting",
                cases,
                ask,
                timed(lambda: bare.loop(plain)),
                turns=TURNS,
            )
        )
    results += _scaling()
    return results


def _scaling() -> list[dict[str, Any]]:
    """Two processes against one, and ten million cases against ten thousand."""
    half = MatrixWork("classic", levels=(4,), count=SCALING_CASES)
    results = [
        compare(
            "matrix classic in two processes, against one",
            SCALING_CASES,
            timed(lambda: run(half, workers=2)),
            timed(lambda: run(half, workers=1)),
            turns=1,
            target=1.8,
        )
    ]
    with BlockBench() as bench:
        # Runs of 10^4 cases from all over the 10^7, or they would be of another kind.
        many = MatrixWork("classic", levels=(4,), count=10**7)
        few = [
            MatrixWork("classic", levels=(4,), first=first, count=10**4)
            for first in range(0, 10**7, 10**5)
        ]
        seconds, peaks = [], []
        for works in (few, [many]):
            start = time.perf_counter()
            for work in works:
                for _, block in work._blocks(0, work.cases):
                    bench.ask(block)
            cases = sum(work.cases for work in works)
            seconds.append((time.perf_counter() - start) / cases)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    results.append(
        {
            "name": "a case of 10^7, against a case of 10^4 "
            f"(the peak of the process grew by {peaks[1] - peaks[0]:.0f} MiB)",
            "ratio": seconds[0] / seconds[1],
            "target": 0.9,
            "seconds": seconds[1] * many.cases,
            "seconds_wanted": None,
            "per_second": 1 / seconds[1],
            "bare_per_second": 1 / seconds[0],
            "traced_mib": 0.0,
            "peak_rss_mib": peaks[1],
        }
    )
    return results


class _Bare:
    """Unicorn without the harness, over tables like a block's."""

    def __init__(self) -> None:
        self._ram = mmap.mmap(-1, _RAM)
        data = np.frombuffer(self._ram, np.uint8)
        self._words = words = data.view(np.uint64)
        words[TABLES[0] + 8 * _SLOT >> 3] = _PDPT | 0x67
        words[_PDPT >> 3] = _PD | 0x67
        for page in range(7):  # not the last: the tables of this slot
            words[(_PD >> 3) + page] = page << 21 | 0xE3
        for depth, level in ((0, 4), (1, 3)):
            at = TABLES[depth] | VA4 >> 9 * level & 0xFF8
            words[at >> 3] = TABLES[depth + 1] | 0x27
        self.uc = uc = Uc(UC_ARCH_X86, UC_MODE_64, x86.UC_CPU_X86_ICELAKE_SERVER)
        uc.mem_map_ptr(0, _RAM, UC_PROT_ALL, data.ctypes.data)
        uc.reg_write(x86.UC_X86_REG_CR4, 0x20)
        uc.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, 0xD00))
        uc.reg_write(x86.UC_X86_REG_CR3, TABLES[0])
        uc.reg_write(x86.UC_X86_REG_CR0, 0x8005_0033)
        program = assemble(_LOOP, base=_BASE + _CODE)
        data[_CODE : _CODE + len(program.code)] = np.frombuffer(program.code, np.uint8)
        self._labels = program.labels
        self._hook = self._note(data.ctypes.data)

    def _note(self, host: int) -> Any:
        at = calibrate()
        context = ctypes.c_void_p()
        LIB.uc_context_alloc(self.uc._uch, ctypes.byref(context))
        self._context = context
        handle, saved = np.uint64(self.uc._uch.value), np.uint64(context.value or 0)
        to_host = np.uint64((host - _BASE) % (1 << 64))
        resume = np.uint64(self._labels["resume"])
        error, shift = at.error_code // 8, np.uint64(at.error_code % 8 * 8)
        previous, rip, rdi = at.previous // 4, at.rip // 8, at.registers // 8 + 7
        save, restore, pointer = hooks.save, hooks.restore, hooks.pointer()
        low = np.uint64(0xFFFF_FFFF)

        @numba.cfunc(types.void(types.voidptr, types.uint32, types.voidptr))  # type: ignore[untyped-decorator]
        def note(_uc: Any, _vector: Any, _data: Any) -> None:
            save(handle, saved)
            words = numba.carray(pointer(saved), (0x400,), np.uint64)
            halves = numba.carray(pointer(saved), (0x800,), np.uint32)
            log = numba.carray(pointer(words[rdi] + to_host), (4,), np.uint64)
            log[3] = (words[error] >> shift) & low
            halves[previous] = low
            words[rip] = resume
            restore(handle, saved)

        number = ctypes.c_size_t()
        LIB.uc_hook_add(
            self.uc._uch,
            ctypes.byref(number),
            UC_HOOK_INTR,
            ctypes.c_void_p(note.address),
            None,
            ctypes.c_uint64(0),
            ctypes.c_uint64((1 << 64) - 1),
        )
        return note

    def loop(self, pairs: NDArray[np.uint64]) -> None:
        """Ask each pair of a page directory entry and a page table entry."""
        uc, words = self.uc, self._words
        for start in range(0, len(pairs), ROWS):
            some = pairs[start : start + ROWS]
            words[_PAIRS >> 3 : (_PAIRS >> 3) + some.size] = some.ravel()
            words[_LOG >> 3 : (_LOG >> 3) + 4 * len(some)] = 0
            for register, value in (
                (x86.UC_X86_REG_RCX, len(some)),
                (x86.UC_X86_REG_RSI, _BASE + _PAIRS),
                (x86.UC_X86_REG_RDI, _BASE + _LOG),
                (x86.UC_X86_REG_R8, _BASE + (TABLES[2] | VA4 >> 18 & 0xFF8)),
                (x86.UC_X86_REG_R9, _BASE + (TABLES[3] | VA4 >> 9 & 0xFF8)),
                (x86.UC_X86_REG_R10, VA4),
            ):
                uc.reg_write(register, value)
            uc.emu_start(self._labels["next"], self._labels["done"])
            left = uc.reg_read(x86.UC_X86_REG_RCX)
            assert left == 0, f"the bare loop must come to its end, and {left} rows are left"


if __name__ == "__main__":
    sys.exit(report(measure()))
