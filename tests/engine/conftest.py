"""What the tests of the engine share: an engine over small tables, and a guest with a kernel.

:class:`Guest` is a machine whose GDT, TSS and IDT the host has put in place, so that a test writes
nothing but the few instructions that it is about. Handlers usually are a ``hlt``: where the guest
then stands, and what lies on its stack, is what the CPU did.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from harness.asm import Program, assemble
from harness.cpu import CpuState
from harness.engine import open_engine
from harness.engine.run import Budget, Exit, Start
from harness.machine import Machine
from harness.memory import PhysicalMemory

HLT_AT = 0x30_0000
GDT, IDT, TSS = 0x2_0000, 0x2_1000, 0x2_2000
DESCRIPTORS = (
    0,
    0x0020_9A00_0000_0000,  # 0x08 kernel code
    0x0000_9200_0000_0000,  # 0x10 kernel data
    0x0000_F200_0000_0000,  # 0x18 user data
    0x0020_FA00_0000_0000,  # 0x20 user code
    TSS << 16 | 0x0000_8900_0000_0067,  # 0x28 the TSS
    0,
    0x0020_1A00_0000_0000,  # 0x38 kernel code that is not present
)


@dataclass(frozen=True)
class Gate:
    """An IDT gate; its handler is a label of the guest, or an address."""

    handler: str | int
    dpl: int = 0
    ist: int = 0
    trap: bool = False
    present: bool = True
    selector: int = 0x08


class Frame(NamedTuple):
    """What the CPU pushed for a handler."""

    error_code: int | None
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int


class Guest:
    """4 MiB of identity-mapped supervisor RAM, user pages at 8 MiB, and tables for exceptions."""

    RSP = 0x8_0008
    RSP0 = 0x9_0000
    IST = (0xA_0000, 0xB_0000)
    USER = 0x80_0000
    USER_FRAME = 0x20_0000
    USER_STACK = USER + 0x3000

    def __init__(self) -> None:
        self.machine = Machine(0x40_0000)
        self.machine.map(self.USER, self.USER_FRAME, 0x4000, "WU")
        self.memory = self.machine.memory
        for number, descriptor in enumerate(DESCRIPTORS):
            self.memory.write_u64(GDT + 8 * number, descriptor)
        self.memory.write(TSS + 4, struct.pack("<Q", self.RSP0))
        self.memory.write(TSS + 36, struct.pack("<2Q", *self.IST))
        self.memory.write(TSS + 0x66, b"\x68\0")  # the I/O map lies beyond the limit
        self.gdt = (GDT, 8 * len(DESCRIPTORS) - 1)
        self.idt = (IDT, 0xFFF)

    def gate(self, vector: int, gate: Gate, program: Program | None = None) -> None:
        """Write one gate."""
        handler = gate.handler
        if isinstance(handler, str):
            assert program is not None
            handler = program.labels[handler]
        kind = (0xF if gate.trap else 0xE) | gate.dpl << 5 | (0x80 if gate.present else 0)
        packed = struct.pack(
            "<HHBBHII",
            handler & 0xFFFF,
            gate.selector,
            gate.ist,
            kind,
            handler >> 16 & 0xFFFF,
            handler >> 32,
            0,
        )
        self.memory.write(IDT + 16 * vector, packed)

    def run(
        self,
        source: str,
        gates: dict[int, Gate | str] | None = None,
        *,
        user: bool = False,
        cpu: CpuState | None = None,
        budget: Budget | None = None,
        stop: int | None = None,
        **registers: int,
    ) -> Exit:
        """Assemble and run; with ``user``, what follows the label ``user:`` runs at CPL 3.

        :param gates: by vector; a label alone is an interrupt gate to it.
        """
        enter = ""
        if user:
            enter = f"""
                push 0x1b
                push {self.USER_STACK}
                push 0x202
                push 0x23
                push {self.USER}
                iretq
            """
        program = assemble(f"mov ax, 0x28\nltr ax\n{enter}{source}", base=0x10_0000)
        self.machine.load(program)
        if user:
            at = program.labels["user"] - program.base
            self.memory.write(self.USER_FRAME, program.code[at:])
        for vector, gate in (gates or {}).items():
            self.gate(vector, Gate(gate) if isinstance(gate, str) else gate, program)
        # ltr marks the TSS busy, and refuses a busy one.
        self.memory.write_u64(GDT + 0x28, DESCRIPTORS[5])
        self.program = program
        return self.machine.run(
            program.base,
            registers={"rsp": self.RSP, **registers},
            start=Start(rip=0, cpu=cpu or self.machine.cpu, gdt=self.gdt, idt=self.idt, stop=stop),
            budget=budget or Budget(seconds=5),
        )

    def user_code(self, code: str, flags: int = 0x202) -> str:
        """Put code on ring 3's page; return what enters it."""
        self.memory.write(self.USER_FRAME, assemble(code, base=self.USER).code)
        return (
            f"push 0x1b\npush {self.USER_STACK}\npush {flags:#x}\n"
            f"push 0x23\npush {self.USER}\niretq"
        )

    def protected(self, source: str, **options: Any) -> Exit:
        """Run code in 32-bit protected mode, paging off."""
        program = assemble(source, base=0x10_0000, bits=32)
        self.machine.load(program)
        start = Start(rip=program.base, cpu=None, **options)
        return self.machine.engine.run(start, Budget(seconds=5))

    def entered(self, ended: Exit, label: str) -> bool:
        """Say whether a run ended right behind the ``hlt`` at a label."""
        return ended.rip == self.program.labels[label] + 1

    def frame(self, ended: Exit, *, error_code: bool) -> Frame:
        """Read what lies on the stack of a run that ended in a handler's first instruction."""
        count = 6 if error_code else 5
        words = struct.unpack(f"<{count}Q", self.memory.read(ended.registers["rsp"], 8 * count))
        return Frame(*words) if error_code else Frame(None, *words)


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    with made.machine:
        yield made


