"""Each registered divergence still occurs, and covers nothing but itself."""

from __future__ import annotations

import dataclasses

import pytest
from packaging.specifiers import SpecifierSet

from harness.check.bench import Bench, EngineAnswer
from harness.check.judge.access import verdict_of_access, verdict_of_difference
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.registered.model import KnownAccess
from harness.check.registered.unicorn import UNICORN
from harness.engine import open_engine
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.walker import RULES, Walk, walk

KNOWN = tuple(known for known in UNICORN if isinstance(known, KnownAccess))


class Unicorn:
    name, version = "unicorn", "2.1.4"


class Newer:
    name, version = "unicorn", "999.0"


def answered(known: KnownAccess) -> EngineAnswer:
    with Bench(known.question.ram, "unicorn") as bench:
        if not known.covers(bench.engine):
            pytest.skip(f"{known.name} is not registered for this version of the engine")
        return bench.ask(known.question).engines[0]


def seen_of(known: KnownAccess) -> tuple[Walk, Observation]:
    verdict = answered(known).decisive
    assert verdict.walk is not None
    return verdict.walk, verdict.result.seen


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_the_example_still_diverges(known: KnownAccess) -> None:
    answer = answered(known)

    # When this fails the engine has been mended: take the registration out for its version.
    assert answer.judgement is Judgement.KNOWN, answer.decisive.result.seen
    assert answer.known == (known,)
    assert (answer.rule, answer.agree) == (known.rule, False)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_another_engine_or_version_is_not_excused(known: KnownAccess) -> None:
    prediction, seen = seen_of(known)
    difference = compare(prediction, seen)
    assert isinstance(difference, Difference)

    memory = known.question.build()
    judged = verdict_of_access(Unicorn(), memory, prediction, seen)
    assert (judged.judgement, judged.known) == (Judgement.KNOWN, (known,))
    newer = verdict_of_access(Newer(), memory, prediction, seen)
    assert (newer.judgement, newer.known) == (Judgement.DIVERGE, ())
    assert verdict_of_difference(Newer(), memory, difference) == newer


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_one_more_wrong_bit_is_not_covered(known: KnownAccess) -> None:
    prediction, seen = seen_of(known)
    memory = known.question.build()

    # An entry that no walk of this case reads, and the present bit of one that it does read.
    for more in ({0x8000: 0x20}, {0x1000: 0x1}):
        worse = dataclasses.replace(seen, changed={**seen.changed, **more})
        verdict = verdict_of_access(Unicorn(), memory, prediction, worse)
        assert verdict.judgement is Judgement.DIVERGE


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_another_outcome_is_not_covered(known: KnownAccess) -> None:
    prediction, _ = seen_of(known)
    memory = known.question.build()

    for outcome in (Outcome.DOUBLE_FAULT, Outcome.SHUTDOWN):
        verdict = verdict_of_access(Unicorn(), memory, prediction, Observation(outcome, 0))
        assert verdict.judgement is Judgement.DIVERGE


def test_what_an_engine_cannot_run_is_neither() -> None:
    memory = PhysicalMemory(0x10000)
    prediction = walk(memory, KNOWN[0].question.cpu, 0)
    with open_engine("unicorn", memory) as engine:
        unsupported = Observation(Outcome.UNSUPPORTED, reason="because")
        verdict = verdict_of_access(engine, memory, prediction, unsupported)

    assert verdict.judgement is Judgement.UNSUPPORTED
    assert verdict.difference is None


def test_registrations_say_which_rule_and_why() -> None:
    assert len({known.name for known in KNOWN}) == len(KNOWN)
    for known in KNOWN:
        assert known.rule in RULES
        assert known.reason.endswith(".")
        assert known.source.endswith(".")
        assert list(known.versions)


def registered(versions: str) -> KnownAccess:
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
