"""Raw dumps: the bytes land at their address; what is no dump is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cpu import CpuState
from harness.errors import SnapshotError
from harness.memory import Region
from harness.snapshot import Snapshot, load_raw, open_snapshot
from harness.walker import walk

CPU = CpuState(cr3=0x11000)


def test_a_dump_lies_where_it_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "ram.bin"
    path.write_bytes(os.urandom(3 * 4096))

    snapshot = load_raw(path, cpu=CPU, base=0x1_0000)

    assert snapshot.memory.regions == (Region(0x1_0000, 0x3000),)
    assert snapshot.memory.read(0x1_0000, 0x3000) == path.read_bytes()
    assert (snapshot.cpu, snapshot.name, snapshot.cr2) == (CPU, "ram.bin", None)


def test_a_walk_reads_its_tables(tmp_path: Path) -> None:
    ram = bytearray(0x5000)
    for at, entry in ((0x1000, 0x12007), (0x2000, 0x13007), (0x3000, 0x14007), (0x4028, 0x10007)):
        ram[at : at + 8] = entry.to_bytes(8, "little")
    path = tmp_path / "ram.bin"
    path.write_bytes(ram)

    snapshot = open_snapshot(path, cpu=CPU, base=0x1_0000)

    assert type(snapshot) is Snapshot
    assert walk(snapshot.memory, snapshot.cpu, 0x5678).pa == 0x10678


def test_zeros_in_the_dump_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "ram.bin"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x")

    before = _resident()
    snapshot = load_raw(path, cpu=CPU)

    assert snapshot.memory.read(32 << 20, 1) == b"x"
    assert snapshot.memory.size == 64 << 20
    assert _resident() - before < 8 << 20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_a_part_of_a_frame_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "ram.bin"
    path.write_bytes(bytes(size))

    with pytest.raises(SnapshotError) as caught:
        load_raw(path, cpu=CPU)

    assert str(caught.value) == (
        f"{path}: a raw dump must be a whole number of 4 KiB frames, not {size} bytes long"
    )


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        (0x800, "must be made of whole 4 KiB frames"),
        ((1 << 52) - 4096, "must lie in 52 bits"),
        (-4096, "must lie in 52 bits"),
    ],
)
def test_a_base_that_cannot_be_is_refused(tmp_path: Path, base: int, sentence: str) -> None:
    path = tmp_path / "ram.bin"
    path.write_bytes(bytes(8192))

    with pytest.raises(SnapshotError, match=sentence) as caught:
        load_raw(path, cpu=CPU, base=base)
    assert str(caught.value).startswith(f"{path}: ")


def test_more_than_1_tib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ram.bin"
    with path.open("wb") as file:
        file.truncate((1 << 40) + 4096)

    with pytest.raises(SnapshotError, match="at most 0x100_0000_0000 bytes long"):
        load_raw(path, cpu=CPU)


def test_a_raw_dump_needs_a_cpu_state(tmp_path: Path) -> None:
    path = tmp_path / "ram.bin"
    path.write_bytes(bytes(4096))

    with pytest.raises(SnapshotError) as caught:
        open_snapshot(path)

    assert str(caught.value) == (
        f"{path}: a raw dump must come with a CPU state: give at least --cr3 (--cr4 for 5 levels)"
    )


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No such file"):
        open_snapshot(tmp_path / "nowhere", cpu=CPU)
    with pytest.raises(SnapshotError, match="must be a regular file"):
        open_snapshot("/dev/zero", cpu=CPU)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SnapshotError, match="must be a regular file"):
        load_raw(tmp_path / "pipe", cpu=CPU)