@pytest.fixture
def gate(guest: Guest) -> Callable[..., Gate]:
    """Make gates to a ``hlt`` that lies at 3 MiB."""
    guest.memory.write(HLT_AT, b"\xf4")

    def make(handler: int | str = HLT_AT, **options: Any) -> Gate:
        return Gate(handler, **options)

    return make


P, W, U, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80


class Tables:
    """A RAM of two regions, not from 0, with 4-level tables in the first and frames in both.

    Leaves lie in one page table, whose page n is at ``page(n)``; its words are set by the test.
    """

    LOW, HIGH = 0x10_0000, 0x1_0000_0000
    PML4, PDPT, PD, PT = LOW, LOW + 0x1000, LOW + 0x2000, LOW + 0x3000
    FRAMES = LOW + 0x1_0000
    HOLE = 0x4000_0000
    SLOT, BASE = 5, 5 << 39

    def __init__(self) -> None:
        self.memory = PhysicalMemory([(self.LOW, 0x10_0000), (self.HIGH, 0x2_0000)])
        write = self.memory.write_u64
        write(self.PML4 + 8 * self.SLOT, self.PDPT | P | W | U)
        write(self.PDPT, self.PD | P | W | U)
        write(self.PD, self.PT | P | W | U)
        self.engine = open_engine("unicorn", self.memory)
        self.cpu = CpuState(cr3=self.PML4)

    def page(self, number: int) -> int:
        """Give the address of a page of the page table."""
        return self.BASE | number << 12

    def frame(self, number: int) -> int:
        """Give the address of a frame, the first 16 in the low region."""
        return self.FRAMES + number * 0x1000 if number < 16 else self.HIGH + (number - 16) * 0x1000

    def leaf(self, number: int, entry: int) -> int:
        """Write a page table entry; return its address."""
        at = self.PT + 8 * number
        self.memory.write_u64(at, entry)
        return at


@pytest.fixture
def tables() -> Iterator[Tables]:
    made = Tables()
    with made.engine:
        yield made


@pytest.fixture
def tables_class() -> type[Tables]:
    return Tables
