"""The documentation's examples run, and its links and commands lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import read_kernel
from harness.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+\.md)\)")
_COMMAND = re.compile(r"^(?:\$ )?harness (.+?)(?: *#.*)?$", re.MULTILINE)


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, text)
        for page in PAGES
        for word, text in _FENCE.findall(page.read_text())
        if word == language
    ]


@pytest.mark.parametrize(("page", "code"), _blocks("python"))
def test_python_examples_run(page: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize(
    ("page", "code"), [block for block in _blocks("asm") if "[out]" in block[1]]
)
def test_kernels_in_the_text_pass_by_their_headers(page: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / "example.asm"
    file.write_text(code)
    result = read_kernel(file).run()
    assert result.passed, (page, result.failures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).is_file(), target


def test_the_readme_names_only_commands_and_options_that_exist() -> None:
    text = "\n".join(
        text for word, text in _FENCE.findall(PAGES[0].read_text()) if word == "console"
    )
    commands = _COMMAND.findall(text)
    assert len(commands) >= 5
    for command in commands:
        name, *rest = command.split()
        shown = CliRunner().invoke(cli, [name, "--help"])
        assert shown.exit_code == 0, command
        for option in rest:
            if option.startswith("--"):
                assert option in shown.output, command


_SHOWN = re.compile(
    r"^```console\n(?P<typed>(?:(?!^```).)*)^```\n```(?:text|json)\n(?P<shown>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize(
    ("typed", "shown"), [(m["typed"], m["shown"]) for m in _SHOWN.finditer(PAGES[0].read_text())]
)
def test_the_readme_shows_what_the_command_prints(
    typed: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    *before, command = typed.rstrip().split("\n")
    if before:
        assert before[0] == "$ cat readonly.asm"
        (tmp_path / "readonly.asm").write_text("\n".join(before[1:]) + "\n")
    for folder in ("fixtures", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, command.removeprefix("$ harness ").split())
    printed = "\n".join(line.rstrip() for line in done.output.strip("\n").split("\n"))
    assert printed == shown.rstrip("\n")


def test_the_readme_lists_every_kernel_that_ships() -> None:
    text = PAGES[0].read_text()
    for kernel in (ROOT / "asm").glob("*.asm"):
        assert f" {kernel.stem} " in text, kernel.name
