"""Random scenarios: the same ones every time, and of every kind that they are for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from harness.check.model.instructions import understood
from harness.check.question import Question
from harness.engine.steps import AccessStep, ControlStep, DeliverStep, ExecuteStep
from harness.fuzz import deliveries, instructions, sequences

KINDS = [sequences, instructions, deliveries]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_and_a_number_name_a_scenario(kind: Any) -> None:
    made = [kind.generate(5, number) for number in range(50)]

    assert [kind.generate(5, number) for number in reversed(range(50))] == made[::-1]
    assert kind.generate(6, 0) != made[0]
    assert len({scenario.line() for scenario in made}) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_all_have_the_ram_that_is_told(kind: Any) -> None:
    for number in range(200):
        scenario = kind.generate(1, number)
        assert tuple(map(tuple, scenario.ram)) == kind.RAM
        assert isinstance(scenario, Question)


def test_sequences_have_2_to_11_steps_of_every_kind() -> None:
    kinds: Counter[str] = Counter()
    lengths: set[int] = set()
    for number in range(1200):
        scenario = sequences.generate(1, number)
        lengths.add(len(scenario.steps))
        for step in scenario.steps:
            kinds[type(step).__name__] += 1
            if isinstance(step, ControlStep):
                kinds[step.register] += 1
            elif isinstance(step, AccessStep):
                kinds[step.access.kind] += 1
    assert lengths <= set(range(2, 12))
    wanted = ("AccessStep", "WriteStep", "InvlpgStep", "cr3", "cr4", "cr0", "efer", "pkru")
    assert min(kinds[name] for name in (*wanted, "read", "write", "fetch", "rflags")) >= 15, kinds


def test_every_instruction_that_is_made_has_a_model() -> None:
    names: Counter[str] = Counter()
    for number in range(1500):
        (step,) = instructions.generate(1, number).steps
        assert isinstance(step, ExecuteStep)
        assert understood(step.instruction), step.instruction
        words = step.instruction.replace("lock ", "").split()
        names[words[1] if words[0].startswith("rep") else words[0]] += 1
    strings = {
        f"{name}{width}" for name in ("movs", "stos", "lods", "cmps", "scas") for width in "bwdq"
    }
    assert strings <= set(names)
    assert {"xadd", "cmpxchg", "bts", "inc", "cmpxchg16b", "push", "pop", "call", "leave"} <= set(
        names
    )


def test_deliveries_are_of_many_vectors_from_both_rings() -> None:
    met = Counter[Any]()
    for number in range(400):
        scenario = deliveries.generate(1, number)
        (step,) = scenario.steps
        assert isinstance(step, DeliverStep)
        met[step.vector] += 1
        met["user" if scenario.cpu.user else "kernel"] += 1
        met["software" if step.software else "fault"] += 1
    assert {0, 3, 6, 8, 13, 14, 0x80, "user", "kernel", "software", "fault"} <= set(met)
