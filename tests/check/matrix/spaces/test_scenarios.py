"""kvm-unit-tests' further scenarios: what each step must come to, and that an engine agrees."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from harness.check.bench import Bench
from harness.check.judge.compare import Judgement
from harness.check.matrix.block import RAM
from harness.check.matrix.spaces.scenarios import scenarios
from harness.check.question import Question
from harness.engine import Engine, open_engine
from harness.engine.steps import AccessStep
from harness.errors import InputError
from harness.memory import PhysicalMemory

OK = None
# The error code of each access, or OK: worked out by hand from docs/rules.md.
EXPECTED: dict[str, list[int | None]] = {
    "alias-2m-read-only": [OK, OK, OK, OK, 0x3, OK, OK, OK, OK, OK, 0x7, OK],
    "dirty-of-each-alias-2m": [OK, OK, OK, OK],
    "dirty-of-each-alias-4k": [OK, OK, OK, OK],
    "reserved-neighbour": [0x4, 0xD, OK, 0xF],
    "two-directory-pointers": [
        *(OK, OK, 0x5, 0x5, 0x5, 0x5, OK, OK),
        *(OK, 0x7, 0x7, 0x7, 0x7, 0x7, 0x7, OK),
        *[OK] * 8,
        *(OK, 0x3, OK, 0x3, 0x3, OK, 0x3, OK),
    ],
    "wp-flipped": [OK, 0x3, OK, 0x7, 0x3],
    "wp-flipped-dirty": [OK, 0x3],
    "write-then-smep-fetch": [OK, 0x11, OK, 0x11],
}
# The entries that must have D when all is done, by level and index.
DIRTY = {
    "alias-2m-read-only": [(2, 1)],
    "dirty-of-each-alias-2m": [(2, 1), (2, 2)],
    "dirty-of-each-alias-4k": [(1, 2), (1, 3)],
    "reserved-neighbour": [(1, 2)],
    "two-directory-pointers": [(1, 2)],
    "wp-flipped": [(1, 2)],
    "wp-flipped-dirty": [],
    "write-then-smep-fetch": [(1, 2)],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with open_engine("unicorn", PhysicalMemory(RAM)) as engine:
        yield engine


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("name", EXPECTED)
def test_what_becomes_of_each_step(engine: Engine, levels: int, name: str) -> None:
    scenario = scenarios(levels)[name]
    assert Question.from_json(json.loads(scenario.line())) == scenario
    assert scenario.cpu.levels == levels
    answer = Bench.over(engine).ask(scenario).engines[0]
    assert answer.judgement is Judgement.AGREE, answer.sentence
    assert len(answer.verdicts) == len(scenario.steps)
    verdicts = [v for v in answer.verdicts if isinstance(v.step, AccessStep)]
    assert [verdict.result.seen.error_code for verdict in verdicts] == EXPECTED[name]
    dirty = {
        entry
        for verdict in answer.verdicts
        for entry, bits in verdict.result.seen.changed.items()
        if entry < 0x6000 and bits & 0x40
    }
    assert dirty == {((levels - level + 1) << 12) + 8 * index for level, index in DIRTY[name]}


def test_every_scenario_is_expected_here() -> None:
    assert list(scenarios(4)) == list(scenarios(5)) == sorted(EXPECTED)


def test_other_numbers_of_levels_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        scenarios(3)
    assert str(caught.value) == "scenarios must have 4 or 5 levels, not 3"
