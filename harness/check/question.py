"""Questions: what is asked of a CPU, in the form that every reproducer has.

A question is a CPU state, some words of memory, and one step or several: an access, an edit of an
entry, an instruction, a delivery. The TLB lives on from step to step. As JSON it is one object, on
a line of its own in a ``.jsonl`` file; ``access`` is shorthand for one access step::

    {"cpu": {"cr3": "0x1000", "cpl": 3}, "ram": "0x4000000",
     "memory": {"0x1000": "0x2007"}, "access": {"va": "0x4123", "kind": "fetch"}}
    {"cpu": {"cr3": "0x1000"}, "ram": "0x10000", "memory": {"0x1000": "0x2007"},
     "steps": [{"access": {"va": "0x4123"}}, {"write": {"0x1000": "0x0"}},
               {"invlpg": "0x4000"}, {"access": {"va": "0x4123", "kind": "write"}, "cpl": 3}]}

What is left out has a default: the CPU state's are those of :class:`~harness.cpu.CpuState`, RAM is
64 MiB from address 0, memory is zero, the access is a read of one byte. :mod:`harness.check.codec`
lists the steps. Whatever is wrong raises :class:`~harness.errors.CaseError`, one sentence with the
file and the line::

    for question in read_questions("cases.jsonl"):
        print(question.line())
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, Final, Self

from harness.address import VirtAddr
from harness.check.codec import (
    access_from_json,
    access_to_json,
    memory_from_json,
    memory_to_json,
    ram_to_json,
    step_from_json,
    step_to_json,
)
from harness.cpu import CpuState
from harness.engine.steps import WRITTEN, AccessStep, ControlStep, Step, WriteStep
from harness.errors import CaseError, InputError
from harness.jsontext import loads, obj, ram, shown
from harness.memory import PhysicalMemory, Region
from harness.outcome import Access, AccessLike
from harness.walker import Walk

__all__ = [
    "DEFAULT_RAM",
    "Question",
    "question_of",
    "read_questions",
    "states",
    "write_questions",
]

DEFAULT_RAM: Final = 64 << 20
"""Bytes of RAM, from address 0, of a question that does not say."""

# A question of 200,000 words; far more than any walk reads.
_MAX_LINE: Final = 8 << 20
_MAX_MESSAGE: Final = 400
_MAX_STEPS: Final = 1000
_OTHERS: Final = ("cpu", "ram", "memory")


@dataclass(frozen=True, slots=True, init=False)
class Question:
    """What is asked, with everything that decides what becomes of it.

    :param cpu: the CPU at the first step.
    :param ram: bytes of RAM from address 0, or ``(base, size)`` for each region.
    :param memory: physical address, a multiple of 8, → u64. All other RAM is zero.
    :param steps: what happens, in order: 1 to 1,000.
    :raises CaseError: when RAM cannot be so, a word is not aligned or not in RAM, a number does not
        fit in 64 bits, or a step loads a register with what it does not take.
    """

    cpu: CpuState
    ram: tuple[Region, ...]
    memory: dict[int, int]
    steps: tuple[Step, ...]

    def __init__(
        self,
        cpu: CpuState,
        ram: int | Iterable[tuple[int, int]],
        memory: Mapping[int, int],
        steps: Iterable[Step],
    ) -> None:
        regions = ((0, ram),) if isinstance(ram, int) else tuple(ram)
        put = object.__setattr__
        put(self, "cpu", cpu)
        put(self, "ram", _regions(regions))
        put(self, "memory", dict(memory))
        put(self, "steps", tuple(steps))
        _check_words(self.ram, self.memory)
        if not 1 <= len(self.steps) <= _MAX_STEPS:
            raise CaseError(f"a question must have 1 to {_MAX_STEPS} steps, not {len(self.steps)}")
        for step in self.steps:
            if isinstance(step, WriteStep):
                _check_words(self.ram, step.words)
            elif isinstance(step, AccessStep):
                _u64("va", step.va)
        if self.single is None:
            try:
                for _ in states(cpu, self.steps):
                    pass
            except InputError as error:
                raise _case_error(error) from error

    @classmethod
    def of_access(
        cls,
        cpu: CpuState,
        ram: int | Iterable[tuple[int, int]],
        memory: Mapping[int, int],
        va: int | VirtAddr,
        access: AccessLike = "read",
    ) -> Self:
        """Return the question of one access.

        :param va: the virtual address of the first byte; it need not be canonical.
        :param access: how it is accessed.
        """
        return cls(cpu, ram, memory, [AccessStep(index(va), Access.of(access))])

    @property
    def single(self) -> AccessStep | None:
        """Give the access of a question that is one access and no more, else None.

        An access at another CPL than the CPU's, or that stores a value of its own, is a step.
        """
        match self.steps:
            case (AccessStep(cpl=None, value=value) as step,) if value == WRITTEN:
                return step
            case _:
                return None

    @property
    def va(self) -> int:
        """Give the virtual address of a question of one access.

        :raises ValueError: when it is more than one access.
        """
        return self._one.va

    @property
    def access(self) -> Access:
        """Give the access of a question of one access.

        :raises ValueError: when it is more than one access.
        """
        return self._one.access

    @property
    def _one(self) -> AccessStep:
        if self.single is None:
            raise ValueError(f"a question of one access is meant, not of {len(self.steps)} steps")
        return self.single

    @classmethod
    def from_json(cls, data: object, *, default: CpuState | None = None) -> Self:
        """Return the question that a JSON object describes.

        :param data: the object, as :func:`json.loads` gives it.
        :param default: what the question leaves out of ``cpu`` is taken from here.
        :raises CaseError: for an unknown key, which it names, or a value that cannot be.
        """
        try:
            asked = "steps" if isinstance(data, dict) and "steps" in data else "access"
            if isinstance(data, dict) and "access" in data and asked == "steps":
                raise CaseError("a question must have access or steps, not both")
            given = obj("a question", data, required=[asked], optional=_OTHERS)
            return cls(
                CpuState.from_json(given.get("cpu", {}), default=default),
                ram(given.get("ram", DEFAULT_RAM)),
                memory_from_json("memory", given.get("memory", {})),
                _steps(given),
            )
        except InputError as error:
            raise _case_error(error) from error

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :meth:`from_json` turns into an equal question."""
        line: dict[str, Any] = {
            "cpu": self.cpu.to_json(),
            "ram": ram_to_json(self.ram),
            "memory": memory_to_json(self.memory),
        }
        if self.single is not None:
            return line | {"access": access_to_json(self.single)}
        return line | {"steps": [step_to_json(step) for step in self.steps]}

    def line(self) -> str:
        """Return the question as a line of a file, without the newline."""
        return json.dumps(self.to_json())

    def build(self) -> PhysicalMemory:
        """Return new RAM that holds the question's words."""
        memory = PhysicalMemory(self.ram)
        for pa, word in self.memory.items():
            memory.write_u64(pa, word)
        return memory


