"""Steering: knobs whose cases earn credits are turned up."""

from __future__ import annotations

import json

from harness.fuzz.steer import DEFAULTS, turned


def counts(**credits: int) -> dict[str, int]:
    """1,000 cases, 100 of them with each knob, 10 % of all with a credit."""
    found = {"": 1000, "!": 100}
    for name in DEFAULTS:
        found[name] = 100
        found[name + "!"] = 10
    return found | {name.replace("_", "-") + "!": count for name, count in credits.items()}


def test_nothing_is_turned_before_anything_is_known() -> None:
    assert turned({}) == dict(DEFAULTS)
    assert turned({"": 100, "huge": 60}) == dict(DEFAULTS), "no credits at all"
    assert turned(counts()) == dict(DEFAULTS), "all the same"


def test_knobs_go_up_and_down_within_limits() -> None:
    knobs = turned(counts(huge=20, recursive=100, shared=8, read_only=0))

    assert knobs["huge"] == round(DEFAULTS["huge"] * 2, 4)
    assert knobs["recursive"] == round(DEFAULTS["recursive"] * 3, 4)
    assert knobs["shared"] == round(DEFAULTS["shared"] * 0.8, 4)
    assert knobs["read-only"] == round(DEFAULTS["read-only"] / 2, 4)
    assert turned(counts(user=100))["user"] == 0.9, "never always"


def test_a_knob_of_few_cases_or_a_fixed_one_stays() -> None:
    few = counts(huge=10) | {"huge": 10}

    assert turned(few)["huge"] == DEFAULTS["huge"]
    assert turned(counts(missing=100, sequences=100)) == dict(DEFAULTS)


def test_knobs_are_json() -> None:
    knobs = turned(counts(huge=20))

    assert json.loads(json.dumps(knobs)) == knobs
    assert set(knobs) == set(DEFAULTS)
