"""The assembler: Keystone's Intel syntax in, checked machine code out.

Keystone 0.9.2 makes wrong code without saying so: it truncates addresses and immediates, wraps
jump targets, turns ``iret`` into ``iretw``, and can emit nothing at all. Here every statement is
read by a parser of our own, evaluated and placed by us (so labels have addresses that can be asked
for), assembled, disassembled with Capstone, and compared with what the source says. What does not
agree, or cannot be compared, is an :class:`~harness.errors.AssemblyError` with file, line, the
statement, and what Keystone made of it::

    >>> program = assemble('''
    ... start:  mov rax, table
    ...         mov rbx, [rax + 8]
    ...         hlt
    ...         .align 8
    ... table:  .quad 1, start
    ... ''', base=0xffff_8000_0000_0000)
    >>> hex(program.labels["table"])
    '0xffff800000000010'
    >>> assemble("push 0x112233445566", base=0x1000)
    Traceback (most recent call last):
    harness.errors.AssemblyError: <string>:1: `push 0x112233445566`: push must have a number of \
32 bits with a sign, not 0x112233445566: load it in a register first; Keystone made \
`push 0x5566` of it

The language is in ``docs/assembler.md``. The parts, in the order of the flow: :mod:`.source`
(files, macros), :mod:`.expression`, :mod:`.instruction` (what the source says), :mod:`.encode`
(Keystone, and where we do not trust it), :mod:`.verify` (Capstone), :mod:`.directives`,
:mod:`.passes` (addresses), :mod:`.program` (the result).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import SupportsIndex

from harness.asm.expression import NAME
from harness.asm.instruction import is_register
from harness.asm.passes import place
from harness.asm.program import Labels, Program, Statement, UnknownLabel
from harness.asm.source import expand, read_source
from harness.errors import AssemblyError

__all__ = ["Labels", "Program", "Statement", "UnknownLabel", "assemble", "assemble_file"]


def assemble(
    source: str,
    *,
    base: SupportsIndex,
    bits: int = 64,
    file: str = "<string>",
    constants: Mapping[str, int] | None = None,
    include_path: Sequence[Path] = (),
) -> Program:
    """Assemble source text.

    :param base: the address of the first byte.
    :param bits: 32 or 64, until the source says ``.code32`` or ``.code64``.
    :param file: the name for messages; includes are looked for beside it.
    :param constants: names that the source may use as numbers.
    :param include_path: more folders for ``.include``.
    :raises AssemblyError: naming file and line.
    """
    start = index(base)
    if bits not in (32, 64):
        raise AssemblyError(f"bits must be 32 or 64, not {bits!r}", file=file)
    if not 0 <= start < 1 << 64:
        raise AssemblyError(f"base must be a 64-bit address, not {start:#x}", file=file)
    given = dict(constants or {})
    for name in given:
        if not re.fullmatch(NAME, name) or is_register(name):
            raise AssemblyError(f"a constant must have a name of its own, not {name!r}", file=file)
    lines = expand(source, file, given, include_path)
    return place(lines, start, bits, given, file)


def assemble_file(
    path: str | Path,
    *,
    base: SupportsIndex,
    bits: int = 64,
    constants: Mapping[str, int] | None = None,
    include_path: Sequence[Path] = (),
) -> Program:
    """Assemble a file; its includes are looked for beside it first.

    The parameters are those of :func:`assemble`.

    :raises AssemblyError: also when the file cannot be read or is not UTF-8.
    """
    source = read_source(Path(path))
    return assemble(
        source,
        base=base,
        bits=bits,
        file=str(path),
        constants=constants,
        include_path=include_path,
    )
