"""How fast the engine's probes are, as ratios to Unicorn without the harness.

``python benchmarks/engine.py`` prints one line for each measurement. What is compared runs in turns
within one process, over the same tables and the same addresses; the ratio is the median over the
turns. The bare competitors have a Unicorn of their own that maps the same RAM, and no hooks: they
learn a value and nothing else.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from turns import MIB, compare, report, timed
from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, Uc
from unicorn import x86_const as x86
from unicorn.unicorn_const import UC_CTL_IO_WRITE, UC_CTL_TLB_FLUSH

from harness.asm import assemble
from harness.boot.tables import TableBuilder
from harness.cpu import CpuState
from harness.engine.unicorn import UnicornEngine
from harness.engine.unicorn.hooks import BATCH, compiled
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind

__all__ = ["measure"]

PAGES = 4 * BATCH
FRAMES = 64 * MIB >> 12
FEW_PAGES = 4096
TURNS = 15
SINGLE = 4_000
_READ = Access(AccessKind.READ, size=8)
_U64 = np.uint64

# Where the bare guest has its code and its arrays: physical and, by its own page tables, virtual.
_BARE = 96 * MIB
_BARE_SLOT = 1 << 39
_LOOP = """
next:
    mov rsi, [rdi]
    add rdi, 8
    mov rax, [rsi]
    mov [rbx], rax
    add rbx, 8
    dec rcx
    jnz next
    nop
"""


def measure() -> list[dict[str, Any]]:
    """Run every measurement of this file.

    :returns: dictionaries with ``name``, ``ratio`` (speed against the bare competitor),
        ``target`` (the least ratio wanted), ``ours`` and ``bare`` (in ``unit``) and ``peak_mib``
        (of the process, up to then)
    """
    results = []
    memory, cpu = _tables()
    # Every page once, in any order: each access is a walk, and not a hit in the TLB.
    rng = np.random.default_rng(1)
    vas = rng.permutation(PAGES).astype(_U64) << _U64(12)
    vas |= rng.integers(0, 512, PAGES, dtype=_U64) << _U64(3)
    bare = _Bare(memory, cpu)

    def loop() -> list[NDArray[np.uint64]]:
        return [bare.loop(vas[i : i + BATCH]) for i in range(0, PAGES, BATCH)]

    with UnicornEngine(memory) as engine:
        seen = engine.probe_many(cpu, vas, _READ)
        assert np.array_equal(seen.value, np.concatenate(loop())), "both must read the same"
        if compiled() is None:
            print("numba is not installed: batches run with Python hooks", file=sys.stderr)
        results.append(
            compare(
                "batch probes without faults, against a bare load loop",
                PAGES,
                timed(lambda: engine.probe_many(cpu, vas, _READ)),
                timed(loop),
                turns=TURNS,
                target=0.8 if compiled() is not None else None,
            )
        )
        # The same over so few pages that most accesses hit the TLB: the harness's share shows most.
        few = vas & _U64(FEW_PAGES * 0x1000 - 1)

        def loop_over_few() -> list[NDArray[np.uint64]]:
            return [bare.loop(few[i : i + BATCH]) for i in range(0, PAGES, BATCH)]

        results.append(
            compare(
                f"the same over {FEW_PAGES} pages, most of them in the TLB",
                PAGES,
                timed(lambda: engine.probe_many(cpu, few, _READ)),
                timed(loop_over_few),
                turns=TURNS,
            )
        )
        some: list[int] = vas[:SINGLE].tolist()
        bare = _Bare(memory, cpu)  # with a TLB that the loop has not enlarged
        assert engine.probe(cpu, some[0], _READ).value == bare.load(some[0])
        results.append(
            compare(
                "one probe, against a bare emu_start of the same load",
                SINGLE,
                timed(lambda: [engine.probe(cpu, va, _READ) for va in some]),
                timed(lambda: [bare.load(va) for va in some]),
                turns=TURNS,
                target=0.4,
            )
        )
    return results


def _tables() -> tuple[PhysicalMemory, CpuState]:
    # 1 GiB of 4 KiB pages over 64 MiB of frames, and a slot for the bare guest.
    memory = PhysicalMemory(100 * MIB)
    frames = iter(range(64 * MIB, 80 * MIB, 0x1000))
    flags = PageTableFlags.PRESENT | PageTableFlags.WRITABLE
    tables = TableBuilder(memory, frames.__next__)
    chosen = np.random.default_rng(0).integers(0, FRAMES, PAGES)
    for page, frame in enumerate(chosen.tolist()):
        tables.map(page << 12, frame << 12, 0x1000, flags)
    tables.map(_BARE_SLOT, _BARE, 4 * MIB, flags)
    words = memory.words[: 64 * MIB >> 3]
    words[:] = np.arange(len(words), dtype=_U64)
    return memory, CpuState(cr3=tables.root)


class _Bare:
    """Unicorn over the same RAM, without a single hook."""

    def __init__(self, memory: PhysicalMemory, cpu: CpuState) -> None:
        self.uc = uc = Uc(UC_ARCH_X86, UC_MODE_64, x86.UC_CPU_X86_ICELAKE_SERVER)
        for base, size, pointer in memory.region_pointers():
            uc.mem_map_ptr(base, size, UC_PROT_ALL, pointer)
        uc.reg_write(x86.UC_X86_REG_CR4, cpu.cr4)
        uc.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, cpu.efer))
        uc.reg_write(x86.UC_X86_REG_CR3, cpu.cr3)
        uc.reg_write(x86.UC_X86_REG_CR0, cpu.cr0)
        program = assemble(_LOOP, base=_BARE_SLOT)
        memory.write(_BARE, program.code)
        self._end = program.base + len(program.code)
        single = assemble("mov rax, [rsi]\nnop", base=_BARE_SLOT + 0x1000)
        memory.write(_BARE + 0x1000, single.code)
        self._single = single.base, single.base + 3
        self._memory = memory

    def loop(self, vas: NDArray[np.uint64]) -> NDArray[np.uint64]:
        words, uc = self._memory.words, self.uc
        start = _BARE + MIB >> 3
        words[start : start + len(vas)] = vas
        uc.reg_write(x86.UC_X86_REG_RCX, len(vas))
        uc.reg_write(x86.UC_X86_REG_RDI, _BARE_SLOT + MIB)
        uc.reg_write(x86.UC_X86_REG_RBX, _BARE_SLOT + 2 * MIB)
        uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)
        uc.emu_start(_BARE_SLOT, self._end)
        start = _BARE + 2 * MIB >> 3
        return words[start : start + len(vas)].copy()

    def load(self, va: int) -> int:
        uc = self.uc
        uc.reg_write(x86.UC_X86_REG_RSI, va)
        uc.emu_start(*self._single)
        return int(uc.reg_read(x86.UC_X86_REG_RAX))


if __name__ == "__main__":
    sys.exit(report(measure()))
