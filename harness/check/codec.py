"""The JSON forms of what questions are made of: accesses, steps, words of memory, RAM.

A question (:mod:`harness.check.question`) is one object on a line of a ``.jsonl`` file. Its steps
are objects too::

``{"access": {"va", "kind", "size", "implicit", "stack", "value"}, "cpl"}``
    One access. A write stores the low bytes of ``value``, for good.
``{"write": {"0x4020": "0x0"}}``
    Words of memory change, by physical address, and nothing is invalidated.
``{"invlpg": "0x4000"}``, ``{"cr3": "0x1000"}``, ``{"cr0": ...}``, ``cr4``, ``efer``, ``pkru``,
``rflags``
    The instruction of that name, or that loads that register.
``{"execute": "rep movsb", "registers": {"rcx": "0x10"}, "cpl"}``
    One instruction; what it may do half way is in :mod:`harness.check.model.instructions`.
``{"deliver": {"vector", "error_code", "software", "idt", "gdt", "tss", "rip", "rsp", "cs", "ss",
"cr2"}, "cpl"}``
    An exception goes to its handler, or to what comes of it
    (:mod:`harness.check.model.delivery`); ``idt``, ``gdt`` and ``tss`` are ``[base, limit]``.

Where ``cpl`` is left out, it is the CPU's. What is wrong raises
:class:`~harness.errors.InputError`, which names the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from harness.engine.steps import (
    CONTROLS,
    WRITTEN,
    AccessStep,
    ControlStep,
    DeliverStep,
    ExecuteStep,
    InvlpgStep,
    Step,
    WriteStep,
)
from harness.errors import CaseError
from harness.jsontext import flag, number, obj, shown
from harness.memory import Region
from harness.outcome import Access
from harness.walker import Walk

__all__ = [
    "access_from_json",
    "access_to_json",
    "memory_from_json",
    "memory_to_json",
    "prediction_to_json",
    "ram_to_json",
    "step_from_json",
    "step_to_json",
]

_ACCESS_KEYS: Final = ("kind", "size", "implicit", "stack", "value")
_REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
)
_TABLES: Final = ("idt", "gdt", "tss")
_NUMBERS: Final = {"rip": 64, "rsp": 64, "cs": 16, "ss": 16, "cr2": 64}


def access_from_json(data: object) -> AccessStep:
    """Return the access that an ``access`` object describes, at the CPU's own CPL.

    :raises InputError: for an unknown key, or a value that cannot be.
    """
    asked = obj("access", data, required=["va"], optional=_ACCESS_KEYS)
    kind = asked.get("kind", "read")
    if not isinstance(kind, str):
        raise CaseError(f"kind must be a string, not {shown(kind)}")
    access = Access(
        kind,  # type: ignore[arg-type]  # Access makes the AccessKind, or refuses the word
        number("size", asked.get("size", 1)),
        implicit=flag("implicit", asked.get("implicit", False)),
        stack=flag("stack", asked.get("stack", False)),
    )
    value = WRITTEN
    if "value" in asked:
        value = number("value", asked["value"])
        if not access.is_write:
            raise CaseError(f"an access with a value must be a write, not a {access.kind}")
    return AccessStep(number("va", asked["va"]), access, value=value)


def access_to_json(step: AccessStep) -> dict[str, Any]:
    """Return the ``access`` object of an access; its CPL is not in it."""
    asked: dict[str, Any] = {
        "va": f"{step.va:#x}",
        "kind": str(step.access.kind),
        "size": step.access.size,
    }
    for name in ("implicit", "stack"):
        if getattr(step.access, name):
            asked[name] = True
    if step.value != WRITTEN:
        asked["value"] = f"{step.value:#x}"
    return asked


def memory_from_json(name: str, data: object) -> dict[int, int]:
    """Return the words that a ``memory`` object describes.

    :param name: what an error calls the object.
    :raises InputError: for an unknown word or a malformed address.
    """
    words = obj(name, data)
    memory = {
        number(f"an address in {name}", pa): number(f"the word at {pa}", word)
        for pa, word in words.items()
    }
    if len(memory) != len(words):
        raise CaseError(f"an address must occur once in {name}, and one occurs twice")
    return memory


def memory_to_json(memory: Mapping[int, int]) -> dict[str, str]:
    """Return the ``memory`` object of a question, in the order of addresses."""
    return {f"{pa:#x}": f"{word:#x}" for pa, word in sorted(memory.items())}


def ram_to_json(regions: tuple[Region, ...]) -> str | list[list[str]]:
    """Return the ``ram`` of a question: a size, or a list of ``[base, size]``."""
    if len(regions) == 1 and regions[0].base == 0:
        return f"{regions[0].size:#x}"
    return [[f"{base:#x}", f"{size:#x}"] for base, size in regions]


# What tells a kind of step is its first word; the others belong to it.
def step_from_json(place: int, data: object) -> Step:
    """Return the step that an object of ``steps`` describes.

    :param place: its number, from 1, for errors.
    :raises InputError: for an unknown key, which it names, or a value that cannot be.
    """
    name = f"step {place}"
    step = obj(name, data)
    words = [word for word in step if word in _KINDS]
    if len(words) != 1:
        raise CaseError(f"{name} must have one key of {', '.join(_KINDS)}, not {shown(data)}")
    word = words[0]
    return _KINDS[word](name, word, step)


def _access_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=["cpl"])
    return replace(access_from_json(step[word]), cpl=_cpl(step))


def _write_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=[])
    return WriteStep(memory_from_json(word, step[word]))


def _invlpg_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=[])
    return InvlpgStep(number(word, step[word]))


def _control_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=[])
    return ControlStep(word, number(word, step[word], 32 if word == "pkru" else 64))


def _execute_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=["registers", "cpl"])
    if not isinstance(step[word], str):
        raise CaseError(f"{word} must be a string, not {shown(step[word])}")
    given = obj("registers", step.get("registers", {}), optional=_REGISTERS)
    registers = {register: number(register, value) for register, value in given.items()}
    return ExecuteStep(step[word], registers, _cpl(step))


def _deliver_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=["cpl"])
    asked = obj(
        word,
        step[word],
        required=["vector"],
        optional=["error_code", "software", *_TABLES, *_NUMBERS],
    )
    given: dict[str, Any] = {}
    if "error_code" in asked:
        given["error_code"] = number("error_code", asked["error_code"], 32)
    for table in _TABLES:
        if table in asked:
            pair = asked[table]
            if not isinstance(pair, list) or len(pair) != 2:
                raise CaseError(f"{table} must be [base, limit], not {shown(pair)}")
            given[table] = (
                number(f"the base of {table}", pair[0]),
                number(f"the limit of {table}", pair[1], 16),
            )
    for key, bits in _NUMBERS.items():
        if key in asked:
            given[key] = number(key, asked[key], bits)
    return DeliverStep(
        number("vector", asked["vector"], 8),
        software=flag("software", asked.get("software", False)),
        cpl=_cpl(step),
        **given,
    )


def _cpl(step: dict[str, Any]) -> int | None:
    return number("cpl", step["cpl"], 2) if "cpl" in step else None


_KINDS: Final[dict[str, Callable[[str, str, dict[str, Any]], Step]]] = {
    "access": _access_step,
    "write": _write_step,
    "invlpg": _invlpg_step,
    **dict.fromkeys(CONTROLS, _control_step),
    "execute": _execute_step,
    "deliver": _deliver_step,
}


def step_to_json(step: Step) -> dict[str, Any]:
    """Return the object that stands for a step in a question's JSON."""
    line: dict[str, Any]
    match step:
        case AccessStep():
            line = {"access": access_to_json(step)}
        case WriteStep(words=words):
            return {"write": memory_to_json(words)}
        case InvlpgStep(va=va):
            return {"invlpg": f"{va:#x}"}
        case ControlStep(register=register, value=value):
            return {register: f"{value:#x}"}
        case ExecuteStep(instruction=instruction, registers=registers):
            line = {"execute": instruction}
            if registers:
                line["registers"] = {name: f"{value:#x}" for name, value in registers.items()}
        case DeliverStep():
            line = {"deliver": _delivery_to_json(step)}
    if step.cpl is not None:
        line["cpl"] = step.cpl
    return line


