"""Scenarios: several things that happen to one CPU in order, and what may come of them.

A scenario is a case with ``steps`` in the place of its one ``access``, on a CPU whose TLB lives on
from step to step. As JSON it is one object on a line of a ``.jsonl`` file, beside cases or alone::

    {"cpu": {"cr3": "0x1000"}, "ram": "0x10000", "memory": {"0x1000": "0x2007"},
     "steps": [{"access": {"va": "0x4123"}}, {"write": {"0x1000": "0x0"}},
               {"invlpg": "0x4000"}, {"access": {"va": "0x4123", "kind": "write"}, "cpl": 3}]}

The steps, each an object:

``{"access": {"va", "kind", "size", "implicit", "stack", "value"}, "cpl"}``
    One access, as in a case. A write stores the low bytes of ``value``, for good.
``{"write": {"0x4020": "0x0"}}``
    Words of memory change, by physical address, and nothing is invalidated.
``{"invlpg": "0x4000"}``, ``{"cr3": "0x1000"}``, ``{"cr0": ...}``, ``cr4``, ``efer``, ``pkru``,
``rflags``
    The instruction of that name, or that loads that register.
``{"execute": "rep movsb", "registers": {"rcx": "0x10"}, "cpl"}``
    One instruction; what it may do half way is in :mod:`.instructions`.
``{"deliver": {"vector", "error_code", "software", "idt", "gdt", "tss", "rip", "rsp", "cs", "ss",
"cr2"}, "cpl"}``
    An exception goes to its handler, or to what comes of it (:mod:`.delivery`); ``idt``, ``gdt``
    and ``tss`` are ``[base, limit]``.

Where ``cpl`` is left out, it is the CPU's. :func:`ask` plays a scenario on an engine and judges
every step against the *set* of things that the rules permit::

    answer = ask(engine, Scenario.from_json(loads(line)))
    print(answer.judgement, answer.rule, answer.sentence)

Whatever is wrong with a scenario raises :class:`~harness.errors.CaseError`, one sentence with the
file and the line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from harness.check.case import (
    DEFAULT_RAM,
    Case,
    access_from_json,
    access_to_json,
    case_error,
    memory_from_json,
    memory_to_json,
    ram_to_json,
    read_lines,
)
from harness.check.judge.compare import Judgement
from harness.check.judge.verdict import StepVerdict
from harness.cpu import CpuState
from harness.engine import Engine
from harness.engine.steps import (
    CONTROLS,
    WRITTEN,
    AccessStep,
    ControlStep,
    DeliverStep,
    ExecuteStep,
    InvlpgStep,
    Step,
    WriteStep,
)
from harness.errors import CaseError, InputError
from harness.jsontext import flag, number, obj, ram, shown
from harness.memory import PhysicalMemory, Region
from harness.outcome import Access

__all__ = ["Scenario", "ScenarioAnswer", "ask", "read_questions", "states", "step_to_json"]

_REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
)
_TABLES: Final = ("idt", "gdt", "tss")
_NUMBERS: Final = {"rip": 64, "rsp": 64, "cs": 16, "ss": 16, "cr2": 64}
_READ: Final = Access()
_MAX_STEPS: Final = 1000


@dataclass(frozen=True, slots=True, init=False)
class Scenario:
    """What happens to one CPU, with everything that decides what comes of it.

    :param cpu: the CPU at the first step.
    :param ram: bytes of RAM from address 0, or ``(base, size)`` for each region.
    :param memory: physical address, a multiple of 8, → u64. All other RAM is zero.
    :param steps: in order.
    :raises CaseError: when RAM or a word cannot be so, as for a case, or a step loads a register
        with what it does not take.
    """

    cpu: CpuState
    ram: tuple[Region, ...]
    memory: dict[int, int]
    steps: tuple[Step, ...]

    def __init__(
        self,
        cpu: CpuState,
        ram: int | Iterable[tuple[int, int]],
        memory: Mapping[int, int],
        steps: Iterable[Step],
    ) -> None:
        # A case knows what RAM and its words may be.
        question = Case(cpu, ram, memory, 0, _READ)
        put = object.__setattr__
        put(self, "cpu", cpu)
        put(self, "ram", question.ram)
        put(self, "memory", question.memory)
        put(self, "steps", tuple(steps))
        if not 1 <= len(self.steps) <= _MAX_STEPS:
            raise CaseError(f"a scenario must have 1 to {_MAX_STEPS} steps, not {len(self.steps)}")
        for step in self.steps:
            if isinstance(step, WriteStep):
                Case(cpu, question.ram, step.words, 0, _READ)
        try:
            for _ in states(cpu, self.steps):
                pass
        except InputError as error:
            raise case_error(error) from error

    @classmethod
    def of_case(cls, case: Case) -> Self:
        """Return the scenario of one access that asks what a case asks."""
        return cls(case.cpu, case.ram, case.memory, [AccessStep(case.va, case.access)])

    def to_case(self) -> Case | None:
        """Return the case that asks the same, or None when this is more than one access."""
        match self.steps:
            case (AccessStep(va=va, access=access, cpl=cpl, value=value),) if value == WRITTEN:
                cpu = self.cpu if cpl is None else self.cpu.replace(cpl=cpl)
                return Case(cpu, self.ram, self.memory, va, access)
            case _:
                return None

    @classmethod
    def from_json(cls, data: object, *, default: CpuState | None = None) -> Self:
        """Return the scenario that a JSON object describes.

        :param data: the object, as :func:`json.loads` gives it.
        :param default: what the scenario leaves out of ``cpu`` is taken from here.
        :raises CaseError: for an unknown key, which it names, or a value that cannot be.
        """
        try:
            given = obj("a scenario", data, required=["steps"], optional=["cpu", "ram", "memory"])
            steps = given["steps"]
            if not isinstance(steps, list):
                raise CaseError(f"steps must be a list, not {shown(steps)}")
            return cls(
                CpuState.from_json(given.get("cpu", {}), default=default),
                ram(given.get("ram", DEFAULT_RAM)),
                memory_from_json("memory", given.get("memory", {})),
                [_step(place, step) for place, step in enumerate(steps, 1)],
            )
        except InputError as error:
            raise case_error(error) from error

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :meth:`from_json` turns into an equal scenario."""
        return {
            "cpu": self.cpu.to_json(),
            "ram": ram_to_json(self.ram),
            "memory": memory_to_json(self.memory),
            "steps": [step_to_json(step) for step in self.steps],
        }

    def line(self) -> str:
        """Return the scenario as a line of a case file, without the newline."""
        return json.dumps(self.to_json())

    def build(self) -> PhysicalMemory:
        """Return new RAM that holds the scenario's words."""
        memory = PhysicalMemory(self.ram)
        for pa, word in self.memory.items():
            memory.write_u64(pa, word)
        return memory


