"""Cases: one question to the MMU each, in the form that every reproducer has.

A case is a CPU state, some words of memory, and one access. As JSON it is one object, on a line of
its own in a ``.jsonl`` file (design.md, 'Files')::

    {"cpu": {"cr3": "0x1000", "cpl": 3}, "ram": "0x4000000",
     "memory": {"0x1000": "0x2007"}, "access": {"va": "0x4123", "kind": "fetch"}}

What is left out has a default: the CPU state's are those of :class:`~harness.cpu.CpuState`, RAM is
64 MiB from address 0, memory is zero, the access is a read of one byte. Only ``access`` and its
``va`` must be there. Whatever is wrong raises :class:`~harness.errors.CaseError`, one sentence
with the file and the line::

    for case in read_cases("cases.jsonl"):
        prediction_to_json(walk(case.build(), case.cpu, case.va, case.access))
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from harness.address import VirtAddr
from harness.cpu import CpuState
from harness.errors import CaseError, InputError
from harness.jsontext import flag, loads, number, obj, ram, shown
from harness.memory import PhysicalMemory, Region
from harness.outcome import Access, Observation
from harness.walker import Walk

__all__ = [
    "DEFAULT_RAM",
    "Case",
    "observation_to_json",
    "prediction_to_json",
    "read_cases",
    "write_cases",
]

DEFAULT_RAM: Final = 64 << 20
"""Bytes of RAM, from address 0, of a case that does not say."""

# A case of 200,000 words; far more than any walk reads.
_MAX_LINE: Final = 8 << 20
_MAX_MESSAGE: Final = 400
_ACCESS_KEYS: Final = ("kind", "size", "implicit", "stack")

_Question = TypeVar("_Question")


@dataclass(frozen=True, slots=True, init=False)
class Case:
    """One access, with everything that decides what becomes of it.

    :param cpu: the state of the CPU.
    :param ram: bytes of RAM from address 0, or ``(base, size)`` for each region.
    :param memory: physical address, a multiple of 8, → u64. All other RAM is zero.
    :param va: the virtual address of the first byte; it need not be canonical.
    :param access: how it is accessed.
    :raises CaseError: when RAM cannot be so, a word is not aligned or not in RAM, or a number does
        not fit in 64 bits.
    """

    cpu: CpuState
    ram: tuple[Region, ...]
    memory: dict[int, int]
    va: int
    access: Access

    def __init__(
        self,
        cpu: CpuState,
        ram: int | Iterable[tuple[int, int]],
        memory: Mapping[int, int],
        va: int | VirtAddr,
        access: Access,
    ) -> None:
        regions = ((0, ram),) if isinstance(ram, int) else tuple(ram)
        put = object.__setattr__
        put(self, "cpu", cpu)
        put(self, "ram", _regions(regions))
        put(self, "memory", dict(memory))
        put(self, "va", _u64("va", index(va)))
        put(self, "access", access)
        for pa, word in self.memory.items():
            _u64(f"the word at {pa:#_x}", word)
            if pa % 8:
                raise CaseError(f"a word's address must be a multiple of 8, not {pa:#_x}")
            if not any(region.base <= pa < region.end for region in self.ram):
                raise CaseError(f"a word must lie in RAM, and {pa:#_x} is not RAM")

    @classmethod
    def from_json(cls, data: object, *, default: CpuState | None = None) -> Self:
        """Return the case that a JSON object describes.

        :param data: the object, as :func:`json.loads` gives it.
        :param default: what the case leaves out of ``cpu`` is taken from here.
        :raises CaseError: for an unknown key, which it names, or a value that cannot be.
        """
        try:
            case = obj("a case", data, required=["access"], optional=["cpu", "ram", "memory"])
            asked = obj("access", case["access"], required=["va"], optional=_ACCESS_KEYS)
            return cls(
                CpuState.from_json(case.get("cpu", {}), default=default),
                ram(case.get("ram", DEFAULT_RAM)),
                memory_from_json("memory", case.get("memory", {})),
                number("va", asked["va"]),
                _access(asked),
            )
        except InputError as error:
            raise case_error(error) from error

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :meth:`from_json` turns into an equal case."""
        return {
            "cpu": self.cpu.to_json(),
            "ram": ram_to_json(self.ram),
            "memory": memory_to_json(self.memory),
            "access": access_to_json(self.va, self.access),
        }

    def line(self) -> str:
        """Return the case as a line of a case file, without the newline."""
        return json.dumps(self.to_json())

    def build(self) -> PhysicalMemory:
        """Return new RAM that holds the case's words."""
        memory = PhysicalMemory(self.ram)
        for pa, word in self.memory.items():
            memory.write_u64(pa, word)
        return memory


# The cases of a file or a campaign have few kinds of RAM between them.
@lru_cache(maxsize=64)
def _regions(regions: tuple[tuple[int, int], ...]) -> tuple[Region, ...]:
    try:
        return PhysicalMemory(regions).regions
    except InputError as error:
        raise case_error(error) from error


