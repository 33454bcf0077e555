"""ELF core dumps as QEMU's ``dump-guest-memory`` writes them.

Such a core holds the guest's RAM in PT_LOAD segments and, for each CPU, a ``CORE`` note for
debuggers and a ``QEMU`` note with the control registers (``QEMUCPUState`` in QEMU's
target/i386/arch_dump.c, version 1). Only physical addresses are looked at, so that dumps with and
without ``-p`` (paging) read alike. What a walker needs and no note holds is given or assumed:

- EFER. QEMU marks a core EM_X86_64 exactly when EFER.LMA = 1, and other cores are refused.
  NXE is assumed (``efer=0xd00``), as every current kernel sets it.
- PKRU, PKRS and the CPU's features, MAXPHYADDR among them. They are given, or assumed.

A core without these notes (kdump's, VirtualBox's) is walked with the registers that are given.

Two segments may show one piece of RAM (a dump with ``-p`` has one for each mapping), and a piece
that is mapped but was not stored (a device, say) has no bytes in the file: it is no RAM here.

    (qemu) dump-guest-memory guest.core
    snapshot = load_core("guest.core", given={"pkru": 0x55555554})
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.errors import InputError
from harness.jsontext import MAX_RAM
from harness.memory import PhysicalMemory, Region
from harness.snapshot.cpu import Given, assumed, cpu_of
from harness.snapshot.files import fill, open_file
from harness.snapshot.model import Snapshot

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

__all__ = ["ELF_MAGIC", "load_core"]

ELF_MAGIC: Final = b"\x7fELF"

_FRAME: Final = 4096
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
# Read here and not by pyelftools: a dump with paging has a program header for each run of pages,
# of which it reads 25,000 a second.
_PHDR: Final = np.dtype(
    [
        *(("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("vaddr", "<u8")),
        *(("paddr", "<u8"), ("filesz", "<u8"), ("memsz", "<u8"), ("align", "<u8")),
    ]
)
# version, size | rax ... r15 | rip, rflags | ten segments | cr0 ... cr4
_STATE: Final = struct.Struct("<2I 16Q 2Q 240s 5Q")
_SEGMENT: Final = struct.Struct("<4IQ")


class _Piece(NamedTuple):
    """Bytes of RAM that the file stores."""

    pa: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.pa + self.size


def load_core(
    path: str | os.PathLike[str],
    *,
    like: CpuState | None = None,
    given: Given | None = None,
    index: int = 0,
) -> Snapshot:
    """Read an ELF core of a guest in long mode, as QEMU, kdump or VirtualBox write them.

    :param path: the file.
    :param like: a state that has what the core does not hold: PKRU, PKRS, the CPU's features.
    :param given: keys of a ``cpu`` object that replace what the core holds, or add what it does
        not: EFER, PKRU, PKRS, the CPU's features. A core without QEMU's notes needs ``cr3``.
    :param index: which CPU, in the order of the QEMU notes.
    :raises SnapshotError: when the file is no such core, is damaged or cut short, or has no CPU of
        that index.
    """
    given = given or {}
    path = Path(path)
    with open_file(path) as file:
        file_size = os.fstat(file.fileno()).st_size
        pieces, states = _parse(file, file_size)
        stored: dict[str, Any] = {}
        cr2 = rip = None
        if 0 <= index < len(states):
            stored, cr2, rip = _registers(states[index])
        elif states or index:
            raise InputError(
                f"the core must hold a QEMU note of CPU {index}, and holds {len(states)} such notes"
            )
        elif "cr3" not in given:
            raise InputError(
                "the core holds no QEMU note, and so no registers: give at least --cr3 (and --cr4 "
                "for 5 levels)"
            )
        stored = {**_not_held(like), **stored}
        cpu = cpu_of(stored, given)
        pieces = _disjoint(pieces, file_size)
        memory = PhysicalMemory(_whole_frames(pieces))
        for piece in pieces:
            _copy(memory, piece, file)
    return Snapshot(path, memory, cpu, cr2=cr2, rip=rip, assumed=assumed(stored, given))


def _parse(file: BinaryIO, file_size: int) -> tuple[list[_Piece], list[bytes]]:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.notes import iter_notes

    # pyelftools 0.33 trusts the numbers in the file: damaged ones end in whatever exception their
    # use raises (construct's, AssertionError, TypeError, UnicodeDecodeError, ...).
    try:
        elf = ELFFile(file)
        headers = _program_headers(elf, file, file_size)
        notes = headers[headers["type"] == _PT_NOTE]
        if len(notes) != 1:
            raise InputError(f"the core must have one segment of notes, not {len(notes)}")
        within = iter_notes(elf, int(notes["offset"][0]), int(notes["filesz"][0]))
        states = [note["n_descdata"] for note in within if note["n_name"] == "QEMU"]
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the ELF structure must be intact: {reason}") from error
    stored = headers[(headers["type"] == _PT_LOAD) & (headers["filesz"] > 0)]
    pieces = list(map(_Piece, *(stored[name].tolist() for name in ("paddr", "offset", "filesz"))))
    for piece in pieces:
        if piece.offset + piece.size > file_size:
            raise InputError(
                f"the file must hold the RAM from {piece.pa:#_x} on up to byte "
                f"{piece.offset + piece.size}, and is {file_size} bytes long"
            )
    return pieces, states


def _program_headers(elf: ELFFile, file: BinaryIO, file_size: int) -> NDArray[Any]:
    kind = (elf.elfclass, elf.little_endian, elf["e_type"], elf["e_machine"])
    if kind != (64, True, "ET_CORE", "EM_X86_64"):
        raise InputError(
            "the ELF file must be a core of an x86-64 guest in long mode "
            f"(64-bit, little-endian, ET_CORE, EM_X86_64), not "
            f"{elf.elfclass}-bit, {'little' if elf.little_endian else 'big'}-endian, "
            f"{elf['e_type']}, {elf['e_machine']}"
        )
    count = elf.num_segments()
    size = _PHDR.itemsize
    if elf["e_phentsize"] != size or elf["e_phoff"] + count * size > file_size:
        raise InputError(
            f"the program headers must be of {size} bytes and lie inside the file, "
            f"not {count} of {elf['e_phentsize']} bytes at {elf['e_phoff']:#x}"
        )
    file.seek(elf["e_phoff"])
    return np.frombuffer(file.read(count * size), _PHDR)


def _not_held(like: CpuState | None) -> dict[str, Any]:
    if like is None:
        return {}
    told = like.to_json()
    return {key: told[key] for key in ("pkru", "pkrs", "maxphyaddr", "features") if key in told}


def _registers(state: bytes) -> tuple[dict[str, Any], int, int]:
    if len(state) < _STATE.size:
        raise InputError(f"a QEMU note must have {_STATE.size} bytes or more, not {len(state)}")
    version, _, *rest = _STATE.unpack_from(state)
    if version != 1:
        raise InputError(f"a QEMU note must be of version 1, not {version}")
    rip, rflags = rest[16:18]
    cs_selector = _SEGMENT.unpack_from(rest[18])[0]
    cr0, _, cr2, cr3, cr4 = rest[19:]
    held = {"cr0": cr0, "cr3": cr3, "cr4": cr4, "rflags": rflags, "cpl": cs_selector & 3}
    return held, cr2, rip


def _disjoint(pieces: list[_Piece], file_size: int) -> list[_Piece]:
    result: list[_Piece] = []
    for piece in sorted(pieces):
        last = result[-1] if result else _Piece(0, 0, 0)
        seen = last.end - piece.pa
        if seen > 0:
            if piece.offset - piece.pa != last.offset - last.pa:
                raise InputError(
                    f"segments of the same RAM must be the same bytes of the file, and those at "
                    f"{piece.pa:#_x} are not"
                )
            piece = _Piece(last.end, piece.offset + seen, piece.size - seen)
        if piece.size > 0:
            result.append(piece)
    total = sum(piece.size for piece in result)
    if total > min(file_size, MAX_RAM):
        raise InputError(
            f"the segments must not hold more than the file's {file_size} bytes, and hold {total}"
        )
    return result


# A dump of a given range may begin and end inside frames. A frame that is there in part is left
# out: the rest of it would read as zero, which is to say 'not present'.
def _whole_frames(pieces: list[_Piece]) -> list[Region]:
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        if runs and runs[-1][1] == piece.pa:
            runs[-1] = (runs[-1][0], piece.end)
        else:
            runs.append((piece.pa, piece.end))
    regions = []
    for start, end in runs:
        base = -(-start // _FRAME) * _FRAME
        size = end // _FRAME * _FRAME - base
        if size > 0:
            regions.append(Region(base, size))
    if not regions:
        raise InputError("the core must hold at least one whole frame of RAM, and holds none")
    return regions


def _copy(memory: PhysicalMemory, piece: _Piece, file: BinaryIO) -> None:
    start, end = piece.pa, piece.end
    if not memory.contains(start):
        start = -(-start // _FRAME) * _FRAME
    if end > start and not memory.contains(end - 1):
        end = end // _FRAME * _FRAME
    if end <= start or not memory.contains(start):
        return
    if fill(memory, start, file, piece.offset + start - piece.pa, end - start) != end - start:
        raise InputError("the file must not shrink while it is read")
