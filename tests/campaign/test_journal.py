"""Journals: cut anywhere, they lose what lies behind the cut and nothing else."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.campaign.journal import Finished, Journal
from harness.check.findings.finding import Finding
from harness.check.findings.tally import Tally
from harness.check.work import Shard
from harness.errors import InputError
from tests.campaign.works import expected

IDENTITY = {"levels": [4, 5], "seed": 1, "engine": "unicorn 2.1.4"}


def opened(path: Path, **identity: Any) -> Journal:
    return Journal(path, "matrix classic", {**IDENTITY, **identity})


def shard(number: int, round: int = 0) -> Shard:
    return Shard(round, number, 100 * number, 100, {"not": "kept"})


def tally(number: int) -> Tally:
    return expected(number % 40)


def finding(number: int) -> Finding:
    return Finding(key=f"key {number}", judgement="diverge", rule="P", sentence="ä\n\x00\u2028 \\")


def fill(path: Path, count: int, shrunk: int = 0, rounds: int = 1) -> list[int]:
    """Write a journal; return where its lines end."""
    with opened(path) as journal:
        ends = [path.stat().st_size]
        for number in range(count):
            journal.add_shard(shard(number, number % rounds), tally(number).to_json())
            ends.append(path.stat().st_size)
        for number in range(shrunk):
            journal.add_shrunk(f"was {number}", finding(number))
            ends.append(path.stat().st_size)
    return ends


def held(journal: Journal) -> tuple[list[int], dict[int, dict[str, Any]]]:
    numbers = sorted(
        number for finished in journal.rounds.values() for number, _, _ in finished.shards
    )
    return numbers, {round: finished.tally.to_json() for round, finished in journal.rounds.items()}


def wanted(numbers: range, rounds: int) -> tuple[list[int], dict[int, dict[str, Any]]]:
    sums: dict[int, Tally] = {}
    for number in numbers:
        sums.setdefault(number % rounds, Tally())
        sums[number % rounds] += tally(number)
    return list(numbers), {round: total.to_json() for round, total in sums.items()}


def as_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def test_a_journal_holds_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 5, shrunk=2)

    with opened(path) as journal:
        assert isinstance(journal.rounds[0], Finished)
        assert journal.rounds[0].shards == {(n, 100 * n, 100) for n in range(5)}
        assert as_json(held(journal)) == as_json(wanted(range(5), 1))
        assert journal.shrunk == {f"was {n}": finding(n) for n in range(2)}


def test_the_first_line_is_for_people_and_programs(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 1)
    first, second = path.read_text().splitlines()

    assert json.loads(first) == {
        "journal": "harness campaign",
        "format": 2,
        "work": "matrix classic",
        "identity": IDENTITY,
    }
    assert json.loads(second[9:])["shard"] == [0, 0, 0, 100]


@given(st.data(), st.integers(0, 6), st.integers(0, 2), st.integers(1, 3))
def test_a_cut_loses_what_is_behind_it(
    data: st.DataObject, count: int, shrunk: int, rounds: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        ends = fill(path, count, shrunk, rounds)
        cut = data.draw(st.integers(0, ends[-1]))
        os.truncate(path, cut)
        whole = sum(end <= cut for end in ends[1:])
        kept = range(min(whole, count))

        with opened(path) as journal:
            assert as_json(held(journal)) == as_json(wanted(kept, rounds))
            assert len(journal.shrunk) == max(0, whole - count)
            # What is torn is cut off before anything is added behind it.
            assert path.stat().st_size == ends[whole]
            journal.add_shard(shard(len(kept), len(kept) % rounds), tally(len(kept)).to_json())
        with opened(path) as journal:
            assert as_json(held(journal)) == as_json(wanted(range(len(kept) + 1), rounds))


@given(st.data())
def test_a_changed_byte_never_gives_a_wrong_tally(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        ends = fill(path, 4)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(ends[0], ends[-1] - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)

        with opened(path) as journal:
            whole = sum(end <= at for end in ends[1:])
            assert as_json(held(journal)) == as_json(wanted(range(whole), 1))


def test_a_shard_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1]]))

    with opened(path) as journal:
        assert as_json(held(journal)) == as_json(wanted(range(2), 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": [4]}, "whose levels is [4], and it is of one whose levels is [4, 5]"),
        ({"more": 1}, "whose more is 1, and it is of one whose more is None"),
        ({"seed": None}, "whose seed is None, and it is of one whose seed is 1"),
    ],
)
def test_the_journal_of_another_campaign_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    fill(path, 3)
    before = path.read_bytes() + b"torn"
    path.write_bytes(before)

    with pytest.raises(InputError) as caught:
        opened(path, **change)
    assert str(caught.value) == (
        f"{path}: the journal must be of this campaign, {words}: name another file, or delete "
        "this one"
    )
    assert path.read_bytes() == before


def test_the_journal_of_another_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 1)

    with pytest.raises(InputError, match="whose work is 'fuzz', and it is of one whose work is 'm"):
        Journal(path, "fuzz", IDENTITY)


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"hello", b"{}\n", b"[1]\n", b"\xff\n", b"\x7fELF\x00\n", b"7\n", b"[" * 99999],
)
def test_what_is_no_journal_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(InputError) as caught:
        opened(path)
    assert str(caught.value) == f"{path}: the file must be a campaign's journal, and is none"
    assert path.read_bytes() == content


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 1)
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))

    with pytest.raises(InputError, match="the journal's format must be 2, not 1"):
        opened(path)


def test_two_runs_on_one_journal_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with opened(path), pytest.raises(InputError, match="and another run is using it"):
        opened(path)
    opened(path).close()


@pytest.mark.parametrize("where", ["", "missing/journal", "/dev/null"])
def test_a_place_that_cannot_be_used_is_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be an ordinary|must be a file that can"):
        opened(tmp_path / where)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path / "journal") as journal:
        monkeypatch.setattr("harness.campaign.journal.os.write", full)
        with pytest.raises(InputError, match="read and written: No space left on device"):
            journal.add_shard(shard(0), tally(0).to_json())
        monkeypatch.setattr("harness.campaign.journal.os.write", lambda *_: 3)
        with pytest.raises(InputError, match="the disk must have room for the journal"):
            journal.add_shard(shard(0), tally(0).to_json())


def test_each_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            return function(*args)

        return call

    for name in ("write", "fsync"):
        monkeypatch.setattr(f"harness.campaign.journal.os.{name}", noted(name))
    with opened(tmp_path / "journal") as journal:
        calls.clear()
        journal.add_shard(shard(0), tally(0).to_json())
        assert calls == ["write", "fsync"]
