"""Damaged input ends in one sentence that names the file, whatever the damage.

Each test damages a good input in ways drawn from its seed: it is cut short, emptied, has bits
flipped, bytes lost, doubled or overwritten; JSON has values and keys exchanged for hostile ones.
Damage need not show (a flipped bit in a page table makes another page table), but then what was
read must be usable; what is refused must be refused as :class:`InputError`. A failure names its
seed.
"""

from __future__ import annotations

import copy
import json
import lzma
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.check.question import Question, read_questions
from harness.cpu import CpuState
from harness.errors import CaseError, InputError, SnapshotError
from harness.resources import page_table_sets
from harness.snapshot import PageTableSet, Snapshot, load_core, load_raw, load_set, open_snapshot
from harness.walker import walk

SMALL = next(path for path in page_table_sets() if path.name == "linux-max-pti")
SEEDS = range(60)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def empty(rng: random.Random, data: bytes) -> bytes:
    return b""


def flip(rng: random.Random, data: bytes) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 50])):
        result[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(result)


def flip_early(rng: random.Random, data: bytes) -> bytes:
    return flip(rng, data[:256]) + data[256:]


def lose(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 8, 100]) :]


def double(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start // 2 :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    junk = rng.choice([bytes(40), b"\xff" * 8, rng.randbytes(16), b"\n\n", b",,", b"0x"])
    return data[:start] + junk + data[start + len(junk) :]


DAMAGES = [cut, empty, flip, flip_early, lose, double, overwrite]


def damage(seed: int, data: bytes) -> bytes:
    rng = random.Random(seed)
    return DAMAGES[seed % len(DAMAGES)](rng, data)


HOSTILE: list[Any] = [
    None, True, False, -1, 0, 1, 5, 1.5, 1e400, 2**52, 2**63, 2**64, 2**64 - 1, "", "0x", "0xg",
    "1000", "-0x1", " 0x1", "0x" + "f" * 300, "0x" + "f" * 16, "\n", "\ud800", "\0", "x" * 10_000,
    [], {}, [[]], [[0, 0]], [[0, 2**60]], [["0x0", "0x1000"]] * 2, [[4096]], {"": {}}, {"la57": 3},
    {"va": None}, {"0x0": "0x0"}, {"0x7": "0x0"},
]  # fmt: skip


def hostile(rng: random.Random, data: Any) -> Any:
    """Return the JSON value with one value in it exchanged, one key renamed, or one lost."""
    data = copy.deepcopy(data)
    place, way = data, rng.randrange(6)
    while isinstance(place, (dict, list)) and place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if way and isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
            place = inner
        elif way == 1:
            del place[key]
            break
        elif way == 2 and isinstance(place, dict):
            place[str(rng.choice(HOSTILE))] = place.pop(key)
            break
        else:
            place[key] = rng.choice(HOSTILE)
            break
    return data


def use(snapshot: Snapshot) -> None:
    """Ask of a snapshot what the command asks of it."""
    for va in (0, 0x40_1000, 0xFFFF_8000_0000_0000, (1 << 64) - 1):
        walk(snapshot.memory, snapshot.cpu, va)
    if isinstance(snapshot, PageTableSet):
        for row in snapshot.truth:
            walk(snapshot.memory, snapshot.cpu, row.va, "write")
        list(snapshot.unmapped)


def judge(kind: type[InputError], path: Path, read: Callable[[], object], *, shows: bool) -> None:
    """Hold a reading of damaged input to the rule.

    :param kind: what the refusal must be.
    :param path: the file or folder that its sentence must begin with.
    :param shows: whether the damage cannot pass unnoticed.
    """
    try:
        read()
    except kind as error:
        message = str(error)
        assert message.startswith(str(path))
        assert len(message.splitlines()) == 1
        assert message.isprintable()
        assert len(message) - len(str(path)) < 600
    else:
        assert not shows


@pytest.fixture
def good_set(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "set"))


def read_set(path: Path) -> None:
    use(load_set(path))


