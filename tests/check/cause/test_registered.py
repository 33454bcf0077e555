"""Registered divergences: those of the engine asked, and of no other."""

from __future__ import annotations

import pytest

from harness.check.bench import Bench
from harness.check.cause.registered import Registered
from harness.check.model.words import words_of
from harness.check.registered.access import KNOWN, Known
from harness.walker import walk


class _Other:
    name, version = "another", "1.0"


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_what_is_registered_of_an_engine_explains_it_alone(known: Known) -> None:
    case = known.case
    with Bench(case.ram) as bench:
        _, seen, _ = bench.ask(case)
        engine = bench.engine
    words = words_of(case)
    prediction = walk(case.build(), case.cpu, case.va, case.access)
    assert Registered(engine).explains(words, prediction, seen)
    for none in (Registered(None), Registered(_Other())):
        assert not none.explains(words, prediction, seen)
        assert none.without_bits(words, prediction, seen) is seen
        assert none.instead(words, prediction) is None
