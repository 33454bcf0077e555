"""Instructions that touch memory twice, or many times, and may fault half way.

An ``add [rdi], rax`` reads and writes; ``push qword ptr [rsi]`` reads in one place and writes in
another; ``rep movsb`` does both a thousand times and leaves its registers at the element that
faulted. :func:`verdict_of_instruction` predicts all of it from the manual's description of each
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
from functools import lru_cache
from typing import Final

from harness.asm import assemble
from harness.check.model.executing import (
    REGISTER_NAMES,
    ModelMachine,
    NotJudged,
    Protection,
)
from harness.cpu import RFLAGS
from harness.engine.run import REGISTERS
from harness.outcome import AccessKind
from harness.walker import Walk

__all__ = ["length_of", "model_of", "understood"]

_MASK = (1 << 64) - 1
_DF, _CF = int(RFLAGS.DF), int(RFLAGS.CF)
_WIDTHS = {"b": 1, "w": 2, "d": 4, "q": 8}
_SIZES = {"byte": 1, "word": 2, "dword": 4, "qword": 8}


_Model = Callable[[ModelMachine], None]


def understood(instruction: str) -> bool:
    """Say whether :func:`verdict_of_instruction` knows an instruction."""
    return model_of(instruction) is not None


@lru_cache(maxsize=4096)
def model_of(instruction: str) -> _Model | None:
    text = " ".join(instruction.lower().split())
    for pattern, build in _FORMS:
        match = re.fullmatch(pattern, text)
        if match:
            return build(match.groupdict(default=""))
    return None


@lru_cache(maxsize=4096)
def length_of(instruction: str) -> int:
    return len(assemble(instruction, base=0).code)


# String instructions (SDM 2B, MOVS and its kin; REP).


def _string(words: dict[str, str]) -> _Model | None:
    size = _WIDTHS[words["width"]]
    element = _ELEMENTS[words["name"]]
    repeated, name = words["rep"], words["name"]
    if repeated in ("repne", "repnz") and name not in ("cmps", "scas"):
        return None

    def run(machine: ModelMachine) -> None:
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


def _source(machine: ModelMachine, size: int) -> Walk:
    return machine.translate(machine.registers["rsi"], size, AccessKind.READ)


def _target(machine: ModelMachine, size: int, kind: AccessKind) -> Walk:
    return machine.translate(machine.registers["rdi"], size, kind)


def _movs(machine: ModelMachine, size: int) -> bool:
    source, target = machine.pair(
        lambda: _source(machine, size), lambda: _target(machine, size, AccessKind.WRITE)
    )
    machine.store(target, machine.value(source))
    return True


def _stos(machine: ModelMachine, size: int) -> bool:
    machine.store(_target(machine, size, AccessKind.WRITE), machine.registers["rax"])
    return True


def _lods(machine: ModelMachine, size: int) -> bool:
    value = machine.value(_source(machine, size))
    machine.put({1: "al", 2: "ax", 4: "eax", 8: "rax"}[size], value)
    return True


def _cmps(machine: ModelMachine, size: int) -> bool:
    one, other = machine.pair(
        lambda: _source(machine, size), lambda: _target(machine, size, AccessKind.READ)
    )
    return machine.value(one) == machine.value(other)


def _scas(machine: ModelMachine, size: int) -> bool:
    accumulator = machine.registers["rax"] & (1 << 8 * size) - 1
    return machine.value(_target(machine, size, AccessKind.READ)) == accumulator


_ELEMENTS: Final[dict[str, Callable[[ModelMachine, int], bool]]] = {
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
        size = REGISTER_NAMES[words["register"]][1]
        return size if not words["size"] or _SIZES[words["size"]] == size else None
    return _SIZES.get(words["size"])


def _modify(words: dict[str, str]) -> _Model | None:
    name, base = words["name"], words["base"]
    size = _size_of(words)
    if size is None:
        return None
    register = words["register"]

    def run(machine: ModelMachine) -> None:
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
    def run(machine: ModelMachine) -> None:
        registers = machine.registers
        va = registers[words["base"]]
        if va & 15:
            raise Protection
        wanted = registers["rdx"] << 64 | registers["rax"]
        new = registers["rcx"] << 64 | registers["rbx"]
        old = machine.modify(va, 16, lambda old: new if old == wanted else old)
        if old != wanted:
            registers["rdx"], registers["rax"] = old >> 64, old & _MASK

    return run


# The stack.


def _push(words: dict[str, str]) -> _Model:
    def run(machine: ModelMachine) -> None:
        if words["register"]:
            machine.push(lambda: machine.get(words["register"]), None)
            return
        va = machine.registers[words["base"]]
        machine.push(lambda: 0, lambda: machine.translate(va, 8, AccessKind.READ))

    return run


def _pop(words: dict[str, str]) -> _Model:
    def run(machine: ModelMachine) -> None:
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
    def run(machine: ModelMachine) -> None:
        registers = machine.registers
        rsp = registers["rsp"] - 8 & _MASK
        source, stack = machine.pair(
            lambda: machine.translate(registers[words["base"]], 8, AccessKind.READ),
            lambda: machine.translate(rsp, 8, AccessKind.WRITE, stack=True),
        )
        target = machine.value(source)
        if target >> 47 not in (0, (1 << 17) - 1):
            raise NotJudged("it goes to an address that may not be canonical")
        machine.store(stack, registers["rip"])
        machine.commit()
        registers["rsp"] = rsp
        machine.jump = target

    return run


def _leave(_words: dict[str, str]) -> _Model:
    def run(machine: ModelMachine) -> None:
        rbp = machine.registers["rbp"]
        value = machine.value(machine.translate(rbp, 8, AccessKind.READ, stack=True))
        machine.commit()
        machine.registers["rsp"] = rbp + 8 & _MASK
        machine.registers["rbp"] = value

    return run


_REGISTER = f"(?P<register>{'|'.join(sorted(REGISTER_NAMES, key=len, reverse=True))})"
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