@pytest.mark.parametrize("name", ["cpu.json", "tables.bin.xz", "truth.csv.xz", "unmapped.csv"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_of_a_set(good_set: Path, name: str, seed: int) -> None:
    path = good_set / name
    data = path.read_bytes()
    path.write_bytes(damage(seed, data))

    # The .xz format has checksums, so that all damage to such a file shows.
    shows = path.suffix == ".xz" and path.read_bytes() != data
    judge(SnapshotError, path, lambda: read_set(good_set), shows=shows)


@pytest.mark.parametrize("name", ["tables.bin.xz", "truth.csv.xz"])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_an_intact_xz_file_holds(good_set: Path, name: str, seed: int) -> None:
    path = good_set / name
    path.write_bytes(lzma.compress(damage(seed, lzma.decompress(path.read_bytes())), preset=0))

    judge(SnapshotError, path, lambda: read_set(good_set), shows=not path.stat().st_size)


@pytest.mark.parametrize("seed", range(200))
def test_values_of_cpu_json(good_set: Path, seed: int) -> None:
    path = good_set / "cpu.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(hostile(random.Random(seed), meta)))

    judge(SnapshotError, good_set, lambda: read_set(good_set), shows=False)


@pytest.mark.parametrize("name", ["cpu.json", "tables.bin.xz", "truth.csv.xz", "unmapped.csv"])
def test_a_set_without_one_of_its_files(good_set: Path, name: str) -> None:
    (good_set / name).unlink()

    judge(SnapshotError, good_set / name, lambda: read_set(good_set), shows=True)


def test_an_empty_set(tmp_path: Path) -> None:
    judge(SnapshotError, tmp_path, lambda: open_snapshot(tmp_path), shows=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_raw_dump(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "ram.bin"
    data = damage(seed, random.Random(seed).randbytes(4096 * 4))
    path.write_bytes(data)

    judge(
        SnapshotError,
        path,
        lambda: use(load_raw(path, cpu=CpuState(cr3=0x1000))),
        shows=len(data) % 4096 > 0 or not data,
    )


def a_core() -> bytes:
    """Return a core of one CPU and two blocks of RAM, as QEMU lays it out."""
    ram = [(0, random.Random(0).randbytes(0x3000)), (0x10_0000, bytes(0x1000))]
    control = struct.pack("<5Q", 0x8005_0033, 0, 0, 0x1000, 0x6B0)
    body = bytes(16 * 8) + struct.pack("<2Q", 0, 2) + bytes(240) + control + bytes(8)
    state = struct.pack("<2I", 1, 8 + len(body)) + body
    notes = struct.pack("<3I8s", 5, 336, 1, b"CORE") + bytes(336)
    notes += struct.pack("<3I8s", 5, len(state), 0, b"QEMU") + state
    at = 64 + 3 * 56
    parts = [
        struct.pack("<16s2HI3QI6H", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0),
        struct.pack("<2I6Q", 4, 0, at, 0, 0, len(notes), len(notes), 0),
    ]
    at += len(notes)
    for pa, data in ram:
        parts.append(struct.pack("<2I6Q", 1, 0, at, pa, pa, len(data), len(data), 0))
        at += len(data)
    return b"".join([*parts, notes, *(data for _, data in ram)])


def test_the_core_to_be_damaged_is_good(tmp_path: Path) -> None:
    path = tmp_path / "guest.core"
    path.write_bytes(a_core())

    use(load_core(path))


@pytest.mark.parametrize("seed", range(200))
def test_a_core(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "guest.core"
    data = a_core()
    path.write_bytes(damage(seed, data))

    is_cut = path.stat().st_size < len(data)
    judge(SnapshotError, path, lambda: use(load_core(path)), shows=is_cut)


@pytest.mark.parametrize("seed", range(300))
def test_the_headers_of_a_core(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(a_core())
    size = rng.choice([1, 2, 4, 8])
    at = rng.randrange(0, 64 + 3 * 56 + 24)
    edge = rng.choice([0, 1, 3, 0x7F, (1 << 8 * size - 1), (1 << 8 * size) - 1, len(data)])
    data[at : at + size] = (edge % (1 << 8 * size)).to_bytes(size, "little")
    path = tmp_path / "guest.core"
    path.write_bytes(data)

    judge(SnapshotError, path, lambda: use(load_core(path)), shows=False)


CASE: dict[str, Any] = {
    "cpu": {
        "cr0": "0x80050033",
        "cr3": "0x1000",
        "cr4": "0x20",
        "efer": "0xd00",
        "rflags": "0x2",
        "pkru": "0x0",
        "cpl": 3,
        "maxphyaddr": 40,
        "features": {"pdpe1gb": False},
    },
    "ram": [["0x0", "0x4000000"], ["0xfffc0000", "0x40000"]],
    "memory": {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": 0xA5007},
    "access": {"va": "0x4123", "kind": "read", "size": 1, "implicit": False, "stack": True},
}


def read_case_file(path: Path) -> None:
    for case in read_questions(path):
        walk(case.build(), case.cpu, case.va, case.access)


def test_the_case_to_be_damaged_is_good() -> None:
    Question.from_json(CASE)


@pytest.mark.parametrize("seed", range(200))
def test_a_case_file(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "cases.jsonl"
    data = f"{json.dumps(CASE)}\n".encode()
    path.write_bytes(damage(seed, data * 3))

    judge(CaseError, path, lambda: read_case_file(path), shows=not path.stat().st_size)


@pytest.mark.parametrize("seed", range(400))
def test_values_of_a_case(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(hostile(random.Random(seed), CASE)))

    judge(CaseError, Path(f"{path}:1"), lambda: read_case_file(path), shows=False)