def _u64(name: str, value: int) -> int:
    if not 0 <= value < 1 << 64:
        raise CaseError(f"{name} must be 0 or more and fit in 64 bits, not {shown(value)}")
    return value


def _access(asked: Mapping[str, Any]) -> Access:
    kind = asked.get("kind", "read")
    if not isinstance(kind, str):
        raise CaseError(f"kind must be a string, not {shown(kind)}")
    return Access(
        kind,  # type: ignore[arg-type]  # Access makes the AccessKind, or refuses the word
        number("size", asked.get("size", 1)),
        implicit=flag("implicit", asked.get("implicit", False)),
        stack=flag("stack", asked.get("stack", False)),
    )


def access_from_json(data: object) -> tuple[int, Access, int | None]:
    """Return the address, the access, and the value that it stores, of a scenario's access.

    :raises InputError: for an unknown key, or a value that cannot be.
    """
    asked = obj("access", data, required=["va"], optional=[*_ACCESS_KEYS, "value"])
    access = _access(asked)
    value = None
    if "value" in asked:
        value = number("value", asked["value"])
        if not access.is_write:
            raise CaseError(f"an access with a value must be a write, not a {access.kind}")
    return number("va", asked["va"]), access, value


def access_to_json(va: int, access: Access) -> dict[str, Any]:
    """Return the ``access`` object of a case."""
    asked: dict[str, Any] = {"va": f"{va:#x}", "kind": str(access.kind), "size": access.size}
    for name in ("implicit", "stack"):
        if getattr(access, name):
            asked[name] = True
    return asked


def memory_from_json(name: str, data: object) -> dict[int, int]:
    """Return the words that a ``memory`` object describes.

    :param name: what an error calls the object.
    :raises InputError: for a word or an address that is none.
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
    """Return the ``memory`` object of a case, in the order of addresses."""
    return {f"{pa:#x}": f"{word:#x}" for pa, word in sorted(memory.items())}


def ram_to_json(regions: tuple[Region, ...]) -> str | list[list[str]]:
    """Return the ``ram`` of a case: a size, or a list of ``[base, size]``."""
    if len(regions) == 1 and regions[0].base == 0:
        return f"{regions[0].size:#x}"
    return [[f"{base:#x}", f"{size:#x}"] for base, size in regions]


def case_error(error: InputError) -> CaseError:
    """Return the CaseError that says what another error says, in few enough words."""
    message = error.message if isinstance(error, CaseError) else str(error)
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}..."
    return CaseError(message)


def read_cases(path: str | os.PathLike[str], *, default: CpuState | None = None) -> Iterator[Case]:
    """Read a case file, line by line as the iterator is advanced; blank lines do not count.

    :param path: the file.
    :param default: what a case leaves out of ``cpu`` is taken from here.
    :raises CaseError: for the first line that is no case, with the file and the line; also when
        the file cannot be read or holds no case.
    """
    return read_lines(path, lambda data: Case.from_json(data, default=default))


def read_lines(
    path: str | os.PathLike[str], question: Callable[[object], _Question]
) -> Iterator[_Question]:
    """Read a file of JSON lines, line by line as the iterator is advanced.

    :param path: the file.
    :param question: makes of a line's JSON what it stands for.
    :raises CaseError: as :func:`read_cases`.
    """
    path = Path(path)
    line_number = 0
    found = False
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE + 1):
                line_number += 1
                if not line.strip():
                    continue
                if len(line) > _MAX_LINE:
                    raise CaseError(f"a case must be at most {_MAX_LINE} bytes long")
                asked = question(loads(line.rstrip(b"\r\n")))
                found = True
                yield asked
    except InputError as error:
        raise case_error(error).at(path, line_number) from error
    except OSError as error:
        raise CaseError(
            f"the file must be readable: {error.strerror or error}", path=path
        ) from error
    if not found:
        raise CaseError("a case file must hold at least one case, and holds none", path=path)


def write_cases(path: str | os.PathLike[str], cases: Iterable[Case]) -> None:
    """Write a case file, which :func:`read_cases` reads.

    :param path: the file, made anew.
    :param cases: what it shall hold.
    """
    Path(path).write_text("".join(f"{case.line()}\n" for case in cases), encoding="utf-8")


def prediction_to_json(walk: Walk) -> dict[str, Any]:
    """Return what a walk predicts, in the form that ``harness probe`` prints.

    Addresses, sizes, error codes and bits are hex strings; ``level`` is an integer; what there is
    not is None.

    :param walk: the walk of the case's access.
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


def observation_to_json(observation: Observation) -> dict[str, Any]:
    """Return what an engine saw, in the form that ``harness probe`` prints.

    :param observation: the engine's answer to the case.
    """
    return observation.to_json()


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{int(value):#x}"


def _bits(changes: Mapping[int, int]) -> dict[str, str]:
    return {f"{entry:#x}": f"{bits:#x}" for entry, bits in changes.items()}
