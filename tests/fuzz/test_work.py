"""The random campaign: nothing unexplained, every rule asked, every shard for itself.

And the campaign itself: with a rule taken out of the walker it finds a difference, names the rule,
and says on how small a case.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter

import pytest

from harness.check.findings.tally import Cell, Tally
from harness.check.question import Question
from harness.check.registered.model import KnownAccess
from harness.check.registered.registry import REGISTRY
from harness.check.work import Shard
from harness.cpu import CpuState
from harness.engine import open_engine
from harness.errors import EngineError, InputError
from harness.fuzz.coverage import rare, reachable, table
from harness.fuzz.groups import SIZE
from harness.fuzz.kinds import SCENARIOS, kind_of
from harness.fuzz.spaces import RAM
from harness.fuzz.steer import DEFAULTS
from harness.fuzz.work import FuzzWork, _bench
from harness.outcome import Access, Observation
from harness.walker import RULES, scalar, walk

CASES = 40_000
# MODE and CR3's high bits are refused when the state is built; PKS is not in this engine; the rest
# takes a sequence.
NOT_ASKED = {"MODE", "PKS", "STALE", "INVLPG", "CR3_LOAD", "BIG"}


def asked(work: FuzzWork) -> Tally:
    """Run a whole work in this process."""
    tally = Tally()
    round = 0
    while shards := work.plan(round, tally):
        found = Tally()
        for shard in shards:
            found += work.run(shard)
        tally += found
        round += 1
    return tally


KNOWN = tuple(known for known in REGISTRY if isinstance(known, KnownAccess))
EXPLAINED = ("known", "open")


def only(kind: str, count: int = 4 * SIZE) -> Shard:
    """A shard all of whose groups are of one kind."""
    knobs = {**DEFAULTS, **dict.fromkeys(SCENARIOS, 0.0)}
    if kind != "plain":
        knobs[kind] = 1.0
    return Shard(0, 0, 0, count, {"knobs": knobs, "wanted": []})


@pytest.fixture(scope="module")
def tally() -> Tally:
    return asked(FuzzWork(seed=101, cases=CASES, scenarios=False))


def test_nothing_is_unexplained(tally: Tally) -> None:
    differences = [one for one in tally.findings.values() if one.judgement not in EXPLAINED]
    assert not differences, [(finding.sentence, finding.question) for finding in differences]
    assert tally.judgements["diverge"] == 0
    assert tally.cases == tally.judgements.total() == CASES
    assert tally.judgements["unsupported"] == tally.unsupported.total() < CASES // 50


def test_every_rule_is_exercised(tally: Tally) -> None:
    met: Counter[str] = Counter()
    for name, count in tally.coverage.items():
        met[name.rule] += count
    missing = {rule for rule in RULES if met[rule] < 20} - NOT_ASKED
    assert not missing, met


def test_nearly_every_cell_is_met(tally: Tally) -> None:
    whole = table(tally.coverage)[-1]
    assert set(tally.coverage) <= reachable()
    assert whole.met > 0.98 * whole.reachable, whole.missing


def test_every_registered_divergence_is_met(tally: Tally) -> None:
    assert set(tally.known) == {known.name for known in KNOWN}
    assert set(tally.open) == {"A_LEAF_DENIED", "D_OF_LOWER", "SPLIT_CANONICAL", "WIDE_PARTS"}
    for finding in tally.findings.values():
        assert finding.judgement in EXPLAINED
    counted: Counter[str] = Counter()
    for finding in tally.findings.values():
        counted.update(dict.fromkeys(finding.known, finding.count))
    assert counted == tally.known


def test_every_outcome_is_counted(tally: Tally) -> None:
    assert tally.outcomes.total() == CASES - tally.judgements["unsupported"]
    assert {"mapped", "no-memory", "general-protection", "stack-fault"} <= set(tally.outcomes)
    assert tally.outcomes["page-fault 0x5"] > 100


@pytest.mark.parametrize("kind", SCENARIOS)
def test_scenarios_have_nothing_unexplained(kind: str) -> None:
    found = FuzzWork(seed=5).run(only(kind))

    assert found.cases == found.judgements.total() == 4 * SIZE
    assert found.judgements["diverge"] == 0, [f.sentence for f in found.findings.values()]


def test_rounds_cover_every_number_once() -> None:
    work = FuzzWork(seed=1, cases=123_457)
    shards: list[Shard] = []
    round = 0
    while planned := work.plan(round, Tally()):
        assert [shard.number for shard in planned] == list(range(len(planned)))
        assert {shard.round for shard in planned} == {round}
        shards += planned
        round += 1

    assert round == 3, "each twice as long as the one before"
    at = 0
    for shard in shards:
        assert shard.first == at
        assert shard.count >= 1
        at += shard.count
    assert at == work.cases


def test_without_an_end_there_is_always_a_round() -> None:
    work = FuzzWork(seed=1)

    assert sum(shard.count for shard in work.plan(30, Tally())) == 320_000
    assert work.plan(30, Tally())[0].first > work.plan(29, Tally())[-1].first


def test_what_a_round_met_turns_the_knobs_of_the_next(tally: Tally) -> None:
    work = FuzzWork(seed=1, cases=100_000)
    first, second = work.plan(0, Tally())[0], work.plan(1, tally)[0]

    assert (first.spec["knobs"], first.spec["wanted"]) == (dict(DEFAULTS), [])
    assert second.spec["wanted"] == rare(tally.coverage)
    assert second.spec["knobs"] != first.spec["knobs"]
    assert work.plan(1, tally) == work.plan(1, Tally.from_json(tally.to_json()))
    straight = FuzzWork(seed=1, cases=100_000, steering=False)
    assert straight.plan(1, tally)[0].spec["knobs"] == dict(DEFAULTS)


def test_work_and_shards_go_by_pickle_and_json() -> None:
    work = FuzzWork(seed=3, cases=5000)
    shard = work.plan(0, Tally())[0]

    assert pickle.loads(pickle.dumps(work)) == work
    assert json.loads(json.dumps(shard.spec)) == shard.spec
    assert json.loads(json.dumps(work.identity())) == work.identity()
    assert work.identity() != FuzzWork(seed=4, cases=5000).identity()
    assert (work.name, work.cases) == ("fuzz 3", 5000)


def test_a_shard_may_run_in_parts() -> None:
    work = FuzzWork(seed=3, cases=5000)
    whole = Shard(0, 0, 0, 300, {"knobs": dict(DEFAULTS), "wanted": ["SELF/1/read/kernel4"]})
    parts = [Shard(0, 0, 0, 101, whole.spec), Shard(0, 0, 101, 1, whole.spec)]
    parts.append(Shard(0, 0, 102, 198, whole.spec))

    assert sum((work.run(part) for part in parts), Tally()).to_json() == work.run(whole).to_json()


def test_credits_are_for_rare_cells() -> None:
    work = FuzzWork(seed=3)
    spec = only("plain").spec
    nothing = work.run(Shard(0, 0, 0, 320, spec)).steering
    some = work.run(Shard(0, 0, 0, 320, {**spec, "wanted": ["SELF/1/read/kernel4"]}))

    assert nothing[""] == 320
    assert not [name for name in nothing if name.endswith("!")]
    assert some.steering["!"] == some.coverage[Cell("SELF", 1, "read", "kernel4")] > 0
    assert 0 < some.steering["huge!"] <= some.steering["huge"]


def test_a_rule_taken_out_of_the_walker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = scalar.denial

    def without_nx(*arguments: object) -> str | None:
        rule = real(*arguments)  # type: ignore[arg-type]
        return None if rule == "NX" else rule

    work = FuzzWork(seed=1, cases=1500)
    with monkeypatch.context() as patch:
        patch.setattr(scalar, "denial", without_nx)
        found = work.run(only("plain", 1500))
        differences = [f for f in found.findings.values() if f.judgement == "diverge"]
        small = [work.shrunk(finding) for finding in differences[:3]]

    assert found.judgements["diverge"] == sum(finding.count for finding in differences) > 0
    assert found.steering["!"] == found.judgements["diverge"]
    for finding in small:
        assert finding.question is not None
        case = Question.from_json(json.loads(finding.question.line()))
        # Small: the entries of one walk (of two pages at most), few bits each.
        assert len(case.memory) <= case.cpu.levels + 1
        assert any(word >> 63 for word in case.memory.values())
        memory = case.build()
        with open_engine("unicorn", memory) as engine:
            seen = engine.probe(case.cpu, case.va, case.access)
        assert seen.outcome is walk(memory, case.cpu, case.va, case.access).outcome, "with NX"


def test_thousands_of_cases_with_one_cause_are_one_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = scalar.error_code
    monkeypatch.setattr(scalar, "error_code", lambda *arguments: real(*arguments) ^ 0x10)

    found = FuzzWork(seed=1).run(only("plain", 640))

    differences = [f for f in found.findings.values() if f.judgement == "diverge"]
    assert found.judgements["diverge"] > 200
    assert sum(finding.count for finding in differences) == found.judgements["diverge"]
    assert len(differences) < 12, [finding.key for finding in differences]


def test_an_engine_of_one_s_own_is_asked() -> None:
    shard = only("plain", 160)

    found = FuzzWork(seed=8, engine="harness.engine.unicorn:UnicornEngine").run(shard)

    own, ours = found.to_json(), FuzzWork(seed=8).run(shard).to_json()
    specs = {finding.pop("engine")["spec"] for finding in own["findings"]}
    assert specs == {"harness.engine.unicorn:UnicornEngine"}
    assert {finding.pop("engine")["spec"] for finding in ours["findings"]} == {"unicorn"}
    assert own == ours
    with pytest.raises(InputError, match="the engine must be one of"):
        FuzzWork(seed=8, engine="abacus").run(shard)


def test_the_memory_is_as_it_was() -> None:
    FuzzWork(seed=8).run(only("plain", 500))

    assert not _bench("unicorn", RAM).memory.words.any()


def test_an_engine_that_says_it_went_wrong_does_not_end_the_campaign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = FuzzWork(seed=8)
    engine = _bench("unicorn", RAM).engine
    real = engine.probe
    victim = work.question(37)
    assert isinstance(victim, Question)

    def probe(cpu: CpuState, va: int, access: Access) -> Observation:
        if (cpu, va, access) == (victim.cpu, victim.va, victim.access):
            engine.memory.words[:] = 1
            raise EngineError("it stopped")
        return real(cpu, va, access)

    before = work.run(only("plain", 160))
    monkeypatch.setattr(engine, "probe", probe)
    after = work.run(only("plain", 160))

    assert after.cases == 160
    assert after.judgements["broke"] == 1
    assert after.judgements["diverge"] == 0, "memory was cleared"
    assert after.judgements.total() == 160
    [finding] = [f for f in after.findings.values() if f.judgement == "broke"]
    assert (finding.key, finding.first) == ("broke: it stopped", 37)
    assert finding.question == victim
    assert before.coverage.total() - after.coverage.total() in range(1, 20), "the rest went on"


def test_a_case_that_kills_is_described() -> None:
    work = FuzzWork(seed=8)
    spec = work.plan(0, Tally())[0].spec
    numbers = {kind_of(8, number, spec["knobs"]): number * SIZE + 3 for number in range(2000)}
    assert set(numbers) == {None, *SCENARIOS}

    for kind, number in numbers.items():
        question = work.question(number, spec["knobs"])
        finding = work.describe(Shard(0, 0, number, 1, spec), "it died")
        assert (finding.judgement, finding.first) == ("broke", number)
        assert finding.sentence == f"the engine broke on case {number}: it died"
        assert (question.single is not None) is (kind is None)
        assert finding.question == question


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "the seed must be 0 or more, not -1"),
        ({"cases": 0}, "1 case or more must be asked, not 0"),
    ],
)
def test_what_cannot_be_asked(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        FuzzWork(**arguments)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(201, 205))
def test_a_long_campaign(seed: int) -> None:
    found = asked(FuzzWork(seed=seed, cases=500_000))

    assert not [finding for finding in found.findings.values() if finding.judgement == "diverge"]
    assert table(found.coverage)[-1].missing == ()
