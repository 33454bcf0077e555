"""ELF cores: those that the writer in conftest.py builds, with and without paging, and damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cpu import CpuFeatures, CpuState
from harness.errors import SnapshotError
from harness.memory import Region
from harness.snapshot import load_core, open_snapshot
from harness.walker import walk

LOW = 0x8000
HIGH = 0xFFFC_0000


@pytest.fixture
def blocks() -> list[tuple[int, bytes]]:
    ram = bytearray(LOW)
    for at, entry in ((0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4028, HIGH | 7)):
        ram[at : at + 8] = entry.to_bytes(8, "little")
    return [(0, bytes(ram)), (HIGH, os.urandom(0x2000))]


@pytest.fixture
def write(
    core: Any, qemu_state: Callable[..., bytes], blocks: list[tuple[int, bytes]], tmp_path: Path
) -> Callable[..., Path]:
    def _write(**changes: Any) -> Path:
        path = tmp_path / "guest.core"
        settings = {"blocks": blocks, "states": [qemu_state()]} | changes
        path.write_bytes(core(**settings).build())
        return path

    return _write


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(SnapshotError) as caught:
        load_core(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("many", [False, True])
def test_a_core_gives_ram_and_cpu(
    write: Callable[..., Path], blocks: list[tuple[int, bytes]], many: bool
) -> None:
    snapshot = open_snapshot(write(many=many))

    assert snapshot.memory.regions == (Region(0, LOW), Region(HIGH, 0x2000))
    for pa, data in blocks:
        assert snapshot.memory.read(pa, len(data)) == data
    assert snapshot.cpu == CpuState(
        cr0=0x8005_0033, cr3=0x1000, cr4=0x6B0, efer=0xD00, rflags=0x206, cpl=3
    )
    assert (snapshot.cr2, snapshot.rip) == (0xDEAD_B000, 0x40_1000)
    assert walk(snapshot.memory, snapshot.cpu, 0x5678).pa == HIGH | 0x678


def test_what_a_core_does_not_hold_is_taken_from_the_caller(
    write: Callable[..., Path], qemu_state: Callable[..., bytes]
) -> None:
    like = CpuState(pkru=0x5555_5554, features=CpuFeatures(maxphyaddr=36))

    cpu = load_core(
        write(states=[qemu_state(newer=False, cs=0x10)]), like=like, given={"efer": 0x501}
    ).cpu

    assert cpu == like.replace(cr3=0x1000, cr4=0x6B0, efer=0x501, rflags=0x206, cpl=0)


def test_each_cpu_has_its_own_state(
    write: Callable[..., Path], qemu_state: Callable[..., bytes]
) -> None:
    path = write(states=[qemu_state(cr3=0x1000), qemu_state(cr3=0x5000)])

    assert [load_core(path, index=index).cpu.cr3 for index in (0, 1)] == [0x1000, 0x5000]
    for index in (2, -1):
        assert refusal(path, index=index) == (
            f"the core must hold a QEMU note of CPU {index}, and holds 2 such notes"
        )


def test_a_dump_with_paging_shows_ram_more_than_once(
    write: Callable[..., Path], blocks: list[tuple[int, bytes]]
) -> None:
    path = write(
        segments=[
            (0xFFFF_8000_0000_0000, 0, LOW),
            (0x40_0000, 0x2000, 0x3000),
            (0x50_0000, 0x7000, 0x4000),  # leaves the block: QEMU clamps what is stored
            (0x60_0000, 0xFEE0_0000, 0x1000),  # the APIC: mapped, but no RAM
            (0x70_0000, HIGH, 0x1000),
            (0x80_0000, HIGH, 0x2000),
        ]
    )

    snapshot = load_core(path)

    assert snapshot.memory.regions == (Region(0, LOW), Region(HIGH, 0x2000))
    for pa, data in blocks:
        assert snapshot.memory.read(pa, len(data)) == data


def test_frames_that_are_there_in_part_are_left_out(write: Callable[..., Path]) -> None:
    data = os.urandom(0x5000)
    path = write(
        blocks=[(0x1800, data[:0x2400]), (0x3C00, data[0x2400:]), (0x1_0010, bytes(0x1000))]
    )

    memory = load_core(path).memory

    # Together the first two reach from 0x1800 to 0x6800.
    assert memory.regions == (Region(0x2000, 0x4000),)
    assert memory.read(0x2000, 0x4000) == data[0x800:0x4800]


def test_zero_pages_stay_uncommitted(write: Callable[..., Path]) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    path = write(blocks=[(0, bytes(64 << 20))])
    before = resident()

    memory = load_core(path).memory

    assert memory.size == 64 << 20
    assert resident() - before < 8 << 20


@pytest.mark.parametrize("cut", [1, 0x1000, 0x2000, 0x9FFF])
def test_a_core_that_is_cut_short_is_refused(write: Callable[..., Path], cut: int) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:-cut])

    assert refusal(path).startswith("the file must hold the RAM from ")


def test_the_guest_must_be_in_long_mode(write: Callable[..., Path]) -> None:
    assert refusal(write(machine=3)) == (
        "the ELF file must be a core of an x86-64 guest in long mode (64-bit, little-endian, "
        "ET_CORE, EM_X86_64), not 64-bit, little-endian, ET_CORE, EM_386"
    )
    assert "not 64-bit, little-endian, ET_EXEC, EM_X86_64" in refusal(write(kind=2))


def test_the_note_must_be_qemus(
    write: Callable[..., Path], qemu_state: Callable[..., bytes]
) -> None:
    assert refusal(write(states=[])) == (
        "the core holds no QEMU note, and so no registers: give at least --cr3 (and --cr4 for 5 "
        "levels)"
    )
    assert refusal(write(states=[qemu_state()[:400]])) == (
        "a QEMU note must have 432 bytes or more, not 400"
    )
    assert refusal(write(states=[qemu_state(version=2)])) == (
        "a QEMU note must be of version 1, not 2"
    )


def test_the_state_must_be_one_that_a_cpu_can_be_in(
    write: Callable[..., Path], qemu_state: Callable[..., bytes]
) -> None:
    assert refusal(write(states=[qemu_state(cr0=0x11)])).startswith("CR0.PG must be 1")
    assert "bits of CR3 from bit 40" in refusal(write(states=[qemu_state(cr3=1 << 40)]))


def test_segments_of_the_same_ram_must_agree(write: Callable[..., Path]) -> None:
    path = write(segments=[(0, 0, 0x3000), (0, 0x2000, 0x1000)])
    data = bytearray(path.read_bytes())
    data[64 + 2 * 56 + 8] ^= 0x10  # one bit of the second segment's p_offset
    path.write_bytes(data)

    assert refusal(path) == (
        "segments of the same RAM must be the same bytes of the file, and those at 0x2000 are not"
    )


def test_ram_must_be_there_and_within_52_bits(write: Callable[..., Path]) -> None:
    assert refusal(write(blocks=[])) == (
        "the core must hold at least one whole frame of RAM, and holds none"
    )
    assert "must lie in 52 bits" in refusal(write(blocks=[(1 << 52, bytes(0x1000))]))


def test_segments_must_not_multiply_the_file(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(blocks=[(pa, bytes(0x1000)) for pa in range(0, 0x10_0000, 0x1000)])
    data = bytearray(path.read_bytes())
    for number in range(256):  # every segment becomes the whole file, 1 GiB apart
        at = 64 + 56 * (number + 1)
        data[at + 8 : at + 16] = bytes(8)
        data[at + 24 : at + 32] = (number << 30).to_bytes(8, "little")
        data[at + 32 : at + 40] = len(data).to_bytes(8, "little")
    path.write_bytes(data)

    assert refusal(path).startswith("the segments must not hold more than the file's ")


def test_a_count_of_segments_beyond_the_file_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    data = bytearray(path.read_bytes())
    data[56:58] = (0xFFFE).to_bytes(2, "little")
    path.write_bytes(data)

    assert refusal(path).startswith("the program headers must be of 56 bytes and lie inside")


def test_the_notes_must_be_in_one_segment(write: Callable[..., Path]) -> None:
    path = write()
    data = bytearray(path.read_bytes())
    data[64] = 1  # PT_NOTE becomes PT_LOAD
    path.write_bytes(data)

    assert refusal(path) == "the core must have one segment of notes, not 0"
