"""Virtual memory as a kernel sees it: loads and stores that the page tables translate.

A kernel cannot dereference a physical address. The mappers of this package cannot either: each of
their loads and stores goes through an :class:`AddressSpace`, at a virtual address, as a supervisor
access that :func:`harness.walker.walk` translates with the CPU's current state. A mapper whose
trick is set up wrongly therefore gets what a kernel would get, a fault, as :class:`AccessFault`.

>>> space = AddressSpace(memory, CpuState(cr3=0x1000))  # doctest: +SKIP
>>> space.read_u64(0xffff_ffff_ffff_f000)  # the top-level table, if slot 511 is recursive

A completed access sets A and D bits as the CPU does. There is no TLB here, so every access sees
the tables as they are; ``invlpg`` and ``flush_all`` are passed on to whatever has one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.address import PhysAddr, PhysFrame
from harness.cpu import CR0, CpuState
from harness.mapping.errors import AccessFault
from harness.mapping.flush import Invalidator
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Outcome
from harness.walker import walk

__all__ = ["AddressSpace"]

_READ_WORD = Access(AccessKind.READ, 8)
_WRITE_WORD = Access(AccessKind.WRITE, 8)
_WP = int(CR0.WP)


class AddressSpace:
    """The memory that a kernel running on ``cpu`` can reach.

    :param memory: the guest's RAM, which holds the page tables.
    :param cpu: its state; CR3 says which tables are active. Accesses are made at CPL 0.
    :param tlb: told of every invalidation, if there is one.
    """

    def __init__(
        self, memory: PhysicalMemory, cpu: CpuState, tlb: Invalidator | None = None
    ) -> None:
        self.memory = memory
        self.cpu = cpu.replace(cpl=0) if cpu.cpl else cpu
        self._tlb = tlb

    @property
    def root(self) -> PhysFrame:
        """The frame of the active top-level table, from CR3."""
        return PhysFrame.from_start_address(PhysAddr(self.cpu.root))

    def without_write_protect(self) -> AddressSpace:
        """Give the same space as seen with CR0.WP clear: read-only pages can be written."""
        return AddressSpace(self.memory, self.cpu.replace(cr0=int(self.cpu.cr0) & ~_WP), self._tlb)

    def physical(self, va: int, access: Access) -> int:
        """Make an access, and give the physical address that it reached.

        :raises AccessFault: the access faults, or reaches what is not RAM.
        """
        found = walk(self.memory, self.cpu, va, access)
        if found.outcome is not Outcome.MAPPED:
            raise AccessFault(found)
        for entry, bits in found.sets.items():
            self.memory.write_u64(entry, self.memory.read_u64(entry) | bits)
        assert found.pa is not None
        return found.pa

    def read_u64(self, va: int) -> int:
        """Load an aligned u64.

        :raises AccessFault: as for :meth:`physical`.
        """
        return self.memory.read_u64(self.physical(va, _READ_WORD))

    def write_u64(self, va: int, value: int) -> None:
        """Store an aligned u64.

        :raises AccessFault: as for :meth:`physical`.
        """
        self.memory.write_u64(self.physical(va, _WRITE_WORD), value)

    def read_words(self, va: int, count: int) -> NDArray[np.uint64]:
        """Load aligned u64s that lie in one 4 KiB page, with one translation.

        :raises AccessFault: as for :meth:`physical`.
        """
        pa = self.physical(va, _READ_WORD)
        return self._words(pa, count).copy()

    def write_words(self, va: int, words: NDArray[np.uint64]) -> None:
        """Store aligned u64s that lie in one 4 KiB page, with one translation.

        :raises AccessFault: as for :meth:`physical`.
        """
        pa = self.physical(va, _WRITE_WORD)
        self._words(pa, len(words))[:] = words

    def invlpg(self, va: int) -> None:
        """Invalidate the translations of the page that holds ``va``."""
        if self._tlb is not None:
            self._tlb.invlpg(va)

    def flush_all(self) -> None:
        """Invalidate every translation, those of global pages too."""
        if self._tlb is not None:
            self._tlb.flush_all()

    def _words(self, pa: int, count: int) -> NDArray[np.uint64]:
        first = pa % 4096 // 8
        return self.memory.frame(pa & ~0xFFF)[first : first + count]
