"""A writer of ELF cores, byte by byte as QEMU's dump/dump.c and target/i386/arch_dump.c lay out."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

EHDR = struct.Struct("<16s2HI3QI6H")
PHDR = struct.Struct("<2I6Q")
PT_LOAD, PT_NOTE = 1, 4
EM_386, EM_X86_64 = 3, 62


@dataclass
class Core:
    """What goes into a core; :meth:`build` lays it out as QEMU does."""

    blocks: list[tuple[int, bytes]] = field(default_factory=list)
    """RAM: physical address and bytes, each stored once."""
    segments: list[tuple[int, int, int]] | None = None
    """Virtual address, physical address and bytes of each PT_LOAD; the blocks when None."""
    states: list[bytes] = field(default_factory=list)
    """The descriptor of the QEMU note of each CPU."""
    machine: int = EM_X86_64
    kind: int = 4  # ET_CORE
    many: bool = False
    """Write the number of program headers to section 0, as QEMU does from 0xffff on."""

    def build(self) -> bytes:
        """Return the file."""
        notes = b"".join(_note(b"CORE", 1, bytes(336)) for _ in self.states)
        notes += b"".join(_note(b"QEMU", 0, state) for state in self.states)
        segments = self.segments
        if segments is None:
            segments = [(pa, pa, len(data)) for pa, data in self.blocks]
        count = 1 + len(segments)
        shdr_at = EHDR.size + PHDR.size * count
        notes_at = shdr_at + 64 * self.many
        memory_at = notes_at + len(notes)
        ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
        ehdr = EHDR.pack(
            ident, self.kind, self.machine, 1, 0, EHDR.size, shdr_at if self.many else 0, 0,
            EHDR.size, PHDR.size, 0xFFFF if self.many else count, 64 * self.many, self.many, 0,
        )  # fmt: skip
        phdrs = [PHDR.pack(PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)]
        for va, pa, size in segments:
            offset, stored = self._stored(memory_at, pa, size)
            phdrs.append(PHDR.pack(PT_LOAD, 0, offset, va, pa, stored, size, 0))
        shdr = struct.pack("<2I4Q2I2Q", 0, 0, 0, 0, 0, 0, 0, count, 0, 0) if self.many else b""
        return b"".join([ehdr, *phdrs, shdr, notes, *(data for _, data in self.blocks)])

    # get_offset_range in dump/dump.c: -1 and 0 for what is not RAM, clamped to the block.
    def _stored(self, memory_at: int, pa: int, size: int) -> tuple[int, int]:
        at = memory_at
        for base, data in self.blocks:
            if base <= pa < base + len(data):
                return at + pa - base, min(size, base + len(data) - pa)
            at += len(data)
        return (1 << 64) - 1, 0


def _note(name: bytes, kind: int, desc: bytes) -> bytes:
    padded = desc + bytes(-len(desc) % 4)
    return struct.pack("<3I8s", 5, len(desc), kind, name) + padded


def _state(
    *,
    cr0: int = 0x8005_0033,
    cr2: int = 0xDEAD_B000,
    cr3: int = 0x1000,
    cr4: int = 0x6B0,
    rip: int = 0x40_1000,
    rflags: int = 0x206,
    cs: int = 0x33,
    version: int = 1,
    newer: bool = True,
) -> bytes:
    registers = struct.pack("<16Q", *range(16))
    # flags of a 64-bit code segment, DPL 3: P, DPL, S, code, L
    segments = struct.pack("<4IQ", cs, 0xFFFF_FFFF, 0x00A0_FB00, 0, 0)
    segments += struct.pack("<4IQ", 0x2B, 0xFFFF_FFFF, 0x00C0_F300, 0, 0) * 9
    control = struct.pack("<5Q", cr0, 0, cr2, cr3, cr4)
    body = registers + struct.pack("<2Q", rip, rflags) + segments + control
    body += struct.pack("<Q", 0xFFFF_8880_0000_0000) if newer else b""  # kernel_gs_base
    return struct.pack("<2I", version, 8 + len(body)) + body


@pytest.fixture
def core() -> type[Core]:
    return Core


@pytest.fixture
def qemu_state() -> Callable[..., bytes]:
    return _state
