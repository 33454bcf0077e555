"""What a chapter of the lecture is, and what it says when it has been told.

A :class:`Chapter` is data (the lecture's words, a claim, a conclusion) and one function that tells
it to a :class:`Stage`. The stage runs kernels on the CPU and writes down what the chapter shows:
pictures, what the CPU said, and whether that agrees with what was predicted. What comes out is a
:class:`Report` of plain values, which can leave a worker process, be printed, or become JSON.

A chapter fails when a kernel's header does not hold, or when one of its own comparisons does not:
it is never told from memory. A kernel that does not exist is an
:class:`~harness.errors.InputError`.

>>> report = tell(chapter)  # doctest: +SKIP
>>> report.passed, report.conclusion  # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

from harness.address import format_address
from harness.errors import InputError
from harness.machine import TABLES_BASE
from harness.resources import asm_dir

if TYPE_CHECKING:
    from harness.cpu import CpuState
    from harness.engine.run import Exit
    from harness.kernels import Kernel, KernelResult
    from harness.memory import PhysicalMemory
    from harness.outcome import AccessLike, Observation

__all__ = [
    "Chapter",
    "Check",
    "Item",
    "Note",
    "Picture",
    "Report",
    "Run",
    "Said",
    "Stage",
    "load_kernel",
    "tell",
]

_OWN = Path(__file__).resolve().parent / "asm"
_REMARK = re.compile(r"^;\s*(\w+)\s*=\s*[^#]*#\s*(.*\S)")
_DECIMAL = re.compile(r"^;\s*(\w+)\s*=\s*-?[0-9_]+\s*(?:#|$)")
_REMARK_GOES_ON = re.compile(r"^;\s+#\s*(.*\S)")


@dataclass(frozen=True, slots=True)
class Chapter:
    """One approach of the lecture.

    :ivar name: what ``harness lecture`` calls it.
    :ivar title: for people.
    :ivar lecture: the lecture's own words, a line each.
    :ivar claim: what is to be shown.
    :ivar conclusion: what has been shown, if all of it holds; one line.
    :ivar tell: shows it, on a stage.
    """

    name: str
    title: str
    lecture: tuple[str, ...]
    claim: str
    conclusion: str
    tell: Callable[[Stage], None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence between two things that are shown."""

    kind: ClassVar[str] = "note"
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the note as JSON values."""
        return {"kind": self.kind, "text": self.text}


@dataclass(frozen=True, slots=True)
class Picture:
    """A diagram in text."""

    kind: ClassVar[str] = "picture"
    title: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the picture as JSON values, line by line."""
        return {"kind": self.kind, "title": self.title, "lines": self.text.splitlines()}


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that the CPU held at the end of a run, and what the kernel's header wanted."""

    name: str
    value: str
    wanted: str | None
    meaning: str

    @property
    def holds(self) -> bool:
        """Whether it is as wanted, or nothing was."""
        return self.wanted is None or self.wanted == self.value


@dataclass(frozen=True, slots=True)
class Run:
    """A kernel that ran.

    :ivar kernel: its name.
    :ivar path: its file, as a person would call it.
    :ivar title: its header's first line.
    :ivar prose: what its header says in words.
    :ivar code: its lines behind the header.
    :ivar said: registers and words of memory at the end.
    :ivar events: the exceptions on the way, decoded.
    :ivar serial: what it wrote to the serial and debug ports.
    :ivar ended: how it ended.
    :ivar failures: where that is not as its header expects.
    """

    kind: ClassVar[str] = "run"
    kernel: str
    path: str
    title: str
    prose: str
    code: tuple[str, ...] = field(repr=False)
    said: tuple[Said, ...]
    events: tuple[str, ...]
    serial: str
    ended: str
    failures: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether all that the header expects is so."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {
            "kind": self.kind,
            "kernel": self.kernel,
            "path": self.path,
            "title": self.title,
            "said": [
                {"name": s.name, "value": s.value, "wanted": s.wanted, "meaning": s.meaning}
                for s in self.said
            ],
            "events": list(self.events),
            "serial": self.serial,
            "ended": self.ended,
            "passed": self.holds,
            "failures": list(self.failures),
        }


