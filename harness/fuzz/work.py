"""The random campaign as work: rounds of shards, each round's knobs set by what came before.

:class:`FuzzWork` numbers its cases from 0. A round is a run of numbers; its shards carry the knobs
and the cells of coverage that were rare when it was planned, so that a shard's tally depends on
the work and the shard alone. The first round is small and unsteered; each one after it is twice as
long as the one before, up to :data:`LONGEST`::

    result = run(FuzzWork(seed=1, cases=1_000_000), workers=2)
    print(result.tally.judgements)

Every case is predicted by the walker, observed on the engine, compared, and counted: outcome,
cells of coverage, registered divergences met, reasons for what cannot be run, and credits of the
knobs that made it (:mod:`.steer`). What differs becomes a finding by its cause.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from harness.check.bench import Bench, EngineAnswer, judged
from harness.check.findings.finding import BROKE, Finding, broken, finding_of
from harness.check.findings.tally import Cell, Tally
from harness.check.judge.access import AccessVerdict
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.check.shrink.finding import shrink_finding, with_witnesses
from harness.check.work import Shard
from harness.engine.open import engine_identity
from harness.engine.steps import StepResult
from harness.errors import EngineError, InputError
from harness.fuzz.coverage import cells_of, rare
from harness.fuzz.groups import SIZE, Group, group
from harness.fuzz.kinds import SCENARIOS, kind_of, step_kind
from harness.fuzz.spaces import RAM
from harness.fuzz.steer import DEFAULTS, turned
from harness.isolate import doing
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome

__all__ = ["LONGEST", "FuzzWork"]

SHARD: Final = 2_000
"""Cases in a shard; a multiple of a group's size."""

_FIRST_ROUND: Final = 10 * SHARD
LONGEST: Final = 160 * SHARD
"""Cases in the longest rounds."""


