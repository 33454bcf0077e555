"""Delivery of an exception through tables that may be broken: what the manual says comes of it.

To enter a handler the CPU reads a gate of the IDT, the code segment's descriptor, perhaps a stack
pointer of the TSS, and pushes a frame, each through the page tables as an implicit supervisor
access. Each may fault or find something wrong; that is a second exception, the two may make a
double fault, and a double fault that cannot be delivered is a shutdown. :func:`judge_delivery`
predicts it all from SDM volume 2A (INT n, the pseudo-code for IA-32e mode) and 3A 6.8, 6.12 to
6.15 with the walker alone, and compares: every exception on the way with its error code and CR2,
the handler, the new stack and segments, and every word of memory, A and D among them.

The manual leaves open, and several predictions agree where that shows:

* whether the frame is pushed word by word, or all of it is translated before anything is stored;
* whether the handler's address is found not to be canonical before or after the frame is pushed;
* whether a code segment is first found to be absent, or first not to be a 64-bit one.

A code descriptor whose accessed bit is clear is not judged, since a CPU may set it; nor are events
that are neither faults, nor a double fault, nor a software interrupt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

from harness.address import is_canonical
from harness.check.judge.access import AccessVerdict, verdict_of_difference
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.judge.verdict import StepVerdict
from harness.check.model.overlay import Overlay, pieces
from harness.check.registered.model import EngineIdentity
from harness.cpu import RFLAGS, CpuState
from harness.engine.run import vector_name
from harness.engine.steps import DeliverStep, StepResult
from harness.outcome import Access, AccessKind, Observation, Outcome
from harness.walker import Walk, walk

__all__ = ["judge_delivery"]

_MASK = (1 << 64) - 1
_RF = int(RFLAGS.RF)
_DF, _TS, _NP, _SS, _GP, _PF = 8, 10, 11, 12, 13, 14
_CONTRIBUTORY: Final = frozenset({0, _TS, _NP, _SS, _GP})
_FAULTS: Final = frozenset({0, 5, 6, 7, _TS, _NP, _SS, _GP, _PF, 16, 17, 19, 20, 21})
"""Vectors of the fault class (SDM 3A table 6-1), for which RF is pushed as 1."""
_IDT_FLAG, _EXT = 2, 1


class _Raised(Exception):
    """An exception while another one is delivered."""

    def __init__(self, vector: int, error_code: int, cr2: int | None = None) -> None:
        super().__init__()
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2


class _NotJudged(Exception):
    """The model does not say what happens; the message says why."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the manual leaves to the CPU."""

    by_words: bool = True
    rip_first: bool = True
    present_first: bool = True


@dataclass(frozen=True, slots=True)
class _Told:
    """One exception on the way: vector, error code, CR2 of a page fault, whether it was entered."""

    vector: int
    error_code: int | None
    cr2: int | None
    entered: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "exception": vector_name(self.vector),
            "error_code": None if self.error_code is None else f"{self.error_code:#x}",
            "cr2": None if self.cr2 is None else f"{self.cr2:#x}",
            "entered": self.entered,
        }


@dataclass(frozen=True, slots=True)
class _End:
    """One way in which a delivery may end."""

    events: tuple[_Told, ...]
    registers: dict[str, int]
    changed: dict[int, int]
    optional: dict[int, int]
    faults: tuple[Walk, ...]

    @property
    def outcome(self) -> Outcome:
        return Outcome.MAPPED if self.registers else Outcome.SHUTDOWN

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": str(self.outcome),
            "events": [event.to_json() for event in self.events],
            "registers": {name: f"{value:#x}" for name, value in self.registers.items()},
            "changed": {f"{pa:#x}": f"{bits:#x}" for pa, bits in self.changed.items()},
        }


