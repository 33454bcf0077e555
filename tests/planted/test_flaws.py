"""The list of flaws is complete: every rule, at every level where it can be broken."""

from __future__ import annotations

import pytest

from harness.engine import open_engine
from harness.errors import InputError
from harness.memory import PhysicalMemory
from harness.planted.engines import name_of
from harness.planted.flaws import FLAWS, NOT_HERE
from harness.planted.table import not_here
from harness.walker import RULES


def test_every_rule_is_broken_or_has_a_reason_not_to_be() -> None:
    told = {flaw.rule for flaw in FLAWS.values()} | {rule for rule, _, _ in NOT_HERE}
    assert told == {*RULES} | {"A", "D", "A_ON_FAULT", "ERR", "SPLIT", "SELF"} | {
        "CR3",
        "MODE",
        "ORDER",
        "PAT",
        "KEY",
        "STALE",
        "INVLPG",
        "CR3_LOAD",
        "BIG",
    }


@pytest.mark.parametrize(
    ("rule", "levels"),
    [
        ("PRESENT", {1, 2, 3, 4, 5}),
        ("RSVD_ADDR", {1, 2, 3, 4, 5}),
        ("RSVD_NX", {1, 2, 3, 4, 5}),
        ("RSVD_PS", {3, 4, 5}),
        ("RSVD_1G", {3}),
        ("RSVD_2M", {2}),
        ("PAT", {1, 2, 3}),
        ("ORDER", {2, 3, 4, 5}),
        ("COMBINE", {1, 2, 3, 4, 5}),
        ("NX", {1, 2, 3, 4, 5}),
        ("KEY", {2, 3, 4, 5}),
        ("A", {1, 2, 3, 4, 5}),
        ("A_ON_FAULT", {1, 2, 3, 4, 5}),
        ("D", {1, 2, 3, 4, 5}),
    ],
)
def test_a_rule_about_levels_is_broken_at_each(rule: str, levels: set[int]) -> None:
    found = {flaw.level for flaw in FLAWS.values() if flaw.rule == rule}
    found |= {level for name, level, _ in NOT_HERE if name == rule}
    assert found - {None} == levels


def test_names_say_the_level_and_are_those_of_engines() -> None:
    memory = PhysicalMemory(0x20_0000)
    for name, flaw in FLAWS.items():
        assert flaw.name == name
        assert flaw.level is None or name.endswith(f"_{flaw.level}")
        assert flaw.sentence
        open_engine(name_of(name), memory).close()
    engine = open_engine(name_of("PRESENT_2"), memory)
    assert (engine.name, engine.version) == ("unicorn", "2.1.4")
    engine.close()


def test_another_name_is_no_engine() -> None:
    memory = PhysicalMemory(0x20_0000)
    with pytest.raises(InputError, match="must be there to be opened"):
        open_engine(name_of("PRESENT_6"), memory)


def test_what_cannot_be_planted_says_why() -> None:
    for row in not_here():
        assert row.note.startswith("cannot be planted here: ")
        assert not row.found
