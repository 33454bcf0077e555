"""Guest kernels: assembly files whose header says what they need and what they must leave behind.

The first lines of such a file are comments: a title, a paragraph or more of prose, and then TOML::

    ; recursive-pml4: the PML4 read through its own recursive slot
    ;
    ; With slot 511 pointing to the PML4 itself, ...
    ;
    ; [machine]
    ; ram = "4M"             # RAM from address 0
    ; recursive = 511        # a top-level slot that points to the PML4
    ;
    ; [in]
    ; rdi = 0xffff_ffff_ffff_f000
    ;
    ; [out]
    ; rax = "PML4"           # a number, or a label or constant of the file

``[machine]`` takes ``mode`` (``"long"`` or ``"protected"``: 32-bit, paging off), ``ram``,
``identity`` (bytes mapped to themselves), ``levels``, ``recursive``, and ``map``, a list of
``{va, pa, size, flags, page}`` with flags of the letters W, U, X (no execute), G and page ``"4K"``,
``"2M"`` or ``"1G"``. ``[in]`` sets registers. ``[out]`` holds what must be true at the end:
registers, ``ending``, ``exit``, ``serial``, ``debug``, ``screen`` (a line of it), ``events`` (a
list of ``"#PF"``), and under ``[out.memory]`` u64 words by physical address.

The code is assembled at 1 MiB with the constant ``PML4``, the physical address of the top table. A
header that cannot be read, or asks for what does not exist, is an
:class:`~harness.errors.InputError` with the file and what to write instead.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.asm import Program, assemble
from harness.asm.gnu import SUFFIXES, assemble_gnu
from harness.engine.run import REGISTERS, Budget, Ending, Exit, Start, vector_name
from harness.errors import InputError, NoMemory
from harness.kernel_header import check_header, page_of
from harness.machine import KERNEL_BASE, TABLES_BASE, Machine, screen_of
from harness.sizes import parse_size

__all__ = ["Kernel", "KernelResult", "read_kernel"]

STACK = 0x8_0000


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file, read.

    :ivar path: the file.
    :ivar title: the header's first line.
    :ivar prose: what the header says in words.
    :ivar machine: the ``[machine]`` table.
    :ivar inputs: registers at the start.
    :ivar expected: the ``[out]`` table.
    """

    path: Path
    title: str
    prose: str
    source: str = field(repr=False)
    machine: Mapping[str, Any]
    inputs: Mapping[str, int | str]
    expected: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def protected(self) -> bool:
        """Whether it starts in 32-bit protected mode, paging off."""
        return bool(self.machine.get("mode", "long") == "protected")

    def assemble(self, constants: Mapping[str, int] | None = None) -> Program:
        """Assemble it at 1 MiB.

        :param constants: more names that the source may use; they win over the header's.
        :raises AssemblyError: naming file and line.
        :raises InputError: when there is nothing to execute.
        """
        program = self.assemble_at(KERNEL_BASE, constants)
        if not program.code:
            raise InputError(f"{self.path} must hold at least one instruction, but is empty")
        return program

    def assemble_at(
        self, base: int, constants: Mapping[str, int] | None = None, bits: int | None = None
    ) -> Program:
        """Assemble it for an address; a ``.s`` or ``.S`` file by the machine's own toolchain.

        :param bits: 32 or 64; as the header says when None.
        :raises AssemblyError: naming file and line.
        """
        bits = bits or (32 if self.protected else 64)
        if self.path.suffix in SUFFIXES:
            return assemble_gnu(self.path, base=base, bits=bits, constants=constants)
        return assemble(
            self.source,
            base=base,
            bits=bits,
            file=str(self.path),
            constants={"PML4": TABLES_BASE, **(constants or {})},
        )

    def build(self, engine: str = "unicorn") -> Machine:
        """Make the machine that the header describes, without the code.

        :raises InputError: when the header asks for what cannot be.
        """
        spec = self.machine
        try:
            if self.protected:
                from harness.cpu import CpuState

                return Machine(
                    self._size("ram", "16M"), cpu=CpuState(cr3=TABLES_BASE), engine=engine
                )
            machine = Machine(
                self._size("ram", "16M"),
                identity=self._size("identity", spec.get("ram", "16M")),
                levels=spec.get("levels", 4),
                engine=engine,
            )
            for entry in spec.get("map", ()):
                machine.map(
                    entry["va"],
                    entry["pa"],
                    parse_size(entry["size"]),
                    entry.get("flags", "W"),
                    page_of(entry.get("page", "4K")),
                )
            if "recursive" in spec:
                machine.map_recursive(spec["recursive"])
        except (InputError, NoMemory) as error:
            raise InputError(f"{self.path}: [machine]: {error}") from None
        return machine

    def run(self, *, budget: Budget | None = None, engine: str = "unicorn") -> KernelResult:
        """Build, assemble, run, and hold the end against what the header expects."""
        program = self.assemble()
        with self.build(engine) as machine:
            inputs = {"rsp": STACK} | {
                name: self._value(program, value) for name, value in self.inputs.items()
            }
            start = Start(rip=program.base, cpu=None if self.protected else machine.cpu)
            ended = machine.run(program, registers=inputs, start=start, budget=budget)
            failures = tuple(self._failures(program, machine, ended))
            return KernelResult(self, ended, failures, machine, program)

    def _failures(self, program: Program, machine: Machine, ended: Exit) -> list[str]:
        found = []
        wanted = dict(self.expected)
        if "ending" not in wanted and ended.ending not in (Ending.HALT, Ending.EXIT):
            found.append(f"it must halt or exit, but {ended.detail}")
        observed: dict[str, Any] = {
            **ended.registers,
            "ending": str(ended.ending),
            "exit": ended.exit_code,
            "serial": ended.serial.decode("utf-8", "replace"),
            "debug": ended.debug.decode("utf-8", "replace"),
            "events": [vector_name(event.vector) for event in ended.events],
        }
        for name, value in wanted.items():
            if name == "memory":
                for address, word in value.items():
                    pa, want = int(address, 0), self._value(program, word)
                    if not machine.memory.contains(pa, 8):
                        found.append(f"the word at {pa:#x} must be {want:#x}, but is not in RAM")
                        continue
                    got = machine.memory.read_u64(pa)
                    if got != want:
                        found.append(f"the word at {pa:#x} must be {want:#x}, but is {got:#x}")
                continue
            if name == "screen":
                lines = [line.strip() for line in screen_of(machine.memory)]
                if value not in lines:
                    found.append(f"the screen must show {value!r}, but shows {lines[:3]}")
                continue
            want = self._value(program, value) if name in REGISTERS else value
            if observed[name] != want:
                found.append(f"{name} must be {_shown(want)}, but is {_shown(observed[name])}")
        return found

    def _value(self, program: Program, value: int | str) -> int:
        if isinstance(value, int):
            return value & (1 << 64) - 1
        if value == "PML4":
            return TABLES_BASE
        for names in (program.labels, program.constants):
            if value in names:
                return names[value]
        raise InputError(
            f"{self.path}: {value!r} in the header must be a label or constant of the file"
        )

    def _size(self, key: str, default: str | int) -> int:
        return parse_size(self.machine.get(key, default))


