"""The bench: the only place where prediction meets observation.

A :class:`Bench` has one RAM and any number of engines over it. :meth:`Bench.ask` writes a
question's words, lets every engine play its steps, judges each step against the *set* of things
that the rules permit, and leaves the memory as it was::

    with Bench(question.ram, "unicorn") as bench:
        answer = bench.ask(question)
        print(answer.judgement, answer.sentence)

Campaigns, ``harness probe``, reproducers and shrinking all ask a bench. Blocks of a matrix and
page-table sets are columns of questions; a property test holds their verdicts to these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from harness.check.codec import prediction_to_json
from harness.check.judge.access import AccessVerdict, verdict_of_access
from harness.check.judge.compare import Judgement, worst
from harness.check.judge.sequence import verdicts_of_steps
from harness.check.judge.verdict import StepVerdict
from harness.check.question import Question
from harness.check.registered.model import Registration
from harness.cpu import CpuState
from harness.engine import WALKER, Engine, open_engine
from harness.engine.steps import StepResult
from harness.memory import PhysicalMemory
from harness.outcome import Access, Observation
from harness.walker import Walk, walk

__all__ = ["Answer", "Bench", "EngineAnswer", "EngineId", "EngineSource", "judged"]

EngineSource: TypeAlias = str | Callable[[PhysicalMemory], Engine]
"""A spec that opens an engine, or what does so over a memory."""


@dataclass(frozen=True, slots=True)
class EngineId:
    """Who answered.

    :ivar name: the engine's name: what is registered of it is found by that.
    :ivar version: its version.
    :ivar spec: the string that opens it again.
    """

    name: str
    version: str
    spec: str

    @classmethod
    def of(cls, engine: Engine) -> EngineId:
        """Return the identity of an open engine."""
        return cls(engine.name, engine.version, engine.spec or engine.name)

    @property
    def title(self) -> str:
        """Name it for people: ``unicorn 2.1.4``, ``mine:CPU (unicorn 2.1.4)``."""
        if self.is_walker:
            return f"the walker {self.spec.removeprefix(WALKER)}"
        named = f"{self.name} {self.version}".strip()
        return named if self.spec == self.name else f"{self.spec} ({named})"

    @property
    def is_walker(self) -> bool:
        """Say whether it is a person's walker, and no CPU."""
        return self.spec.startswith(WALKER)

    def to_json(self) -> dict[str, str]:
        """Return it as one JSON object."""
        return {"name": self.name, "version": self.version, "spec": self.spec}


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What became of a question on one engine.

    :ivar engine: which.
    :ivar verdicts: of the steps, up to and with the first that diverges or cannot be run.
    :ivar asked: how many steps the question has.
    """

    engine: EngineId
    verdicts: tuple[StepVerdict, ...]
    asked: int = 1

    @property
    def judgement(self) -> Judgement:
        """Give the worst of the steps' judgements."""
        return worst(verdict.judgement for verdict in self.verdicts)

    @property
    def decisive(self) -> StepVerdict:
        """Give the first step with the worst judgement."""
        judgement = self.judgement
        return next(verdict for verdict in self.verdicts if verdict.judgement is judgement)

    @property
    def rule(self) -> str:
        """Name the rule that the decisive step is about."""
        return self.decisive.rule

    @property
    def level(self) -> int | None:
        """Give the level that the decisive step is about."""
        return self.decisive.level

    @property
    def sentence(self) -> str:
        """Say in words how the decisive step differs, and which it is; empty if none does."""
        text = self.decisive.sentence
        if not text or self.asked == 1:
            return text
        return f"step {self.verdicts.index(self.decisive) + 1}: {text}"

    @property
    def known(self) -> tuple[Registration, ...]:
        """List the registered divergences that were met, each once."""
        found = {known.name: known for verdict in self.verdicts for known in verdict.known}
        return tuple(found.values())

    @property
    def open(self) -> tuple[str, ...]:
        """Name the open points that were met."""
        return tuple(dict.fromkeys(name for verdict in self.verdicts for name in verdict.open))

    @property
    def agree(self) -> bool | None:
        """Say whether every step agrees; None when it could not be run to its end."""
        judgement = self.judgement
        return None if judgement is Judgement.UNSUPPORTED else judgement is Judgement.AGREE

    def steps_to_json(self) -> list[dict[str, Any]]:
        """Return the verdicts as ``harness probe --json`` prints those of several steps."""
        return [
            {
                "predicted": verdict.permitted,
                "observed": {self.engine.spec: verdict.result.to_json()},
                "judgement": str(verdict.judgement),
            }
            for verdict in self.verdicts
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question.

    :ivar question: what was asked.
    :ivar engines: what each engine did, in the bench's order.
    :ivar walk: the walker's prediction of a question of one access, else None: what a later step
        may do depends on what the steps before it did.
    """

    question: Question
    engines: tuple[EngineAnswer, ...]
    walk: Walk | None = None

    @property
    def judgement(self) -> Judgement:
        """Give the worst judgement on any engine."""
        return worst(each.judgement for each in self.engines)

    @property
    def agree(self) -> bool | None:
        """Say whether all engines that could answer agree; None when none could."""
        told = [each.agree for each in self.engines if each.agree is not None]
        return all(told) if told else None

    @property
    def sentence(self) -> str:
        """Say in words how the first engine with the worst judgement differs; empty if none."""
        judgement = self.judgement
        found = (each.sentence for each in self.engines if each.judgement is judgement)
        return next(found, "")

    def to_json(self) -> dict[str, Any]:
        """Return the line that ``harness probe --json`` prints."""
        if self.walk is None:
            return self._steps_to_json()
        line: dict[str, Any] = {
            "predicted": prediction_to_json(self.walk),
            "observed": {
                each.engine.spec: each.verdicts[0].result.seen.to_json() for each in self.engines
            },
            "agree": self.agree,
        }
        return line | _explained(self.engines)

    def _steps_to_json(self) -> dict[str, Any]:
        if not self.engines:
            return {"steps": [], "agree": None}
        lines = {}
        for each in self.engines:
            line: dict[str, Any] = {"steps": each.steps_to_json(), "agree": each.agree}
            if each.sentence:
                line |= {"rule": each.rule, "sentence": each.sentence}
            lines[each.engine.spec] = line | _explained([each])
        return next(iter(lines.values())) if len(lines) == 1 else {"engines": lines}


def _explained(engines: Iterable[EngineAnswer]) -> dict[str, Any]:
    """Return the registered divergences and the open points that were met, by engine."""
    line: dict[str, Any] = {}
    for each in engines:
        if each.known:
            names = [known.name for known in each.known]
            line.setdefault("known", {})[each.engine.spec] = names
        if each.open:
            line.setdefault("open", {})[each.engine.spec] = list(each.open)
    return line


class Bench:
    """One RAM and some engines, for any number of questions with that RAM.

    :param ram: the regions that every question must have.
    :param engines: specs, or what opens an engine over a memory; they share the RAM. Without any,
        only the walker answers.
    :raises EngineError: when one is missing or broken.
    """

    def __init__(self, ram: int | Iterable[tuple[int, int]], *engines: EngineSource) -> None:
        self.memory = PhysicalMemory(ram)
        self._stack = contextlib.ExitStack()
        opened = []
        try:
            for source in engines:
                if isinstance(source, str):
                    engine = open_engine(source, self.memory)
                else:
                    engine = source(self.memory)
                self._stack.callback(engine.close)
                opened.append((EngineId.of(engine), engine))
        except BaseException:
            self._stack.close()
            raise
        self.engines: tuple[tuple[EngineId, Engine], ...] = tuple(opened)

    @classmethod
    def over(cls, engine: Engine) -> Self:
        """Return a bench over an engine that is open already, and stays so.

        :param engine: its memory is the bench's.
        """
        bench = cls.__new__(cls)
        bench.memory = engine.memory
        bench.engines = ((EngineId.of(engine), engine),)
        bench._stack = contextlib.ExitStack()
        return bench

    @property
    def engine(self) -> Engine:
        """Give the first engine."""
        return self.engines[0][1]

    @property
    def engine_id(self) -> EngineId:
        """Tell who the first engine is."""
        return self.engines[0][0]

    def close(self) -> None:
        """Give back the engines."""
        self._stack.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def holding(self, words: Mapping[int, int]) -> Iterator[None]:
        """Hold words in the memory for a while; afterwards it is as it was."""
        memory = self.memory
        data, offset = memory.words.data, memory.offset
        places = [offset(pa) >> 3 for pa in words]
        before = [data[place] for place in places]
        for place, word in zip(places, words.values(), strict=True):
            data[place] = word
        try:
            yield
        finally:
            for place, word in zip(places, before, strict=True):
                data[place] = word

    def ask(self, question: Question) -> Answer:
        """Ask a question of the walker and of every engine, and leave the memory as it was.

        :param question: its RAM must be the bench's.
        :raises EngineError: when an engine breaks.
        """
        cpu, single = question.cpu, question.single
        with self.holding(question.memory):
            prediction = None
            if single is not None:
                prediction = walk(self.memory, cpu, single.va, single.access)
            answers = []
            for who, engine in self.engines:
                if single is None:
                    results = engine.play(cpu, question.steps)
                else:
                    results = [StepResult(engine.probe(cpu, single.va, single.access))]
                answers.append(judged(who, self.memory, question, results))
            return Answer(question, tuple(answers), prediction)

    def ask_access(
        self, cpu: CpuState, va: int, access: Access
    ) -> tuple[Walk, Observation, AccessVerdict]:
        """Ask one access of the walker and of the first engine, in the memory as it stands.

        It is what :meth:`ask` does with a question of one access, without the objects around it:
        for callers that ask thousands of accesses under the same words (:meth:`holding`).
        """
        prediction = walk(self.memory, cpu, va, access)
        engine = self.engines[0][1]
        seen = engine.probe(cpu, va, access)
        return prediction, seen, verdict_of_access(engine, self.memory, prediction, seen)


def judged(
    engine: EngineId, memory: PhysicalMemory, question: Question, results: Sequence[StepResult]
) -> EngineAnswer:
    """Judge what an engine saw of a question.

    :param engine: who observed.
    :param memory: holds the question's words.
    :param results: what it saw of each step, up to the last that is to be judged.
    """
    cpu, single = question.cpu, question.single
    if single is None:
        steps = question.steps[: len(results)]
        verdicts = verdicts_of_steps(engine, memory, cpu, steps, results)
        return EngineAnswer(engine, tuple(verdicts), len(question.steps))
    prediction = walk(memory, cpu, single.va, single.access)
    verdict = verdict_of_access(engine, memory, prediction, results[0].seen)
    return EngineAnswer(engine, (StepVerdict.of_access(single, results[0], prediction, verdict),))
