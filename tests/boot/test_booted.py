"""Booted kernels on the machine: what they print, how they end, and why they fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.boot import BootConfig, BootInfo, flat_kernel, load, read_kernel
from harness.booted import RunReport, run_booted
from harness.cli import cli
from harness.describe.runs import page_fault_report
from harness.engine.run import Event
from harness.errors import EngineBroken

HALT = b"\xf4"
SPIN = b"\xeb\xfe"
UD2 = b"\x0f\x0b"
MAPS = BootConfig(map_physical_memory=True)
LECTURE = Path(__file__).parents[2] / "fixtures" / "boot" / "lecture-bootinfo.txt"

# Writes "ok" to the serial port and to the text screen, and 0x10 to the exit port.
TALK = """
        mov dx, 0x3f8
        mov al, 'o'
        out dx, al
        mov al, 'k'
        out dx, al
        mov rbx, 0xb8000
        mov dword ptr [rbx + 160], 0x0f6b0f6f
        mov dx, 0xf4
        mov eax, 0x10
        out dx, eax
        hlt
"""

# Follows RDI: the number of regions, as the exit code.
COUNT_REGIONS = """
        mov rax, [rdi + 1536]
        mov dx, 0xf4
        out dx, eax
        hlt
"""


def run_flat(code: bytes, **options: float) -> RunReport:
    return run_booted(load(flat_kernel(code, name="k")), **options)  # type: ignore[arg-type]


def assembled(folder: Path, source: str) -> Path:
    path = folder / "kernel.asm"
    path.write_text(source)
    return path


def test_a_kernel_that_halts() -> None:
    report = run_flat(HALT)
    assert (report.ended, report.failed, report.fault) == ("it halted at 0x200001", False, None)
    assert str(report) == "done: it halted at 0x200001"


def test_serial_screen_and_exit_port(tmp_path: Path) -> None:
    state = load(read_kernel(assembled(tmp_path, TALK)))
    report = run_booted(state, success_exit_code=33)
    assert report.serial == "ok"
    assert report.screen[:3] == ("", "ok", "")
    assert report.exit.exit_code == 33
    assert not report.failed
    assert str(report) == (
        "serial port:\n  ok\ntext screen:\n\n  ok\ndone: it wrote to the exit port: exit code 33"
    )
    assert run_booted(state, success_exit_code=35).failed
    answer = report.to_json()
    assert (answer["serial"], answer["exit_code"], answer["failed"]) == ("ok", 33, False)
    assert answer["screen"][1] == "ok"


def test_the_boot_info_is_where_rdi_points(tmp_path: Path, lecture_boot_info: BootInfo) -> None:
    state = load(read_kernel(assembled(tmp_path, COUNT_REGIONS)), None, lecture_boot_info)
    code = run_booted(state).exit.exit_code
    assert code == len(lecture_boot_info.memory_map) << 1 | 1


def test_a_kernel_that_never_ends() -> None:
    report = run_flat(SPIN, instructions=1000)
    assert (report.ended, report.failed) == ("it still ran after 1000 instructions", True)
    assert run_flat(SPIN, seconds=0.1).failed


def test_a_kernel_that_returns_faults_at_address_0() -> None:
    report = run_flat(b"\xc3")
    assert report.failed
    assert report.fault is not None
    assert report.fault.splitlines()[:3] == [
        "#PF at 0x0, which no handler took",
        "page fault: a supervisor fetch at 0x0",
        "  CR2         0x0",
    ]


def test_a_fault_that_is_no_page_fault() -> None:
    report = run_flat(UD2)
    assert report.failed
    assert report.fault == "#UD at 0x20_0000, which no handler took (segment RWX of k)"


def test_the_report_of_a_page_fault() -> None:
    # mov byte ptr [0xb9000], 1: the page behind the text screen.
    report = run_flat(bytes.fromhex("c6042500900b0001"))
    assert report.fault == (
        "#PF at 0x20_0000, which no handler took (segment RWX of k)\n"
        "page fault: a supervisor write at 0xb_9000\n"
        "  CR2         0xb_9000\n"
        "  CR3         0x1000\n"
        "  error code  0x2 = W: a supervisor write: an entry is not present\n"
        "  decided at  level 1, PTE 185 at 0x45c8 = 0x0 (none)\n"
        "  rule        PRESENT: An entry whose bit 0 is clear ends the walk; its other bits are "
        "ignored\n              (4.7)."
    )


def test_a_page_fault_that_the_tables_do_not_explain_any_more() -> None:
    state = load(flat_kernel(HALT, name="k"))
    event = Event(14, 2, 0xB_8000, state.rip, 0)
    report = page_fault_report(state.memory, state.cpu, event)
    assert "the page tables say otherwise now" in report


def test_a_user_fault_is_walked_as_one() -> None:
    state = load(flat_kernel(HALT, name="k"))
    report = page_fault_report(state.memory, state.cpu, Event(14, 5, 0xB_8000, state.rip, 3))
    assert report.startswith("page fault: a user read at 0xb_8000\n")
    assert "rule        USER_US: " in report
    assert "otherwise" not in report


def test_the_command_runs_kernels(tmp_path: Path) -> None:
    path = assembled(tmp_path, TALK)
    result = CliRunner().invoke(cli, ["boot", str(path)])
    assert result.exit_code == 0
    assert result.output.endswith(
        "serial port:\n  ok\ntext screen:\n\n  ok\ndone: it wrote to the exit port: exit code 33\n"
    )
    result = CliRunner().invoke(cli, ["boot", str(path), "--json", "--success-exit-code", "35"])
    assert result.exit_code == 1
    run = json.loads(result.output)["run"]
    assert (run["ending"], run["serial"], run["failed"]) == ("exit", "ok", True)
    refused = CliRunner().invoke(cli, ["boot", str(path), "--engine", "abacus"])
    assert refused.exit_code == 2
    assert (
        refused.output
        == "Error: the engine must be one of unicorn, or package.module:attribute, not 'abacus'\n"
    )


def test_the_command_says_3_when_the_engine_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise EngineBroken("the worker died of SIGABRT while running boot_kernel")

    monkeypatch.setattr("harness.commands.boot.isolated", dies)
    result = CliRunner().invoke(cli, ["boot", str(assembled(tmp_path, TALK))])
    assert result.exit_code == 3
    assert result.output == "Error: the worker died of SIGABRT while running boot_kernel\n"


def test_the_command_shows_the_tables_at_the_end(tmp_path: Path) -> None:
    path = assembled(tmp_path, TALK)
    result = CliRunner().invoke(cli, ["boot", str(path), "--tables"])
    assert "  0xb_8000..0xb_8fff -> 0xb_8000 1 x 4K RWX-, 1 accessed, 1 dirty" in result.output


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (SPIN, "it still ran after 1000 instructions"),
        (UD2, "a triple fault: no handler could be entered"),
    ],
)
def test_the_command_says_1_for_a_kernel_that_failed(tmp_path: Path, code: bytes, how: str) -> None:
    path = tmp_path / "kernel.bin"
    path.write_bytes(code)
    result = CliRunner().invoke(cli, ["boot", str(path), "--instructions", "1000"])
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == f"failed: {how}"