class _Cpu:
    """A CPU that delivers."""

    def __init__(self, memory: Overlay, cpu: CpuState, step: DeliverStep, choice: _Choice) -> None:
        self.memory = Overlay(memory)
        self.cpu = cpu
        self.step = step
        self.choice = choice
        self.optional: dict[int, int] = {}
        self.cr2 = step.cr2
        self.faults: list[Walk] = []

    def run(self) -> _End:
        """Deliver, and deliver what comes of it, until a handler is entered or nothing can be."""
        vector, error_code = self.step.vector, self.step.error_code
        software = self.step.software
        told: list[_Told] = []
        while True:
            cr2 = self.cr2 if vector == _PF else None
            try:
                registers = self._enter(vector, error_code, software)
            except _Raised as second:
                told.append(_Told(vector, error_code, cr2, entered=False))
                if second.cr2 is not None:
                    self.cr2 = second.cr2
                if vector == _DF and not software:
                    return self._end(told, {})
                if not software and _double(vector, second.vector):
                    vector, error_code = _DF, 0
                else:
                    vector, error_code = second.vector, second.error_code
                software = False
                continue
            told.append(_Told(vector, error_code, cr2, entered=True))
            return self._end(told, {**registers, "cr2": self.cr2})

    def _end(self, told: list[_Told], registers: dict[str, int]) -> _End:
        return _End(
            tuple(told), registers, self.memory.changed(), dict(self.optional), tuple(self.faults)
        )

    def _enter(self, vector: int, error_code: int | None, software: bool) -> dict[str, int]:
        external = 0 if software else _EXT
        offset, selector, ist = self._gate(vector, software, external)
        dpl, conforming = self._segment(selector, external)
        cpl = self.cpu.cpl
        new_cpl = cpl if conforming else dpl
        rsp = self.step.rsp
        if ist or new_cpl < cpl:
            rsp = self._tss(28 + 8 * ist if ist else 4 + 8 * new_cpl, external)
        bad_rip = not is_canonical(offset, self.cpu.levels)
        if bad_rip and self.choice.rip_first:
            raise _Raised(_GP, external)
        # Aligned to 16 bytes before anything is pushed (6.14.2).
        flags = self.cpu.rflags | (_RF if not software and vector in _FAULTS else 0)
        frame = [self.step.ss, self.step.rsp, flags, self.step.cs & ~3 | cpl, self.step.rip]
        if error_code is not None:
            frame.append(error_code)
        rsp = self._push(rsp & ~15, frame, external)
        if bad_rip:
            raise _Raised(_GP, external)
        return {
            "rip": offset,
            "rsp": rsp,
            "cs": selector & ~3 | new_cpl,
            "ss": new_cpl if new_cpl != cpl else self.step.ss,
            "cpl": new_cpl,
        }

    def _gate(self, vector: int, software: bool, external: int) -> tuple[int, int, int]:
        """Return the handler, its code selector and its stack's number."""
        base, limit = self.step.idt
        code = vector << 3 | _IDT_FLAG | external
        if 16 * vector + 15 > limit:
            raise _Raised(_GP, code)
        raw = self._read(base + 16 * vector, 16)
        low, selector, ist, kind, middle, high = struct.unpack("<HHBBHI4x", raw)
        if kind & 0x1F not in (0xE, 0xF):
            raise _Raised(_GP, code)
        if software and kind >> 5 & 3 < self.cpu.cpl:
            raise _Raised(_GP, code)
        if not kind & 0x80:
            raise _Raised(_NP, code)
        return high << 32 | middle << 16 | low, selector, ist & 7

    def _segment(self, selector: int, external: int) -> tuple[int, bool]:
        """Return the DPL of a code segment, and whether it conforms."""
        base, limit = self.step.gdt
        code = selector & ~3 | external
        if not selector & ~3:
            raise _Raised(_GP, external)
        if selector & 4 or selector | 7 > limit:  # there is no LDT
            raise _Raised(_GP, code)
        raw = self._read(base + (selector & ~7), 8)
        kind, mode = raw[5], raw[6]
        dpl = kind >> 5 & 3
        if kind & 0x18 != 0x18 or dpl > self.cpu.cpl:
            raise _Raised(_GP, code)
        wrong = []
        if not kind & 0x80:
            wrong.append(_NP)
        if mode & 0x60 != 0x20:
            wrong.append(_GP)
        if wrong:
            raise _Raised(wrong[0 if self.choice.present_first else -1], code)
        if not kind & 1:
            raise _NotJudged("the code descriptor's accessed bit is clear")
        return dpl, bool(kind & 4)

    def _tss(self, at: int, external: int) -> int:
        base, limit = self.step.tss
        if at + 7 > limit:
            raise _Raised(_TS, external)  # the selector of the TSS is 0 here
        return int.from_bytes(self._read(base + at, 8), "little")

    def _push(self, rsp: int, frame: list[int], external: int) -> int:
        if self.choice.by_words:
            for word in frame:
                rsp = rsp - 8 & _MASK
                self._store(rsp, word.to_bytes(8, "little"), external)
            return rsp
        rsp = rsp - 8 * len(frame) & _MASK
        self._store(rsp, struct.pack(f"<{len(frame)}Q", *reversed(frame)), external)
        return rsp

    # The CPU's own accesses.

    def _read(self, va: int, size: int) -> bytes:
        return b"".join(
            self.memory.read(pa, count) for pa, count in self._translate(va, size, AccessKind.READ)
        )

    def _store(self, va: int, data: bytes, external: int) -> None:
        try:
            parts = self._translate(va, len(data), AccessKind.WRITE)
        except _Raised as error:
            if error.vector == _GP:  # the stack is not canonical
                raise _Raised(_SS, external) from None
            raise
        for pa, count in parts:
            self.memory.write(pa, data[:count])
            data = data[count:]

    def _translate(self, va: int, size: int, kind: AccessKind) -> list[tuple[int, int]]:
        """Return where the bytes are, or raise what that access raises."""
        access = Access(kind, size, implicit=True)
        found = walk(self.memory.as_memory(), self.cpu, va & _MASK, access)
        if found.outcome is Outcome.NO_MEMORY:
            raise _NotJudged(f"it reaches {found.pa:#x}, which is not RAM")
        if not found.completed:
            self.faults.append(found)
            for pa, bits in found.may_set.items():
                self.optional[pa] = self.optional.get(pa, 0) | bits
            if found.outcome is Outcome.PAGE_FAULT:
                assert found.error_code is not None
                raise _Raised(_PF, found.error_code, found.cr2)
            raise _Raised(_GP, 0)
        self.memory.set_bits(found.sets)
        return pieces(found)


