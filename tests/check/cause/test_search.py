"""The search: what has a cause, and what stands beside it."""

from __future__ import annotations

from typing import Any

import pytest

from harness.check.cause import cause_of
from harness.check.model.words import words_of
from harness.check.question import Question
from harness.outcome import Access
from harness.walker import walk

Asked = Any
"""conftest.Asked: test modules do not import one another."""


def test_an_agreement_has_no_cause(asked: Asked) -> None:
    with pytest.raises(ValueError, match="only a difference has a cause"):
        asked.cause({}, asked.CPU, "read", asked.MAPPED)


def test_what_nothing_explains_says_so(asked: Asked) -> None:
    found = asked.cause({0x3000: 0x0020_0087}, asked.CPU, "read", asked.MAPPED)
    assert (found.rule, found.level, found.explained) == ("COMBINE", 2, False)
    assert found.as_if.startswith("no single change explains it: predicted no-memory, ")


def test_a_flaw_is_found_beside_a_registered_divergence(asked: Asked) -> None:
    """R/W of a 1 GiB page is not heeded by an engine that sets A before it looks."""

    class Unicorn:
        name = "unicorn"
        version = "2.1.4"

    memory = {0x1000: 0x2007, 0x2000: 0x81}
    case = Question.of_access(asked.USER, 0x10000, memory, 0x123, Access.of("write"))
    prediction = walk(case.build(), case.cpu, case.va, case.access)
    assert prediction.rule == "USER_US"
    seen = asked.fault(0x3, changed={0x1000: 0x20, 0x2000: 0x20})

    assert cause_of(words_of(case), prediction, seen, Unicorn()).rule == "ERR"
