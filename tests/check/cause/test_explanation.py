"""A cause has its explanations in order, each once."""

from __future__ import annotations

import doctest

from harness.check.cause import Cause, Explanation, explanation


def _of(*levels: int | None, rule: str = "A") -> list[Explanation]:
    return [Explanation.of(rule, "missing", level, "") for level in levels]


def names(cause: Cause) -> list[str]:
    return [*map(str, cause.keys)]


def test_the_example_is_true() -> None:
    result = doctest.testmod(explanation)
    assert (result.attempted, result.failed) == (1, 0)


def test_a_key_says_the_level_and_a_stem_does_not() -> None:
    one, whole = _of(2, None)
    assert (str(one.key), str(one.key.stem)) == ("A:missing:L2", "A:missing")
    assert (whole.key, whole.key.stem) == (one.key.stem, one.key.stem)


def test_one_level_comes_before_the_whole_and_several_after_it() -> None:
    assert names(Cause.of(_of(2, None))) == ["A:missing:L2", "A:missing"]
    assert names(Cause.of(_of(2, 3, None))) == ["A:missing", "A:missing:L2", "A:missing:L3"]


def test_each_is_there_once_and_the_likeliest_speaks() -> None:
    found = Cause.of([*_of(None, rule="D"), *_of(2), *_of(2)])
    assert names(found) == ["D:missing", "A:missing:L2"]
    assert (found.rule, found.level, found.explained) == ("D", None, True)
