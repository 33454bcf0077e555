"""Real machines, stopped: page-table sets, raw dumps and core dumps.

:func:`open_snapshot` looks at what a path is and reads it: a folder is a page-table set, a file
that begins as ELF does is a core, a file of a kind that is known by its first bytes and not read
here is refused by name, and any other file is a raw dump and needs a CPU state. The result
is a :class:`Snapshot`, which has ``memory`` and ``cpu``, ready for ``walk`` and for an engine; a
:class:`PageTableSet` has QEMU's own answers as well::

    with_answers = open_snapshot("fixtures/page-tables/linux-max")
    core = open_snapshot("guest.core")
    raw = open_snapshot("ram.bin", given={"cr3": 0x2a5c000})

Whatever is wrong with a file raises :class:`~harness.errors.SnapshotError`: one sentence, with the
file's name. RAM that holds only zeros stays uncommitted, so that a guest of gigabytes costs what
it wrote.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from harness.cpu import CpuState
from harness.snapshot.columns import (
    FLAG_BITS,
    KINDS,
    SIZES,
    SOURCES,
    Truth,
    TruthRow,
    Unmapped,
    UnmappedRow,
)
from harness.snapshot.core import ELF_MAGIC, load_core
from harness.snapshot.cpu import Given
from harness.snapshot.files import open_file
from harness.snapshot.foreign import START, packed_as, refuse_foreign, unpacked
from harness.snapshot.model import Snapshot
from harness.snapshot.raw import load_raw
from harness.snapshot.sets import PageTableSet, load_set

__all__ = [
    "FLAG_BITS",
    "KINDS",
    "SIZES",
    "SOURCES",
    "PageTableSet",
    "Snapshot",
    "Truth",
    "TruthRow",
    "Unmapped",
    "UnmappedRow",
    "load_core",
    "load_raw",
    "load_set",
    "open_snapshot",
]


def open_snapshot(
    path: str | os.PathLike[str],
    *,
    cpu: CpuState | None = None,
    given: Given | None = None,
    base: int = 0,
    index: int = 0,
) -> Snapshot:
    """Read a snapshot of whatever kind the path is; what is packed is unpacked first.

    :param path: the folder of a page-table set, an ELF core, or a raw dump.
    :param cpu: the CPU state of a raw dump; of a core, the state that has what the core does not
        hold; of no use to a set, which has its own.
    :param given: keys of a ``cpu`` object, which replace what the file holds before it is judged.
        A raw dump, and a core without registers, need ``cr3``.
    :param base: the physical address of a raw dump's first byte.
    :param index: which CPU of a core.
    :raises SnapshotError: when the path is none of these, or is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return load_set(path, given=given)
    with open_file(path) as file:
        start = file.read(START)
    kind = packed_as(start)
    if kind is not None:
        with unpacked(path, kind) as whole:
            opened = open_snapshot(whole, cpu=cpu, given=given, base=base, index=index)
        return dataclasses.replace(opened, path=path)
    refuse_foreign(path, start)
    if start.startswith(ELF_MAGIC):
        return load_core(path, like=cpu, given=given, index=index)
    return load_raw(path, cpu=cpu, given=given, base=base)
