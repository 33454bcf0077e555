"""Make the question of a finding small, on the engine that it was found on.

>>> small = shrink_finding(finding, "unicorn")
>>> len(small.question.memory) <= len(finding.question.memory)
True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack

from harness.check.bench import Bench, EngineAnswer, EngineSource
from harness.check.findings.finding import Finding, finding_of
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.check.shrink.access import shrink_access
from harness.check.shrink.sequence import shrink_steps
from harness.errors import EngineError
from harness.memory import Region

__all__ = ["shrink_finding", "with_witnesses"]


def shrink_finding(finding: Finding, engine: EngineSource = "unicorn") -> Finding:
    """Return a finding with the smallest question that shows its cause.

    What has no question, or does not differ any more, comes back as it is. Key, count and first
    stay; sentence, level and answer are those of the small question.

    :param finding: of :func:`~harness.check.findings.finding.finding_of` or
        :func:`~harness.check.findings.roots.root_causes`.
    :param engine: a spec, or what opens an engine over a memory.
    :raises EngineError: when the engine is missing or breaks on the finding's own question.
    """
    if finding.question is None:
        return finding
    with _Benches(engine) as benches:
        answer = benches.ask(finding.question)
        if answer.judgement is not Judgement.DIVERGE:
            return finding
        attempt = _Attempt(benches, finding, finding.question, answer)
        if finding.question.single is not None:
            shrink_access(finding.question, attempt.differs)
        else:
            shrink_steps(finding.question, attempt.differs)
        return finding.told_on(finding_of(attempt.question, attempt.answer))


def with_witnesses(finding: Finding, engines: Sequence[str]) -> Finding:
    """Return a finding with what other engines do with its question.

    :param engines: their specs.
    :raises EngineError: when one is missing or breaks.
    """
    if finding.question is None or not engines:
        return finding
    with Bench(finding.question.ram, *engines) as bench:
        return dataclasses.replace(finding, witnesses=bench.ask(finding.question).engines)


class _Attempt:
    """The smallest question so far, and what became of it."""

    def __init__(
        self, benches: _Benches, finding: Finding, question: Question, answer: EngineAnswer
    ) -> None:
        self.benches, self.question, self.answer = benches, question, answer
        self.single = question.single is not None
        found = finding.explanations or finding_of(question, answer).explanations
        self.key = found[0].key if found else None
        self.kind = answer.decisive.kind

    def differs(self, question: Question) -> bool:
        """Say whether a question still differs for the same cause, and keep it if it does."""
        try:
            answer = self.benches.ask(question)
        except EngineError:
            return False
        if answer.judgement is not Judgement.DIVERGE or not self._same(question, answer):
            return False
        self.question, self.answer = question, answer
        return True

    def _same(self, question: Question, answer: EngineAnswer) -> bool:
        if not self.single or self.key is None:
            return answer.decisive.kind == self.kind
        return self.key in {one.key for one in finding_of(question, answer).explanations}


class _Benches:
    """A bench for each RAM that was asked for."""

    def __init__(self, engine: EngineSource) -> None:
        self._engine = engine
        self._benches: dict[tuple[Region, ...], Bench] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Benches:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, question: Question) -> EngineAnswer:
        """Ask a question."""
        bench = self._benches.get(question.ram)
        if bench is None:
            bench = self._stack.enter_context(Bench(question.ram, self._engine))
            self._benches[question.ram] = bench
        return bench.ask(question).engines[0]
