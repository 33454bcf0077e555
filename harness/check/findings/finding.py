"""Findings: what a campaign has to tell, each with one cause and one question that shows it.

Thousands of questions may differ for one reason. They are one :class:`Finding`: ``key`` names the
cause, ``count`` says how many questions had it, ``question`` is the one that shows it and
``answer`` what the engine did with it. Findings of one key merge by :meth:`Finding.merged`; which
exemplar is kept depends on ``first`` alone, so that the order in which shards end does not matter::

    finding = finding_of(question, answer)
    print(finding.key, finding.as_if)
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Final

from harness.check.bench import EngineAnswer, EngineId
from harness.check.cause import Cause, Explanation, cause_of
from harness.check.judge.compare import Judgement
from harness.check.judge.verdict import StepVerdict
from harness.check.model.words import words_of
from harness.check.question import Question
from harness.engine.steps import AccessStep

__all__ = ["BROKE", "Finding", "broken", "finding_of"]

BROKE: Final = "broke"
"""The judgement on a question on which the engine died, hung, or said itself that it went wrong."""

_NUMBER: Final = re.compile(r"0x[0-9a-fA-F_]+|\d+")

_RULE_OF_BOUND: Final = {"invlpg": "INVLPG", "cr3_load": "CR3_LOAD", "order": "STALE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cause.

    :ivar key: names the cause; findings of one key are one finding.
    :ivar judgement: ``diverge``, ``known``, ``open``, or ``broke``.
    :ivar rule: the rule of docs/rules.md that the engine breaks; empty when it broke.
    :ivar level: the level at which it does, when it is about one level.
    :ivar sentence: the difference in words.
    :ivar count: how many questions showed it.
    :ivar first: the number of the first one that did, in the campaign's own order.
    :ivar question: that question, or the smallest one found.
    :ivar engine: who was asked.
    :ivar answer: what it did; None when it broke, and for what an older version stored.
    :ivar explanations: what would show in this way, the likeliest first; none when it is known.
    :ivar explained: False when no change that was tried predicts the observation.
    :ivar levels: the levels at which the cause may be, over all questions that showed it.
    :ivar why: how the engine broke, or why the question could not be made small.
    :ivar witnesses: what other engines did with the same question.
    """

    key: str
    judgement: str
    rule: str
    sentence: str
    level: int | None = None
    count: int = 1
    first: int = 0
    question: Question | None = None
    engine: EngineId | None = None
    answer: EngineAnswer | None = field(default=None, compare=False)
    explanations: tuple[Explanation, ...] = ()
    explained: bool = True
    levels: tuple[int, ...] = ()
    why: str = ""
    witnesses: tuple[EngineAnswer, ...] = field(default=(), compare=False)

    def merged(self, other: Finding) -> Finding:
        """Return one finding of two with the same key: counts added, the earlier question kept."""
        earlier = min(self, other, key=lambda finding: finding.first)
        return dataclasses.replace(earlier, count=self.count + other.count)

    def told_by(self, explanation: Explanation) -> Finding:
        """Return the finding as one of its explanations tells it."""
        return dataclasses.replace(
            self, rule=explanation.rule, level=explanation.level, explanations=(explanation,)
        )

    def told_on(self, small: Finding) -> Finding:
        """Return the finding as it is told on a smaller question of the same cause.

        Key, count, first and levels stay.
        """
        told = dataclasses.replace(
            small, key=self.key, count=self.count, first=self.first, levels=self.levels
        )
        if not self.explanations:
            return told
        wanted = self.explanations[0].key
        one = next((one for one in small.explanations if one.key == wanted), None)
        if one is None:
            return dataclasses.replace(told, explanations=self.explanations)
        alone = len(self.explanations) == 1
        explanations = (one,) if alone else self.explanations
        return dataclasses.replace(told.told_by(one), explanations=explanations)

    @property
    def as_if(self) -> str:
        """Say what the engine acted as if, by the likeliest explanation; else why it is known."""
        if self.explanations:
            return self.explanations[0].as_if
        return " ".join(known.reason for known in self.answer.known) if self.answer else ""

    @property
    def known(self) -> tuple[str, ...]:
        """Name the registered divergences that explain it."""
        return tuple(known.name for known in self.answer.known) if self.answer else ()

    @property
    def verdict(self) -> StepVerdict | None:
        """Give the verdict on the step that shows it."""
        return None if self.answer is None else self.answer.decisive


def finding_of(question: Question, answer: EngineAnswer, first: int = 0) -> Finding:
    """Return the finding of an answer that does not agree.

    :param question: what was asked.
    :param answer: its judgement is ``diverge``, ``known`` or ``open``.
    :param first: the question's number, in the campaign's own order.
    """
    verdict = answer.decisive
    finding = Finding(
        key="",
        judgement=str(answer.judgement),
        rule=verdict.rule,
        level=verdict.level,
        sentence=answer.sentence,
        first=first,
        question=question,
        engine=answer.engine,
        answer=answer,
    )
    if answer.judgement is not Judgement.DIVERGE:
        names = sorted(known.name for known in answer.known) or sorted(answer.open)
        return dataclasses.replace(finding, key=f"{answer.judgement}:{'+'.join(names)}")
    cause = _cause(question, answer)
    if cause is None:
        kind = ":".join(["steps", verdict.rule, *map(str, verdict.kind)]).replace(" ", "")
        return dataclasses.replace(finding, key=kind)
    return dataclasses.replace(
        finding,
        key="|".join(map(str, cause.keys)),
        rule=cause.likeliest.rule,
        level=cause.likeliest.level,
        explanations=tuple(_of_subject(one, answer.engine) for one in cause.explanations),
        explained=cause.explained,
    )


def broken(question: Question | None, first: int, sentence: str, why: str, engine: str) -> Finding:
    """Return the finding that the engine broke.

    Its key leaves numbers out, so that one flaw met at many addresses is one finding.

    :param question: on which; None when it is not known.
    :param first: the question's number.
    :param sentence: says on which question, and how.
    :param why: how.
    :param engine: the spec that opens it.
    """
    return Finding(
        key=f"{BROKE}: {_NUMBER.sub('N', why)}",
        judgement=BROKE,
        rule="",
        sentence=sentence,
        first=first,
        question=question,
        engine=EngineId(engine, "", engine),
        why=why,
    )


def _cause(question: Question, answer: EngineAnswer) -> Cause | None:
    verdict = answer.decisive
    if question.single is not None and verdict.walk is not None:
        return cause_of(words_of(question), verdict.walk, verdict.result.seen, answer.engine)
    if not isinstance(verdict.step, AccessStep):
        return None
    found = [
        Explanation.of(rule, "steps", None, answer.sentence) for rule in _caching_rules(verdict)
    ]
    return Cause.of(found) if found else None


def _of_subject(explanation: Explanation, engine: EngineId) -> Explanation:
    """Say of a walker what the explanations say of a CPU."""
    if not engine.is_walker:
        return explanation
    return Explanation(explanation.key, explanation.as_if.replace("the CPU", "the walker"))


def _caching_rules(verdict: StepVerdict) -> list[str]:
    """Name the rules about caches that an engine may have broken, the likeliest first."""
    found = [verdict.rule] if verdict.acted else []
    found += [_RULE_OF_BOUND[bound] for bound in verdict.acted if bound in _RULE_OF_BOUND]
    if "INVLPG" in found and verdict.level is not None and verdict.level > 1:
        found.append("BIG")
    return list(dict.fromkeys(found))
