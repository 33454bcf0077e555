"""What became of one step of a scenario: the answer that every judge of steps gives.

:mod:`.stale` judges accesses, :mod:`.instructions` instructions, :mod:`.delivery` deliveries; each
knows what the manual permits, looks whether an engine did one of those things, and answers with a
:class:`StepVerdict`::

    verdict = judge_instruction(engine, memory, cpu, step, result)
    print(verdict.judgement, verdict.rule, verdict.sentence)

Nothing here fails: what cannot be judged is a verdict too, ``unsupported``, with the reason as its
sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.check.case import prediction_to_json
from harness.check.judge.compare import Judgement
from harness.engine.steps import Step, StepResult
from harness.walker import Walk

__all__ = ["StepVerdict"]


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """How an engine did on one step.

    :ivar step: what was asked.
    :ivar result: what the engine saw.
    :ivar judgement: agree, known, diverge or unsupported.
    :ivar predicted: what the rules permit, the plainest first: walks, or JSON objects.
    :ivar rule: the rule that the engine breaks, or that decided.
    :ivar level: the level of the entry that decided, if one did.
    :ivar sentence: the difference in words; empty when there is none.
    :ivar fields: what differs, the most important first.
    :ivar known: names of the registered divergences that explain it.
    :ivar acted: which bound of what may be stale the engine acted without: ``invlpg``,
        ``cr3_load``, ``fault`` or ``order``; empty when that is not it.
    """

    step: Step
    result: StepResult
    judgement: Judgement
    predicted: tuple[Walk | dict[str, Any], ...] = ()
    rule: str = "COMBINE"
    level: int | None = None
    sentence: str = ""
    fields: tuple[str, ...] = field(default=())
    known: tuple[str, ...] = ()
    acted: str = ""

    @property
    def permitted(self) -> list[dict[str, Any]]:
        """List what the rules permit as JSON objects, each once."""
        found = [
            one if isinstance(one, dict) else prediction_to_json(one) for one in self.predicted
        ]
        return [one for place, one in enumerate(found) if one not in found[:place]]
