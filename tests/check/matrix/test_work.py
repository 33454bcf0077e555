"""The matrix as work: its numbers, its shards, its samples, and slices of it on the CPU."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from harness.check.findings.reproducer import reproduce
from harness.check.findings.tally import Tally
from harness.check.matrix.spaces import SPACES
from harness.check.matrix.work import MatrixWork
from harness.check.work import Shard
from harness.errors import InputError

CLASSIC = 19_169_280
FAULTS = 17_637_664


def asked(work: MatrixWork) -> list[int]:
    return [
        int(number)
        for shard in work.plan(0, Tally())
        for numbers, block in work._blocks(shard.first, shard.count)
        for number in _checked(numbers, block)
    ]


def _checked(numbers: Any, block: Any) -> Any:
    assert len(numbers) == len(block)
    return numbers


def total(work: MatrixWork) -> Tally:
    result = Tally()
    for shard in work.plan(0, Tally()):
        result += work.run(shard)
    return result


def test_numbers_all_cases_of_both_modes() -> None:
    work = MatrixWork("classic")

    assert work.total == work.cases == 2 * CLASSIC
    assert sum(shard.count for shard in work.plan(0, Tally())) == 2 * CLASSIC
    assert len(work.block(CLASSIC - 1).at) == 4
    assert len(work.block(CLASSIC).at) == 5
    assert work.bits(0) == SPACES["classic"](4).bits(0)
    assert work.bits(CLASSIC + 5) == SPACES["classic"](5).bits(5)


def test_shards_follow_one_another() -> None:
    shards = MatrixWork("full", levels=(5,)).plan(0, Tally())

    assert [shard.number for shard in shards] == list(range(len(shards)))
    ends = [shard.first + shard.count for shard in shards]
    assert [shard.first for shard in shards] == [0, *ends[:-1]]


@pytest.mark.parametrize("matrix", SPACES)
def test_a_run_of_numbers_is_asked_in_order(matrix: str) -> None:
    middle = len(SPACES[matrix](4))
    work = MatrixWork(matrix, first=middle - 3000, count=5000)

    assert asked(work) == list(range(middle - 3000, middle + 2000))


@pytest.mark.parametrize("sample", [2, 97])
def test_a_sample_asks_one_of_each_run(sample: int) -> None:
    work = MatrixWork("classic", sample=sample, first=1234, count=100_001)

    numbers = asked(work)

    assert len(numbers) == work.cases == -(-100_001 // sample)
    groups = [(number - 1234) // sample for number in numbers]
    assert groups == list(range(len(numbers)))
    assert max(numbers) < 1234 + 100_001
    # At places that look random: every place within a run occurs about as often.
    places = np.bincount([(number - 1234) % sample for number in numbers], minlength=sample)
    assert places.min() > places.mean() / 3


def test_a_sample_does_not_depend_on_the_shards() -> None:
    work = MatrixWork("classic", sample=501)
    numbers = asked(work)
    pieces = [
        int(number)
        for first, count in ((0, 700), (700, 1), (701, len(numbers) - 701))
        for part, _ in work._blocks(first, count)
        for number in part
    ]
    assert pieces == numbers


def test_a_sample_has_the_cases_that_have_these_numbers() -> None:
    work = MatrixWork("full", levels=(4,), sample=4001)
    for numbers, block in work._blocks(100, 60):
        for row, number in enumerate(numbers.tolist()):
            lone = work.block(number)
            assert np.array_equal(lone.entries[:, 0], block.entries[:, row])
            assert (lone.cpu, lone.access, lone.supervisor_reads_first) == (
                block.cpu,
                block.access,
                block.supervisor_reads_first,
            )


def test_halves_add_up() -> None:
    work = MatrixWork("full", sample=20_011)
    [whole] = work.plan(0, Tally())
    cut = whole.count // 3

    parts = work.run(Shard(0, 0, 0, cut)) + work.run(Shard(0, 1, cut, whole.count - cut))

    assert parts.to_json() == work.run(whole).to_json()


@pytest.mark.parametrize(("matrix", "sample"), [("classic", 809), ("full", 4001)])
def test_a_slice_agrees_with_the_cpu(matrix: str, sample: int) -> None:
    work = MatrixWork(matrix, sample=sample)

    tally = total(work)

    assert tally.cases == work.cases > 5_000
    assert set(tally.judgements) <= {"agree", "known", "open"}, tally.findings
    assert {finding.judgement for finding in tally.findings.values()} <= {"known", "open"}
    if matrix == "classic":
        assert set(tally.judgements) == {"agree"}
        share = 1 - tally.outcomes["mapped"] / tally.cases
        assert share == pytest.approx(FAULTS / CLASSIC, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4, 5])
def test_all_of_classic_agrees_and_its_counts_are_exact(levels: int) -> None:
    tally = total(MatrixWork("classic", levels=(levels,)))

    assert tally.judgements == {"agree": CLASSIC}
    assert CLASSIC - tally.outcomes["mapped"] == FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4, 5])
def test_all_of_full_is_explained(levels: int) -> None:
    work = MatrixWork("full", levels=(levels,))

    tally = total(work)

    assert tally.cases == work.total
    assert set(tally.judgements) == {"agree", "known", "open"}, tally.findings


def test_its_scenarios_agree_and_are_no_cases() -> None:
    work = MatrixWork("classic")
    [shard] = work.plan(1, Tally())

    tally = work.run(shard)

    assert tally.cases == 0
    assert len(tally.scenarios) >= 12
    assert set(tally.scenarios.values()) == {"agree"}, tally.scenarios
    assert work.plan(2, tally) == []


def test_a_part_of_the_matrix_has_no_scenarios() -> None:
    assert MatrixWork("classic", count=1000).plan(1, Tally()) == []


def test_a_case_that_broke_the_engine_can_be_asked_alone() -> None:
    work = MatrixWork("classic", sample=1009)
    number = asked(work)[77]

    finding = work.describe(Shard(0, 0, 77, 1), "it died of SIGABRT")

    assert finding.judgement == "broke"
    assert finding.first == number
    assert " ".join(work.bits(number)) in finding.sentence
    assert finding.question is not None
    assert reproduce(finding.question).judgement == "agree"


def test_goes_by_pickle_and_says_what_it_depends_on() -> None:
    work = MatrixWork("classic", levels=(5,), sample=7)

    assert pickle.loads(pickle.dumps(work)) == work
    others = [
        MatrixWork("full", levels=(5,), sample=7),
        MatrixWork("classic", levels=(4,), sample=7),
        MatrixWork("classic", levels=(5,), sample=8),
        MatrixWork("classic", levels=(5,), sample=7, first=1),
        MatrixWork("classic", levels=(5,), sample=7, count=10),
        MatrixWork("classic", levels=(5,), sample=7, engine="harness.engine.unicorn:UnicornEngine"),
    ]
    identities = [repr(each.identity()) for each in (work, *others)]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matrix": "half"}, "the matrix must be one of classic, full, not 'half'"),
        ({"levels": ()}, "the levels must be 4, 5 or both, not ()"),
        ({"levels": (4, 4)}, "the levels must be 4, 5 or both, not (4, 4)"),
        ({"levels": (3,)}, "the levels must be 4, 5 or both, not (3,)"),
        ({"sample": 0}, "one case of every 1 or more must be asked, not of 0"),
        ({"first": 2 * CLASSIC}, "the first case must be 0 to 38,338,559, not 38,338,560"),
        ({"first": -1}, "the first case must be 0 to 38,338,559, not -1"),
        ({"count": 0}, "1 case or more must be asked, not 0"),
    ],
)
def test_refuses_what_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        MatrixWork(**{"matrix": "classic", **arguments})

    assert str(refused.value) == message


def test_refuses_a_number_that_no_case_has() -> None:
    with pytest.raises(InputError, match="a case's number must be 0 to 38,338,559"):
        MatrixWork("classic").bits(2 * CLASSIC)
    with pytest.raises(InputError, match="a case's number must be 0 to 38,338,559"):
        MatrixWork("classic").block(-1)