@dataclass(frozen=True, slots=True)
class KernelResult:
    """What a kernel did, and where that is not what its header expects."""

    kernel: Kernel
    exit: Exit
    failures: tuple[str, ...]
    machine: Machine = field(repr=False)
    program: Program = field(repr=False)

    def source_of(self, address: int) -> str | None:
        """Return ``FILE:LINE: statement`` of the code at an address, None where there is none."""
        found = self.program.statement_at(address)
        if found is None or not found.line:
            return None
        return f"{Path(found.file).name}:{found.line}: {' '.join(found.text.split())}"

    @property
    def passed(self) -> bool:
        """Whether all that the header expects is so."""
        return not self.failures


def _shown(value: object) -> str:
    return f"{value:#x}" if type(value) is int else repr(value)


def read_kernel(path: str | Path) -> Kernel:
    """Read a kernel file and its header.

    :raises InputError: when it cannot be read, or its header cannot.
    """
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a readable text file: {error}") from None
    comments = []
    for line in source.splitlines():
        if not line.startswith(";"):
            break
        comments.append(line[1:].removeprefix(" "))
    start = next((i for i, line in enumerate(comments) if line.startswith("[")), len(comments))
    try:
        header = tomllib.loads("\n".join(comments[start:]))
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{path}: the header must be TOML from its first [table] on: {error}"
        ) from None
    try:
        check_header(header)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    prose = comments[1:start] if comments else []
    return Kernel(
        path=path,
        title=comments[0] if comments and start else path.stem,
        prose="\n".join(prose).strip(),
        source=source,
        machine=header.get("machine", {}),
        inputs=header.get("in", {}),
        expected=header.get("out", {}),
    )
