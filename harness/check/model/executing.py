"""One instruction as it is executed in the model: its registers, its memory, where it may end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from harness.check.codec import prediction_to_json
from harness.check.model.overlay import Overlay, pieces
from harness.cpu import CpuState
from harness.engine.run import REGISTERS
from harness.entry import PageTableFlags
from harness.outcome import Access, AccessKind, Outcome
from harness.walker import Walk, walk

__all__ = [
    "REGISTER_NAMES",
    "Choice",
    "Fault",
    "InstructionEnd",
    "ModelMachine",
    "NotJudged",
    "Protection",
    "missing_bits",
]

_MASK = (1 << 64) - 1
_A = int(PageTableFlags.ACCESSED)


def _names() -> dict[str, tuple[str, int]]:
    names: dict[str, tuple[str, int]] = {}
    for letter in "abcd":
        full = f"r{letter}x"
        names |= {full: (full, 8), f"e{letter}x": (full, 4), f"{letter}x": (full, 2)}
        names[f"{letter}l"] = (full, 1)
    for word in ("si", "di", "bp", "sp"):
        full = f"r{word}"
        names |= {full: (full, 8), f"e{word}": (full, 4), word: (full, 2), f"{word}l": (full, 1)}
    for number in range(8, 16):
        full = f"r{number}"
        names |= {full: (full, 8), f"{full}d": (full, 4), f"{full}w": (full, 2)}
        names[f"{full}b"] = (full, 1)
    return names


REGISTER_NAMES: Final = _names()
"""What each register name stands for: the whole register, and how many of its bytes."""


class Fault(Exception):
    """An access of the instruction cannot be made."""

    def __init__(self, found: Walk) -> None:
        super().__init__()
        self.walk = found


class Protection(Exception):
    """The instruction itself raises #GP(0): its operand is not aligned."""


class NotJudged(Exception):
    """The model does not say what happens; the message says why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the manual leaves to the CPU.

    :ivar reads_as_write: a read-modify-write is one write to the page tables.
    :ivar other_first: of two accesses the other one is judged first.
    """

    reads_as_write: bool = False
    other_first: bool = False


@dataclass(slots=True)
class InstructionEnd:
    """One way in which an instruction may end.

    :ivar registers: with ``rip``.
    :ivar changed: every word → the bits that are different.
    :ivar optional: A bits that may be set besides.
    :ivar fault: the access that failed, if one did.
    """

    registers: dict[str, int]
    changed: dict[int, int]
    optional: dict[int, int]
    fault: Walk | None
    protection: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.protection:
            return Outcome.GENERAL_PROTECTION
        return Outcome.MAPPED if self.fault is None else self.fault.outcome

    @property
    def error_code(self) -> int | None:
        return 0 if self.protection else None if self.fault is None else self.fault.error_code

    @property
    def cr2(self) -> int | None:
        return None if self.fault is None else self.fault.cr2

    def to_json(self) -> dict[str, Any]:
        line: dict[str, Any] = {"outcome": str(self.outcome)}
        if self.fault is not None:
            line = prediction_to_json(self.fault)
        line["changed"] = {f"{pa:#x}": f"{bits:#x}" for pa, bits in self.changed.items()}
        line["registers"] = {name: f"{value:#x}" for name, value in self.registers.items()}
        return line


class ModelMachine:
    """A CPU and its memory in the middle of one instruction."""

    def __init__(
        self, memory: Overlay, cpu: CpuState, registers: dict[str, int], choice: Choice
    ) -> None:
        self.memory = Overlay(memory)
        self.cpu = cpu
        self.registers = {name: registers.get(name, 0) for name in REGISTERS}
        self.choice = choice
        self.jump: int | None = None
        self._read_entries: set[int] = set()
        self._pending: list[Walk] = []
        self._stores: list[tuple[int, bytes]] = []

    def get(self, name: str) -> int:
        full, size = REGISTER_NAMES[name]
        return self.registers[full] & (1 << 8 * size) - 1

    def put(self, name: str, value: int) -> None:
        full, size = REGISTER_NAMES[name]
        bits = (1 << 8 * size) - 1
        kept = 0 if size >= 4 else self.registers[full] & ~bits
        self.registers[full] = kept | value & bits

    def translate(self, va: int, size: int, kind: AccessKind, *, stack: bool = False) -> Walk:
        """Judge an access of the current element.

        :raises Fault: when it faults.
        """
        found = walk(self.memory.as_memory(), self.cpu, va & _MASK, Access(kind, size, stack=stack))
        for page in (found, found.second):
            if page is not None:
                self._read_entries |= {step.address for step in page.steps}
        if found.outcome is Outcome.NO_MEMORY:
            raise NotJudged(f"it reaches {found.pa:#x}, which is not RAM")
        if not found.completed:
            raise Fault(found)
        self._pending.append(found)
        return found

    def bytes_of(self, found: Walk) -> list[tuple[int, int]]:
        """Return the physical pieces of an access: address and size."""
        return pieces(found)

    def value(self, found: Walk) -> int:
        """Read what an access reaches."""
        data = b"".join(self.memory.read(pa, size) for pa, size in self.bytes_of(found))
        return int.from_bytes(data, "little")

    def store(self, found: Walk, value: int) -> None:
        """Have something stored when the element is complete."""
        size = found.access.size
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        for pa, count in self.bytes_of(found):
            self._stores.append((pa, data[:count]))
            data = data[count:]

    def commit(self) -> None:
        """End an element: what it translated has its A and D, what it stored is there."""
        for found in self._pending:
            self.memory.set_bits(missing_bits(self.memory, found.sets))
        for pa, data in self._stores:
            words = set(range(pa & ~7, pa + len(data), 8))
            if words & self._read_entries:
                raise NotJudged("it stores over an entry that it used")
            self.memory.write(pa, data)
        self._pending.clear()
        self._stores.clear()

    def optional(self) -> dict[int, int]:
        """Give the A bits of what the element that faulted had translated."""
        found: dict[int, int] = {}
        for one in self._pending:
            for pa, bits in one.sets.items():
                found[pa] = found.get(pa, 0) | bits & _A
        return found

    # The shapes of accesses.

    def pair(self, first: Callable[[], Walk], second: Callable[[], Walk]) -> tuple[Walk, Walk]:
        """Judge two accesses, in the order that the CPU has chosen."""
        if self.choice.other_first:
            two = second()
            return first(), two
        one = first()
        return one, second()

    def modify(self, va: int, size: int, change: Callable[[int], int]) -> int:
        """Read, change and write; return what was read."""
        if not self.choice.reads_as_write:
            self.translate(va, size, AccessKind.READ)
        found = self.translate(va, size, AccessKind.WRITE)
        old = self.value(found)
        self.store(found, change(old))
        self.commit()
        return old

    def push(self, value: Callable[[], int], read: Callable[[], Walk] | None) -> None:
        """Push what an operand, perhaps one in memory, holds."""
        rsp = self.registers["rsp"] - 8 & _MASK

        def stack() -> Walk:
            return self.translate(rsp, 8, AccessKind.WRITE, stack=True)

        if read is None:
            self.store(stack(), value())
        else:
            source, target = self.pair(read, stack)
            self.store(target, self.value(source))
        self.commit()
        self.registers["rsp"] = rsp


def missing_bits(memory: Overlay, bits: dict[int, int]) -> dict[int, int]:
    return {pa: mask & ~memory.read_u64(pa) for pa, mask in bits.items()}
