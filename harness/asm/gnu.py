"""``.s`` and ``.S`` files: GNU's language, assembled by the machine's own ``cc`` and ``ld``.

Such a file is AT&T syntax unless it says ``.intel_syntax``, its ``;`` separates statements, and a
``.S`` goes through the C preprocessor. None of that is ours to imitate: the toolchain does it, and
what it has linked is read back from its ELF file.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from harness.asm.program import Labels, Program, Statement
from harness.errors import AssemblyError

__all__ = ["SUFFIXES", "assemble_gnu"]

SUFFIXES: Final = frozenset({".s", ".S"})
"""The names of files that are in this language."""

_SECONDS = 60
_LARGEST = 64 << 20


def assemble_gnu(
    path: Path, *, base: int, bits: int = 64, constants: Mapping[str, int] | None = None
) -> Program:
    """Assemble and link a file for an address.

    :param base: the address of the first byte.
    :param bits: 32 or 64.
    :param constants: names that the file may use as symbols.
    :raises AssemblyError: in the toolchain's own words, or when there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        made, linked = Path(folder, "made.o"), Path(folder, "linked.elf")
        compiler = _tool(path, "cc", "gcc", "clang")
        _run(path, [compiler, f"-m{bits}", "-c", "-o", str(made), str(path.absolute())])
        symbols = [f"--defsym={name}={value:#x}" for name, value in (constants or {}).items()]
        mode = "elf_x86_64" if bits == 64 else "elf_i386"
        placed = [f"-Ttext={base:#x}", "-N", "--no-relax", "-e", f"{base:#x}"]
        linker = _tool(path, "ld", "ld.bfd")
        _run(path, [linker, "-m", mode, *placed, *symbols, "-o", str(linked), str(made)])
        return _read(path, linked, base, bits)


def _tool(path: Path, *names: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise AssemblyError(
        f"a {path.suffix} file is GNU's language and needs {names[0]}, which this machine does not "
        "have: install a C toolchain, or write it as an .asm file (docs/assembler.md)",
        file=str(path),
    )


def _run(path: Path, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise AssemblyError(
            f"{Path(command[0]).name} must end within {_SECONDS} s", file=str(path)
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "rror" in line] or ["it says nothing"]
        raise AssemblyError(
            f"{Path(command[0]).name} must accept it: {said[0].strip()[:300]}", file=str(path)
        )


def _read(path: Path, linked: Path, base: int, bits: int) -> Program:
    from elftools.elf.elffile import ELFFile

    with linked.open("rb") as file:
        elf = ELFFile(file)
        parts = [
            (section["sh_addr"], section.data())
            for section in elf.iter_sections()
            if section["sh_flags"] & 2 and section["sh_size"]  # SHF_ALLOC
        ]
        end = max((at + len(data) for at, data in parts), default=base)
        if end - base > _LARGEST or any(at < base for at, _ in parts):
            raise AssemblyError(f"its sections must lie behind {base:#x}", file=str(path))
        code = bytearray(end - base)
        for at, data in parts:
            code[at - base : at - base + len(data)] = data
        table = elf.get_section_by_name(".symtab")
        labels = Labels(
            (symbol.name, symbol["st_value"])
            for symbol in (table.iter_symbols() if table is not None else ())
            if symbol.name and base <= symbol["st_value"] <= end
        )
    return Program(base, bytes(code), labels, {}, tuple(_statements(path, bytes(code), base, bits)))


def _statements(path: Path, code: bytes, base: int, bits: int) -> list[Statement]:
    """List what was made as Capstone reads it: the source's own lines are not known."""
    import capstone

    mode = capstone.CS_MODE_64 if bits == 64 else capstone.CS_MODE_32
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    found: list[Statement] = []
    at = 0
    while at < len(code):
        step = next(decoder.disasm_lite(code[at : at + 15], base + at, 1), None)
        size, text = (step[1], f"{step[2]} {step[3]}".strip()) if step else (1, ".byte")
        found.append(
            Statement(
                base + at, code[at : at + size], text, str(path), 0, bits, None, step is not None
            )
        )
        at += size
    return found