def _double(first: int, second: int) -> bool:
    """Say whether two exceptions make a double fault (SDM 3A table 6-5)."""
    if first == _PF:
        return second == _PF or second in _CONTRIBUTORY
    return first in _CONTRIBUTORY and second in _CONTRIBUTORY


_CHOICES: Final = tuple(
    _Choice(words, rip, present)
    for words in (True, False)
    for rip in (True, False)
    for present in (True, False)
)


def _ends(memory: Overlay, cpu: CpuState, step: DeliverStep) -> list[_End]:
    if not step.software and step.vector not in _FAULTS | {_DF}:
        raise _NotJudged(f"{vector_name(step.vector)} is neither a fault nor a software interrupt")
    found: list[_End] = []
    for choice in _CHOICES:
        end = _Cpu(memory, cpu, step, choice).run()
        if end not in found:
            found.append(end)
    return found


def judge_delivery(
    engine: EngineIdentity, memory: Overlay, cpu: CpuState, step: DeliverStep, result: StepResult
) -> StepVerdict:
    """Judge what an engine saw of one delivery.

    :param engine: who observed.
    :param memory: the memory before it.
    :param cpu: the CPU's state, at the step's privilege level.
    """
    try:
        ends = _ends(memory, cpu, step)
    except _NotJudged as why:
        return StepVerdict(
            step,
            result,
            Judgement.UNSUPPORTED,
            sentence=f"delivery of {vector_name(step.vector)}: {why}",
        )
    plain = ends[0]
    verdict = StepVerdict(
        step,
        result,
        Judgement.AGREE,
        tuple(end.to_json() for end in ends),
        rule=plain.faults[0].rule if plain.faults else "COMBINE",
        level=plain.faults[0].level if plain.faults else None,
    )
    differences = [_differences(end, result) for end in ends]
    if () in differences:
        return verdict
    for end, fields in zip(ends, differences, strict=True):
        only_bits = fields == ("changed",)
        reasons = _explained(engine, memory, end, result) if only_bits else None
        if reasons is not None:
            return verdict.explained(reasons)
    nearest = min(range(len(ends)), key=lambda place: len(differences[place]))
    fields = differences[nearest]
    return replace(
        verdict,
        judgement=Judgement.DIVERGE,
        fields=fields,
        rule="ERR" if fields[0] == "events" and plain.faults else verdict.rule,
        sentence=_sentence(ends[nearest], fields, cpu, step, result),
    )


