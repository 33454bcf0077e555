"""What became of one step of a question: the answer that every model of steps gives.

:mod:`harness.check.model.caches` knows what accesses may do,
:mod:`~harness.check.model.instructions` instructions, :mod:`~harness.check.model.delivery`
deliveries; each looks whether an engine did one of those things, and answers with a
:class:`StepVerdict`. What cannot be judged is a verdict too, ``unsupported``, with the reason as
its sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from harness.check.codec import prediction_to_json
from harness.check.judge.access import AccessVerdict
from harness.check.judge.compare import Judgement
from harness.check.registered.model import Registration
from harness.engine.steps import AccessStep, Step, StepResult
from harness.outcome import Outcome
from harness.walker import Walk

__all__ = ["StepVerdict"]


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """How an engine did on one step.

    :ivar step: what was asked.
    :ivar result: what the engine saw.
    :ivar judgement: agree, open, known, diverge, unsupported or delivered by harness.
    :ivar predicted: what the rules permit, the plainest first: walks, or JSON objects.
    :ivar rule: the rule that the engine breaks, or that decided.
    :ivar level: the level of the entry that decided, if one did.
    :ivar sentence: the difference in words; empty when there is none.
    :ivar fields: what differs, the most important first.
    :ivar known: the registered divergences that explain it.
    :ivar open: names of the open points that explain it.
    :ivar acted: which bounds of what may be stale the engine acted without: ``invlpg``,
        ``cr3_load``, ``fault``, ``order``; empty when that is not it.
    """

    step: Step
    result: StepResult
    judgement: Judgement
    predicted: tuple[Walk | dict[str, Any], ...] = ()
    rule: str = "COMBINE"
    level: int | None = None
    sentence: str = ""
    fields: tuple[str, ...] = ()
    known: tuple[Registration, ...] = ()
    open: tuple[str, ...] = ()
    acted: tuple[str, ...] = ()

    @classmethod
    def of_access(
        cls, step: AccessStep, result: StepResult, walk: Walk, verdict: AccessVerdict
    ) -> Self:
        """Return the verdict on a step that is one access from pristine state.

        :param walk: the prediction.
        :param verdict: on that access.
        """
        difference = verdict.difference
        if difference is None:
            sentence = (result.seen.reason or "") if result.unsupported else ""
            return cls(step, result, verdict.judgement, (walk,), walk.rule, walk.level, sentence)
        return cls(
            step,
            result,
            verdict.judgement,
            (walk,),
            verdict.known[0].rule if verdict.known else difference.rule,
            walk.level,
            difference.sentence,
            tuple(map(str, difference.fields)),
            verdict.known,
            verdict.open,
        )

    def explained(self, reasons: AccessVerdict) -> Self:
        """Return this verdict with what explains the difference instead of a divergence."""
        return replace(self, judgement=reasons.judgement, known=reasons.known, open=reasons.open)

    @property
    def walk(self) -> Walk | None:
        """Give the plainest prediction where it is a walk."""
        plain = self.predicted[0] if self.predicted else None
        return plain if isinstance(plain, Walk) else None

    @property
    def kind(self) -> tuple[object, ...]:
        """Tell what makes two divergences the same one: what a shrunk question must keep."""
        plain = self.predicted[0] if self.predicted else None
        outcome = plain["outcome"] if isinstance(plain, dict) else plain and plain.outcome
        step = type(self.step).__name__
        return step, self.fields, self.rule, outcome, self.result.seen.outcome

    @property
    def by_harness(self) -> bool:
        """Say whether this package delivered on the CPU's behalf."""
        return self.result.delivered_by != "cpu"

    @property
    def permitted(self) -> list[dict[str, Any]]:
        """List what the rules permit as JSON objects, each once."""
        found = [
            one if isinstance(one, dict) else prediction_to_json(one) for one in self.predicted
        ]
        return [one for place, one in enumerate(found) if one not in found[:place]]

    @property
    def words(self) -> str:
        """Say what is to be said of an access that the engine could not make, or that differs."""
        if self.result.seen.outcome is Outcome.UNSUPPORTED:
            return self.result.seen.reason or "the engine does not say why"
        return self.sentence