@dataclass(frozen=True, slots=True)
class Check:
    """What the CPU said against what the host predicted.

    :ivar claim: what is compared, in words.
    :ivar said: by the CPU.
    :ivar predicted: what that must be, or with ``unlike`` what it must not be.
    """

    kind: ClassVar[str] = "check"
    claim: str
    said: str
    predicted: str
    unlike: bool = False

    @property
    def holds(self) -> bool:
        """Whether the two agree, or differ when they must."""
        return (self.said == self.predicted) is not self.unlike

    def __str__(self) -> str:
        said = f"the CPU said {self.said}"
        if self.unlike:
            return f"{said}, not {self.predicted}" if self.holds else f"{said}, and must not"
        return said if self.holds else f"{said}, predicted {self.predicted}"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "kind": self.kind,
            "claim": self.claim,
            "said": self.said,
            "predicted": self.predicted,
            "unlike": self.unlike,
            "passed": self.holds,
        }


Item = Note | Picture | Run | Check


@dataclass(frozen=True, slots=True)
class Report:
    """A chapter that has been told: its words, and all that was shown, in order."""

    name: str
    title: str
    lecture: tuple[str, ...]
    claim: str
    items: tuple[Item, ...]
    conclusion: str

    @property
    def passed(self) -> bool:
        """Whether all that was shown holds, and something was."""
        judged = [item for item in self.items if isinstance(item, Run | Check)]
        return bool(judged) and all(item.holds for item in judged)

    @property
    def failures(self) -> tuple[str, ...]:
        """Say in a line each what does not hold."""
        found = []
        for item in self.items:
            if isinstance(item, Run):
                found += [f"{item.path}: {failure}" for failure in item.failures]
            elif isinstance(item, Check) and not item.holds:
                found.append(f"{item.claim}: {item}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return the whole as JSON values."""
        return {
            "chapter": self.name,
            "title": self.title,
            "lecture": list(self.lecture),
            "claim": self.claim,
            "items": [item.to_json() for item in self.items],
            "passed": self.passed,
            "failures": list(self.failures),
            "conclusion": self.conclusion,
        }


class Stage:
    """Where a chapter is told: it runs kernels, and keeps what is shown.

    :param load: gives a kernel by name; by default the ones that ship with the package.
    :param engine: the CPU.
    """

    def __init__(
        self, load: Callable[[str], Kernel] | None = None, *, engine: str = "unicorn"
    ) -> None:
        self._load = load or load_kernel
        self.engine = engine
        self.items: list[Item] = []

    def kernel(self, name: str) -> Kernel:
        """Read a kernel without running it.

        :raises InputError: when there is none, or its header cannot be read.
        """
        return self._load(name)

    def run(self, name: str, *, words: bool = True) -> KernelResult:
        """Run a kernel, and show what the CPU said.

        :param words: show the words of memory that its header expects too.
        :raises InputError: when there is no such kernel, or it cannot be read.
        """
        from harness.engine.run import Budget

        result = self.kernel(name).run(engine=self.engine, budget=Budget(seconds=30))
        memory = result.machine.memory if words else None
        self.ran(result.kernel, result.exit, result.failures, memory)
        return result

    def ran(
        self,
        kernel: Kernel,
        ended: Exit,
        failures: tuple[str, ...] | None = None,
        memory: PhysicalMemory | None = None,
    ) -> None:
        """Show what the CPU said at the end of a run that was made elsewhere.

        :param failures: where that is not as the kernel's header expects; None looks at the
            registers only.
        :param memory: as the run left it, for the words that the header expects there.
        """
        self.items.append(_run(kernel, ended, failures, memory))

    def note(self, text: str) -> None:
        """Say a sentence."""
        self.items.append(Note(text))

    def picture(self, title: str, text: str) -> None:
        """Show a diagram."""
        self.items.append(Picture(title, text))

    def check(self, claim: str, *, said: object, predicted: object, unlike: bool = False) -> None:
        """Hold what the CPU said against what the host predicts.

        :param said: what came from the run: numbers are shown as addresses.
        :param predicted: what came from elsewhere.
        :param unlike: the two must differ.
        """
        self.items.append(Check(claim, _shown(said), _shown(predicted), unlike))

    def probe(
        self,
        memory: PhysicalMemory,
        cpu: CpuState,
        vas: Iterable[int],
        access: AccessLike = "read",
    ) -> list[Observation]:
        """Ask the CPU more questions about the memory that a kernel left behind."""
        from harness.machine import Machine

        with Machine(memory, cpu=cpu, engine=self.engine) as machine:
            return [machine.probe(va, access) for va in vas]


def tell(
    chapter: Chapter, load: Callable[[str], Kernel] | None = None, *, engine: str = "unicorn"
) -> Report:
    """Tell a chapter: run its kernels, draw its pictures, make its comparisons.

    :param load: gives a kernel by name; by default the ones that ship with the package.
    :raises InputError: when a kernel is missing or cannot be read.
    :raises EngineError: when there is no CPU, or it breaks.
    """
    stage = Stage(load, engine=engine)
    chapter.tell(stage)
    return Report(
        chapter.name,
        chapter.title,
        chapter.lecture,
        chapter.claim,
        tuple(stage.items),
        chapter.conclusion,
    )


def load_kernel(name: str) -> Kernel:
    """Read a kernel that ships with the package: from ``asm/``, or one of the lecture's own.

    :raises InputError: when there is none, or its header cannot be read.
    """
    from harness.kernels import read_kernel

    for folder in (asm_dir(), _OWN):
        path = folder / f"{name}.asm"
        if path.is_file():
            return read_kernel(path)
    raise InputError(f"the installation must have a kernel {name!r}, and has none")


def _run(
    kernel: Kernel, ended: Exit, failures: tuple[str, ...] | None, memory: PhysicalMemory | None
) -> Run:
    said = tuple(_said(kernel, ended, memory))
    if failures is None:
        failures = tuple(
            f"{each.name} must be {each.wanted}, but is {each.value}"
            for each in said
            if not each.holds
        )
    return Run(
        kernel=kernel.name,
        path=f"{'asm' if kernel.path.parent != _OWN else 'harness/lecture/asm'}/{kernel.path.name}",
        title=kernel.title.removeprefix(f"{kernel.name}: "),
        prose=kernel.prose,
        code=_code(kernel.source),
        said=said,
        events=tuple(str(event) for event in ended.events),
        serial=(ended.serial + ended.debug).decode("utf-8", "replace"),
        ended=f"{ended.ending}: {ended.detail}",
        failures=failures,
    )


def _said(kernel: Kernel, ended: Exit, memory: PhysicalMemory | None) -> list[Said]:
    # Whatever the header expects as a number: registers, and words of memory.
    expected = {name: each for name, each in kernel.expected.items() if name in ended.registers}
    seen = {name: ended.registers[name] for name in expected}
    if memory is not None:
        words: Mapping[str, Any] = kernel.expected.get("memory", {})
        expected |= words
        seen |= {address: memory.read_u64(int(address, 0)) for address in words}
    labels: Mapping[str, int] = {}
    if any(isinstance(wanted, str) for wanted in expected.values()):
        labels = {"PML4": TABLES_BASE, **kernel.assemble().labels}
    lines = _out_lines(kernel.source)
    remarks = _remarks(lines)
    # A number is shown as the header writes it: addresses in hex, counts in decimal.
    counts = {found[1] for line in lines if (found := _DECIMAL.match(line))}
    said = []
    for name, wanted in expected.items():
        number = labels[wanted] if isinstance(wanted, str) else wanted & (1 << 64) - 1
        write = _decimal if name in counts else format_address
        shown = name if name in ended.registers else f"[{format_address(int(name, 0))}]"
        said.append(Said(shown, write(seen[name]), write(number), remarks.get(name, "")))
    return said


def _out_lines(source: str) -> list[str]:
    # The lines of a header that say what must come out.
    lines = source.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("; [out")), len(lines))
    header = takewhile(lambda line: line.startswith(";"), lines[first:])
    return list(header)


def _remarks(lines: list[str]) -> dict[str, str]:
    # What stands behind the # of such lines, by the name before the =.
    found: dict[str, str] = {}
    last = None
    for line in lines:
        if match := _REMARK.match(line):
            last = match[1]
            found[last] = match[2]
        elif last and (match := _REMARK_GOES_ON.match(line)):
            found[last] += f" {match[1]}"
        else:
            last = None
    return found


def _code(source: str) -> tuple[str, ...]:
    lines = source.splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith(";")), len(lines))
    return tuple("\n".join(lines[first:]).strip("\n").splitlines())


def _decimal(word: int) -> str:
    return str(word - (word >> 63 << 64))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, SupportsIndex):
        return format_address(value)
    if isinstance(value, list | tuple):
        return ", ".join(_shown(each) for each in value) or "none"
    return str(value)
