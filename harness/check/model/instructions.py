"""Instructions that touch memory twice, or many times, and may fault half way.

An ``add [rdi], rax`` reads and writes; ``push qword ptr [rsi]`` reads in one place and writes in
another; ``rep movsb`` does both a thousand times and leaves its registers at the element that
faulted. :func:`judge_instruction` predicts all of it from the manual's description of each
instruction (SDM volume 2) as a list of accesses in order, each judged by the walker, with the A and
D bits that the ones before it have set: the registers, RIP and every word of memory, at the fault
or at the end.

Where the manual leaves a choice there are several predictions, and each of them agrees:

* a read-modify-write that cannot be read faults as a read or, where the CPU asks for the right to
  write at once, as a write;
* of two accesses of one instruction or element, either may be judged first;
* when one of them faults, A may be set or not on the way to the others of the same element.

Flags are not compared. What an instruction stores over an entry that it used is not judged, since
that entry may be stale (:mod:`.stale`); nor is any instruction that is not in this list: ``movs``,
``stos``, ``lods``, ``cmps`` and ``scas`` of all widths with their prefixes; ``add``, ``or``,
``adc``, ``sbb``, ``and``, ``sub``, ``xor``, ``xchg``, ``xadd``, ``cmpxchg``, ``bts``, ``btr``,
``btc``, ``inc``, ``dec``, ``not`` and ``neg`` of memory; ``cmpxchg16b``; ``push``, ``pop`` and
``call`` with an operand in memory; ``push`` and ``pop`` of a register; ``leave``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from harness.address import format_address
from harness.asm import assemble
from harness.check.codec import prediction_to_json
from harness.check.judge.access import AccessVerdict, verdict_of_difference
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.judge.verdict import StepVerdict
from harness.check.model.overlay import Overlay
from harness.check.registered.model import EngineIdentity
from harness.cpu import RFLAGS, CpuState
from harness.engine.run import REGISTERS
from harness.engine.steps import ExecuteStep, StepResult
from harness.entry import PageTableFlags
from harness.outcome import Access, AccessKind, Observation, Outcome
from harness.walker import Walk, walk

__all__ = ["judge_instruction", "understood"]

_MASK = (1 << 64) - 1
_A = int(PageTableFlags.ACCESSED)
_DF, _CF = int(RFLAGS.DF), int(RFLAGS.CF)
_WIDTHS = {"b": 1, "w": 2, "d": 4, "q": 8}
_SIZES = {"byte": 1, "word": 2, "dword": 4, "qword": 8}


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


_NAMES: Final = _names()
"""What each register name stands for: the whole register, and how many of its bytes."""


class _Fault(Exception):
    """An access of the instruction cannot be made."""

    def __init__(self, found: Walk) -> None:
        super().__init__()
        self.walk = found


class _Protection(Exception):
    """The instruction itself raises #GP(0): its operand is not aligned."""


class _NotJudged(Exception):
    """The model does not say what happens; the message says why."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the manual leaves to the CPU.

    :ivar reads_as_write: a read-modify-write is one write to the page tables.
    :ivar other_first: of two accesses the other one is judged first.
    """

    reads_as_write: bool = False
    other_first: bool = False


@dataclass(slots=True)
class _End:
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


