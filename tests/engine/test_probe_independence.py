"""One probe knows nothing of another, and leaves nothing to it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.check.question import Question
from harness.engine import open_engine
from harness.engine.unicorn import UnicornEngine
from harness.engine.unicorn.probe import Prober
from harness.errors import EngineError
from harness.fuzz.groups import generate
from harness.outcome import Access, AccessKind, Observation

P, W, U, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
XD = 1 << 63
SIZES = (1, 2, 4, 8)
READ = {size: Access(AccessKind.READ, size=size) for size in SIZES}
WRITE = {size: Access(AccessKind.WRITE, size=size) for size in SIZES}
IMPLICIT = Access(AccessKind.READ, size=8, implicit=True)

Tables = Any
"""conftest.Tables: test modules do not import one another."""


def mixed(tables: Tables) -> list[tuple[int, Any, int]]:
    tables.leaf(1, tables.frame(1) | P | W | U)
    tables.leaf(2, tables.frame(17) | P | W)
    tables.leaf(3, tables.frame(3) | P | U | XD)
    tables.leaf(4, tables.HOLE | P | W | U)
    tables.leaf(5, tables.PT | P | W)
    places = [tables.page(n) + offset for n in range(7) for offset in (0, 0x28, 0xFFD)]
    places += [1 << 47, 0, (1 << 64) - 4, 1 << 46]
    kinds = ["read", "write", "fetch", READ[8], WRITE[4], WRITE[8], IMPLICIT]
    return [(va, access, cpl) for va in places for access in kinds for cpl in (0, 3)]


def test_the_order_of_probes_does_not_matter(tables: Tables) -> None:
    questions = mixed(tables)
    states = {cpl: tables.cpu.replace(cpl=cpl) for cpl in (0, 3)}

    def answer(question: tuple[int, Any, int]) -> Observation:
        va, access, cpl = question
        return tables.engine.probe(states[cpl], va, access)  # type: ignore[no-any-return]

    before = tables.memory.buffer.copy()
    first = [answer(question) for question in questions]
    rng = np.random.default_rng(0)
    for _ in range(3):
        for row in rng.permutation(len(questions)).tolist():
            assert answer(questions[row]) == first[row], questions[row]
    assert np.array_equal(tables.memory.buffer, before)
    with open_engine("unicorn", tables.memory) as another:
        for (va, access, cpl), seen in zip(questions, first, strict=True):
            assert another.probe(states[cpl], va, access) == seen


@pytest.mark.parametrize("access", ["read", WRITE[8], "fetch"])
def test_a_probe_that_breaks_puts_everything_back(
    tables: Tables, access: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.leaf(1, tables.frame(1) | P | W | U)
    tables.leaf(2, tables.frame(17) | P | W | U)
    before = tables.memory.buffer.copy()

    def breaks(*_: object, **__: object) -> None:
        assert not np.array_equal(tables.memory.buffer, before)
        raise EngineError("broken for the test")

    monkeypatch.setattr(Prober, "_judge", breaks)
    with pytest.raises(EngineError, match="broken for the test"):
        tables.engine.probe(tables.cpu, tables.page(1) + 0xFFC, access)
    assert np.array_equal(tables.memory.buffer, before)


CASES = list(generate(seed=2, count=400))
_ENGINES: dict[str, UnicornEngine] = {}


def case_engine() -> UnicornEngine:
    """One engine for all cases; their memory is written into it and taken out again."""
    if not _ENGINES:
        _ENGINES["one"] = UnicornEngine(CASES[0].build())
    return _ENGINES["one"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(range(len(CASES))), min_size=2, max_size=12))
def test_random_probes_among_others(numbers: list[int]) -> None:
    engine = case_engine()
    memory = engine.memory

    def answer(case: Question) -> Observation:
        for at, word in case.memory.items():
            memory.write_u64(at, word)
        before = memory.buffer[: 1 << 22].copy()
        seen = engine.probe(case.cpu, case.va, case.access)
        assert np.array_equal(memory.buffer[: 1 << 22], before)
        for at in case.memory:
            memory.write_u64(at, 0)
        return seen

    alone = {number: answer(CASES[number]) for number in sorted(set(numbers))}
    for number in numbers:
        assert answer(CASES[number]) == alone[number]
