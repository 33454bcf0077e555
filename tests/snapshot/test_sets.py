"""Page-table sets: the five real ones hold what their README says, and damage is named."""

from __future__ import annotations

import ctypes
import json
import lzma
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cpu import CpuState
from harness.errors import SnapshotError
from harness.memory import Region
from harness.resources import page_table_sets
from harness.snapshot import PageTableSet, load_set, open_snapshot
from harness.snapshot import files as files_module
from harness.walker import walk

# fixtures/page-tables/README.md: levels, table frames, leaves of 4K, 2M, 1G.
README = {
    "ovmf-max": (4, 1028, (512, 524_287, 0)),
    "memtest-max": (4, 6, (0, 2048, 0)),
    "linux-qemu64": (4, 108, (8348, 235, 0)),
    "linux-max": (5, 100, (8347, 235, 0)),
    "linux-max-pti": (4, 16, (449, 1, 0)),
}
SETS = {path.name: path for path in page_table_sets()}


def test_there_are_five_sets() -> None:
    assert set(SETS) == set(README)


@pytest.mark.parametrize("name", README)
def test_a_set_holds_what_the_readme_counts(name: str) -> None:
    levels, frames, leaves = README[name]

    tables = load_set(SETS[name])

    assert tables.name == name
    assert tables.cpu.levels == levels
    assert len(tables.frames) == frames
    level = tables.truth.level[tables.truth.is_leaf]
    assert tuple(int(np.count_nonzero(level == n)) for n in (1, 2, 3)) == leaves
    assert len(tables.unmapped) == len((SETS[name] / "unmapped.csv").read_text().splitlines()) - 1
    assert tables.outside == ()


@pytest.mark.parametrize("name", README)
def test_the_ram_is_the_guests_and_holds_the_tables(name: str) -> None:
    tables = load_set(SETS[name])

    given = [[int(x, 16) for x in pair] for pair in tables.meta["ram"]]
    assert [list(region) for region in tables.memory.regions] == given
    raw = lzma.decompress((SETS[name] / "tables.bin.xz").read_bytes())
    for start in range(0, len(raw), 4104):
        (address,) = struct.unpack_from("<Q", raw, start)
        assert tables.memory.read(address, 4096) == raw[start + 8 : start + 4104]
    held = np.count_nonzero(tables.memory.words)
    assert held == sum(np.count_nonzero(tables.memory.frame(int(pa))) for pa in tables.frames)


