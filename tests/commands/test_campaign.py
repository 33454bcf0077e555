"""What all campaigns of the command line have in common, tried on cases that are numbers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import junitparser
import pytest

from harness.campaign.progress import CampaignProgress
from harness.check.bench import Bench, EngineId, judged
from harness.check.findings.database import Database
from harness.check.findings.finding import Finding, finding_of
from harness.check.findings.tally import Tally
from harness.check.question import Question
from harness.check.registered.registry import REGISTRY
from harness.check.work import Shard
from harness.commands.campaign import Campaign, run_campaign
from harness.commands.campaign_options import Settings, command_line
from harness.commands.files import write_whole
from harness.commands.progress import progress_words
from harness.cpu import CpuState
from harness.engine.steps import StepResult
from harness.errors import InputError
from harness.outcome import Observation, Outcome
from harness.show.from_result import Registry, ask_registry, finding_report
from tests.campaign.works import ENGINE, Numbers, small

KNOWN = REGISTRY[0].question


@dataclass(frozen=True)
class Agreeing(Numbers):
    """All agree."""

    def run(self, shard: Shard) -> Tally:
        if self.log:
            with open(self.log, "a") as file:
                file.write("a shard\n")
        time.sleep(self.pause)
        return Tally(cases=shard.count, judgements={"agree": shard.count})  # type: ignore[arg-type]


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(
        **{
            "workers": 2,
            "engine": ENGINE,
            "reproducers": folder / "reproducers",
            "database": folder / "findings",
            **changes,
        }
    )


def ran(work: Any, made: Settings, **more: Any) -> tuple[int, str]:
    """Run a campaign and return its exit code and what it printed."""
    out = io.StringIO()
    campaign = Campaign(
        work=work, settings=made, facts=(("levels", "4"),), command="harness x", **more
    )
    with contextlib.redirect_stdout(out):
        code = run_campaign(campaign)
    return code, out.getvalue()


@contextlib.contextmanager
def interrupted_after(file: Path, lines: int = 6) -> Iterator[None]:
    """Press Ctrl-C when a file has so many lines."""

    def watch() -> None:
        while not (file.exists() and file.read_bytes().count(b"\n") >= lines):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    watcher.join()


def test_all_agree(tmp_path: Path) -> None:
    code, text = ran(Agreeing(), settings(tmp_path))

    assert code == 0
    assert "✓ all 100 agree" in text
    assert list(tmp_path.iterdir()) == []


def test_a_divergence_is_kept_written_and_told(tmp_path: Path) -> None:
    made = settings(tmp_path, as_json=True, junit=tmp_path / "r.xml", html=tmp_path / "r.html")
    code, text = ran(Numbers(), made)
    report = json.loads(text)

    assert code == 1
    assert (report["cases"], report["agree"], report["diverge"]) == (100, 90, 10)
    assert report["complete"] is True
    assert len(report["findings"]) == 3
    assert [finding["count"] for finding in report["findings"]] == [4, 3, 3]
    for finding in report["findings"]:
        case, test = finding["files"]
        assert Question.from_json(json.loads(Path(case).read_text())) == small(finding["key"])
        assert Path(test).name.startswith("test_")
        assert finding["command"] == f"harness probe {case} --engine {ENGINE}"
    assert len(list(made.database.glob("*.json"))) == 3
    suite = next(iter(junitparser.JUnitXml.fromfile(str(tmp_path / "r.xml"))))
    assert suite.failures == 3
    assert "3 findings" in (tmp_path / "r.html").read_text()
    assert not list(tmp_path.glob(".*.part"))


def test_a_death_is_a_finding(tmp_path: Path) -> None:
    work = Numbers(count=20, deadly={7: "kill"})
    code, text = ran(work, settings(tmp_path, as_json=True))
    report = json.loads(text)

    assert code == 1
    assert report["broke"] == 1
    # What ended the engine comes first.
    assert report["findings"][0]["judgement"] == "broke"
    assert report["deaths"] >= 1


def test_former_findings_are_asked_first(tmp_path: Path) -> None:
    made = settings(tmp_path, as_json=True)
    still = Finding(
        key="old", judgement="diverge", rule="NX", sentence="it differed", question=KNOWN
    )
    plain = Question.of_access(CpuState(cr3=0x1000), 0x10000, {}, 0)
    fixed = Finding(
        key="gone", judgement="diverge", rule="WP", sentence="it was so", question=plain
    )
    for finding in (still, fixed):
        Database(made.database).save(finding)

    code, text = ran(Agreeing(), made)
    report = json.loads(text)

    # The one is a registered divergence by now, the other agrees.
    assert code == 0
    assert {row["sentence"]: row["now"] for row in report["replayed"]} == {
        "it differed": "known",
        "it was so": "fixed",
    }
    assert len(list(made.database.glob("*.json"))) == 1


def test_no_database_keeps_nothing(tmp_path: Path) -> None:
    made = settings(tmp_path, no_database=True)
    code, _ = ran(Numbers(), made)
    assert code == 1
    assert not made.database.exists()


def test_minutes_end_a_campaign_well(tmp_path: Path) -> None:
    work = Numbers(count=100_000, pause=0.05)
    code, text = ran(work, settings(tmp_path, as_json=True), minutes=0.1)
    report = json.loads(text)

    assert code == 1
    assert report["complete"] is True
    assert report["interrupted"] is False
    assert 0 < report["cases"] < 100_000
    # They were made small all the same.
    found = report["findings"][0]
    assert Question.from_json(json.loads(found["case"])) == small(found["key"])


def test_an_interrupted_campaign_reports_and_says_how_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = Agreeing(count=1000, pause=0.05)
    journal = tmp_path / "j"
    made = settings(tmp_path, as_json=True, journal=journal)
    with interrupted_after(journal):
        code, text = ran(work, made)
    report = json.loads(text)

    assert code == 130
    assert report["interrupted"] is True
    assert 0 < report["cases"] < 1000
    assert capfd.readouterr().err == "interrupted; to go on: harness x\n"
    code, text = ran(Agreeing(count=1000), made)
    report2 = json.loads(text)
    assert code == 0
    assert report2["cases"] == 1000
    assert report2["resumed_cases"] >= report["cases"]


def test_without_a_journal_it_says_what_to_do_next_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    with interrupted_after(log):
        code, text = ran(Agreeing(count=1000, pause=0.05, log=str(log)), settings(tmp_path))

    assert code == 130
    assert "not all of it asked" in text
    assert "name a --journal FILE next time" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["junit", "html", "journal"])
def test_a_path_that_cannot_be_written_is_refused_first(tmp_path: Path, option: str) -> None:
    log = tmp_path / "log"
    (tmp_path / "no").write_text("a file")
    for path, sentence in (
        (tmp_path / "no" / "file", f"--{option} must name a file in a directory that is there or"),
        (tmp_path, f"--{option} must name a file, and {tmp_path} is a directory"),
    ):
        with pytest.raises(InputError) as caught:
            ran(Numbers(log=str(log)), settings(tmp_path, **{option: path}))
        assert str(caught.value).startswith(sentence)
    assert not log.exists()


@pytest.mark.parametrize("option", ["reproducers", "database"])
def test_a_folder_must_be_one(tmp_path: Path, option: str) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    for folder in (path, path / "below"):
        with pytest.raises(InputError, match=f"--{option} must name a directory"):
            ran(Numbers(), settings(tmp_path, **{option: folder}))


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://host", "http://host:1", ""])
def test_a_scheduler_must_have_an_address(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match="--scheduler must be tcp://host:port or tls://host:port"):
        ran(Numbers(), settings(tmp_path, scheduler=address))


def test_two_reports_cannot_share_a_file(tmp_path: Path) -> None:
    same = tmp_path / "report"
    with pytest.raises(InputError) as caught:
        ran(Numbers(), settings(tmp_path, junit=same, html=tmp_path / "." / "report"))
    assert str(caught.value).startswith("--junit and --html must name different files")


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="the report must be writable: No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_to() -> None:
    write_whole(Path("/dev/null"), b"gone")
    assert not Path("/dev/null").is_file()


def test_a_command_line_can_be_pasted() -> None:
    assert command_line("matrix", "classic", None, "--journal", "my file") == (
        "harness matrix classic --journal 'my file'"
    )


def test_progress_in_words() -> None:
    now = CampaignProgress(
        what="asking", round=0, shards=1, of_shards=2, cases=500_000, of_cases=2_000_000,
        rate=1_234_567.8, seconds=1.0, left=75.0, findings=1, deaths=2, workers=(),
    )  # fmt: skip
    assert progress_words(now) == "25 %, 500k of 2.0M, 1.2M/s, 1 min 15 s left, 1 cause, 2 died"


def test_the_registry_of_the_engine() -> None:
    registry = ask_registry("unicorn")

    assert isinstance(registry, Registry)
    assert registry.engine == EngineId("unicorn", "2.1.4", "unicorn")
    assert registry.known == REGISTRY
    assert registry.stale == ()


def test_a_finding_is_told_with_its_walk() -> None:
    question = Question.of_access(
        CpuState(cr3=0x1000, cpl=3), 0x10000, {0x1000: 0x2007, 0x2000: 0x83}, 0
    )
    seen = Observation(Outcome.PAGE_FAULT, 5, 0, changed={0x2000: 0x20, 0x1000: 0x61, 0x3000: 0x20})
    engine = EngineId("unicorn", "2.1.4", "unicorn")
    answer = judged(engine, question.build(), question, [StepResult(seen)])
    told = finding_report(finding_of(question, answer))

    assert told.headline == "a user read at 0x0, CPL 3, 4 levels"
    assert [row.name for row in told.walk] == ["PML4E", "PDPTE"]
    assert told.walk[1].decides
    assert any(line.strip().startswith("rule") for line in told.predicted)
    assert told.observed == (
        "page fault; error code 0x5 = P U: a user read: the page is present and its rights forbid "
        "it; CR2 0x0; A and D and bits 0x1 changed in the entry at 0x1000; "
        "A changed in the entries at 0x2000, 0x3000"
    )
    assert told.notes[0][0] == "as if"
    assert told.details["predicted"]["rule"] == "USER_US"
    assert told.details["engine"] == {"name": "unicorn", "version": "2.1.4", "spec": "unicorn"}


def test_several_steps_are_told_step_by_step() -> None:
    known = REGISTRY[-1]
    with Bench(known.question.ram, "unicorn") as bench:
        finding = finding_of(known.question, bench.ask(known.question).engines[0])

    lines = finding_report(finding).predicted
    steps = [line for line in lines if line.startswith("step ")]
    assert steps[0] == 'step 1: {"access": {"va": "0x4000", "kind": "read", "size": 1}}'
    assert steps[1] == 'step 2: {"cr4": "0x400020"}'
    assert lines[1].startswith('  permitted: {"outcome": "mapped"')
    assert lines[2].startswith('  observed:  {"outcome": "mapped"')


def test_a_finding_that_agrees_alone_has_no_reproducer(tmp_path: Path) -> None:
    code, text = ran(Numbers(), settings(tmp_path, engine="unicorn", as_json=True))
    report = json.loads(text)

    assert code == 1
    assert all(finding["files"] == [] for finding in report["findings"])
    why = "asked alone, its question ended with exit code 0"
    assert sum(why in note for note in report["notes"]) == 3
    assert not (tmp_path / "reproducers").exists()


def test_the_commands_load_nothing_heavy() -> None:
    script = "import sys, harness.commands.matrix, harness.commands.fuzz; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    heavy = {"unicorn", "rich", "jinja2", "junitparser", "numba", "dask"}
    assert not heavy & set(loaded), heavy & set(loaded)
