"""Real page tables on a real MMU: no divergence, no probe lost; and what is wrong is found."""

from __future__ import annotations

import lzma
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.check import sets as module
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.check.set_report import SetReport, SetTally
from harness.check.sets import check_set
from harness.resources import page_table_sets
from harness.snapshot import load_set
from harness.walker import BulkWalk, bulk, scalar, walk
from harness.walker.columns import Plan

SETS = page_table_sets()
SMALL = next(path for path in SETS if path.name == "linux-max-pti")
QUESTIONS = 9


def add_up(report: SetReport) -> None:
    """Check that every probe was counted as exactly one of four."""
    assert len(report.tallies) == QUESTIONS
    counted: list[SetTally | SetReport] = [*report.tallies, report]
    for tally in counted:
        assert tally.probes == sum(getattr(tally, word) for word in Judgement)
        assert tally.probes > 0


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.name)
def test_a_sample_of_each_set_agrees(path: Path) -> None:
    report = check_set(path)

    add_up(report)
    assert (report.diverge, report.wrong, report.unsupported, report.known) == (0, 0, 0, 0)
    assert (report.findings, report.faults) == ([], [])
    assert report.probes > 4000


# `slow` as a whole: 3.8 million probes.
@pytest.mark.slow
@pytest.mark.parametrize("path", SETS, ids=lambda path: path.name)
def test_every_leaf_of_each_set_agrees(path: Path) -> None:
    tables = load_set(path)
    pages, rows, unmapped = (
        int(tables.truth.is_leaf.sum()),
        len(tables.truth),
        len(tables.unmapped),
    )

    report = check_set(path, every=True)

    add_up(report)
    assert (report.diverge, report.wrong, report.unsupported, report.known) == (0, 0, 0, 0)
    by_question = {tally.question: tally.probes for tally in report.tallies}
    six = [f"{kind} at CPL {cpl}" for cpl in (0, 3) for kind in ("read", "write", "fetch")]
    assert [by_question[question] for question in six] == [pages] * 6
    assert by_question["read, as truth.csv"] == rows
    assert by_question["read, as unmapped.csv"] == unmapped


def test_the_sample_is_always_the_same_and_has_every_kind() -> None:
    kinds = np.array([1] * 5000 + [2] * 3 + [3] * 4000)
    first = module._sample(100, kinds)

    assert np.array_equal(first, module._sample(100, kinds))
    assert len(first) < 130
    assert {5000, 5001, 5002} <= set(first.tolist())
    assert {0, 4999, 5003, 9002} <= set(first.tolist())


# What is wrong must be found. Each of these breaks one thing.


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "set"))


def edit(path: Path, change: Callable[[list[str]], None]) -> None:
    """Change the lines of a set's truth.csv."""
    truth = path / "truth.csv.xz"
    lines = lzma.decompress(truth.read_bytes()).decode().splitlines()
    change(lines)
    truth.write_bytes(lzma.compress("\n".join([*lines, ""]).encode()))


def row(lines: list[str], source: str) -> int:
    return next(number for number, line in enumerate(lines) if line.endswith(source))


def altered(column: int, value: str, source: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        number = row(lines, source)
        cells = lines[number].split(",")
        assert cells[column] != value
        cells[column] = value
        lines[number] = ",".join(cells)

    return change


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (altered(1, "1234000", "gva2gpa"), 0),
        (altered(2, "1G", "gva2gpa"), 0),
        (altered(3, "XGPDACTUW", "gva2gpa"), 0),
        (altered(1, "1234000", "info tlb"), 1),
        (altered(2, "1G", "info tlb"), 1),
        (altered(3, "XGPDACTUW", "info tlb"), 1),
        (lambda lines: lines.pop(row(lines, "info tlb")), 1),
    ],
)
def test_another_truth_is_a_divergence(
    copy: Path, change: Callable[[list[str]], None], wrong: int
) -> None:
    edit(copy, change)

    report = check_set(copy)

    add_up(report)
    assert report.wrong == wrong
    assert report.diverge + report.wrong >= 1
    assert report.faults


def test_a_mapped_address_called_unmapped_is_a_divergence(copy: Path) -> None:
    va = load_set(copy).truth[0].va
    with (copy / "unmapped.csv").open("a") as file:
        file.write(f"{va:016x},random\n")

    report = check_set(copy)

    assert report.diverge == 1
    assert report.faults[0].startswith("read, as unmapped.csv: ")
    add_up(report)


def test_a_wrong_walker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = scalar.denial

    def without_smap(*arguments: object) -> str | None:
        rule = real(*arguments)  # type: ignore[arg-type]
        return None if rule == "SMAP" else rule

    monkeypatch.setattr(scalar, "denial", without_smap)
    monkeypatch.setattr(sys.modules["harness.walker.columns"], "denial", without_smap)
    Plan.of.cache_clear()

    report = check_set(SMALL)

    Plan.of.cache_clear()
    assert report.diverge > 100
    add_up(report)
    case = report.findings[0].question
    assert case is not None
    assert "SMAP" not in report.findings[0].sentence
    assert len(report.findings) <= 3
    monkeypatch.undo()
    again = Question.from_json(case.to_json())
    assert walk(again.build(), again.cpu, again.va, again.access).rule == "SMAP"


def test_a_wrong_bulk_walker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: object) -> BulkWalk:
        found = bulk(*arguments)  # type: ignore[arg-type]
        found.pa[found.completed] += np.uint64(0x1000)
        return found

    monkeypatch.setattr(module, "bulk", shifted)

    report = check_set(SMALL)

    assert report.diverge > 100
    add_up(report)


def test_a_wrong_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._Check._stamp

    def late(self: module._Check, pas: module._Column) -> None:
        real(self, pas)
        probe_many = self.engine.probe_many

        def corrupted(*arguments: object) -> object:
            seen = probe_many(*arguments)  # type: ignore[arg-type]
            seen.value ^= np.uint64(1)
            return seen

        monkeypatch.setattr(self.engine, "probe_many", corrupted)

    monkeypatch.setattr(module._Check, "_stamp", late)

    report = check_set(SMALL)

    assert report.tallies[0].diverge > 100
    add_up(report)


def test_tables_that_are_not_put_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._Check._ask_singly

    def dirty(self: module._Check) -> None:
        real(self)
        self.memory.write_u64(int(self.tables.frames[0]) + 8, 0x1234)

    monkeypatch.setattr(module._Check, "_ask_singly", dirty)

    report = check_set(SMALL)

    assert report.wrong == 1
    assert report.faults[-1].startswith("the probes must leave the tables")


def test_a_machine_that_the_engine_cannot_be_is_unsupported(copy: Path) -> None:
    cpu = (copy / "cpu.json").read_text()
    (copy / "cpu.json").write_text(cpu.replace('"maxphyaddr": "0x28"', '"maxphyaddr": "0x2e"'))

    report = check_set(copy)

    add_up(report)
    assert report.unsupported == report.probes
    assert report.agree == 0
    assert report.notes == ["Unicorn's MAXPHYADDR is 40, not 46"]


def test_a_machine_without_1g_pages_is_asked_about_by_one_that_has_them() -> None:
    report = check_set(next(path for path in SETS if path.name == "linux-qemu64"))

    assert report.unsupported == 0
    assert "always has 1 GiB pages" in report.notes[0]


def test_the_report_is_json() -> None:
    report = check_set(SMALL)

    data = report.to_json()
    assert data["what"] == "linux-max-pti"
    assert data["probes"] == sum(question["probes"] for question in data["questions"])
    assert data["probes"] == sum(
        data[word] for word in ("agree", "known", "diverge", "unsupported")
    )