def read_questions(
    path: str | os.PathLike[str], *, default: CpuState | None = None
) -> Iterator[Case | Scenario]:
    """Read a file of cases and scenarios, as :func:`~harness.check.case.read_cases` reads cases.

    :param path: the file.
    :param default: what a line leaves out of ``cpu`` is taken from here.
    :raises CaseError: for the first line that is neither, with the file and the line.
    """

    def question(data: object) -> Case | Scenario:
        if isinstance(data, dict) and "steps" in data:
            return Scenario.from_json(data, default=default)
        return Case.from_json(data, default=default)

    return read_lines(path, question)


# What tells a kind of step is its first word; the others belong to it.
def _step(place: int, data: object) -> Step:
    name = f"step {place}"
    step = obj(name, data)
    words = [word for word in step if word in _KINDS]
    if len(words) != 1:
        raise CaseError(f"{name} must have one key of {', '.join(_KINDS)}, not {shown(data)}")
    word = words[0]
    return _KINDS[word](name, word, step)


def _access_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=["cpl"])
    va, access, value = access_from_json(step[word])
    return AccessStep(va, access, _cpl(step), WRITTEN if value is None else value)


def _write_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=[])
    return WriteStep(memory_from_json(word, step[word]))


def _invlpg_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=[])
    return InvlpgStep(number(word, step[word]))


def _control_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=[])
    return ControlStep(word, number(word, step[word], 32 if word == "pkru" else 64))


def _execute_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=["registers", "cpl"])
    if not isinstance(step[word], str):
        raise CaseError(f"{word} must be a string, not {shown(step[word])}")
    given = obj("registers", step.get("registers", {}), optional=_REGISTERS)
    registers = {register: number(register, value) for register, value in given.items()}
    return ExecuteStep(step[word], registers, _cpl(step))


def _deliver_step(name: str, word: str, step: dict[str, Any]) -> Step:
    obj(name, step, required=[word], optional=["cpl"])
    asked = obj(
        word,
        step[word],
        required=["vector"],
        optional=["error_code", "software", *_TABLES, *_NUMBERS],
    )
    given: dict[str, Any] = {}
    if "error_code" in asked:
        given["error_code"] = number("error_code", asked["error_code"], 32)
    for table in _TABLES:
        if table in asked:
            pair = asked[table]
            if not isinstance(pair, list) or len(pair) != 2:
                raise CaseError(f"{table} must be [base, limit], not {shown(pair)}")
            given[table] = (
                number(f"the base of {table}", pair[0]),
                number(f"the limit of {table}", pair[1], 16),
            )
    for key, bits in _NUMBERS.items():
        if key in asked:
            given[key] = number(key, asked[key], bits)
    return DeliverStep(
        number("vector", asked["vector"], 8),
        software=flag("software", asked.get("software", False)),
        cpl=_cpl(step),
        **given,
    )


def _cpl(step: dict[str, Any]) -> int | None:
    return number("cpl", step["cpl"], 2) if "cpl" in step else None


_KINDS: Final[dict[str, Callable[[str, str, dict[str, Any]], Step]]] = {
    "access": _access_step,
    "write": _write_step,
    "invlpg": _invlpg_step,
    **dict.fromkeys(CONTROLS, _control_step),
    "execute": _execute_step,
    "deliver": _deliver_step,
}


