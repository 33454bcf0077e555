"""A machine: memory, a CPU state and an engine, ready to be asked or to run.

A machine answers two questions about an address, what the walker *predicts* and what the engine
*observes*, and runs code that dereferences it::

    >>> from harness.machine import Machine
    >>> with Machine(0x40_0000) as machine:
    ...     machine.map(0x20_0000, 0x8000, 0x1000, "W")
    ...     machine.memory.write(0x8000, b"physical")
    ...     seen = machine.probe(0x20_0000, Access("read", size=8))
    ...     ended = machine.run("mov rax, [0x200000]\\nhlt")
    >>> seen.value.to_bytes(8, "little"), hex(seen.pa)
    (b'physical', '0x8000')
    >>> ended.registers["rax"] == seen.value, str(ended.ending)
    (True, 'halt')

A guest may loop, fault for ever or execute garbage: a run ends at the latest with its budget, and
:class:`Exit` says how. What cannot be set up is an :class:`~harness.errors.InputError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from harness.address import PageSize, VirtAddr
from harness.asm import Program, assemble
from harness.boot.tables import TableBuilder
from harness.cpu import CR4, CpuState
from harness.engine import Engine, open_engine
from harness.engine.run import Budget, Ending, Event, Exit, Start
from harness.entry import PageTableFlags
from harness.errors import InputError
from harness.memory import PhysicalMemory
from harness.outcome import AccessLike, Observation
from harness.walker import Walk, walk

__all__ = [
    "KERNEL_BASE",
    "TABLES_BASE",
    "TABLES_END",
    "Budget",
    "Ending",
    "Event",
    "Exit",
    "Machine",
    "Start",
]

TABLES_BASE = 0x1000
"""Where a machine's own page tables begin; the root comes first."""

TABLES_END = 0x7_0000
"""Where they must end: a kernel's stack and its code lie above."""

KERNEL_BASE = 0x10_0000
"""Where code goes when nothing else is said."""

_BIG_RAM = 0x400_0000
_FLAGS = {
    "W": PageTableFlags.WRITABLE,
    "U": PageTableFlags.USER_ACCESSIBLE,
    "X": PageTableFlags.NO_EXECUTE,
    "G": PageTableFlags.GLOBAL,
}