def _seen(result: StepResult) -> tuple[_Told, ...]:
    return tuple(
        _Told(event.vector, event.error_code, event.cr2, event.handler is not None)
        for event in result.events
    )


def _differences(end: _End, result: StepResult) -> tuple[str, ...]:
    found = []
    if end.outcome is not result.seen.outcome:
        found.append("outcome")
    if end.events != _seen(result):
        found.append("events")
    if end.registers != result.registers:
        found.append("registers")
    for pa in {*end.changed, *result.seen.changed}:
        wrong = end.changed.get(pa, 0) ^ result.seen.changed.get(pa, 0)
        if wrong & ~(end.optional.get(pa, 0) & ~end.changed.get(pa, 0)):
            found.append("changed")
            break
    return tuple(found)


def _explained(
    engine: EngineIdentity, memory: Overlay, end: _End, result: StepResult
) -> AccessVerdict | None:
    """Find what explains, short of a divergence, which bits a failed access has changed."""
    seen = result.seen.changed
    residue = {
        pa: bits
        for pa in {*end.changed, *seen}
        if (bits := end.changed.get(pa, 0) ^ seen.get(pa, 0))
    }
    for fault in end.faults:
        observation = Observation(fault.outcome, fault.error_code, fault.cr2, changed=residue)
        difference = compare(fault, observation)
        if isinstance(difference, Difference):
            reasons = verdict_of_difference(engine, memory.as_memory(), difference)
            if reasons.judgement is not Judgement.DIVERGE:
                return reasons
    return None


def _sentence(
    end: _End, fields: tuple[str, ...], cpu: CpuState, step: DeliverStep, result: StepResult
) -> str:
    what = f"delivery of {vector_name(step.vector)} at CPL {cpu.cpl}"
    if fields[0] in ("outcome", "events"):
        return f"{what} was predicted to go {_way(end.events)}, and went {_way(_seen(result))}"
    if fields[0] == "registers":
        wrong = ", ".join(
            f"{name} = {result.registers.get(name, 0):#x}, not {value:#x}"
            for name, value in end.registers.items()
            if result.registers.get(name) != value
        )
        return f"{what} ended with {wrong}"
    words = sorted(
        pa
        for pa in {*end.changed, *result.seen.changed}
        if end.changed.get(pa, 0) ^ result.seen.changed.get(pa, 0)
    )
    return f"{what}: memory at {', '.join(f'{pa:#x}' for pa in words)} is not as it must be"


def _way(events: tuple[_Told, ...]) -> str:
    parts = []
    for event in events:
        text = vector_name(event.vector)
        if event.error_code is not None:
            text += f"({event.error_code:#x})"
        if event.cr2 is not None:
            text += f" CR2 = {event.cr2:#x}"
        parts.append(text)
    end = "its handler" if events and events[-1].entered else "shutdown"
    return " → ".join([*parts, end])
