"""The lecture: every chapter holds on the CPU, can fail, and fits a projector."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli import cli
from harness.kernels import Kernel
from harness.lecture import CHAPTERS, Chapter, Check, Picture, Report, Run, find_chapter, tell
from harness.lecture.chapter import load_kernel
from harness.lecture.render import make_console, print_report

ROOT = Path(__file__).resolve().parents[1]
NAMES = list(CHAPTERS)
WIDTH = 100


@pytest.fixture(scope="module")
def told() -> dict[str, Report]:
    """Every chapter, told once."""
    return {name: tell(chapter) for name, chapter in CHAPTERS.items()}


def printed(report: Report, capsys: pytest.CaptureFixture[str], *, code: bool = False) -> str:
    print_report(make_console(), report, code=code, number=1)
    return capsys.readouterr().out


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["lecture", *arguments])


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_holds(told: dict[str, Report], name: str) -> None:
    report = told[name]

    assert report.failures == ()
    assert report.passed
    kinds = [type(item) for item in report.items]
    assert kinds.count(Picture) >= 1
    assert kinds.count(Run) >= 1
    assert kinds.count(Check) >= 2


def test_the_order_is_the_lectures() -> None:
    assert NAMES == [
        "problem",
        "identity",
        "fixed-offset",
        "full-map",
        "tlb",
        "temporary",
        "recursive",
        "bootloader",
        "level-4-table",
        "translate-addr",
        "offset-page-table",
        "map-to",
    ]


def test_every_kernel_of_the_lecture_is_told(told: dict[str, Report]) -> None:
    used = {item.kernel for report in told.values() for item in report.items if type(item) is Run}
    shipped = {path.stem for path in (ROOT / "asm").glob("*.asm")}

    # The other three are about the machine: long mode, and how exceptions arrive.
    assert shipped - used == {"long-mode", "repair-pte", "three-faults"}


def flipped(kernel: Kernel) -> Kernel:
    """Return the kernel with the first number that its header expects changed in one bit."""
    expected: dict[str, Any] = dict(kernel.expected)
    memory = expected.pop("memory", {})
    for name, value in expected.items():
        if type(value) is int and name != "exit":
            return dataclasses.replace(
                kernel, expected={**kernel.expected, name: (value & (1 << 64) - 1) ^ 1}
            )
    address = next(iter(memory))
    memory = {**memory, address: (memory[address] & (1 << 64) - 1) ^ 1}
    return dataclasses.replace(kernel, expected={**expected, "memory": memory})


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_fails_when_the_cpu_does_not_do_what_a_header_expects(name: str) -> None:
    report = tell(CHAPTERS[name], lambda kernel: flipped(load_kernel(kernel)))

    runs = [item for item in report.items if isinstance(item, Run)]
    assert not report.passed
    assert [run.holds for run in runs] == [False] * len(runs)
    assert len(report.failures) >= len(runs)
    # What the CPU did is the same: the chapter's own comparisons do not look at the header.
    assert all(item.holds for item in report.items if isinstance(item, Check))


def edited(old: str, new: str) -> Callable[[str], Kernel]:
    """Give a loader of kernels with one text replaced by another, where it occurs."""

    def load(name: str) -> Kernel:
        kernel = load_kernel(name)
        return dataclasses.replace(kernel, source=kernel.source.replace(old, new))

    return load


@pytest.mark.parametrize(
    ("name", "old", "new", "claim"),
    [
        ("problem", "mov rax, 0x4b52414d", "mov rax, 0x2023", "not what physical 4 KiB holds"),
        ("identity", "lea r8, [rdx + 4096]", "lea r8, [rdx + 8192]", "the first place"),
        ("identity", "mov r12, [rax]", "mov r12, [rdx]", "not what its own address shows"),
        ("fixed-offset", "or rax, PRESENT | WRITABLE", "or rax, WRITABLE", "window's 512 pages"),
        ("fixed-offset", "mov rbx, [rdi]", "mov rbx, rdi", "arrived in its frame"),
        ("bootloader", "mov rax, [rdi + 1544]", "mov rax, [rdi + 1536]", "was told the"),
        ("bootloader", "cmp r9, 512", "cmp r9, 3", "counts the entries"),
        ("full-map", "mov rbx, [rdi + rax]", "mov rbx, [rdi + rax + 8]", "the level 4 table"),
        (
            "tlb",
            "mov [rsi], rcx\n    mov r8, [rdi]\n    invlpg [rdi]",
            "mov r8, [rdi]",
            "no choice",
        ),
        ("temporary", "LEVEL_2 + FLAGS\n    mov r8", "LEVEL_3 + FLAGS\n    mov r8", "page 0 KiB"),
        ("recursive", "mov rdx, [rsi + 8]", "mov rdx, [rsi]", "shows the other frame"),
        ("level-4-table", "mov r12, rax", "lea r12, [rax + 8]", "prints the entries"),
        ("translate-addr", "and r9d, 0xfff", "and r9d, 0xff", "the host's mapper"),
        ("offset-page-table", "and r9d, 0xfff", "and r9d, 0xff", "the host's mapper"),
        ("map-to", "mov rax, [rdi]  ", "mov rax, rdi  ", "the host's OffsetPageTable"),
    ],
)
def test_a_comparison_fails_when_the_kernel_does_something_else(
    name: str, old: str, new: str, claim: str
) -> None:
    report = tell(CHAPTERS[name], edited(old, new))

    failed = [item.claim for item in report.items if isinstance(item, Check) and not item.holds]
    assert any(claim in each for each in failed), failed


def test_a_chapter_in_which_nothing_is_shown_has_not_passed() -> None:
    nothing = Chapter("empty", "Empty", ("said",), "claim", "conclusion", lambda stage: None)

    assert not tell(nothing).passed


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_fits_a_projector(
    told: dict[str, Report], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(told[name], capsys, code=True).splitlines()

    assert max(map(len, lines)) <= WIDTH
    assert not any("\x1b" in line for line in lines)
    # No picture is cut off at the right: each of its lines is printed whole.
    shown = {line.rstrip() for line in lines}
    drawn = [item for item in told[name].items if isinstance(item, Picture)]
    assert all(line.rstrip() in shown for picture in drawn for line in picture.text.splitlines())


def test_a_failure_is_printed_with_what_was_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    chapter = CHAPTERS["full-map"]
    report = tell(chapter, edited("mov rbx, [rdi + rax]", "mov rbx, [rdi + rax + 8]"))

    text = " ".join(printed(report, capsys).split())

    assert "✗ offset + CR3 is where the level 4 table appears" in text
    assert "the CPU said 0x0, predicted 0x2023" in text
    assert chapter.conclusion not in text


def test_the_command_prints_a_chapter_and_its_kernel_ran() -> None:
    result = invoke("recursive")

    assert result.exit_code == 0
    assert "7. Recursive page tables" in result.output
    assert "✗" not in result.output
    assert CHAPTERS["recursive"].conclusion in result.output


def test_an_engine_that_does_not_exist_is_no_traceback() -> None:
    result = invoke("problem", "--engine", "abacus")

    assert result.exit_code in (2, 3)
    assert "abacus" in result.output


def test_json_holds_every_chapter_that_was_asked_for() -> None:
    result = invoke("problem", "map-to", "--json")

    answer = json.loads(result.output)
    assert result.exit_code == 0
    assert answer["passed"] is True
    assert [chapter["chapter"] for chapter in answer["chapters"]] == ["problem", "map-to"]
    items = [item for chapter in answer["chapters"] for item in chapter["items"]]
    assert {item["kind"] for item in items} == {"run", "picture", "check"}
    assert all(item["passed"] for item in items if item["kind"] != "picture")


def test_the_list_has_all_names() -> None:
    result = invoke("--list")
    listed = json.loads(invoke("--list", "--json").output)

    assert [line.split()[1] for line in result.output.splitlines()] == NAMES
    assert [chapter["chapter"] for chapter in listed] == NAMES


def test_an_unknown_chapter_is_a_sentence_and_exit_code_2() -> None:
    result = invoke("recursion")

    assert result.exit_code == 2
    assert result.output == (
        f"Error: a chapter must be one of {', '.join(NAMES)}, not 'recursion'\n"
    )


def test_a_claim_that_does_not_hold_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = find_chapter("problem")
    failing = tell(chapter, lambda name: flipped(load_kernel(name)))
    monkeypatch.setattr("harness.commands.lecture._told", lambda names, engine: [failing])

    assert invoke("problem").exit_code == 1
    assert json.loads(invoke("problem", "--json").output)["passed"] is False


def test_the_command_is_quick_to_import() -> None:
    script = "import sys, harness.commands.lecture; print([m for m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert not [name for name in ("unicorn", "keystone", "rich") if f"'{name}'" in loaded]


def test_the_document_shows_what_the_command_prints(
    told: dict[str, Report], capsys: pytest.CaptureFixture[str]
) -> None:
    document = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", document, re.DOTALL)
    output = {
        line.rstrip() for report in told.values() for line in printed(report, capsys).splitlines()
    }

    assert len(blocks) >= len(NAMES)
    shown = [line.rstrip() for block in blocks for line in block.splitlines()]
    assert [line for line in shown if line not in output and line != "…"] == []
    assert [name for name in NAMES if f"harness lecture {name}" not in document] == []
