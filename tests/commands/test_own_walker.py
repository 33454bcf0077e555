"""``--walker``: a stranger's walker with a mistake at one level is found, shrunk and named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import harness

SET = Path(harness.__file__).parents[1] / "fixtures" / "page-tables" / "memtest-max"

# Written as a stranger would: from the manual, with no name of this package but the arguments'.
WALKER = '''
"""Four and five levels, rights, no keys; it forgets R/W in PDEs."""

def translate(memory, cpu, va, access):
    levels = 5 if cpu.cr4 >> 12 & 1 else 4
    if (va >> 9 * levels + 11) not in (0, (1 << 53 - 9 * levels) - 1):
        return ("stack-fault" if access.stack else "general-protection", 0, None)
    user = cpu.cpl == 3 and not access.implicit
    nxe = cpu.efer >> 11 & 1
    write, fetch = access.kind == "write", access.kind == "fetch"
    code = write << 1 | user << 2 | (fetch and (nxe or cpu.cr4 >> 20 & 1)) << 4
    table, us, rw, xd = cpu.cr3 & 0xF_FFFF_FFFF_F000, 1, 1, 0
    for level in range(levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        entry = memory.read_u64(table + (va >> shift & 511) * 8)
        if not entry & 1:
            return ("page-fault", code, None)
        leaf = level == 1 or (level <= 3 and entry >> 7 & 1)
        reserved = (1 << 52) - (1 << cpu.maxphyaddr) | (1 << 63 if not nxe else 0)
        if level >= 4 or (level == 3 and not cpu.pdpe1gb):
            reserved |= 1 << 7
        elif leaf and level > 1:
            reserved |= ((1 << shift) - 1) & ~0x1FFF
        if entry & reserved:
            return ("page-fault", code | 9, None)
        us &= entry >> 2
        rw &= entry >> 1 if level != 2 else 1  # the mistake
        xd |= entry >> 63
        if leaf:
            break
        table = entry & 0xF_FFFF_FFFF_F000
    key = entry >> 59 & 15
    guarded = us and not fetch and cpu.cr4 >> 22 & 1
    pkru = cpu.pkru >> 2 * key
    keyed = guarded and (pkru & 1 or (write and pkru & 2 and (user or cpu.cr0 >> 16 & 1)))
    denied = (
        (user and not us)
        or (write and not rw and (user or cpu.cr0 >> 16 & 1))
        or (fetch and xd and nxe)
        or (not user and us and fetch and cpu.cr4 >> 20 & 1)
        or (not user and us and not fetch and cpu.cr4 >> 21 & 1
            and (access.implicit or not cpu.rflags >> 18 & 1))
    )
    if denied or keyed:
        return ("page-fault", code | 1 | (0x20 if keyed else 0), None)
    page = 1 << shift
    return ("mapped", None, (entry & 0xF_FFFF_FFFF_F000 & -page) | va & (page - 1))


def right(memory, cpu, va, access):
    from harness import walk
    return walk(memory, cpu, va, access)


def raises(memory, cpu, va, access):
    raise RuntimeError("no idea")


def nothing(memory, cpu, va, access):
    return None
'''


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (folder / "stranger.py").write_text(WALKER)
    return subprocess.run(
        [sys.executable, "-m", "harness", *(str(each) for each in arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(harness.__file__).parents[1])},
    )


def test_a_mistake_at_one_level_is_found_shrunk_and_named(tmp_path: Path) -> None:
    arguments = ("fuzz", "--cases", 10_000, "--walker", "stranger:translate")
    ended = run(tmp_path, *arguments, "--json")

    assert ended.returncode == 1, ended.stderr
    report = json.loads(ended.stdout)
    titles = [each["key"] for each in report["findings"]]
    assert titles
    assert all(each.endswith(":L2") for each in titles), titles
    assert any("R/W" in each for each in titles), titles
    assert report["unsupported"] < 1_000, report["unsupported"]

    for case in (tmp_path / ".harness" / "reproducers").glob("*.jsonl"):
        again = run(tmp_path, "probe", case, "--walker", "stranger:translate")
        assert again.returncode == 1, again.stdout + again.stderr
        assert run(tmp_path, "probe", case, "--walker", "stranger:right").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuzz", "--cases", 3_000),
        ("matrix", "classic", "--levels", 4, "--slice", "1/100003"),
        ("check", SET),
    ],
)
def test_a_right_walker_agrees_everywhere(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    ended = run(tmp_path, *arguments, "--walker", "stranger:right")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("raises", "the walker:stranger:raises raised RuntimeError: no idea"),
        ("nothing", "must return a Walk or (outcome, error_code, pa), not None"),
    ],
)
def test_a_broken_walker_is_a_sentence_with_its_name(
    tmp_path: Path, name: str, sentence: str
) -> None:
    ended = run(tmp_path, "fuzz", "--cases", 100, "--walker", f"stranger:{name}")
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
