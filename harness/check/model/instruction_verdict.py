"""The verdict on one instruction: what it may have done, half way too, and what an engine did."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from harness.address import format_address
from harness.check.judge.access import AccessVerdict, verdict_of_difference
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.judge.verdict import StepVerdict
from harness.check.model.executing import (
    Choice,
    Fault,
    InstructionEnd,
    ModelMachine,
    NotJudged,
    Protection,
)
from harness.check.model.instructions import length_of, model_of
from harness.check.model.overlay import Overlay
from harness.check.registered.model import EngineIdentity
from harness.cpu import CpuState
from harness.engine.steps import ExecuteStep, StepResult
from harness.outcome import Observation

__all__ = ["verdict_of_instruction"]


_CHOICES: Final = tuple(Choice(a, b) for a in (False, True) for b in (False, True))


def _ends(memory: Overlay, cpu: CpuState, step: ExecuteStep, start: int) -> list[InstructionEnd]:
    """Give every way in which an instruction may end, the plainest first."""
    model = model_of(step.instruction)
    if model is None:
        raise NotJudged(f"there is no model of {step.instruction!r}")
    after = start + length_of(step.instruction)
    found: list[InstructionEnd] = []
    for choice in _CHOICES:
        machine = ModelMachine(memory, cpu, step.registers, choice)
        machine.registers["rip"] = after
        fault, protection = None, False
        try:
            model(machine)
        except Fault as error:
            fault = error.walk
        except Protection:
            protection = True
        machine.registers["rip"] = after if machine.jump is None else machine.jump
        if fault is not None or protection:
            machine.registers["rip"] = start
        end = InstructionEnd(
            dict(machine.registers),
            machine.memory.changed(),
            machine.optional(),
            fault,
            protection,
        )
        same = next((other for other in found if other.to_json() == end.to_json()), None)
        if same is None:
            found.append(end)
        else:  # they differ in nothing but what had been translated before the fault
            for pa, bits in end.optional.items():
                same.optional[pa] = same.optional.get(pa, 0) | bits
        if fault is None and not protection and not found[1:]:
            break  # without a fault there was nothing to choose
    return found


def verdict_of_instruction(
    engine: EngineIdentity, memory: Overlay, cpu: CpuState, step: ExecuteStep, result: StepResult
) -> StepVerdict:
    """Judge what an engine saw of one instruction.

    :param engine: who observed.
    :param memory: the memory before it.
    :param cpu: the CPU's state, at the step's privilege level.
    """
    try:
        ends = _ends(memory, cpu, step, result.start)
    except NotJudged as why:
        return StepVerdict(
            step, result, Judgement.UNSUPPORTED, sentence=f"{step.instruction}: {why}"
        )
    plain = ends[0]
    verdict = StepVerdict(
        step,
        result,
        Judgement.AGREE,
        tuple(end.to_json() for end in ends),
        rule="COMBINE" if plain.fault is None else plain.fault.rule,
        level=None if plain.fault is None else plain.fault.level,
    )
    differences = [_differences(end, result) for end in ends]
    if () in differences:
        end = ends[differences.index(())]
        if end.fault is not None:
            verdict = replace(verdict, rule=end.fault.rule, level=end.fault.level)
        return verdict
    for end in ends:
        reasons = _explained(engine, memory, end, result)
        if reasons is not None:
            return verdict.explained(reasons)
    nearest = min(range(len(ends)), key=lambda place: len(differences[place]))
    return _diverges(verdict, ends[nearest], differences[nearest], cpu)


def _differences(end: InstructionEnd, result: StepResult) -> tuple[str, ...]:
    """Name what an observation has otherwise than one way to end."""
    seen = result.seen
    found = []
    if end.outcome is not seen.outcome:
        found.append("outcome")
    else:
        if end.error_code != seen.error_code:
            found.append("error_code")
        if end.cr2 != seen.cr2:
            found.append("cr2")
    if end.registers != result.registers:
        found.append("registers")
    may = {} if end.fault is None else end.fault.may_set
    for pa in {*end.changed, *seen.changed}:
        wrong = end.changed.get(pa, 0) ^ seen.changed.get(pa, 0)
        # Bits of A that were not yet set, and may be.
        free = (may.get(pa, 0) | end.optional.get(pa, 0)) & ~end.changed.get(pa, 0)
        if wrong & ~free:
            found.append("changed")
            break
    return tuple(found)


def _explained(
    engine: EngineIdentity, memory: Overlay, end: InstructionEnd, result: StepResult
) -> AccessVerdict | None:
    """Find what explains, short of a divergence, how the faulting access ended."""
    if end.fault is None or end.registers != result.registers:
        return None
    seen = result.seen
    residue = {
        pa: bits
        for pa in {*end.changed, *seen.changed}
        if (bits := (end.changed.get(pa, 0) ^ seen.changed.get(pa, 0)) & ~end.optional.get(pa, 0))
    }
    at_fault = Overlay(memory)
    for pa, bits in end.changed.items():
        at_fault.write_u64(pa, at_fault.read_u64(pa) ^ bits)
    observation = Observation(seen.outcome, seen.error_code, seen.cr2, changed=residue)
    difference = compare(end.fault, observation)
    if not isinstance(difference, Difference):
        return None
    reasons = verdict_of_difference(engine, at_fault.as_memory(), difference)
    return None if reasons.judgement is Judgement.DIVERGE else reasons


def _diverges(
    verdict: StepVerdict, end: InstructionEnd, fields: tuple[str, ...], cpu: CpuState
) -> StepVerdict:
    step, seen = verdict.step, verdict.result.seen
    assert isinstance(step, ExecuteStep)
    rule = verdict.rule
    what = f"{step.instruction} at CPL {cpu.cpl}"
    told = f"{end.outcome}" + ("" if end.cr2 is None else f" at {format_address(end.cr2)}")
    if fields[0] == "outcome":
        text = f"{what} was predicted to end as {told}, and ended as {seen.outcome}"
    elif fields[0] in ("error_code", "cr2"):
        rule = "ERR"
        text = f"{what}: {fields[0]} was predicted to be {getattr(end, fields[0])!r}, and was " + (
            repr(getattr(seen, fields[0]))
        )
    elif fields[0] == "registers":
        wrong = ", ".join(
            f"{name} = {verdict.result.registers.get(name, 0):#x}, not {value:#x}"
            for name, value in end.registers.items()
            if verdict.result.registers.get(name) != value
        )
        text = f"{what} ended as {told} with {wrong}"
    else:
        wrong_words = {
            pa: bits
            for pa in {*end.changed, *seen.changed}
            if (bits := end.changed.get(pa, 0) ^ seen.changed.get(pa, 0))
        }
        only_a_d = not any(bits & ~0x60 for bits in wrong_words.values())
        rule = ("A" if end.fault is None else "A_ON_FAULT") if only_a_d else "SPLIT"
        where = ", ".join(format_address(pa) for pa in sorted(wrong_words))
        text = f"{what} ended as {told}, and memory at {where} is not as it must be then"
    return replace(verdict, judgement=Judgement.DIVERGE, rule=rule, sentence=text, fields=fields)