class _Machine:
    """A CPU and its memory in the middle of one instruction."""

    def __init__(
        self, memory: Overlay, cpu: CpuState, registers: dict[str, int], choice: _Choice
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
        full, size = _NAMES[name]
        return self.registers[full] & (1 << 8 * size) - 1

    def put(self, name: str, value: int) -> None:
        full, size = _NAMES[name]
        bits = (1 << 8 * size) - 1
        kept = 0 if size >= 4 else self.registers[full] & ~bits
        self.registers[full] = kept | value & bits

    def translate(self, va: int, size: int, kind: AccessKind, *, stack: bool = False) -> Walk:
        """Judge an access of the current element.

        :raises _Fault: when it faults.
        """
        found = walk(self.memory.as_memory(), self.cpu, va & _MASK, Access(kind, size, stack=stack))
        for page in (found, found.second):
            if page is not None:
                self._read_entries |= {step.address for step in page.steps}
        if found.outcome is Outcome.NO_MEMORY:
            raise _NotJudged(f"it reaches {found.pa:#x}, which is not RAM")
        if not found.completed:
            raise _Fault(found)
        self._pending.append(found)
        return found

    def bytes_of(self, found: Walk) -> list[tuple[int, int]]:
        """Return the physical pieces of an access: address and size."""
        assert found.pa is not None
        size = found.access.size
        low = min(size, 0x1000 - (found.va & 0xFFF))
        pieces = [(found.pa, low)]
        if found.second is not None:
            assert found.second.pa is not None
            pieces.append((found.second.pa, size - low))
        return pieces

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
            self.memory.set_bits(_missing(self.memory, found.sets))
        for pa, data in self._stores:
            words = set(range(pa & ~7, pa + len(data), 8))
            if words & self._read_entries:
                raise _NotJudged("it stores over an entry that it used")
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


def _missing(memory: Overlay, bits: dict[int, int]) -> dict[int, int]:
    return {pa: mask & ~memory.read_u64(pa) for pa, mask in bits.items()}


_Model = Callable[[_Machine], None]


def understood(instruction: str) -> bool:
    """Say whether :func:`judge_instruction` knows an instruction."""
    return _model(instruction) is not None


@lru_cache(maxsize=4096)
def _model(instruction: str) -> _Model | None:
    text = " ".join(instruction.lower().split())
    for pattern, build in _FORMS:
        match = re.fullmatch(pattern, text)
        if match:
            return build(match.groupdict(default=""))
    return None


@lru_cache(maxsize=4096)
def _length(instruction: str) -> int:
    return len(assemble(instruction, base=0).code)


# String instructions (SDM 2B, MOVS and its kin; REP).


def _string(words: dict[str, str]) -> _Model | None:
    size = _WIDTHS[words["width"]]
    element = _ELEMENTS[words["name"]]
    repeated, name = words["rep"], words["name"]
    if repeated in ("repne", "repnz") and name not in ("cmps", "scas"):
        return None

    def run(machine: _Machine) -> None:
        step = -size if machine.cpu.rflags & _DF else size
        registers = machine.registers
        while not repeated or registers["rcx"]:
            equal = element(machine, size)
            machine.commit()
            if name in ("movs", "lods", "cmps"):
                registers["rsi"] = registers["rsi"] + step & _MASK
            if name in ("movs", "stos", "cmps", "scas"):
                registers["rdi"] = registers["rdi"] + step & _MASK
            if not repeated:
                break
            registers["rcx"] -= 1
            if name in ("cmps", "scas") and equal is (repeated in ("repne", "repnz")):
                break

    return run


def _source(machine: _Machine, size: int) -> Walk:
    return machine.translate(machine.registers["rsi"], size, AccessKind.READ)


def _target(machine: _Machine, size: int, kind: AccessKind) -> Walk:
    return machine.translate(machine.registers["rdi"], size, kind)


def _movs(machine: _Machine, size: int) -> bool:
    source, target = machine.pair(
        lambda: _source(machine, size), lambda: _target(machine, size, AccessKind.WRITE)
    )
    machine.store(target, machine.value(source))
    return True


def _stos(machine: _Machine, size: int) -> bool:
    machine.store(_target(machine, size, AccessKind.WRITE), machine.registers["rax"])
    return True


def _lods(machine: _Machine, size: int) -> bool:
    value = machine.value(_source(machine, size))
    machine.put({1: "al", 2: "ax", 4: "eax", 8: "rax"}[size], value)
    return True


def _cmps(machine: _Machine, size: int) -> bool:
    one, other = machine.pair(
        lambda: _source(machine, size), lambda: _target(machine, size, AccessKind.READ)
    )
    return machine.value(one) == machine.value(other)


def _scas(machine: _Machine, size: int) -> bool:
    accumulator = machine.registers["rax"] & (1 << 8 * size) - 1
    return machine.value(_target(machine, size, AccessKind.READ)) == accumulator


_ELEMENTS: Final[dict[str, Callable[[_Machine, int], bool]]] = {
    "movs": _movs,
    "stos": _stos,
    "lods": _lods,
    "cmps": _cmps,
    "scas": _scas,
}


# Read-modify-write.

_TWO: Final[dict[str, Callable[[int, int, int], int]]] = {
    "add": lambda old, by, carry: old + by,
    "or": lambda old, by, carry: old | by,
    "adc": lambda old, by, carry: old + by + carry,
    "sbb": lambda old, by, carry: old - by - carry,
    "and": lambda old, by, carry: old & by,
    "sub": lambda old, by, carry: old - by,
    "xor": lambda old, by, carry: old ^ by,
}
_ONE: Final[dict[str, Callable[[int], int]]] = {
    "inc": lambda old: old + 1,
    "dec": lambda old: old - 1,
    "not": lambda old: ~old,
    "neg": lambda old: -old,
}
_BITS: Final[dict[str, Callable[[int, int], int]]] = {
    "bts": lambda old, bit: old | bit,
    "btr": lambda old, bit: old & ~bit,
    "btc": lambda old, bit: old ^ bit,
}


def _size_of(words: dict[str, str]) -> int | None:
    """Return the width of an operand in memory; None when it is not said, or said twice."""
    if words.get("register"):
        size = _NAMES[words["register"]][1]
        return size if not words["size"] or _SIZES[words["size"]] == size else None
    return _SIZES.get(words["size"])


def _modify(words: dict[str, str]) -> _Model | None:
    name, base = words["name"], words["base"]
    size = _size_of(words)
    if size is None:
        return None
    register = words["register"]

    def run(machine: _Machine) -> None:
        va = machine.registers[base]
        if name in _ONE:
            machine.modify(va, size, _ONE[name])
        elif name in _TWO:
            carry = 1 if machine.cpu.rflags & _CF else 0
            by = machine.get(register)
            machine.modify(va, size, lambda old: _TWO[name](old, by, carry))
        elif name == "xchg":
            machine.put(register, machine.modify(va, size, lambda old: machine.get(register)))
        elif name == "xadd":
            by = machine.get(register)
            machine.put(register, machine.modify(va, size, lambda old: old + by))
        elif name == "cmpxchg":
            accumulator = {1: "al", 2: "ax", 4: "eax", 8: "rax"}[size]
            wanted, new = machine.get(accumulator), machine.get(register)
            old = machine.modify(va, size, lambda old: new if old == wanted else old)
            if old != wanted:
                machine.put(accumulator, old)
        else:
            # The bit's place is signed, and in other operands of the string that memory is.
            place = machine.get(register)
            if place >> 8 * size - 1:
                place -= 1 << 8 * size
            bit = 1 << place % (8 * size)
            machine.modify(va + place // (8 * size) * size, size, lambda old: _BITS[name](old, bit))

    if (name in _ONE) is bool(register) or (name in _BITS and size == 1):
        return None
    return run


def _cmpxchg16b(words: dict[str, str]) -> _Model:
    def run(machine: _Machine) -> None:
        registers = machine.registers
        va = registers[words["base"]]
        if va & 15:
            raise _Protection
        wanted = registers["rdx"] << 64 | registers["rax"]
        new = registers["rcx"] << 64 | registers["rbx"]
        old = machine.modify(va, 16, lambda old: new if old == wanted else old)
        if old != wanted:
            registers["rdx"], registers["rax"] = old >> 64, old & _MASK

    return run


# The stack.


def _push(words: dict[str, str]) -> _Model:
    def run(machine: _Machine) -> None:
        if words["register"]:
            machine.push(lambda: machine.get(words["register"]), None)
            return
        va = machine.registers[words["base"]]
        machine.push(lambda: 0, lambda: machine.translate(va, 8, AccessKind.READ))

    return run


def _pop(words: dict[str, str]) -> _Model:
    def run(machine: _Machine) -> None:
        rsp = machine.registers["rsp"]

        def stack() -> Walk:
            return machine.translate(rsp, 8, AccessKind.READ, stack=True)

        if words["register"]:
            value = machine.value(stack())
            machine.commit()
            machine.registers["rsp"] = rsp + 8 & _MASK
            machine.put(words["register"], value)
            return
        base = words["base"]
        # With RSP as its base the operand is where the incremented RSP says.
        va = machine.registers[base] + (8 if base == "rsp" else 0)
        source, target = machine.pair(stack, lambda: machine.translate(va, 8, AccessKind.WRITE))
        machine.store(target, machine.value(source))
        machine.commit()
        machine.registers["rsp"] = rsp + 8 & _MASK

    return run


def _call(words: dict[str, str]) -> _Model:
    def run(machine: _Machine) -> None:
        registers = machine.registers
        rsp = registers["rsp"] - 8 & _MASK
        source, stack = machine.pair(
            lambda: machine.translate(registers[words["base"]], 8, AccessKind.READ),
            lambda: machine.translate(rsp, 8, AccessKind.WRITE, stack=True),
        )
        target = machine.value(source)
        if target >> 47 not in (0, (1 << 17) - 1):
            raise _NotJudged("it goes to an address that may not be canonical")
        machine.store(stack, registers["rip"])
        machine.commit()
        registers["rsp"] = rsp
        machine.jump = target

    return run


def _leave(_words: dict[str, str]) -> _Model:
    def run(machine: _Machine) -> None:
        rbp = machine.registers["rbp"]
        value = machine.value(machine.translate(rbp, 8, AccessKind.READ, stack=True))
        machine.commit()
        machine.registers["rsp"] = rbp + 8 & _MASK
        machine.registers["rbp"] = value

    return run


_REGISTER = f"(?P<register>{'|'.join(sorted(_NAMES, key=len, reverse=True))})"
_MEMORY = rf"(?:(?P<size>byte|word|dword|qword) ptr )?\[(?P<base>{'|'.join(REGISTERS)})\]"
_FORMS: Final[tuple[tuple[str, Callable[[dict[str, str]], _Model | None]], ...]] = (
    (
        r"(?:(?P<rep>rep|repe|repz|repne|repnz) )?"
        r"(?P<name>movs|stos|lods|cmps|scas)(?P<width>[bwdq])",
        _string,
    ),
    (
        rf"(?:lock )?(?P<name>add|or|adc|sbb|and|sub|xor|xchg|xadd|cmpxchg|bts|btr|btc) {_MEMORY}"
        rf", {_REGISTER}",
        _modify,
    ),
    (rf"(?:lock )?(?P<name>inc|dec|not|neg) {_MEMORY}(?P<register>)", _modify),
    (
        rf"(?:lock )?cmpxchg16b (?:xmmword ptr )?\[(?P<base>{'|'.join(REGISTERS)})\]",
        _cmpxchg16b,
    ),
    (rf"push {_REGISTER}", _push),
    (rf"push {_MEMORY}(?P<register>)", _push),
    (rf"pop {_REGISTER}", _pop),
    (rf"pop {_MEMORY}(?P<register>)", _pop),
    (rf"call {_MEMORY}", _call),
    (r"leave", _leave),
)


# The judge.

_CHOICES: Final = tuple(_Choice(a, b) for a in (False, True) for b in (False, True))


def _ends(memory: Overlay, cpu: CpuState, step: ExecuteStep, start: int) -> list[_End]:
    """Give every way in which an instruction may end, the plainest first."""
    model = _model(step.instruction)
    if model is None:
        raise _NotJudged(f"there is no model of {step.instruction!r}")
    after = start + _length(step.instruction)
    found: list[_End] = []
    for choice in _CHOICES:
        machine = _Machine(memory, cpu, step.registers, choice)
        machine.registers["rip"] = after
        fault, protection = None, False
        try:
            model(machine)
        except _Fault as error:
            fault = error.walk
        except _Protection:
            protection = True
        machine.registers["rip"] = after if machine.jump is None else machine.jump
        if fault is not None or protection:
            machine.registers["rip"] = start
        end = _End(
            dict(machine.registers),
            machine.memory.changed(),
            machine.optional(),
            fault,
            protection,
        )
        same = next((other for other in found if other.to_json() == end.to_json()), None)
        if same is None:
            found.append(end)
        else:  # they differ in nothing but what had been translated before the fault
            for pa, bits in end.optional.items():
                same.optional[pa] = same.optional.get(pa, 0) | bits
        if fault is None and not protection and not found[1:]:
            break  # without a fault there was nothing to choose
    return found


def judge_instruction(
    engine: EngineIdentity, memory: Overlay, cpu: CpuState, step: ExecuteStep, result: StepResult
) -> StepVerdict:
    """Judge what an engine saw of one instruction.

    :param engine: who observed.
    :param memory: the memory before it.
    :param cpu: the CPU's state, at the step's privilege level.
    """
    try:
        ends = _ends(memory, cpu, step, result.start)
    except _NotJudged as why:
        return StepVerdict(
            step, result, Judgement.UNSUPPORTED, sentence=f"{step.instruction}: {why}"
        )
    plain = ends[0]
    verdict = StepVerdict(
        step,
        result,
        Judgement.AGREE,
        tuple(end.to_json() for end in ends),
        rule="COMBINE" if plain.fault is None else plain.fault.rule,
        level=None if plain.fault is None else plain.fault.level,
    )
    differences = [_differences(end, result) for end in ends]
    if () in differences:
        end = ends[differences.index(())]
        if end.fault is not None:
            verdict = replace(verdict, rule=end.fault.rule, level=end.fault.level)
        return verdict
    for end in ends:
        reasons = _explained(engine, memory, end, result)
        if reasons is not None:
            return verdict.explained(reasons)
    nearest = min(range(len(ends)), key=lambda place: len(differences[place]))
    return _diverges(verdict, ends[nearest], differences[nearest], cpu)


def _differences(end: _End, result: StepResult) -> tuple[str, ...]:
    """Name what an observation has otherwise than one way to end."""
    seen = result.seen
    found = []
    if end.outcome is not seen.outcome:
        found.append("outcome")
    else:
        if end.error_code != seen.error_code:
            found.append("error_code")
        if end.cr2 != seen.cr2:
            found.append("cr2")
    if end.registers != result.registers:
        found.append("registers")
    may = {} if end.fault is None else end.fault.may_set
    for pa in {*end.changed, *seen.changed}:
        wrong = end.changed.get(pa, 0) ^ seen.changed.get(pa, 0)
        # Bits of A that were not yet set, and may be.
        free = (may.get(pa, 0) | end.optional.get(pa, 0)) & ~end.changed.get(pa, 0)
        if wrong & ~free:
            found.append("changed")
            break
    return tuple(found)


def _explained(
    engine: EngineIdentity, memory: Overlay, end: _End, result: StepResult
) -> AccessVerdict | None:
    """Find what explains, short of a divergence, how the faulting access ended."""
    if end.fault is None or end.registers != result.registers:
        return None
    seen = result.seen
    residue = {
        pa: bits
        for pa in {*end.changed, *seen.changed}
        if (bits := (end.changed.get(pa, 0) ^ seen.changed.get(pa, 0)) & ~end.optional.get(pa, 0))
    }
    at_fault = Overlay(memory)
    for pa, bits in end.changed.items():
        at_fault.write_u64(pa, at_fault.read_u64(pa) ^ bits)
    observation = Observation(seen.outcome, seen.error_code, seen.cr2, changed=residue)
    difference = compare(end.fault, observation)
    if not isinstance(difference, Difference):
        return None
    reasons = verdict_of_difference(engine, at_fault.as_memory(), difference)
    return None if reasons.judgement is Judgement.DIVERGE else reasons


def _diverges(
    verdict: StepVerdict, end: _End, fields: tuple[str, ...], cpu: CpuState
) -> StepVerdict:
    step, seen = verdict.step, verdict.result.seen
    assert isinstance(step, ExecuteStep)
    rule = verdict.rule
    what = f"{step.instruction} at CPL {cpu.cpl}"
    told = f"{end.outcome}" + ("" if end.cr2 is None else f" at {format_address(end.cr2)}")
    if fields[0] == "outcome":
        text = f"{what} was predicted to end as {told}, and ended as {seen.outcome}"
    elif fields[0] in ("error_code", "cr2"):
        rule = "ERR"
        text = f"{what}: {fields[0]} was predicted to be {getattr(end, fields[0])!r}, and was " + (
            repr(getattr(seen, fields[0]))
        )
    elif fields[0] == "registers":
        wrong = ", ".join(
            f"{name} = {verdict.result.registers.get(name, 0):#x}, not {value:#x}"
            for name, value in end.registers.items()
            if verdict.result.registers.get(name) != value
        )
        text = f"{what} ended as {told} with {wrong}"
    else:
        wrong_words = {
            pa: bits
            for pa in {*end.changed, *seen.changed}
            if (bits := end.changed.get(pa, 0) ^ seen.changed.get(pa, 0))
        }
        only_a_d = not any(bits & ~0x60 for bits in wrong_words.values())
        rule = ("A" if end.fault is None else "A_ON_FAULT") if only_a_d else "SPLIT"
        where = ", ".join(format_address(pa) for pa in sorted(wrong_words))
        text = f"{what} ended as {told}, and memory at {where} is not as it must be then"
    return replace(verdict, judgement=Judgement.DIVERGE, rule=rule, sentence=text, fields=fields)
