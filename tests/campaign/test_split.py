"""Deaths, without processes: whoever dies, each case is counted once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.campaign.split import Attempt, Deaths
from harness.check.findings.tally import Tally
from harness.check.work import Shard
from harness.errors import EngineBroken
from tests.campaign.works import Numbers, ask, expected

SECONDS = 300.0


def play(
    count: int, dies: Callable[[Attempt], bool], *, overdue: bool = False
) -> tuple[Tally, list[Attempt]]:
    """Run one shard, with deaths as told; return its tally and all attempts."""
    deaths = Deaths(Numbers())
    waiting = deque([Attempt(Shard(0, 0, 0, count), SECONDS)])
    tried: list[Attempt] = []
    while waiting:
        attempt = waiting.popleft()
        tried.append(attempt)
        shard = attempt.shard
        if dies(attempt):
            parts, tally = deaths.died(attempt, "it died", overdue=overdue)
            waiting += parts
        else:
            counted = Tally()
            for case in range(shard.first, shard.first + shard.count):
                ask(case, counted)
            tally = deaths.lived(attempt, counted)
        assert tally is None or not waiting
    assert tally is not None
    return tally, tried


def cases(attempt: Attempt) -> range:
    return range(attempt.shard.first, attempt.shard.first + attempt.shard.count)


def without_findings(tally: Tally) -> dict[str, object]:
    return {**tally.to_json(), "findings": []}


@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=12), st.booleans())
def test_each_case_is_counted_once(count: int, deadly: set[int], overdue: bool) -> None:
    deadly = {case for case in deadly if case < count}
    if len(deadly) > count // 2:
        deadly = set(sorted(deadly)[: count // 2])
    tally, _ = play(count, lambda attempt: bool(deadly & {*cases(attempt)}), overdue=overdue)

    wanted = expected(count, tuple(deadly))
    assert without_findings(tally) == without_findings(wanted)
    assert set(tally.findings) == {*wanted.findings, *(f"broke {case}" for case in deadly)}


@given(st.integers(2, 100), st.lists(st.booleans(), max_size=25))
def test_deaths_without_a_reason_lose_nothing(count: int, moments: list[bool]) -> None:
    coming = iter(moments)
    tally, tried = play(count, lambda _: next(coming, False))

    broke = {finding.first for finding in tally.findings.values() if finding.key[:5] == "broke"}
    assert without_findings(tally) == without_findings(expected(count, tuple(broke)))
    assert all(attempt.shard.count >= 1 for attempt in tried)
    dead = any(moments[: len(tried)])
    told = any(finding.judgement == "broke" for finding in tally.findings.values())
    assert dead == told


def test_a_death_that_is_explained_below_is_told_once() -> None:
    tally, _ = play(64, lambda attempt: 17 in cases(attempt))

    assert {key for key in tally.findings if "ten" not in key} == {"broke 17"}


def test_a_flaky_part_is_told_beside_a_deadly_case() -> None:
    once = iter([True])

    def dies(attempt: Attempt) -> bool:
        if cases(attempt) == range(16):
            return next(once, False)
        return 17 in cases(attempt)

    tally, _ = play(32, dies)

    assert {key for key in tally.findings if "ten" not in key} == {"broke 17", "flaky 0/0/0+16"}
    assert without_findings(tally) == without_findings(expected(32, (17,)))


def test_parts_have_their_share_of_the_limit() -> None:
    _, tried = play(1000, lambda attempt: 0 in cases(attempt), overdue=True)

    limits = {attempt.shard.count: attempt.seconds for attempt in tried if attempt.shard.count > 1}
    assert limits[500] == 150.0
    assert limits[250] == 75.0
    assert limits[3] == limits[31] == 15.0
    # One case is asked with the share, and then with all of it.
    assert [a.seconds for a in tried if cases(a) == range(1)] == [15.0, SECONDS]


def test_a_case_that_is_only_slow_is_no_finding() -> None:
    def dies(attempt: Attempt) -> bool:
        return 5 in cases(attempt) and attempt.seconds < (SECONDS if attempt.parent else 1e9)

    tally, _ = play(8, dies, overdue=True)

    # That the whole shard took too long, and its parts did not, is told.
    assert {key for key in tally.findings if "ten" not in key} == {"flaky 0/0/4+2"}
    assert without_findings(tally) == without_findings(expected(8))


@pytest.mark.parametrize(
    ("count", "deaths", "dies"),
    [(4096, 63, lambda _: True), (65536, 400, lambda attempt: cases(attempt)[0] < 32768)],
)
def test_what_nearly_always_dies_is_given_up(
    count: int, deaths: int, dies: Callable[[Attempt], bool]
) -> None:
    with pytest.raises(EngineBroken) as caught:
        play(count, dies)
    assert str(caught.value) == (
        f"the engine must survive most cases, and it died {deaths} times on the cases 0 to "
        f"{count - 1}: it died"
    )