def _steps(given: Mapping[str, Any]) -> list[Step]:
    if "access" in given:
        return [access_from_json(given["access"])]
    steps = given["steps"]
    if not isinstance(steps, list):
        raise CaseError(f"steps must be a list, not {shown(steps)}")
    return [step_from_json(place, step) for place, step in enumerate(steps, 1)]


# The questions of a file or a campaign have few kinds of RAM between them.
@lru_cache(maxsize=64)
def _regions(regions: tuple[tuple[int, int], ...]) -> tuple[Region, ...]:
    try:
        return PhysicalMemory(regions).regions
    except InputError as error:
        raise _case_error(error) from error


def _check_words(regions: tuple[Region, ...], words: Mapping[int, int]) -> None:
    for pa, word in words.items():
        _u64(f"the word at {pa:#_x}", word)
        if pa % 8:
            raise CaseError(f"a word's address must be a multiple of 8, not {pa:#_x}")
        if not any(region.base <= pa < region.end for region in regions):
            raise CaseError(f"a word must lie in RAM, and {pa:#_x} is not RAM")


def _u64(name: str, value: int) -> int:
    if not 0 <= value < 1 << 64:
        raise CaseError(f"{name} must be 0 or more and fit in 64 bits, not {shown(value)}")
    return value


def _case_error(error: InputError) -> CaseError:
    """Return the CaseError that says what another error says, in few enough words."""
    message = error.message if isinstance(error, CaseError) else str(error)
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}..."
    return CaseError(message)


def states(cpu: CpuState, steps: Iterable[Step]) -> Iterator[CpuState]:
    """Give the CPU's state at each step, before it.

    :param cpu: the state at the first one.
    :raises CpuStateError: when a step loads a register with what it does not take.
    :raises CaseError: when a step changes the number of levels, which paging must be off for.
    """
    for step in steps:
        cpl = getattr(step, "cpl", None)
        yield cpu if cpl is None or cpl == cpu.cpl else cpu.replace(cpl=cpl)
        if isinstance(step, ControlStep):
            after = cpu.replace(**{step.register: step.value})
            if after.levels != cpu.levels:
                raise CaseError("CR4.LA57 must not change while paging is on")
            cpu = after


def question_of(memory: PhysicalMemory, walk: Walk) -> Question:
    """Return the question behind a walk, able to run alone.

    It holds the entries that the walk read, and nothing else of the memory; its RAM has the
    regions of ``memory``.

    :param memory: the memory that was walked.
    :param walk: the walk.
    """
    words = {step.address: step.raw for step in walk.steps}
    if walk.second is not None:
        words |= {step.address: step.raw for step in walk.second.steps}
    return Question.of_access(walk.cpu, memory.regions, words, walk.va, walk.access)


def read_questions(
    path: str | os.PathLike[str], *, default: CpuState | None = None
) -> Iterator[Question]:
    """Read a file of questions, line by line as the iterator is advanced; blank lines do not count.

    :param path: the file.
    :param default: what a line leaves out of ``cpu`` is taken from here.
    :raises CaseError: for the first line that is no question, with the file and the line; also when
        the file cannot be read or holds no question.
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
                    raise CaseError(f"a question must be at most {_MAX_LINE} bytes long")
                question = Question.from_json(loads(line.rstrip(b"\r\n")), default=default)
                found = True
                yield question
    except InputError as error:
        raise _case_error(error).at(path, line_number) from error
    except OSError as error:
        raise CaseError(
            f"the file must be readable: {error.strerror or error}", path=path
        ) from error
    if not found:
        raise CaseError("a file of questions must hold at least one, and holds none", path=path)


def write_questions(path: str | os.PathLike[str], questions: Iterable[Question]) -> None:
    """Write a file of questions, which :func:`read_questions` reads.

    :param path: the file, made anew.
    :param questions: what it shall hold.
    """
    Path(path).write_text("".join(f"{one.line()}\n" for one in questions), encoding="utf-8")