class Machine:
    """Physical memory with page tables, a CPU state, and the engine that obeys them.

    :param ram: bytes of RAM from address 0, or a memory that exists.
    :param cpu: the CPU's state; without one, tables are made at 0x1000 that map what
        ``identity`` says, and :meth:`map` adds to them.
    :param identity: bytes from 0 that the new tables map to themselves, supervisor, writable, in
        4 KiB pages; all of the first region of RAM when None, in 2 MiB pages from 64 MiB on.
    :param levels: 4 or 5, of the new tables.
    :param engine: a spec (:mod:`harness.engine.open`).
    """

    def __init__(
        self,
        ram: int | PhysicalMemory = 0x100_0000,
        *,
        cpu: CpuState | None = None,
        identity: int | None = None,
        levels: int = 4,
        engine: str = "unicorn",
    ) -> None:
        self.memory = ram if isinstance(ram, PhysicalMemory) else PhysicalMemory(ram)
        self._tables: TableBuilder | None = None
        if cpu is None:
            self._next_frame = TABLES_BASE
            self._tables = TableBuilder(self.memory, self._frame_for_table, levels=levels)
            size = self.memory.regions[0].end if identity is None else identity
            if size:
                big = identity is None and size >= _BIG_RAM and not size % PageSize.Size2MiB
                self.map(0, 0, size, "W", PageSize.Size2MiB if big else PageSize.Size4KiB)
            cpu = CpuState(
                cr3=self._tables.root,
                cr4=int(CR4.PAE | CR4.LA57) if levels == 5 else int(CR4.PAE),
            )
        self.cpu = cpu
        self.engine: Engine = open_engine(engine, self.memory)

    def _frame_for_table(self) -> int:
        frame = self._next_frame
        if frame >= TABLES_END:
            raise InputError(
                f"a machine's own tables must fit between {TABLES_BASE:#x} and {TABLES_END:#x}: "
                "map less, or in bigger pages"
            )
        self._next_frame += 0x1000
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the engine holds."""
        self.engine.close()

    def map(
        self,
        va: int | VirtAddr,
        pa: int,
        size: int,
        flags: str | PageTableFlags = "W",
        page: PageSize = PageSize.Size4KiB,
    ) -> None:
        """Map a range, before a run, in the tables that this machine made.

        :param va: first virtual address.
        :param pa: first physical address.
        :param size: bytes.
        :param flags: letters W, U, X (no execute) and G, or the flags themselves.
        :param page: the size of page to use.
        :raises InputError: for another letter, or when the machine did not make its tables.
        :raises AddressError: when an address or the size is not a multiple of the page size.
        :raises BootError: when something is mapped there.
        """
        if self._tables is None:
            raise InputError("a machine must have made its page tables itself to map more in them")
        if isinstance(flags, str):
            unknown = set(flags) - set(_FLAGS)
            if unknown:
                raise InputError(f"flags must be letters of W, U, X and G, not {flags!r}")
            bits = PageTableFlags.PRESENT
            for letter in flags:
                bits |= _FLAGS[letter]
            flags = bits
        self._tables.map(int(va), pa, size, flags, page)

    def map_recursive(self, slot: int) -> None:
        """Let a top-level slot point to the top-level table itself.

        :raises InputError: when the slot is not one, or is taken.
        """
        if not 0 <= slot < 512:
            raise InputError(f"a recursive slot must be 0 to 511, not {slot}")
        at = self.cpu.root + 8 * slot
        if self.memory.read_u64(at):
            raise InputError(f"recursive slot {slot} must be free, but holds an entry")
        flags = PageTableFlags.PRESENT | PageTableFlags.WRITABLE
        self.memory.write_u64(at, self.cpu.root | int(flags))

    def load(self, code: Program | bytes, at: int | None = None) -> int:
        """Put code into physical memory.

        :param at: the physical address; a program's own base when None.
        :returns: the address it lies at.
        :raises InputError: when it does not fit into RAM.
        """
        data = code.code if isinstance(code, Program) else bytes(code)
        if at is None:
            at = code.base if isinstance(code, Program) else KERNEL_BASE
        if not self.memory.contains(at, max(1, len(data))):
            raise InputError(f"{len(data):#x} bytes of code at {at:#x} must lie in RAM")
        self.memory.write(at, data)
        return at

    def run(
        self,
        code: str | Program | int,
        *,
        registers: Mapping[str, int] | None = None,
        budget: Budget | None = None,
        start: Start | None = None,
    ) -> Exit:
        """Run code: source text (assembled at 1 MiB), a program, or the address of what is there.

        :param registers: general registers by name.
        :param start: everything else about the CPU; its ``rip`` is replaced.
        :raises AssemblyError: when the text does not assemble.
        """
        if isinstance(code, str):
            code = assemble(code, base=KERNEL_BASE)
        if isinstance(code, Program):
            self.load(code)
            rip = code.base
        else:
            rip = code
        given = start or Start(rip=rip, cpu=self.cpu)
        return self.engine.run(
            Start(
                rip=rip,
                cpu=given.cpu,
                registers=registers if registers is not None else given.registers,
                gdt=given.gdt,
                idt=given.idt,
                cs=given.cs,
                ss=given.ss,
                stop=given.stop,
            ),
            budget or Budget(),
        )

    def walk(self, va: int | VirtAddr, access: AccessLike = "read") -> Walk:
        """Say what the software walker predicts."""
        return walk(self.memory, self.cpu, va, access)

    def probe(self, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        """Say what the engine's MMU does."""
        return self.engine.probe(self.cpu, va, access)

    def screen(self) -> tuple[str, ...]:
        """Read the VGA text screen at 0xb8000: 25 lines of 80 characters (code page 437)."""
        return screen_of(self.memory)


def screen_of(memory: PhysicalMemory) -> tuple[str, ...]:
    """Read the VGA text screen of a memory, without trailing blanks; empty where it is not RAM."""
    if not memory.contains(0xB8000, 4000):
        return ()
    cells = memory.read(0xB8000, 4000)[::2].replace(b"\0", b" ").decode("cp437")
    return tuple(cells[row * 80 : row * 80 + 80].rstrip() for row in range(25))
