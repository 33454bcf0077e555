"""Steps: what one CPU is made to do in order, while its TLB lives on between them.

A probe asks one access of a pristine CPU. Much of what an MMU must get right only shows in
sequence: an entry is changed and not invalidated, ``invlpg`` is executed, CR3 is loaded, an
instruction faults half way, an exception finds its IDT gone. Each such thing is a step here, a
small immutable value, and :meth:`~harness.engine.base.Engine.play` runs a list of them and
gives a :class:`StepResult` for each::

    engine.play(cpu, [AccessStep(0x4123, Access("read")), WriteStep({0x4020: 0}),
                      InvlpgStep(0x4000), AccessStep(0x4123, Access("read"))])

What a step may say is checked where a question is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from harness.engine.run import Event
from harness.outcome import Access, Observation, Outcome

__all__ = [
    "CONTROLS",
    "WRITTEN",
    "AccessStep",
    "ControlStep",
    "DeliverStep",
    "ExecuteStep",
    "InvlpgStep",
    "Step",
    "StepResult",
    "WriteStep",
]

CONTROLS: Final = ("cr0", "cr3", "cr4", "efer", "pkru", "rflags")
"""What a :class:`ControlStep` can load."""

WRITTEN: Final = 0xA5A5_A5A5_A5A5_A5A5
"""What a write without a value of its own stores."""


@dataclass(frozen=True, slots=True)
class AccessStep:
    """One access.

    :ivar va: the first byte's virtual address.
    :ivar access: how it is accessed.
    :ivar cpl: the privilege level; None is the CPU's own.
    :ivar value: what a write stores, in its low bytes.
    """

    va: int
    access: Access
    cpl: int | None = None
    value: int = WRITTEN


@dataclass(frozen=True, slots=True)
class WriteStep:
    """Memory changes, by physical address, and nothing is invalidated.

    :ivar words: address, a multiple of 8, → u64.
    """

    words: dict[int, int]


@dataclass(frozen=True, slots=True)
class InvlpgStep:
    """``invlpg [va]``."""

    va: int


@dataclass(frozen=True, slots=True)
class ControlStep:
    """A register that rules the walk is loaded, by the instruction that does that.

    :ivar register: one of :data:`CONTROLS`.
    :ivar value: its new value.
    """

    register: str
    value: int


@dataclass(frozen=True, slots=True)
class ExecuteStep:
    """One instruction, which may access memory several times, and may fault half way.

    :ivar instruction: in Intel syntax.
    :ivar registers: general registers before it, by name; the rest are 0.
    :ivar cpl: the privilege level; None is the CPU's own.
    """

    instruction: str
    registers: dict[str, int] = field(default_factory=dict)
    cpl: int | None = None


@dataclass(frozen=True, slots=True)
class DeliverStep:
    """An exception or a software interrupt is taken to its handler, or to what comes of it.

    :ivar vector: its number.
    :ivar error_code: what it pushes; None when nothing.
    :ivar software: an ``int n``: its gate must allow the CPL.
    :ivar idt: base and limit.
    :ivar gdt: base and limit.
    :ivar tss: base and limit.
    :ivar rip: the address that is pushed.
    :ivar rsp: the stack pointer before.
    :ivar cs: the code selector before.
    :ivar ss: the stack selector before.
    :ivar cr2: CR2 before.
    :ivar cpl: the privilege level; None is the CPU's own.
    """

    vector: int
    error_code: int | None = None
    software: bool = False
    idt: tuple[int, int] = (0, 0xFFF)
    gdt: tuple[int, int] = (0, 0xFF)
    tss: tuple[int, int] = (0, 0x67)
    rip: int = 0
    rsp: int = 0
    cs: int = 0x08
    ss: int = 0x10
    cr2: int = 0
    cpl: int | None = None


Step: TypeAlias = AccessStep | WriteStep | InvlpgStep | ControlStep | ExecuteStep | DeliverStep


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an engine saw of one step.

    :ivar seen: as of a probe. ``mapped`` also stands for an instruction that completed, a handler
        that was entered, and a step that cannot fail. ``changed`` holds every word that changed,
        what was stored too.
    :ivar registers: general registers and ``rip`` after an instruction; ``rip``, ``rsp``, ``cs``,
        ``ss``, ``cpl`` and ``cr2`` after a delivery that entered a handler.
    :ivar events: the exceptions of a delivery, oldest first.
    :ivar start: where the engine had put an instruction; 0 for other steps.
    :ivar delivered_by: ``harness`` when this package's software delivered an exception on the
        CPU's behalf: that is no observation of the CPU.
    """

    seen: Observation
    registers: dict[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    start: int = 0
    delivered_by: str = "cpu"

    @property
    def unsupported(self) -> bool:
        """Say whether the engine could not do it."""
        return self.seen.outcome is Outcome.UNSUPPORTED

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``harness probe`` prints."""
        line = self.seen.to_json()
        if self.registers:
            line["registers"] = {name: f"{value:#x}" for name, value in self.registers.items()}
        if self.events:
            line["events"] = [event.to_json() for event in self.events]
        if self.delivered_by != "cpu":
            line["delivered_by"] = self.delivered_by
        return line
