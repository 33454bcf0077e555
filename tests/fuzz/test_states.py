"""Random CPU states: legal, of every mode, and rarely what the engine does not have."""

from __future__ import annotations

from harness.cpu import CpuState
from harness.engine.unicorn.capabilities import unsupported_state
from harness.fuzz.dice import Dice
from harness.fuzz.states import random_state
from harness.fuzz.steer import DEFAULTS


def states(count: int, **knobs: float) -> list[CpuState]:
    return [
        random_state(Dice(1, number), {**DEFAULTS, **knobs}, levels=4, root=0x5000, features=set())
        for number in range(count)
    ]


def test_the_root_and_the_levels_are_the_space_s() -> None:
    made = states(200)

    assert {(cpu.root, cpu.levels) for cpu in made} == {(0x5000, 4)}
    assert len({cpu.cr3 & 0xFFF for cpu in made}) > 20
    five = random_state(Dice(1, 1), DEFAULTS, levels=5, root=0, features=set())
    assert five.levels == 5


def test_every_mode_comes_up() -> None:
    made = states(400)
    switches = ("wp", "nxe", "smep", "smap", "pke", "ac")

    for name in switches:
        assert {getattr(cpu, name) for cpu in made} == {False, True}, name
    assert {cpu.cpl for cpu in made} == {0, 1, 2, 3}
    assert len({tuple(getattr(cpu, name) for name in switches) for cpu in made}) > 40
    assert len({cpu.pkru for cpu in made}) > 50


def test_what_the_engine_does_not_have_is_rare_and_said() -> None:
    assert not [cpu for cpu in states(300, missing=0.0) if unsupported_state(cpu)]
    reasons = {str(unsupported_state(cpu)).partition(" (")[0] for cpu in states(100, missing=1.0)}
    assert reasons == {
        "Unicorn does not implement PKS",
        "Unicorn does not implement PCID",
        "Unicorn's MAXPHYADDR is 40, not 46",
        "Unicorn always has 1 GiB pages; a CPU without them cannot be run",
    }


def test_what_had_a_part_is_told() -> None:
    features: set[str] = set()
    knobs = {**DEFAULTS, "smep": 1.0, "smap": 0.0, "user": 1.0}
    random_state(Dice(1, 1), knobs, levels=4, root=0, features=features)

    assert {"smep", "user"} <= features
    assert "smap" not in features