@pytest.mark.parametrize("name", README)
def test_a_walk_of_a_sample_agrees_with_qemu(name: str) -> None:
    tables = load_set(SETS[name])
    cpu = tables.cpu.replace(cpl=0, cr4=tables.cpu.cr4 & ~0x20_0000, pkru=0)

    for at in range(0, len(tables.truth), len(tables.truth) // 100):
        row = tables.truth[at]
        found = walk(tables.memory, cpu, row.va)
        assert (found.pa, found.page_size.letter if found.page_size else None) == (row.pa, row.size)
        assert found.steps[-1].raw & tables.truth.FLAG_MASK == int(tables.truth.flags[at])
    for row_ in tables.unmapped:
        assert walk(tables.memory, cpu, row_.va).pa is None


def test_the_cpu_is_the_one_in_cpu_json() -> None:
    cpu = load_set(SETS["linux-max"]).cpu

    assert cpu.to_json() == {
        "cr0": "0x80050033",
        "cr3": "0x2980000",
        "cr4": "0x751eb0",
        "efer": "0xd01",
        "rflags": "0x206",
        "pkru": "0x55555554",
        "pkrs": "0x0",
        "cpl": 3,
        "maxphyaddr": 40,
        "features": {"pcid": False},
    }
    assert load_set(SETS["linux-qemu64"]).cpu.features.pdpe1gb is False
    assert load_set(SETS["linux-max"]).cr2 == 0x5E22C0
    assert load_set(SETS["linux-max"]).rip == 0x45518A


def resident(tables: PageTableSet) -> int:
    """Return the bytes of the set's RAM that the kernel has committed."""
    # /proc/self/smaps would not do: the kernel merges neighbouring mappings into one.
    buffer = tables.memory.buffer
    pages = (ctypes.c_ubyte * (len(buffer) // 4096))()
    address = ctypes.c_void_p(buffer.ctypes.data)
    failed = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(buffer)), pages)
    assert not failed
    return sum(page & 1 for page in pages) * 4096


def test_ram_without_tables_stays_uncommitted() -> None:
    tables = load_set(SETS["linux-max"])

    assert tables.memory.size >= 192 << 20
    assert len(tables.frames) * 4096 <= resident(tables) <= 2 * len(tables.frames) * 4096


def test_truth_is_parsed_when_asked_for_and_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[str] = []
    original = files_module.unpack

    def count(path: Path, limit: int = files_module.MAX_UNPACKED) -> bytes:
        unpacked.append(path.name)
        return original(path, limit)

    monkeypatch.setattr("harness.snapshot.sets.unpack", count)
    tables = load_set(SETS["memtest-max"])
    assert unpacked == ["tables.bin.xz"]

    assert tables.truth is tables.truth
    assert tables.unmapped is tables.unmapped
    assert unpacked == ["tables.bin.xz", "truth.csv.xz"]


def test_open_snapshot_reads_a_folder_as_a_set() -> None:
    assert isinstance(open_snapshot(str(SETS["memtest-max"])), PageTableSet)


# What follows damages a copy of a small set.


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(SETS["memtest-max"], target)
    return target


def edit(copy: Path, change: Callable[[dict[str, Any]], None]) -> None:
    meta = json.loads((copy / "cpu.json").read_text())
    change(meta)
    (copy / "cpu.json").write_text(json.dumps(meta))


def write_tables(copy: Path, records: list[tuple[int, bytes]]) -> None:
    raw = b"".join(struct.pack("<Q", address) + frame for address, frame in records)
    (copy / "tables.bin.xz").write_bytes(lzma.compress(raw))


def records_of(copy: Path) -> list[tuple[int, bytes]]:
    raw = lzma.decompress((copy / "tables.bin.xz").read_bytes())
    return [
        (struct.unpack_from("<Q", raw, at)[0], raw[at + 8 : at + 4104])
        for at in range(0, len(raw), 4104)
    ]


def refusal(copy: Path) -> str:
    with pytest.raises(SnapshotError) as caught:
        load_set(copy)
    return str(caught.value).replace(str(copy), "SET")


def test_tables_outside_ram_get_ram_of_their_own(copy: Path) -> None:
    edit(copy, lambda meta: meta.update(ram=[["0x0", "0x11d000"]]))

    tables = load_set(copy)

    inside = [pa for pa in tables.frames.tolist() if pa < 0x11D000]
    assert 0 < len(inside) < len(tables.frames)
    assert tables.outside == tuple(
        Region(pa, 0x1000) for pa in tables.frames.tolist() if pa >= 0x11D000
    )
    assert walk(tables.memory, tables.cpu, tables.truth[0].va).pa == tables.truth[0].pa


def test_an_address_may_be_a_number_and_a_key_may_be_added(copy: Path) -> None:
    edit(copy, lambda meta: meta.update(cr3=int(meta["cr3"], 16), comment=["anything", 1.5]))

    assert load_set(copy).cpu.cr3 == 0x11C000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cr3": None}, "cr3 must be an integer or a hex string such as '0x1000', not None"),
        (
            {"cr3": "11c000"},
            "cr3 must be an integer or a hex string such as '0x1000', not '11c000'",
        ),
        ({"cr3": 1.5}, "cr3 must be an integer or a hex string such as '0x1000', not 1.5"),
        ({"cr3": True}, "cr3 must be an integer or a hex string such as '0x1000', not True"),
        ({"cr3": -1}, "cr3 must be 0 or more and fit in 64 bits, not -1"),
        ({"levels": 5}, "levels must be 4 by CR4.LA57, not 5"),
        ({"cpuid": []}, "cpuid must be an object, not []"),
        ({"cpuid": {}}, "cpuid must have the key 'la57', and lacks it"),
        ({"ram": []}, "RAM must have at least one region, not none"),
        ({"ram": [1]}, "a region of ram must be [base, size], not 1"),
        (
            {"ram": [[0, 1 << 60]]},
            "ram must be at most 0x100_0000_0000 bytes (1 TiB), not 0x1000_0000_0000_0000",
        ),
        ({"ram": [[0, -4096]]}, "a size in ram must be 0 or more and fit in 64 bits, not -4096"),
        (
            {"ram": [[0, 8192], [4096, 4096]]},
            "regions of RAM must not overlap, as Region(0x0, 0x2000) and Region(0x1000, 0x1000) do",
        ),
    ],
)
def test_a_bad_cpu_json_is_named(copy: Path, change: dict[str, Any], sentence: str) -> None:
    edit(copy, lambda meta: meta.update(change))

    assert refusal(copy) == f"SET/cpu.json: {sentence}"


def test_a_state_that_no_cpu_can_be_in_is_refused(copy: Path) -> None:
    edit(copy, lambda meta: meta.update(cr0="0x1"))

    assert refusal(copy).startswith("SET/cpu.json: CR0.PG must be 1 in long mode")


