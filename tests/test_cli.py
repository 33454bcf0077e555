"""The command: what it prints for programs and for people, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.check.question import Question, write_questions
from harness.check.registered import registry as registry_module
from harness.check.registered.model import KnownAccess
from harness.check.registered.registry import REGISTRY
from harness.check.set_report import SetReport, SetTally
from harness.cli import cli
from harness.commands import check as check_module
from harness.commands import probe as probe_module
from harness.cpu import CpuState
from harness.errors import EngineMissing
from harness.isolate import Ended
from harness.outcome import Access
from harness.resources import asm_dir, page_table_sets
from harness.snapshot import load_set

SETS = {path.name: path for path in page_table_sets()}
SMALL = SETS["linux-max-pti"]

# The form that is promised to users, word for word.
DESIGN_CASE = (
    '{"cpu": {"cr0": "0x80050033", "cr3": "0x1000", "cr4": "0x20", "efer": "0xd00", '
    '"rflags": "0x2", "pkru": "0x0", "cpl": 3, "maxphyaddr": 40},\n'
    ' "ram": "0x4000000",\n'
    ' "memory": {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", '
    '"0x4020": "0x80000000000a5007"},\n'
    ' "access": {"va": "0x4123", "kind": "fetch", "size": 1}}'
).replace("\n", "")
DESIGN_ANSWER = {
    "predicted": {
        "outcome": "page-fault",
        "error_code": "0x15",
        "cr2": "0x4123",
        "rule": "NX",
        "level": 1,
        "pa": None,
        "page_size": None,
        "sets": {},
        "may_set": {"0x1000": "0x20", "0x2000": "0x20", "0x3000": "0x20"},
    },
    "observed": {
        "unicorn": {
            "outcome": "page-fault",
            "error_code": "0x15",
            "cr2": "0x4123",
            "pa": None,
            "changed": {"0x1000": "0x20", "0x2000": "0x20", "0x3000": "0x20"},
        }
    },
    "agree": True,
}


KNOWN = tuple(known for known in REGISTRY if isinstance(known, KnownAccess))


def harness(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def good(*arguments: object) -> str:
    result = harness(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: object) -> str:
    result = harness(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    return result.stderr


@pytest.fixture
def design_case(tmp_path: Path) -> Path:
    path = tmp_path / "case.jsonl"
    path.write_text(DESIGN_CASE + "\n")
    return path


# The group.


def test_help_lists_the_commands() -> None:
    printed = good("--help")

    for name in ("check", "walk", "probe", "matrix", "fuzz", "run", "boot", "asm"):
        assert f"  {name} " in printed
        assert "--json" in good(name, "--help")


def test_help_imports_no_command() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from harness.cli import cli; "
        "CliRunner().invoke(cli, ['--help']); print(*sys.modules)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True).split()

    assert "harness.cli" in loaded
    assert not {"unicorn", "keystone", "rich", "harness.commands.check"} & set(loaded)


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "harness", "--version"]
    assert subprocess.check_output(command, text=True).startswith("harness, version ")


def test_an_unknown_command_is_bad_usage() -> None:
    assert "No such command 'chekc'" in refused("chekc")


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m harness walk {SMALL} --addresses {SMALL}/unmapped.csv | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )

    assert done.stdout.startswith("va,outcome")
    assert done.stderr == ""


# walk


def test_walk_prints_a_row_for_each_address(tmp_path: Path) -> None:
    tables = load_set(SMALL)
    rows = [tables.truth[number] for number in range(0, len(tables.truth), 7)]
    addresses = tmp_path / "addresses"
    addresses.write_text("# some\n\n" + "".join(f"{row.va:#x}\n" for row in rows))

    printed = good("walk", SMALL, "--addresses", addresses, "--rflags", "0x40002", "--csv")

    assert printed.startswith("va,outcome,pa,page_size,flags,error_code,rule\n")
    found = list(csv.DictReader(io.StringIO(printed)))
    assert [int(each["va"], 16) for each in found] == [row.va for row in rows]
    for each, row in zip(found, rows, strict=True):
        assert int(each["pa"], 16) == row.pa
        assert each["flags"] == row.flags
        assert each["rule"] == "COMBINE"
        assert int(each["page_size"], 16) == {"4K": 0x1000, "2M": 0x20_0000}[row.size]


def test_walk_is_a_supervisor_s_read_unless_told_otherwise(tmp_path: Path) -> None:
    user = next(row for row in load_set(SMALL).truth if row.flags[7:] == "U-")
    addresses = tmp_path / "addresses"
    addresses.write_text(f"{user.va:016x},random\n")

    def row(*options: object) -> dict[str, Any]:
        (line,) = good("walk", SMALL, "--addresses", addresses, "--json", *options).splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    assert (row()["rule"], row()["error_code"], row()["pa"]) == ("SMAP", "0x1", None)
    assert row()["flags"] == user.flags
    assert row("--cpl", 3)["outcome"] in ("mapped", "no-memory")
    assert row("--cpl", 3, "--access", "write")["error_code"] == "0x7"


def test_walk_takes_the_files_of_a_set_as_lists(tmp_path: Path) -> None:
    printed = good("walk", SMALL, "--addresses", SMALL / "unmapped.csv")

    found = list(csv.DictReader(io.StringIO(printed)))
    assert len(found) == len(load_set(SMALL).unmapped)
    assert {each["outcome"] for each in found} == {"page-fault", "general-protection"}
    assert {each["pa"] for each in found} == {""}


def test_walk_tells_one_address_level_by_level() -> None:
    printed = good("walk", SETS["linux-max"], "0x40_0123", "--cpl", 3, "--access", "write")

    for line in (
        "PML5E  0 = 0o000  0x298_0000",
        "PTE    0 = 0o000  0x29b_b000  0x8000_0000_08ca_f025  4K page 0x8ca_f000  P U/S A XD",
        "page fault: a user write at 0x40_0123",
        "  CR2         0x40_0123",
        "  CR3         0x298_0000",
        "  error code  0x7 = P W U: a user write: the page is present and its rights forbid it",
        "  decided at  level 1, PTE 0 at 0x29b_b000 = 0x8000_0000_08ca_f025 (P U/S A XD)",
        "  rule        USER_RW: A user write needs a writable page",
    ):
        assert line in printed, printed
    assert "◄ decided" in printed


def test_walk_of_one_address_as_json_and_as_csv() -> None:
    data = json.loads(good("walk", SETS["linux-max"], "0x400123", "--cpl", 3, "--json"))

    assert [step["level"] for step in data["steps"]] == [5, 4, 3, 2, 1]
    assert (data["outcome"], data["pa"], data["rule"]) == ("mapped", "0x8caf123", "COMBINE")
    printed = good("walk", SETS["linux-max"], "0x400123", "--cpl", 3, "--csv")
    assert printed.splitlines()[1] == "0x400123,mapped,0x8caf123,0x1000,X---A--U-,,COMBINE"


def test_walk_reads_a_raw_dump(tmp_path: Path) -> None:
    case = Question.from_json(json.loads(DESIGN_CASE))
    dump = tmp_path / "ram.bin"
    dump.write_bytes(case.build().buffer[:0x10000].tobytes())
    cpu = tmp_path / "cpu.json"
    cpu.write_text(json.dumps(CpuState(cr3=0x1000).to_json()))

    for options in (("--cr3", "0x1000"), ("--cpu", cpu)):
        data = json.loads(good("walk", dump, "0x4123", "--json", *options))
        assert (data["outcome"], data["pa"]) == ("no-memory", "0xa5123")
    assert "must come with a CPU state" in refused("walk", dump, "0x4123")


def test_walk_takes_registers_in_place_of_the_snapshot_s() -> None:
    data = json.loads(good("walk", SMALL, "0", "--json", "--cr3", "0x1000", "--maxphyaddr", 46))
    assert data["steps"][0]["address"] == "0x1000"
    assert "CR0.PG" in refused("walk", SMALL, "0", "--cr0", "0x1")


# probe


def test_probe_prints_what_the_design_says(design_case: Path) -> None:
    assert json.loads(good("probe", design_case, "--json")) == DESIGN_ANSWER
    assert json.loads(good("probe", design_case, "--json", "--engine", "all")) == DESIGN_ANSWER
    nobody = json.loads(good("probe", design_case, "--json", "--engine", "none"))
    assert nobody == {**DESIGN_ANSWER, "observed": {}, "agree": None}


def test_probe_for_people_names_rule_level_and_entry(design_case: Path) -> None:
    printed = good("probe", design_case)

    assert "fetch 0x4123  3    #PF 0x15   NX    1, PTE 4      unicorn agrees" in printed


def test_probe_answers_in_order_and_names_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    cases = [known.question for known in KNOWN]
    other_ram = Question.of_access(
        CpuState(cr3=0x1000), [(0, 0x8000), (1 << 32, 0x1000)], {}, 0, Access()
    )
    write_questions(path, [*cases, other_ram, *cases])

    lines = [json.loads(line) for line in good("probe", path, "--json").splitlines()]

    names = [line.get("known", {}).get("unicorn") for line in lines]
    expected = [[known.name] for known in KNOWN]
    assert names == [*expected, None, *expected]
    differing = [False] * len(KNOWN)
    assert [line["agree"] for line in lines] == [*differing, True, *differing]
    printed = good("probe", path)
    assert "known as gp-for-ss: " in printed
    assert "differs as known: #GP 0x0" in printed


def test_probe_says_what_an_engine_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    pks = CpuState(cr3=0x1000, cr4=0x100_0020)
    write_questions(path, [Question.of_access(pks, 0x10000, {}, 0, Access())])

    line = json.loads(good("probe", path, "--json"))

    assert line["agree"] is None
    assert line["observed"]["unicorn"]["outcome"] == "unsupported"
    assert "does not implement PKS" in line["observed"]["unicorn"]["reason"]
    assert "does not implement PKS" in good("probe", path)


def test_a_divergence_is_exit_code_1(design_case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.check.registered.registry.REGISTRY", ())
    registry_module._covering.cache_clear()
    monkeypatch.setattr(probe_module, "isolated", lambda function, *args: function(*args))
    path = design_case.with_name("known.jsonl")
    write_questions(path, [KNOWN[0].question])

    result = harness("probe", path)
    registry_module._covering.cache_clear()

    assert result.exit_code == 1
    assert "DIVERGES" in result.stdout


def test_an_engine_that_is_not_there_is_exit_code_3(design_case: Path) -> None:
    result = harness("probe", design_case, "--engine", "kvm")

    assert result.exit_code == 3
    assert result.stderr.startswith("Error: the engine kvm is not offered yet: ")


# asm


def test_asm_lists_addresses_bytes_and_source(tmp_path: Path) -> None:
    source = tmp_path / "a.asm"
    source.write_text("start: mov rax, [rdi]\n  hlt\n")

    printed = good("asm", source, "--base", "0x8000")
    assert "0x8000  48 8b 07" in printed
    assert "a.asm:2" in printed
    data = json.loads(good("asm", source, "--json"))
    assert (data["base"], data["code"]) == ("0x100000", "488b07f4")
    assert data["labels"] == {"start": "0x100000"}
    assert [s["bytes"] for s in data["statements"]] == ["", "488b07", "f4"]


@pytest.mark.parametrize("path", sorted(asm_dir().glob("*.asm")), ids=lambda path: path.stem)
def test_asm_takes_every_kernel(path: Path) -> None:
    assert json.loads(good("asm", path, "--json"))["code"]


def test_asm_takes_32_bit_code(tmp_path: Path) -> None:
    source = tmp_path / "a.asm"
    source.write_text("inc eax\n")

    assert json.loads(good("asm", source, "--json", "--bits", "32"))["code"] == "40"


# check


def test_check_of_a_set_ends_with_one_json_object() -> None:
    result = harness("check", SMALL, "--json")

    assert result.exit_code == 0
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert list(data)[:6] == ["probes", "agree", "known", "diverge", "unsupported", "seconds"]
    assert data["probes"] == data["agree"] > 4000
    assert data["sets"][0]["what"] == "linux-max-pti"
    assert data["kernels"] == data["errors"] == []


def test_check_prints_one_table() -> None:
    printed = good("check", SMALL, SETS["memtest-max"])

    for word in ("page tables", "leaves", "probes", "agree", "known", "diverge", "unsupported"):
        assert word in printed
    assert "linux-max-pti" in printed
    assert "2,048" in printed
    assert "✓ all 2 agree" in printed


def test_check_of_everything() -> None:
    data = json.loads(good("check", "--json"))

    assert {each["what"] for each in data["sets"]} == set(SETS)
    assert {each["kernel"] for each in data["kernels"]} >= {
        "long-mode",
        "recursive-pml4",
        "repair-pte",
        "three-faults",
    }
    assert all(kernel["passed"] for kernel in data["kernels"])
    assert data["diverge"] == data["unsupported"] == 0
    assert data["seconds"] < 60


def with_jobs(monkeypatch: pytest.MonkeyPatch, *jobs: tuple[Any, ...]) -> None:
    made = [check_module._Job(name, call, tuple(args), {}) for name, call, *args in jobs]
    monkeypatch.setattr(check_module, "_jobs", lambda *_, **__: made)


def test_an_abort_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.check.sets import check_set

    with_jobs(
        monkeypatch,
        ("first", os.abort),
        ("second", check_set, SMALL),
        ("third", os.abort),
    )

    result = harness("check")
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        f"Error: {name}: the worker died of SIGABRT while running abort"
        for name in ("first", "third")
    ]
    assert "4,166" in result.stdout
    assert "✗ 2 of 3 do not agree" in result.stdout

    data = json.loads(harness("check", "--json").stdout)
    assert data["probes"] == 4166
    assert [error["what"] for error in data["errors"]] == ["first", "third"]


def test_a_divergence_of_a_set_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    report = SetReport("made up", 4, 7, [SetTally("read", 3, 2, diverge=1)])
    monkeypatch.setattr(check_module, "isolated_all", lambda *_, **__: [Ended(0, report)])

    result = harness("check", SMALL)

    assert result.exit_code == 1
    assert "✗ 1 of 1 do not agree" in result.stdout


def test_a_damaged_set_is_bad_input_and_the_others_go_on(tmp_path: Path) -> None:
    result = harness("check", tmp_path, SMALL)

    assert result.exit_code == 2
    assert "cpu.json" in result.stderr
    assert "4,166" in result.stdout


def test_an_engine_that_does_not_exist_is_bad_usage() -> None:
    assert refused("check", "--engine", "abacus") == (
        "Error: the engine must be one of unicorn, or package.module:attribute, not 'abacus'\n"
    )


def test_a_missing_engine_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    error = EngineMissing("the engine unicorn must be installed", engine="unicorn")
    monkeypatch.setattr(check_module, "isolated_all", lambda *_, **__: [Ended(0, error=error)])

    assert harness("check", SMALL).exit_code == 3


# run and boot have tests of their own; here only that the group finds them.


def test_run_runs_a_kernel() -> None:
    data = json.loads(good("run", asm_dir() / "recursive-pml4.asm", "--json"))
    assert data["passed"] is True


def test_boot_refuses_in_a_sentence(tmp_path: Path) -> None:
    assert refused("boot", tmp_path / "no.elf").startswith("Error: ")
