"""The verdicts on a whole sequence of steps, each by the model that it belongs to.

:func:`verdicts_of_steps` goes from step to step with one
:class:`~harness.check.model.caches.History`, which is told what each of them did, as it was
observed: what a later step may do depends on it. It ends with the first step that diverges, or that
cannot be judged; nothing behind that means anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.check.judge.compare import Judgement
from harness.check.judge.verdict import StepVerdict
from harness.check.model.caches import History
from harness.check.model.delivery import judge_delivery
from harness.check.model.instruction_verdict import verdict_of_instruction
from harness.check.question import states
from harness.check.registered.model import EngineIdentity
from harness.check.registered.registry import of_bounds
from harness.cpu import CpuState
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    DeliverStep,
    ExecuteStep,
    InvlpgStep,
    Step,
    StepResult,
    WriteStep,
)
from harness.memory import PhysicalMemory
from harness.outcome import Outcome

__all__ = ["verdicts_of_steps"]

_UNSETTLED = (
    "an instruction or a delivery is judged only while no entry can be stale: load CR3 without "
    "global pages, or change CR4.PGE, before it"
)


def verdicts_of_steps(
    engine: EngineIdentity,
    memory: PhysicalMemory,
    cpu: CpuState,
    steps: Sequence[Step],
    results: Sequence[StepResult],
) -> list[StepVerdict]:
    """Judge what an engine saw of each step.

    :param engine: who observed.
    :param memory: the memory as it was before the first step.
    :param cpu: the CPU's state then.
    """
    history = History(memory, cpu)
    verdicts: list[StepVerdict] = []
    for step, result, state in zip(steps, results, states(cpu, steps), strict=True):
        verdict = _judge(engine, history, state, step, result)
        if verdict.judgement is Judgement.DIVERGE:
            known = of_bounds(engine, verdict.acted) if verdict.acted else ()
            if known:
                verdict = replace(verdict, judgement=Judgement.KNOWN, known=known)
        elif verdict.judgement is Judgement.AGREE and verdict.by_harness:
            verdict = replace(verdict, judgement=Judgement.DELIVERED)
        verdicts.append(verdict)
        if verdict.judgement in (Judgement.DIVERGE, Judgement.UNSUPPORTED):
            break
    return verdicts


def _judge(
    engine: EngineIdentity, history: History, cpu: CpuState, step: Step, result: StepResult
) -> StepVerdict:
    if result.unsupported:
        return _cannot(step, result, result.seen.reason or "the engine does not say why")
    match step:
        case AccessStep():
            return history.judge(engine, cpu, step, result)
        case WriteStep(words=words):
            history.write(words)
        case InvlpgStep(va=va):
            history.invlpg(va)
        case ControlStep():
            history.load(step, cpu)
        case ExecuteStep() | DeliverStep():
            if not history.settled:
                return _cannot(step, result, _UNSETTLED)
            verdict = _model(engine, history, cpu, step, result)
            history.change(result.seen.changed)
            history.settled = False
            if result.seen.outcome is Outcome.PAGE_FAULT and result.seen.cr2 is not None:
                history.fault(result.seen.cr2)
            return verdict
    return StepVerdict(step, result, Judgement.AGREE)


def _model(
    engine: EngineIdentity,
    history: History,
    cpu: CpuState,
    step: ExecuteStep | DeliverStep,
    result: StepResult,
) -> StepVerdict:
    if isinstance(step, ExecuteStep):
        return verdict_of_instruction(engine, history.memory, cpu, step, result)
    return judge_delivery(engine, history.memory, cpu, step, result)


def _cannot(step: Step, result: StepResult, why: str) -> StepVerdict:
    return StepVerdict(step, result, Judgement.UNSUPPORTED, sentence=why)