@pytest.mark.parametrize("key", ["cr0", "cr3", "cr4", "efer", "cpl", "maxphyaddr", "ram", "cpuid"])
def test_a_missing_key_is_named(copy: Path, key: str) -> None:
    edit(copy, lambda meta: meta.pop(key))

    assert refusal(copy) == f"SET/cpu.json: cpu.json must have the key {key!r}, and lacks it"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the text must be JSON: Expecting value at line 1, column 1"),
        ("[]", "cpu.json must be an object, not []"),
        ('{"cr0": NaN}', "a number must be finite, not NaN"),
        ('{"cr0": 1, "cr0": 2}', "a key must occur once in an object, and 'cr0' occurs twice"),
        ("[" * 100_000, "the JSON must be nested at most 32 deep"),
        ('{"cr0": ' + "9" * 5000 + "}", "an integer must fit in 64 bits, not have 5000 digits"),
    ],
)
def test_what_is_not_strict_json_is_refused(copy: Path, text: str, sentence: str) -> None:
    (copy / "cpu.json").write_text(text)

    assert refusal(copy) == f"SET/cpu.json: {sentence}"


def test_the_tables_must_be_sorted_aligned_unique_and_hold_the_root(copy: Path) -> None:
    records = records_of(copy)
    edit(copy, lambda meta: meta.pop("frames"))

    write_tables(copy, records[::-1])
    assert "the tables must be sorted by address, each there once" in refusal(copy)
    write_tables(copy, [records[0], *records])
    assert "the tables must be sorted by address, each there once" in refusal(copy)
    write_tables(copy, [(records[0][0] + 8, records[0][1]), *records[1:]])
    assert "a table's address must be that of a 4 KiB frame, not " in refusal(copy)
    write_tables(copy, [*records, (1 << 52, bytes(4096))])
    assert "a table's address must be that of a 4 KiB frame, not 0x10_0000_0000_0000" in refusal(
        copy
    )
    write_tables(copy, [record for record in records if record[0] != 0x11C000])
    assert "the tables must include the root that CR3 names, 0x11_c000" in refusal(copy)


def test_the_number_of_tables_is_the_one_in_cpu_json(copy: Path) -> None:
    write_tables(copy, records_of(copy)[:-1])

    assert refusal(copy) == (
        "SET/tables.bin.xz: there must be 6 records, as cpu.json says, of 4104 bytes, "
        "not 20520 bytes"
    )


def test_unpacking_stops_at_the_limit(copy: Path) -> None:
    bomb = lzma.compress(bytes(8 << 20), preset=0)
    (copy / "tables.bin.xz").write_bytes(bomb)
    assert refusal(copy) == "SET/tables.bin.xz: the file must unpack to at most 24624 bytes"

    path = copy / "bomb.xz"
    path.write_bytes(bomb * 5)
    with pytest.raises(SnapshotError, match="must unpack to at most 39000000 bytes"):
        files_module.unpack(path, 39_000_000)


def test_an_xz_file_may_have_several_streams(copy: Path) -> None:
    path = copy / "two.xz"
    path.write_bytes(lzma.compress(b"one ") + bytes(4) + lzma.compress(b"two"))

    assert files_module.unpack(path) == b"one two"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the .xz file must not be empty"),
        (b"not xz at all", "the file must be an intact .xz file: input format not supported"),
        (lzma.compress(b"x" * 100)[:-4], "the .xz file must be complete, and ends early"),
        (
            lzma.compress(b"x") + b"more than 12 bytes",
            "the file must be an intact .xz file: input format",
        ),
    ],
)
def test_a_damaged_xz_file_is_refused(copy: Path, data: bytes, sentence: str) -> None:
    (copy / "truth.csv.xz").write_bytes(data)
    tables = load_set(copy)

    with pytest.raises(SnapshotError) as caught:
        _ = tables.truth
    assert str(caught.value).startswith(f"{copy / 'truth.csv.xz'}: {sentence}")


@pytest.mark.parametrize("name", ["cpu.json", "tables.bin.xz"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()

    assert refusal(copy) == f"SET/{name}: the file must be readable: No such file or directory"


def test_what_is_no_folder_or_no_file_is_refused(copy: Path) -> None:
    with pytest.raises(SnapshotError, match="must be a folder that exists"):
        load_set(copy / "nowhere")
    (copy / "cpu.json").unlink()
    (copy / "cpu.json").mkdir()
    assert refusal(copy) == "SET/cpu.json: this must be a regular file, and is not"


def test_answers_that_are_not_there_hinder_only_who_asks(copy: Path) -> None:
    (copy / "truth.csv.xz").unlink()
    (copy / "unmapped.csv").unlink()

    tables = load_set(copy)

    assert isinstance(tables.cpu, CpuState)
    with pytest.raises(SnapshotError, match=r"truth\.csv\.xz: the file must be readable"):
        _ = tables.truth
    with pytest.raises(SnapshotError, match=r"unmapped\.csv: the file must be readable"):
        _ = tables.unmapped
