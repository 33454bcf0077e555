"""Each registered divergence still occurs, and covers nothing but itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from packaging.specifiers import SpecifierSet

from harness.check.bench import Bench
from harness.check.judge.compare import Judgement
from harness.check.registered.access import KNOWN, Known, explain, judge
from harness.engine import open_engine
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.walker import RULES, walk


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench([(0, 0x10000)]) as bench:
        yield bench


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_the_example_still_diverges(known: Known, bench: Bench) -> None:
    if not known.covers(bench.engine):
        pytest.skip(f"{known.name} is not registered for this version of the engine")

    _, seen, verdict = bench.ask(known.case)

    # When this fails the engine has been mended: take the registration out for its version.
    assert verdict.judgement is Judgement.KNOWN, seen
    assert verdict.known == (known,)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_another_engine_or_version_is_not_excused(known: Known, bench: Bench) -> None:
    class Newer:
        name = known.engine
        version = "999.0"

    prediction, seen, verdict = bench.ask(known.case)
    assert verdict.difference is not None

    memory = known.case.build()
    assert judge(bench.engine, memory, prediction, seen).judgement is Judgement.KNOWN
    assert judge(Newer(), memory, prediction, seen).judgement is Judgement.DIVERGE
    assert explain(Newer(), memory, verdict.difference) == ()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_one_more_wrong_bit_is_not_covered(known: Known, bench: Bench) -> None:
    prediction, seen, _ = bench.ask(known.case)
    memory = known.case.build()

    # An entry that no walk of this case reads, and the present bit of one that it does read.
    for more in ({0x8000: 0x20}, {0x1000: 0x1}):
        worse = dataclasses.replace(seen, changed={**seen.changed, **more})
        verdict = judge(bench.engine, memory, prediction, worse)
        assert verdict.judgement is Judgement.DIVERGE


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_another_outcome_is_not_covered(known: Known, bench: Bench) -> None:
    prediction, _, _ = bench.ask(known.case)
    memory = known.case.build()

    for outcome in (Outcome.DOUBLE_FAULT, Outcome.SHUTDOWN):
        verdict = judge(bench.engine, memory, prediction, Observation(outcome, 0))
        assert verdict.judgement is Judgement.DIVERGE


def test_what_an_engine_cannot_run_is_neither() -> None:
    memory = PhysicalMemory(0x10000)
    prediction = walk(memory, KNOWN[0].case.cpu, 0)
    with open_engine(memory) as engine:
        unsupported = Observation(Outcome.UNSUPPORTED, reason="because")
        verdict = judge(engine, memory, prediction, unsupported)

    assert verdict.judgement is Judgement.UNSUPPORTED
    assert verdict.difference is None


def test_registrations_say_which_rule_and_why() -> None:
    assert len({known.name for known in KNOWN}) == len(KNOWN)
    for known in KNOWN:
        assert known.rule in RULES
        assert known.reason.endswith(".")
        assert known.source.endswith(".")
        assert list(known.versions)


def registered(versions: str) -> Known:
    return dataclasses.replace(KNOWN[0], versions=SpecifierSet(versions))


@pytest.mark.parametrize(
    ("versions", "version", "covered"),
    [
        ("==2.1.4", "2.1.4", True),
        ("==2.1.4", "2.1.3", False),
        (">=2.1,<2.2", "2.1.0", True),
        (">=2.1,<2.2", "2.1.9", True),
        (">=2.1,<2.2", "2.2.0", False),
        (">=2.1,<2.2", "2.1.5rc1", True),
        (">=2.1,!=2.1.3", "2.1.3", False),
        (">=2.1", "unknown", False),
    ],
)
def test_a_registration_covers_a_range_of_versions(
    versions: str, version: str, covered: bool
) -> None:
    class Identity:
        name = "unicorn"

        def __init__(self) -> None:
            self.version = version

    assert registered(versions).covers(Identity()) is covered