def step_to_json(step: Step) -> dict[str, Any]:
    """Return the object that stands for a step in a scenario's JSON."""
    line: dict[str, Any]
    match step:
        case AccessStep(va=va, access=access, value=value):
            line = {"access": access_to_json(va, access)}
            if value != WRITTEN:
                line["access"]["value"] = f"{value:#x}"
        case WriteStep(words=words):
            return {"write": memory_to_json(words)}
        case InvlpgStep(va=va):
            return {"invlpg": f"{va:#x}"}
        case ControlStep(register=register, value=value):
            return {register: f"{value:#x}"}
        case ExecuteStep(instruction=instruction, registers=registers):
            line = {"execute": instruction}
            if registers:
                line["registers"] = {name: f"{value:#x}" for name, value in registers.items()}
        case DeliverStep():
            line = {"deliver": _delivery_to_json(step)}
    if step.cpl is not None:
        line["cpl"] = step.cpl
    return line


def _delivery_to_json(step: DeliverStep) -> dict[str, Any]:
    asked: dict[str, Any] = {"vector": step.vector}
    if step.error_code is not None:
        asked["error_code"] = f"{step.error_code:#x}"
    if step.software:
        asked["software"] = True
    for table in _TABLES:
        asked[table] = [f"{value:#x}" for value in getattr(step, table)]
    for key in _NUMBERS:
        asked[key] = f"{getattr(step, key):#x}"
    return asked


def states(cpu: CpuState, steps: Iterable[Step]) -> Iterator[CpuState]:
    """Give the CPU's state at each step, before it.

    :param cpu: the state at the first one.
    :raises CpuStateError: when a step loads a register with what it does not take.
    :raises CaseError: when a step changes the number of levels, which paging must be off for.
    """
    for step in steps:
        cpl = getattr(step, "cpl", None)
        yield cpu if cpl is None or cpl == cpu.cpl else cpu.replace(cpl=cpl)
        if isinstance(step, ControlStep):
            after = cpu.replace(**{step.register: step.value})
            if after.levels != cpu.levels:
                raise CaseError("CR4.LA57 must not change while paging is on")
            cpu = after


@dataclass(frozen=True, slots=True)
class ScenarioAnswer:
    """What became of a scenario.

    :ivar scenario: the question.
    :ivar verdicts: of the steps, up to and with the first that diverges or cannot be run.
    """

    scenario: Scenario
    verdicts: tuple[StepVerdict, ...]

    @property
    def judgement(self) -> Judgement:
        """Give the worst of the steps' judgements."""
        words = {verdict.judgement for verdict in self.verdicts}
        for word in (Judgement.DIVERGE, Judgement.UNSUPPORTED, Judgement.KNOWN):
            if word in words:
                return word
        return Judgement.AGREE

    @property
    def decisive(self) -> StepVerdict:
        """Give the first step with the worst judgement."""
        worst = self.judgement
        return next(verdict for verdict in self.verdicts if verdict.judgement is worst)

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
        return f"step {self.verdicts.index(self.decisive) + 1}: {text}" if text else ""

    @property
    def known(self) -> tuple[str, ...]:
        """Name the registered divergences that were met."""
        return tuple(dict.fromkeys(name for v in self.verdicts for name in v.known))

    @property
    def kind(self) -> tuple[object, ...]:
        """Tell what makes two divergences the same one: what a shrunk scenario must keep."""
        verdict = self.decisive
        plain = verdict.predicted[0] if verdict.predicted else None
        outcome = plain["outcome"] if isinstance(plain, dict) else plain and plain.outcome
        return (
            type(verdict.step).__name__,
            verdict.fields,
            verdict.rule,
            outcome,
            verdict.result.seen.outcome,
        )

    def to_json(self, engine: str = "unicorn") -> dict[str, Any]:
        """Return the line that ``harness probe --json`` prints.

        :param engine: who was asked.
        """
        words = {verdict.judgement for verdict in self.verdicts}
        agree = None if self.judgement is Judgement.UNSUPPORTED else words == {Judgement.AGREE}
        line: dict[str, Any] = {
            "steps": [
                {
                    "predicted": verdict.permitted,
                    "observed": {engine: verdict.result.to_json()},
                    "judgement": str(verdict.judgement),
                }
                for verdict in self.verdicts
            ],
            "agree": agree,
        }
        if self.sentence:
            line |= {"rule": self.rule, "sentence": self.sentence}
        if self.known:
            line["known"] = {engine: list(self.known)}
        return line


def ask(engine: Engine, scenario: Scenario) -> ScenarioAnswer:
    """Play a scenario on an engine, judge every step, and leave the memory as it was.

    :param engine: its memory must have the scenario's RAM.
    :raises EngineError: when the engine breaks.
    """
    from harness.check.judge.sequence import judge_steps

    memory = engine.memory
    before = {pa: memory.read_u64(pa) for pa in scenario.memory}
    for pa, word in scenario.memory.items():
        memory.write_u64(pa, word)
    try:
        results = engine.play(scenario.cpu, scenario.steps)
        verdicts = judge_steps(engine, memory, scenario.cpu, scenario.steps, results)
    finally:
        for pa, word in before.items():
            memory.write_u64(pa, word)
    return ScenarioAnswer(scenario, tuple(verdicts))
