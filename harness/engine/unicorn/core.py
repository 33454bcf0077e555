"""One Unicorn CPU over the project's memory, its whole state readable and writable as bytes.

The probe, the batch and the run each own a :class:`Core`, so that the hooks that one of them needs
do not slow or disturb the others; all of them share one :class:`Layout`, which says where in
physical memory the engine's own frames lie.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, UC_PROT_EXEC, Uc
from unicorn import x86_const as x86

from harness.cpu import CpuState
from harness.engine.unicorn.calibrate import Offsets, calibrate
from harness.engine.unicorn.capabilities import PHYSICAL_BITS
from harness.engine.unicorn.library import FLUSH_TLB, LIB
from harness.errors import EngineError
from harness.memory import PhysicalMemory
from harness.registers import CR4

__all__ = [
    "Core",
    "Layout",
    "SCRATCH_SIZE",
    "Scratch",
    "slot_base",
]

SCRATCH_SIZE = 0x20_0000
_EFER = 0xC000_0080
_CS64 = 1 << 15
"""unicorn 2.1.4: the hflags bit of a 64-bit code segment."""
_EFER_HELD = 0xD01
_CR4_NEVER_MIND = int(CR4.KL | CR4.CET | CR4.UINTR | CR4.FRED)


def slot_base(slot: int, cpu: CpuState) -> int:
    """Where a top-level slot shows the engine's frames to a CPL."""
    bits = 39 if cpu.levels == 4 else 48
    base = slot << bits
    if slot >= 256:
        base |= -1 << (bits + 9) & (1 << 64) - 1
    return base + (Scratch.USER if cpu.cpl == 3 else 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the engine's own 2 MiB lie: a physical hole that the project's memory leaves free."""

    scratch: int

    @classmethod
    def beside(cls, memory: PhysicalMemory) -> Layout:
        """Take the highest free 2 MiB below MAXPHYADDR.

        :raises EngineError: when RAM leaves no hole, or lies beyond MAXPHYADDR
        """
        end = 1 << PHYSICAL_BITS
        for region in reversed(memory.regions):
            if region.end > 1 << PHYSICAL_BITS:
                raise EngineError(
                    f"RAM must end at or below {1 << PHYSICAL_BITS:#x} for Unicorn, whose "
                    f"MAXPHYADDR is {PHYSICAL_BITS}, but a region ends at {region.end:#x}"
                )
            if end - region.end >= SCRATCH_SIZE:
                break
            end = region.base & -SCRATCH_SIZE
        if end < SCRATCH_SIZE:
            raise EngineError("RAM must leave a free 2 MiB for the engine's own frames")
        return cls(end - SCRATCH_SIZE)

    def __contains__(self, pa: int) -> bool:
        return self.scratch <= pa < self.scratch + SCRATCH_SIZE

    def holes(self, memory: PhysicalMemory) -> list[tuple[int, int]]:
        """Physical ranges (base, size) below MAXPHYADDR that neither RAM nor the engine has."""
        taken = sorted(
            [(region.base, region.end) for region in memory.regions]
            + [(self.scratch, self.scratch + SCRATCH_SIZE)]
        )
        found, at = [], 0
        for base, end in [*taken, (1 << PHYSICAL_BITS, 1 << PHYSICAL_BITS)]:
            if base > at:
                found.append((at, base - at))
            at = max(at, end)
        return found


class Core:
    """A Unicorn CPU whose RAM is the project's buffer.

    ``state`` is the context buffer: :meth:`save` copies the CPU into it, :meth:`restore` copies it
    into the CPU, and ``q`` and ``d`` are views of it in 64 and 32 bits. Restoring never flushes
    the TLB (docs/quirks.md, Unicorn 5): call :meth:`flush`.
    """

    def __init__(self, memory: PhysicalMemory, layout: Layout, scratch: Scratch) -> None:
        self.at: Offsets = calibrate()
        self.memory = memory
        self.layout = layout
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64, x86.UC_CPU_X86_ICELAKE_SERVER)
        self.handle: Any = self.uc._uch
        for base, size, pointer in memory.region_pointers():
            self.uc.mem_map_ptr(base, size, UC_PROT_ALL, pointer)
        self.uc.mem_map_ptr(layout.scratch, SCRATCH_SIZE, UC_PROT_ALL, scratch.pointer)
        self._scratch = scratch
        context = ctypes.c_void_p()
        LIB.uc_context_alloc(self.handle, ctypes.byref(context))
        self.context = context
        assert context.value is not None
        self.state = memoryview((ctypes.c_uint8 * self.at.size).from_address(context.value))
        self.state = self.state.cast("B")
        self.q = self.state.cast("Q")
        self.d = self.state.cast("I")
        self.save()
        self._power_on = bytes(self.state)
        self._templates: dict[CpuState, bytes] = {}
        self._translated = ctypes.c_uint64()
        self._translated_at = ctypes.byref(self._translated)

    def close(self) -> None:
        """Give Unicorn's context back; the CPU itself goes with the object."""
        self.q.release()
        self.d.release()
        self.state.release()
        LIB.uc_context_free(self.context)

    def save(self) -> None:
        """Copy the CPU's state into ``state``."""
        LIB.uc_context_save(self.handle, self.context)

    def restore(self) -> None:
        """Copy ``state`` into the CPU."""
        LIB.uc_context_restore(self.handle, self.context)

    def flush(self) -> None:
        """Empty the TLB."""
        LIB.uc_ctl(self.handle, FLUSH_TLB)

    def power_on(self) -> None:
        """Make the CPU what it was when it was created."""
        self.state[:] = self._power_on
        self.restore()
        self.flush()

    def keep(self) -> None:
        """Make what the CPU is now what :meth:`power_on` makes it."""
        self.save()
        self._power_on = bytes(self.state)

    def template(self, cpu: CpuState) -> bytes:
        """Return the pristine context of a CPU state, before anything ran on it.

        :raises EngineError: when Unicorn does not take the control registers as given
        """
        found = self._templates.get(cpu)
        if found is not None:
            return found
        self.power_on()
        self.set_control(cpu)
        self.uc.reg_write(x86.UC_X86_REG_EFLAGS, cpu.rflags)
        self.save()
        # unicorn 2.1.4: writing CS does not change the CPL that the MMU uses (quirk 3).
        self.d[self.at.hflags // 4] = self.d[self.at.hflags // 4] & ~3 | cpu.cpl
        self.d[self.at.pkru // 4] = cpu.pkru
        made = bytes(self.state)
        if len(self._templates) >= 256:
            self._templates.clear()
        self._templates[cpu] = made
        return made

    def set_control(self, cpu: CpuState) -> None:
        """Write CR4, EFER, CR3 and CR0, and see that they were taken.

        Bits that Unicorn cannot hold, and on which no plain access depends, are left out.
        """
        wanted = (
            ("CR4", x86.UC_X86_REG_CR4, cpu.cr4 & ~_CR4_NEVER_MIND),
            ("EFER", None, cpu.efer & _EFER_HELD),
            ("CR3", x86.UC_X86_REG_CR3, cpu.cr3),
            ("CR0", x86.UC_X86_REG_CR0, cpu.cr0),
        )
        for _, register, value in wanted:
            if register is None:
                self.uc.reg_write(x86.UC_X86_REG_MSR, (_EFER, value))
            else:
                self.uc.reg_write(register, value)
        for name, register, value in wanted:
            got = (
                self.uc.reg_read(x86.UC_X86_REG_MSR, _EFER)
                if register is None
                else self.uc.reg_read(register)
            )
            if got != value:
                raise EngineError(f"Unicorn must take {name} = {value:#x}, but holds {got:#x}")

    def translate(self, va: int, prot: int) -> int | None:
        """Ask Unicorn's own MMU; it sets A, and D for a write (docs/quirks.md, Unicorn 11).

        :param prot: ``UC_PROT_READ``, ``UC_PROT_WRITE`` or ``UC_PROT_EXEC``
        :returns: the physical address, or None after a fault
        """
        if LIB.uc_vmem_translate(self.handle, va, prot, self._translated_at):
            return None
        return self._translated.value

    @property
    def in_64_bit_code(self) -> bool:
        """Whether CS is a 64-bit code segment."""
        self.save()
        return bool(self.d[self.at.hflags // 4] & _CS64)

    def forget_exception(self) -> None:
        """Let the next exception arrive as itself (docs/quirks.md, Unicorn 2 and 3)."""
        self.save()
        self.d[self.at.previous // 4] = 0xFFFF_FFFF
        self.restore()

    def fetch(self, rip: int, size: int) -> bytes:
        """Read code that the CPU has just fetched; less, where the next page is not there."""
        found = b""
        cr2 = self.uc.reg_read(x86.UC_X86_REG_CR2)  # a translation that fails overwrites it
        while size:
            pa = self.translate(rip, UC_PROT_EXEC)
            count = min(size, 0x1000 - (rip & 0xFFF))
            if pa is None or not self.memory.contains(pa, count):
                break
            found += self.memory.read(pa, count)
            rip, size = rip + count, size - count
        self.uc.reg_write(x86.UC_X86_REG_CR2, cr2)
        return found


class Scratch:
    """The engine's own frames: page tables that show them, the probe's code, and the arrays.

    In the top-level slot that a probe borrows, the first 2 MiB show these frames to the
    supervisor and the next 2 MiB show the same frames to ring 3.
    """

    EMPTY = 0
    CODE = 0x8000
    ADDRESSES = 0x1_0000
    VALUES = 0x9_0000
    BATCH = 0x1_0000
    USER = 0x20_0000

    def __init__(self, layout: Layout) -> None:
        self._ram = mmap.mmap(-1, SCRATCH_SIZE)
        self.bytes = np.frombuffer(self._ram, np.uint8)
        self.words = self.bytes.view(np.uint64)
        self.pointer = int(self.bytes.ctypes.data)
        base = layout.scratch
        table, present = 0x1000, 0x67  # P, R/W, U/S, A, D
        pml4, pdpt, pd, supervisor, user = (base + table * i for i in range(1, 6))
        self.words[(pml4 - base) // 8] = pdpt | present
        self.words[(pdpt - base) // 8] = pd | present
        self.words[(pd - base) // 8] = supervisor | present
        self.words[(pd - base) // 8 + 1] = user | present
        frames = np.arange(512, dtype=np.uint64) * np.uint64(0x1000) + np.uint64(base)
        for own, bits in ((supervisor, 0x63), (user, 0x67)):
            self.words[(own - base) // 8 : (own - base) // 8 + 512] = frames | np.uint64(bits)
        self.entry = {4: pdpt | present, 5: pml4 | present}
        """The top-level entry that shows these frames, by the number of levels."""

    def put(self, at: int, data: bytes) -> None:
        """Write bytes at an offset into these frames."""
        self.bytes[at : at + len(data)] = np.frombuffer(data, np.uint8)
