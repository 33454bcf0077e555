"""The runner: every case once, whatever happens to the processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.campaign import CampaignProgress, CampaignResult, run
from harness.check.findings.tally import Tally
from harness.errors import EngineBroken, EngineMissing, InputError
from tests.campaign.works import Numbers, Steered, children, expected, numbered, small


def counts(tally: Tally) -> dict[str, object]:
    return {**tally.to_json(), "findings": sorted(tally.findings)}


def same(result: CampaignResult, tally: Tally, *more: str) -> None:
    """Hold a result to the counts of a tally; and to its findings and some more."""
    assert result.complete
    wanted = counts(tally)
    assert counts(result.tally) == {**wanted, "findings": sorted([*tally.findings, *more])}
    for key, finding in tally.findings.items():
        ours = result.tally.findings[key]
        assert (ours.count, ours.first) == (finding.count, finding.first)


def test_a_campaign_counts_each_case_once() -> None:
    result = run(Numbers(95, 10))

    same(result, expected(95))
    assert (result.shards, result.of_shards, result.rounds, result.deaths) == (10, 10, 1, 0)
    assert (result.name, result.identity) == ("numbers", {"count": 95, "size": 10})
    assert (result.workers, result.resumed_cases, result.interrupted) == (2, 0, False)
    assert result.tally.findings["ten 1"].question == small("ten 1")


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    result = run(Steered(60, 10), workers=workers)

    assert result.tally.to_json() == run(Steered(60, 10)).tally.to_json()
    assert result.rounds == 3
    assert result.tally.cases == 6 * (10 + 11 + 12)


def test_a_round_knows_the_sum_of_those_before_it(tmp_path: Path) -> None:
    seen = []

    class Watched(Steered):
        def plan(self, round: int, so_far: Tally) -> list:  # type: ignore[type-arg]
            seen.append(so_far.cases)
            so_far.cases = 10**9  # what a plan does with it is its own business
            return Steered(60, 10).plan(round, Tally(seen[-1]))

        def __reduce__(self) -> tuple[object, ...]:
            return Steered, (60, 10)

    run(Watched(60, 10))

    assert seen == [0, 60, 126, 198]


@pytest.mark.parametrize(("what", "case"), [("abort", 40), ("kill", 69), ("broken", 57)])
def test_a_deadly_case_is_isolated(what: str, case: int) -> None:
    result = run(Numbers(100, 30, {case: what}))

    same(result, expected(100, (case,)), f"broke {case}")
    finding = result.tally.findings[f"broke {case}"]
    assert f"while asking case {case}" in finding.sentence
    word = {
        "abort": "SIGABRT",
        "kill": "SIGKILL",
        "broken": "ended with code 1 .* saying 'the engine did not put the memory back'",
    }[what]
    assert re.search(word, finding.sentence)
    assert result.deaths >= 5


def test_several_deadly_cases_in_one_shard_are_isolated() -> None:
    deadly = {3: "abort", 4: "kill", 31: "abort"}
    result = run(Numbers(64, 32, deadly))

    same(result, expected(64, tuple(deadly)), "broke 3", "broke 4", "broke 31")


def test_a_hang_is_isolated() -> None:
    started = time.monotonic()
    result = run(Numbers(16, 8, {13: "hang"}), seconds=1.0)

    same(result, expected(16, (13,)), "broke 13")
    assert result.tally.findings["broke 13"].sentence == (
        "the worker was ended while asking case 13: it said nothing new for 1 s"
    )
    assert time.monotonic() - started < 60


def test_one_shard_of_one_case_that_kills_is_a_finding() -> None:
    same(run(Numbers(3, 1, {1: "abort"})), expected(3, (1,)), "broke 1")


@pytest.mark.parametrize("size", [1, 8])
def test_a_death_that_does_not_come_back_is_told(size: int, tmp_path: Path) -> None:
    result = run(Numbers(8, size, {5: "kill"}, once=str(tmp_path / "once")))

    key = f"flaky 0/{5 // size}/{5 // size * size}+{size}"
    same(result, expected(8), key)
    finding = result.tally.findings[key]
    assert finding.judgement == "broke"
    assert "the worker died of SIGKILL while asking case 5" in finding.sentence


def test_an_engine_that_always_dies_ends_the_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.campaign.split._HOPELESS", 7)
    with pytest.raises(EngineBroken, match="must survive most cases, and it died 7 times on the"):
        run(Numbers(64, 64, dict.fromkeys(range(64), "abort")))


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("missing", EngineMissing, "there must be an engine"),
        ("input", InputError, "the number must be better"),
        ("bug", ZeroDivisionError, "bug"),
    ],
)
def test_other_errors_end_the_campaign(what: str, error: type[Exception], words: str) -> None:
    before = children()
    with pytest.raises(error, match=words) as caught:
        run(Numbers(100, 10, {33: what}))
    assert "in happen" in "".join(caught.value.__notes__)
    assert children() == before


@pytest.mark.parametrize("what", ["abort", "hang", "broken"])
def test_a_death_while_shrinking_keeps_the_finding(what: str) -> None:
    result = run(Numbers(20, 10, shrinking=what), seconds=1.0)

    same(result, expected(20))
    finding = result.tally.findings["ten 1"]
    assert finding.question == numbered(10)
    assert finding.why.startswith("not made small: the worker ")


def test_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    path, log = tmp_path / "journal", tmp_path / "log"
    work = Steered(60, 10, log=str(log))
    first = run(work, workers=1, journal=path, stop=lambda: path.read_bytes().count(b"\n") > 9)
    assert (first.interrupted, first.complete) == (True, False)

    second = run(work, journal=path)
    third = run(work, journal=path)

    assert second.tally.to_json() == third.tally.to_json() == run(work).tally.to_json()
    assert 0 < first.tally.cases == second.resumed_cases < second.tally.cases
    assert third.resumed_cases == third.tally.cases
    lines = log.read_text().split()[: -second.of_shards]
    # What ran when the first was stopped ran again; nothing else did.
    assert len(set(lines)) == second.of_shards
    assert len(lines) <= second.of_shards + 1


def test_a_finished_journal_tells_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    result = run(Numbers(), journal=path)
    size = path.stat().st_size

    deadly = Numbers(shrinking="abort", deadly=dict.fromkeys(range(100), "abort"))
    again = run(deadly, journal=path)

    assert again.tally.to_json() == result.tally.to_json()
    assert (again.complete, again.deaths, path.stat().st_size) == (True, 0, size)


def test_isolated_cases_are_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    work = Numbers(40, 10, {33: "kill"})
    result = run(work, journal=path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))

    assert run(work, journal=path).tally.to_json() == result.tally.to_json()


def test_another_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    run(Numbers(), journal=path)

    class Other(Numbers):
        def plan(self, round: int, so_far: Tally) -> list:  # type: ignore[type-arg]
            return [
                dataclasses.replace(shard, first=shard.first + 1)
                for shard in super().plan(round, so_far)
            ]

    class Shorter(Numbers):
        def plan(self, round: int, so_far: Tally) -> list:  # type: ignore[type-arg]
            return []

    for other in (Other(), Shorter()):
        with pytest.raises(InputError, match="round 0 must be planned as it was when the journal"):
            run(other, journal=path)


def test_progress_is_told() -> None:
    told: list[CampaignProgress] = []
    run(Numbers(120, 10, pause=0.15), on_progress=told.append)

    assert len(told) > 3
    assert [one.cases for one in told] == sorted(one.cases for one in told)
    last = told[-1]
    assert (last.cases, last.of_cases, last.shards, last.of_shards) == (120, 120, 12, 12)
    assert (last.what, last.findings, last.deaths) == ("shrinking", 3, 0)
    middle = next(one for one in told if 0 < one.cases < 120)
    assert middle.rate > 0
    assert middle.left is not None
    assert any("case" in what for one in told for what in one.workers)


def test_a_signal_stops_cleanly(tmp_path: Path) -> None:
    before = children()
    handler = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        path = tmp_path / number.name
        sent: list[int] = []

        def stop(told: CampaignProgress, number: int = number, sent: list[int] = sent) -> None:
            if told.shards >= 2 and not sent:
                sent.append(number)
                os.kill(os.getpid(), number)

        result = run(Numbers(1000, 10, pause=0.1), journal=path, on_progress=stop)

        assert (result.interrupted, result.complete) == (True, False)
        assert 0 < result.tally.cases < 1000
        shards = [line for line in path.read_text().splitlines() if '"shard"' in line]
        assert result.tally.cases == 10 * len(shards) == 10 * result.shards
    assert children() == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_no_process_is_left() -> None:
    before = children()
    run(Numbers(100, 30, {40: "abort"}))

    assert children() == before


def test_there_must_be_a_worker() -> None:
    with pytest.raises(InputError, match="must have 1 worker or more, not 0"):
        run(Numbers(), workers=0)


def test_the_journal_keeps_what_the_run_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    run(Numbers(40, 10), journal=path)
    total = Tally()
    for line in path.read_text().splitlines()[1:]:
        record = json.loads(line.partition(" ")[2])
        if "shard" in record:
            total += Tally.from_json(record["tally"])

    assert counts(total) == counts(expected(40))


def test_memory_stays_as_it_is(tmp_path: Path) -> None:
    blocks: dict[int, int] = {}

    def note(told: CampaignProgress) -> None:
        if told.what == "asking":
            blocks[told.shards // 1000] = sys.getallocatedblocks()

    run(Numbers(5000, 1), journal=tmp_path / "journal", on_progress=note)

    # Caches fill during the first two thousand. After them a list with one entry for each shard
    # would add a block a shard, to the half block that the interpreter takes for itself.
    assert max(blocks) == 4
    assert blocks[4] - blocks[1] < 2200
