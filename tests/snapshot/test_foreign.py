"""Other people's files: read where they can be, refused by name where not, never misread."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.cpu import CpuState
from harness.errors import SnapshotError
from harness.snapshot import open_snapshot
from harness.walker import walk

REPORTS = Path(__file__).parent / "reports"


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"KDUMP   ", "a kdump-compressed dump"),
        (b"PAGEDU64", "a Windows crash dump"),
        (b"EMiL\x01\0\0\0", "a LiME dump"),
        (b"AVML\x02\0\0\0", "an AVML dump"),
        (b"QEVM\0\0\0\3", "a QEMU migration stream"),
        (b"HIBR", "a Windows hibernation file"),
        (bytes(0xFF6) + b"S1SUSPEND\0", "a Linux hibernation image"),
        (b"BZh91AY", "a bzip2 file"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, start: bytes, name: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(start.ljust(0x4000, b"\0"))
    with pytest.raises(SnapshotError, match=f"this is {name}, which is not read here: "):
        open_snapshot(path, given={"cr3": 0x1000})


@pytest.mark.parametrize("name", ["f03.kdump", "f04.dmp"])
def test_a_report_of_a_foreign_file_ends_with_2(name: str) -> None:
    done = CliRunner().invoke(cli, ["walk", str(REPORTS / name), "0x1000", "--cr3", "0x1000"])
    assert done.exit_code == 2
    assert "which is not read here" in done.output


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_a_packed_file_is_unpacked(tmp_path: Path, kind: str) -> None:
    plain = REPORTS / "c30_bar46.core"
    packed = tmp_path / f"core.{kind}"
    if kind == "zst":
        zstandard = pytest.importorskip("zstandard")
        packed.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    else:
        packed.write_bytes({"gz": gzip, "xz": lzma}[kind].compress(plain.read_bytes()))
    va = 0xFFFF_FFFF_8100_0000
    one, other = open_snapshot(plain), open_snapshot(packed)
    assert (other.path, other.cpu) == (packed, one.cpu)
    assert walk(other.memory, other.cpu, va).pa == walk(one.memory, one.cpu, va).pa

    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(SnapshotError, match="must be intact"):
        open_snapshot(packed)


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.xz"
    bomb.write_bytes(lzma.compress(bytes(64 << 20)))
    with pytest.raises(SnapshotError, match="must unpack to at most"):
        open_snapshot(bomb, given={"cr3": 0x1000})


def test_what_is_given_replaces_what_is_stored_before_it_is_judged() -> None:
    with pytest.raises(SnapshotError, match="bits of CR3 from bit 40"):
        open_snapshot(REPORTS / "c31_2T.core")
    opened = open_snapshot(REPORTS / "c31_2T.core", given={"maxphyaddr": 46})
    assert (opened.cpu.cr3, opened.cpu.maxphyaddr) == (0x100_0000_1000, 46)
    assert opened.assumed == frozenset()
    mended = open_snapshot(REPORTS / "c31_2T.core", given={"cr3": 0x1000})
    assert mended.cpu.cr3 == 0x1000
    assert mended.cpu.cr4 == opened.cpu.cr4
    assert mended.assumed == {"maxphyaddr"}


def test_a_core_without_registers_is_walked_with_those_given() -> None:
    core = REPORTS / "c04_kdump_noqemu.core"
    with pytest.raises(SnapshotError, match="give at least --cr3"):
        open_snapshot(core)
    assert open_snapshot(core, given={"cr3": 0x1000}).cpu == CpuState(cr3=0x1000)


def test_a_core_of_a_machine_with_cet_is_walked_and_says_what_is_not_modelled() -> None:
    opened = open_snapshot(REPORTS / "c32_cet.core")
    assert opened.cpu.unmodelled == ("CR4.CET: there are no shadow-stack accesses",)
    done = CliRunner().invoke(cli, ["walk", str(REPORTS / "c32_cet.core"), "0xffffffff81000000"])
    assert done.exit_code == 0
    assert "not modelled: CR4.CET" in done.output


def test_a_state_of_two_keys_keeps_the_other_registers(tmp_path: Path) -> None:
    file = tmp_path / "cpu.json"
    file.write_text('{"features": {"maxphyaddr": 46}, "pkru": "0x4"}')
    done = CliRunner().invoke(
        cli, ["walk", str(REPORTS / "c30_bar46.core"), "0xffffffff81000000", "--cpu", str(file)]
    )
    assert "translated to 0x1_0000_0000" in done.output, done.output


def test_a_verdict_on_an_assumed_maxphyaddr_says_so(tmp_path: Path) -> None:
    ram = tmp_path / "ram.bin"
    ram.write_bytes((bytes(0x1000) + (1 << 45 | 0x2003).to_bytes(8, "little")).ljust(0x3000, b"\0"))
    command = ["walk", str(ram), "0x0", "--cr3", "0x1000"]
    assert "MAXPHYADDR = 40 is assumed: --maxphyaddr" in CliRunner().invoke(cli, command).output
    told = CliRunner().invoke(cli, [*command, "--maxphyaddr", "40"]).output
    assert "RSVD_ADDR" in told
    assert "assumed" not in told
