"""Page-table sets: the tables that real software built, with another walker's answers beside them.

A set is a folder (``fixtures/page-tables/README.md`` describes each file). Its RAM holds nothing
but the tables; what they map reads as zero until somebody stamps it. The answers are parsed when
they are first asked for, because half a million rows cost half a second::

    tables = load_set("fixtures/page-tables/linux-max")
    walk(tables.memory, tables.cpu, tables.truth[0].va)

Damage raises :class:`~harness.errors.SnapshotError`, a sentence that names the file: a file that is
missing, cut short or not what the format says, tables out of order or without the root, a CPU state
that no CPU can be in. A flipped bit inside a table is no damage that can be seen: it makes other
tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.errors import InputError, SnapshotError
from harness.jsontext import flag, loads, number, obj, ram
from harness.memory import PhysicalMemory, Region
from harness.snapshot.columns import Truth, Unmapped
from harness.snapshot.cpu import Given, cpu_of
from harness.snapshot.files import MAX_UNPACKED, blame, read_file, unpack
from harness.snapshot.model import Snapshot

__all__ = ["PageTableSet", "load_set"]

_FRAME: Final = 4096
_RECORD: Final = np.dtype([("address", "<u8"), ("content", "u1", (_FRAME,))])
_MAX_CPU_JSON: Final = 1 << 20
_REGISTERS: Final = ("cr0", "cr3", "cr4", "efer", "rflags", "cpl", "pkru", "pkrs")
_FEATURES: Final = ("la57", "pku", "pks", "smep", "smap", "umip", "pcid", "nx", "pdpe1gb", "pge")
_REQUIRED: Final = (*_REGISTERS, "maxphyaddr", "cpuid", "ram")


@dataclass(frozen=True, eq=False)
class PageTableSet(Snapshot):
    """A set: its tables in RAM, its CPU, and QEMU's answers.

    :ivar frames: addresses of the frames that hold tables, u64, ascending.
    :ivar outside: those of them that lie outside the guest's own RAM, as regions. They are part of
        ``memory`` (a CPU reads tables from ROM as well), and of nothing else.
    :ivar meta: all of ``cpu.json``, as JSON gives it.
    """

    frames: NDArray[np.uint64]
    outside: tuple[Region, ...]
    meta: Mapping[str, Any]

    @cached_property
    def truth(self) -> Truth:
        """Give QEMU's translations (``truth.csv.xz``), parsed the first time.

        :raises SnapshotError: when the file is missing or damaged.
        """
        path = self.path / "truth.csv.xz"
        return Truth.parse(unpack(path), path)

    @cached_property
    def unmapped(self) -> Unmapped:
        """Give the addresses that QEMU called unmapped (``unmapped.csv``), parsed the first time.

        :raises SnapshotError: when the file is missing or damaged.
        """
        path = self.path / "unmapped.csv"
        return Unmapped.parse(read_file(path), path)


def load_set(path: str | os.PathLike[str], *, given: Given | None = None) -> PageTableSet:
    """Read a page-table set: its CPU state and its tables; its answers when they are asked for.

    :param path: the folder.
    :param given: keys of a ``cpu`` object that replace what ``cpu.json`` says.
    :raises SnapshotError: when ``cpu.json`` or ``tables.bin.xz`` is missing or damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise SnapshotError("a page-table set must be a folder that exists", path=path)
    cpu_json = path / "cpu.json"
    text = read_file(cpu_json, _MAX_CPU_JSON)
    with blame(cpu_json):
        meta = obj("cpu.json", loads(text), required=_REQUIRED)
        cpu = _cpu_state(meta, given or {})
        cr2, rip = (number(name, meta[name]) if name in meta else None for name in ("cr2", "rip"))
        # The RAM is built once without the tables, so that a bad region is blamed on this file.
        regions = PhysicalMemory(ram(meta["ram"])).regions
        count = number("frames", meta["frames"]) if "frames" in meta else None
    tables = path / "tables.bin.xz"
    with blame(tables):
        records = _records(tables, count)
        frames = records["address"].astype(np.uint64)
        _check_frames(frames, None if given and "cr3" in given else cpu)
        outside = tuple(_outside(frames, regions))
        memory = PhysicalMemory([*regions, *outside])
    at = memory.offsets(frames) // _FRAME
    memory.buffer.reshape(-1, _FRAME)[at] = records["content"]
    return PageTableSet(path, memory, cpu, frames, outside, meta, cr2=cr2, rip=rip)


def _cpu_state(meta: Mapping[str, Any], given: Given) -> CpuState:
    cpuid = obj("cpuid", meta["cpuid"], required=tuple(_FEATURES))
    stored: dict[str, Any] = {name: number(name, meta[name]) for name in _REGISTERS}
    stored["features"] = {
        "maxphyaddr": number("maxphyaddr", meta["maxphyaddr"]),
        **{name: flag(f"cpuid.{name}", cpuid[name]) for name in _FEATURES},
    }
    cpu = cpu_of(stored, given)
    if not given and "levels" in meta and number("levels", meta["levels"]) != cpu.levels:
        raise InputError(f"levels must be {cpu.levels} by CR4.LA57, not {meta['levels']}")
    return cpu


def _records(path: Path, count: int | None) -> NDArray[Any]:
    size = _RECORD.itemsize
    limit = MAX_UNPACKED if count is None else min(MAX_UNPACKED, count * size)
    data = unpack(path, limit)
    if not data or len(data) % size or (count is not None and len(data) != count * size):
        want = "1 or more records" if count is None else f"{count} records, as cpu.json says,"
        raise InputError(f"there must be {want} of {size} bytes, not {len(data)} bytes")
    return np.frombuffer(data, _RECORD)


def _check_frames(frames: NDArray[np.uint64], cpu: CpuState | None) -> None:
    refused = (frames % _FRAME != 0) | (frames >> np.uint64(52) != 0)
    if refused.any():
        address = int(frames[refused.argmax()])
        raise InputError(f"a table's address must be that of a 4 KiB frame, not {address:#_x}")
    unsorted = frames[1:] <= frames[:-1]
    if unsorted.any():
        at = int(unsorted.argmax())
        raise InputError(
            "the tables must be sorted by address, each there once, and "
            f"{int(frames[at + 1]):#_x} follows {int(frames[at]):#_x}"
        )
    if cpu is not None and cpu.root not in frames:
        raise InputError(f"the tables must include the root that CR3 names, {cpu.root:#_x}")


def _outside(frames: NDArray[np.uint64], regions: Sequence[Region]) -> Iterator[Region]:
    outside = np.ones(len(frames), np.bool_)
    for region in regions:
        outside &= (frames < region.base) | (frames >= region.end)
    for address in frames[outside].tolist():
        yield Region(address, _FRAME)
