"""Causes that are one change name the bit or the switch that the CPU got wrong."""

from __future__ import annotations

from typing import Any

import pytest

from harness.check.bench import Bench
from harness.check.cause.change import Reasons
from harness.check.model.words import words_of
from harness.check.registered.model import KnownAccess
from harness.check.registered.unicorn import UNICORN
from harness.cpu import CR0, CR4
from harness.outcome import Observation

Asked = Any
"""conftest.Asked: test modules do not import one another."""


@pytest.mark.parametrize(
    ("memory", "user", "kind", "seen", "rule", "level", "sentence"),
    [
        (
            {0x3000: 0x4006},
            False,
            "read",
            "MAPPED",
            "PRESENT",
            2,
            "bit P of the PDE at 0x3000 were 1",
        ),
        (
            *({0x3000: 0x4005}, True, "write", "WRITTEN", "USER_RW", 2),
            "bit R/W of the PDE at 0x3000 were 1",
        ),
        (
            *({0x2000: 0x3003}, True, "read", "MAPPED", "USER_US", 3),
            "bit U/S of the PDPTE at 0x2000 were 1",
        ),
        (
            *({0x1000: 1 << 45 | 0x2007}, False, "read", "MAPPED", "RSVD_ADDR", 4),
            "bit 45 of the PML4E at 0x1000 were not reserved",
        ),
        ({0x4000: 0x5002}, True, "read", 5, "PRESENT", 1, "bit P of the PTE at 0x4000 were 1"),
    ],
)
def test_a_bit_of_one_entry(
    asked: Asked,
    memory: dict[int, int],
    user: bool,
    kind: str,
    seen: str | int,
    rule: str,
    level: int,
    sentence: str,
) -> None:
    observed: Observation = asked.fault(seen) if isinstance(seen, int) else getattr(asked, seen)
    found = asked.cause(memory, asked.USER if user else asked.CPU, kind, observed)
    assert (found.rule, found.level, found.explained) == (rule, level, True)
    assert found.as_if == f"the CPU acted as if {sentence}"


def test_a_switch_of_the_cpu(asked: Asked) -> None:
    cpu = asked.CPU
    found = asked.cause(
        {0x4000: 0x5005}, cpu.replace(cr0=cpu.cr0 & ~int(CR0.WP)), "write", asked.fault(3)
    )
    assert (found.rule, found.level) == ("WP", None)
    assert found.as_if == "the CPU acted as if CR0.WP were 1"
    found = asked.cause({}, cpu.replace(cr4=cpu.cr4 | int(CR4.SMEP)), "fetch", asked.MAPPED)
    assert (found.rule, found.level) == ("SMEP", None)
    assert found.as_if == "the CPU acted as if CR4.SMEP were 0"


class _Other:
    name, version = "another", "1.0"


@pytest.mark.parametrize(
    "known", [known for known in UNICORN if isinstance(known, KnownAccess)], ids=lambda k: k.name
)
def test_what_is_registered_of_an_engine_explains_it_alone(known: KnownAccess) -> None:
    question = known.question
    with Bench(question.ram, "unicorn") as bench:
        verdict = bench.ask(question).engines[0].decisive
        reasons = Reasons(bench.engine)
    words, prediction, seen = words_of(question), verdict.walk, verdict.result.seen
    assert prediction is not None
    assert reasons.explains(words, prediction, seen)
    for none in (Reasons(None), Reasons(_Other())):
        assert not none.explains(words, prediction, seen)
        assert none.without_bits(words, prediction, seen) is seen
        assert none.instead(words, prediction) is None
