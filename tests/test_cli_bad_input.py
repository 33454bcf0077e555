"""Whatever damaged file the command is given, it says one sentence and exits with 2.

Hundreds of damaged sets, dumps, cases, lists and assembly files, drawn from seeds. Some damage
cannot be seen (another bit in a page table makes another page table); then the command answers as
usual. It never shows a traceback. The engine takes no part in what is refused, so the worker
processes are left out.
"""

from __future__ import annotations

import json
import lzma
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.check.question import write_questions
from harness.cli import cli
from harness.commands import check as check_module
from harness.fuzz.groups import generate
from harness.isolate import Ended
from harness.resources import asm_dir, page_table_sets

SMALL = next(path for path in page_table_sets() if path.name == "linux-max-pti")
KERNELS = sorted(asm_dir().glob("*.asm"))


def harness(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def judge(result: Result, *, shows: bool = False) -> None:
    """Hold a result to the rule.

    :param shows: whether the damage cannot pass unnoticed.
    """
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    if result.exit_code in (0, 1) and not shows:
        return
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert 20 < len(line) < 2100


def damaged(seed: int, data: bytes) -> bytes:
    """Return bytes that are cut, emptied, flipped, lost, doubled or overwritten."""
    rng = random.Random(seed)
    at = rng.randrange(len(data))
    way = seed % 7
    if way == 0:
        return data[:at]
    if way == 1:
        return b""
    if way == 2:
        return data[:at] + data[at + rng.choice([1, 8, 100]) :]
    if way == 3:
        return data[:at] + data[at // 2 :]
    if way == 4:
        junk = rng.choice([bytes(40), b"\xff" * 8, b"\n\n", b",,", b"0x", b"[", b'"', b"(" * 50])
        return data[:at] + junk + data[at + len(junk) :]
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 50])):
        result[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(result)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(
        calls: Sequence[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]], **_: object
    ) -> Iterator[Ended]:
        for number, (function, args, kwargs) in enumerate(calls):
            try:
                yield Ended(number, function(*args, **kwargs))
            except Exception as error:
                yield Ended(number, error=error)

    monkeypatch.setattr(check_module, "isolated_all", here)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "set"))


FILES = ["cpu.json", "tables.bin.xz", "truth.csv.xz", "unmapped.csv"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(21))
def test_check_of_a_damaged_set(copy: Path, name: str, seed: int) -> None:
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(damaged(seed, data))

    # The .xz format has checksums: all damage to such a file shows.
    result = harness("check", copy)
    judge(result, shows=path.suffix == ".xz" and path.read_bytes() != data)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["tables.bin.xz", "truth.csv.xz"])
@pytest.mark.parametrize("seed", range(28))
def test_check_of_a_set_damaged_before_it_was_packed(copy: Path, name: str, seed: int) -> None:
    path = copy / name
    path.write_bytes(lzma.compress(damaged(seed, lzma.decompress(path.read_bytes())), preset=0))

    judge(harness("check", copy), shows=seed % 7 == 1)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("seed", range(35))
def test_walk_of_a_damaged_set(copy: Path, name: str, seed: int) -> None:
    path = copy / name
    path.write_bytes(damaged(seed, path.read_bytes()))

    judge(harness("walk", copy, "0x400000"), shows=seed % 7 == 1)
    judge(harness("walk", copy, "--addresses", SMALL / "unmapped.csv"), shows=seed % 7 == 1)


@pytest.mark.parametrize("seed", range(35))
def test_walk_of_a_damaged_list(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "addresses"
    path.write_bytes(damaged(seed, (SMALL / "unmapped.csv").read_bytes()))

    judge(harness("walk", SMALL, "--addresses", path), shows=seed % 7 == 1)


@pytest.mark.parametrize(
    "line", ["zz", "-1", "0x", "1" * 30, "0x1_0000_0000_0000_0000", "é", "1 2"]
)
def test_walk_names_the_line_that_is_no_address(tmp_path: Path, line: str) -> None:
    path = tmp_path / "addresses"
    path.write_text(f"va\n0x1000\n{line}\n", encoding="utf-8")

    result = harness("walk", SMALL, "--addresses", path)

    judge(result, shows=True)
    assert result.stderr.startswith(f"Error: {path}:3: an address must be a 64-bit number")


@pytest.mark.parametrize("seed", range(35))
def test_walk_of_a_damaged_dump(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "ram.bin"
    data = damaged(seed, random.Random(seed).randbytes(0x4000))
    path.write_bytes(data)

    judge(
        harness("walk", path, "0x1234", "--cr3", "0x1000"), shows=len(data) % 4096 > 0 or not data
    )


@pytest.mark.parametrize("seed", range(35))
def test_walk_of_a_damaged_core(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF" + damaged(seed, bytes(range(256)) * 40))

    judge(harness("walk", path, "0x1234"), shows=True)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"cr9": 1}', '{"cr0": "0x1"}', '{"cr0": -1}', "\xff"]
)
def test_walk_with_a_damaged_cpu_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(text, encoding="latin-1")

    judge(harness("walk", SMALL, "0", "--cpu", path), shows=True)


@pytest.mark.parametrize("seed", range(140))
def test_probe_of_damaged_cases(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "cases.jsonl"
    write_questions(path, generate(seed, 3))
    path.write_bytes(damaged(seed, path.read_bytes()))

    judge(harness("probe", path, "--engine", "none", "--json"), shows=seed % 7 == 1)


def test_probe_asks_nothing_of_a_file_with_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    write_questions(path, generate(1, 2))
    with path.open("a") as file:
        file.write(json.dumps({"access": {"va": 0}, "cpus": {}}) + "\n")

    result = harness("probe", path, "--json")

    judge(result, shows=True)
    assert result.stderr == (
        f"Error: {path}:3: a key of a question must be one of access, cpu, ram, memory, "
        "not 'cpus'\n"
    )


@pytest.mark.parametrize("seed", range(140))
def test_asm_of_a_damaged_kernel(tmp_path: Path, seed: int) -> None:
    kernel = KERNELS[seed % len(KERNELS)]
    shutil.copytree(asm_dir() / "include", tmp_path / "include")
    path = tmp_path / "kernel.asm"
    path.write_bytes(damaged(seed, kernel.read_bytes()))

    judge(harness("asm", path))


@pytest.mark.parametrize("command", ["check", "walk", "probe", "asm", "run", "boot"])
def test_a_file_that_is_not_there(tmp_path: Path, command: str) -> None:
    extra = ["0"] if command == "walk" else []

    judge(harness(command, tmp_path / "nothing", *extra), shows=True)


@pytest.mark.parametrize("command", ["probe", "asm", "run", "boot"])
def test_a_folder_where_a_file_should_be(tmp_path: Path, command: str) -> None:
    judge(harness(command, tmp_path), shows=True)