def _delivery_to_json(step: DeliverStep) -> dict[str, Any]:
    asked: dict[str, Any] = {"vector": step.vector}
    if step.error_code is not None:
        asked["error_code"] = f"{step.error_code:#x}"
    if step.software:
        asked["software"] = True
    for table in _TABLES:
        asked[table] = [f"{value:#x}" for value in getattr(step, table)]
    for key in _NUMBERS:
        asked[key] = f"{getattr(step, key):#x}"
    return asked


def prediction_to_json(walk: Walk) -> dict[str, Any]:
    """Return what a walk predicts, in the form that ``harness probe`` prints.

    Addresses, sizes, error codes and bits are hex strings; ``level`` is an integer; what there is
    not is None.

    :param walk: the walk.
    """
    return {
        "outcome": str(walk.outcome),
        "error_code": _hex(walk.error_code),
        "cr2": _hex(walk.cr2),
        "rule": walk.rule,
        "level": walk.level,
        "pa": _hex(walk.pa),
        "page_size": _hex(walk.page_size),
        "sets": _bits(walk.sets),
        "may_set": _bits(walk.may_set),
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{int(value):#x}"


def _bits(changes: Mapping[int, int]) -> dict[str, str]:
    return {f"{entry:#x}": f"{bits:#x}" for entry, bits in changes.items()}