@dataclass(frozen=True, slots=True)
class FuzzWork:
    """Random cases, by number.

    :param seed: names the campaign; 0 or more.
    :param cases: how many to ask; None for no end.
    :param engine: the spec of who is asked.
    :param witnesses: specs of engines that are asked about each finding.
    :param steering: let coverage set the knobs of later rounds.
    :param scenarios: ask scenarios among the cases.
    :raises InputError: for a negative seed or no cases.
    """

    seed: int = 1
    cases: int | None = None
    engine: str = "unicorn"
    witnesses: tuple[str, ...] = ()
    steering: bool = True
    scenarios: bool = True

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or more, not {self.seed}")
        if self.cases is not None and self.cases < 1:
            raise InputError(f"1 case or more must be asked, not {self.cases}")

    @property
    def name(self) -> str:
        """Name it for people."""
        return f"fuzz {self.seed}"

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that the results depend on."""
        return {
            "work": self.name,
            "harness": version("harness"),
            "seed": self.seed,
            "cases": self.cases,
            "engine": engine_identity(self.engine),
            "steering": self.steering,
            "scenarios": self.scenarios,
            "knobs": dict(DEFAULTS),
        }

    def plan(self, round: int, so_far: Tally) -> list[Shard]:
        """Return the shards of a round."""
        first = sum(_length(earlier) for earlier in range(round))
        end = first + _length(round)
        if self.cases is not None:
            end = min(end, self.cases)
        spec = {"knobs": self._knobs(so_far), "wanted": rare(so_far.coverage) if round else []}
        return [
            Shard(round, number, start, min(SHARD, end - start), spec)
            for number, start in enumerate(range(first, end, SHARD))
        ]

    def _knobs(self, so_far: Tally) -> dict[str, float]:
        knobs = turned(so_far.steering) if self.steering else dict(DEFAULTS)
        if not self.scenarios:
            knobs |= dict.fromkeys(SCENARIOS, 0.0)
        return knobs

    def run(self, shard: Shard) -> Tally:
        """Ask the cases of a shard."""
        counter = _Counter(self.engine, frozenset(shard.spec["wanted"]))
        knobs: Mapping[str, float] = shard.spec["knobs"]
        for number, places in _groups(shard):
            doing(f"asking {self.name}", number * SIZE + places.start - shard.first, shard.count)
            kind = kind_of(self.seed, number, knobs)
            if kind is None:
                counter.ask(group(self.seed, number, knobs), places, number * SIZE)
            else:
                for place in places:
                    case = number * SIZE + place
                    counter.play(kind, SCENARIOS[kind].generate(self.seed, case), case)
        return counter.finished()

    def question(self, number: int, knobs: Mapping[str, float] = DEFAULTS) -> Question:
        """Return the question of a number.

        :param number: 0 or more.
        :param knobs: those of its round; of the first round when left out.
        """
        kind = kind_of(self.seed, number // SIZE, knobs)
        if kind is None:
            return group(self.seed, number // SIZE, knobs).question(number % SIZE)
        return SCENARIOS[kind].generate(self.seed, number)

    def describe(self, shard: Shard, why: str) -> Finding:
        """Return the finding that the engine died or hung on the one case of a shard."""
        question = self.question(shard.first, shard.spec["knobs"])
        return _broken(question, shard.first, why, self.engine)

    def shrunk(self, finding: Finding) -> Finding:
        """Return a finding with the smallest case that shows it."""
        return with_witnesses(shrink_finding(finding, self.engine), self.witnesses)


def _length(round: int) -> int:
    return min(_FIRST_ROUND << round, LONGEST)


def _groups(shard: Shard) -> Iterator[tuple[int, range]]:
    """Give the groups of a shard: their numbers, and which of their cases belong to it."""
    end = shard.first + shard.count
    for number in range(shard.first // SIZE, -(-end // SIZE)):
        start = number * SIZE
        yield number, range(max(shard.first - start, 0), min(end - start, SIZE))


@cache
def _bench(engine: str, ram: tuple[tuple[int, int], ...]) -> Bench:
    # One for each process: opening an engine takes longer than many cases.
    return Bench(ram, engine)


class _Counter:
    """Asks, and counts what comes of it."""

    def __init__(self, engine: str, wanted: frozenset[str]) -> None:
        self._engine = engine
        self._wanted = wanted
        self._tally = Tally()
        self._judgements: Counter[Judgement] = Counter()
        self._outcomes: Counter[tuple[Outcome, int | None]] = Counter()
        self._known: dict[tuple[object, ...], str] = {}
        self._told: dict[tuple[object, ...], str] = {}

    def ask(self, asked: Group, places: range, number: int) -> None:
        """Ask questions of one access, which share their words.

        :param asked: the group.
        :param places: which of its questions.
        :param number: of its first question.
        """
        bench = _bench(self._engine, RAM)
        wanted = self._wanted
        coverage, steering = self._tally.coverage, self._tally.steering
        credits = 0
        self._told.clear()
        with bench.holding(asked.words):
            for place in places:
                cpu, va, access, features = asked.asks[place]
                try:
                    prediction, seen, verdict = bench.ask_access(cpu, va, access)
                except EngineError as error:
                    self._broke(asked.question(place), number + place, error)
                    _clear(bench.memory, asked.words)
                    continue
                judgement = verdict.judgement
                self._judgements[judgement] += 1
                credit = False
                if judgement is not Judgement.UNSUPPORTED:
                    cells = cells_of(prediction)
                    coverage.update(cells)
                    credit = not wanted.isdisjoint(cell.name for cell in cells)
                    self._outcomes[prediction.outcome, prediction.error_code] += 1
                    if verdict.difference is not None:
                        credit |= judgement is Judgement.DIVERGE
                        self._differs(verdict, seen, asked, place, number)
                else:
                    self._tally.unsupported[_plain(str(seen.reason))] += 1
                steering.update(features)
                if credit:
                    credits += 1
                    steering.update([name + "!" for name in features])
        self._tally.cases += len(places)
        steering[""] += len(places)
        for name in asked.features:
            steering[name] += len(places)
        if credits:
            steering["!"] += credits
            for name in asked.features:
                steering[name + "!"] += credits

    def _differs(
        self, verdict: AccessVerdict, seen: Observation, asked: Group, place: int, number: int
    ) -> None:
        """Count a difference under its cause, which is looked for once a group and kind."""
        difference = verdict.difference
        assert difference is not None
        self._tally.known.update(known.name for known in verdict.known)
        self._tally.open.update(verdict.open)
        names = (*(known.name for known in verdict.known), *verdict.open)
        told, kind = (self._known, names) if names else (self._told, difference.kind)
        key = told.get(kind)
        if key is not None:
            self._again(key)
            return
        question = asked.question(place)
        bench = _bench(self._engine, RAM)
        answer = judged(bench.engine_id, bench.memory, question, [StepResult(seen)])
        finding = finding_of(question, answer, number + place)
        self._tally.add(finding)
        told[kind] = finding.key

    def _again(self, key: str) -> None:
        finding = self._tally.findings[key]
        self._tally.findings[key] = dataclasses.replace(finding, count=finding.count + 1)

    def play(self, kind: str, question: Question, number: int) -> None:
        """Ask a question of several steps.

        :param kind: its knob.
        :param number: of the question.
        """
        tally = self._tally
        bench = _bench(self._engine, SCENARIOS[kind].ram)
        tally.cases += 1
        try:
            answer = bench.ask(question).engines[0]
        except EngineError as error:
            self._broke(question, number, error)
            _clear(bench.memory, {})
            return
        judgement = answer.judgement
        self._judgements[judgement] += 1
        if judgement is Judgement.UNSUPPORTED:
            tally.unsupported[_plain(answer.sentence)] += 1
            return
        tally.coverage.update(_cells_of_steps(question, answer))
        tally.outcomes[kind] += 1
        tally.known.update(known.name for known in answer.known)
        tally.open.update(answer.open)
        if judgement in (Judgement.AGREE, Judgement.DELIVERED):
            return
        told = (judgement, answer.rule, answer.decisive.kind)  # what its finding's key is made of
        key = self._known.get(told)
        if key is not None:
            self._again(key)
            return
        finding = finding_of(question, answer, number)
        tally.add(finding)
        self._known[told] = finding.key

    def _broke(self, question: Question, number: int, error: EngineError) -> None:
        """Count a question of which the engine said itself that it went wrong."""
        self._tally.judgements[BROKE] += 1
        self._tally.add(_broken(question, number, str(error), self._engine))

    def finished(self) -> Tally:
        """Return the counts."""
        tally = self._tally
        for judgement, count in self._judgements.items():
            tally.judgements[str(judgement)] += count
        for (outcome, code), count in self._outcomes.items():
            name = f"{outcome} {code:#x}" if outcome is Outcome.PAGE_FAULT else str(outcome)
            tally.outcomes[name] += count
        return tally


def _broken(question: Question, number: int, why: str, engine: str) -> Finding:
    return broken(question, number, f"the engine broke on case {number}: {why}", why, engine)


def _clear(memory: PhysicalMemory, words: Mapping[int, int]) -> None:
    """Make memory what it should be: an engine that went wrong may have left anything."""
    memory.words[:] = 0
    for at, word in words.items():
        memory.write_u64(at, word)


def _plain(reason: str) -> str:
    """Leave out what differs from case to case: "(CR4 = 0x20220)"."""
    return reason.partition(" (")[0]


def _cells_of_steps(question: Question, answer: EngineAnswer) -> set[Cell]:
    cells = set()
    levels = question.cpu.levels
    for verdict in answer.verdicts:
        kind = step_kind(verdict.step)
        if kind is not None:
            cpl = getattr(verdict.step, "cpl", None)
            user = (question.cpu.cpl if cpl is None else cpl) == 3
            mode = f"{'user' if user else 'kernel'}{levels}"
            cells.add(Cell(verdict.rule, verdict.level, kind, mode))
    return cells
