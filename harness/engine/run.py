"""What a run of guest code starts from, is limited by, and ends with: the words of every engine."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.address import format_address
from harness.cpu import CpuState, ErrorCode

__all__ = ["REGISTERS", "Budget", "Ending", "Event", "Exit", "Start", "vector_name"]

REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
)
"""The general registers, in the order in which they are printed."""

_VECTORS = (
    *("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#09", "#TS", "#NP"),
    *("#SS", "#GP", "#PF", "#0F", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"),
)
PAGE_FAULT = 14


def vector_name(vector: int) -> str:
    """Return the manual's mnemonic of an exception, or ``int 0x80`` (SDM 3A table 6-1)."""
    return _VECTORS[vector] if vector < len(_VECTORS) else f"int {vector:#x}"


class Ending(enum.StrEnum):
    """Why a run ended."""

    HALT = "halt"
    """``hlt`` was executed; nothing here would ever wake the CPU."""
    EXIT = "exit"
    """The guest wrote to the exit port 0xF4."""
    STOP = "stop"
    """Execution reached the address at which it was to stop."""
    SHUTDOWN = "shutdown"
    """A triple fault."""
    NO_MEMORY = "no-memory"
    """The guest reached for physical memory that is not there."""
    INSTRUCTIONS = "instruction-budget"
    SECONDS = "time-budget"
    UNSUPPORTED = "unsupported"
    """The guest did what this engine cannot do; it is not executed wrongly instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long a guest may run.

    :param seconds: wall time.
    :param instructions: None does not count; counting slows a run down.
    """

    seconds: float = 10.0
    instructions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The CPU at the first instruction of a run.

    :param rip: the first instruction.
    :param cpu: control registers and CPL; None starts in 32-bit protected mode, paging off.
    :param registers: general registers by name (``"rdi"``); the rest are 0.
    :param gdt: base and limit.
    :param idt: base and limit.
    :param cs: the code selector; its descriptor need not exist until something loads it.
    :param ss: the stack selector.
    :param stop: an address at which the run ends, before its instruction is executed.
    """

    rip: int
    cpu: CpuState | None
    registers: Mapping[str, int] = field(default_factory=dict)
    gdt: tuple[int, int] = (0, 0)
    idt: tuple[int, int] = (0, 0)
    cs: int = 0x08
    ss: int = 0x10
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One exception or interrupt on the way.

    :ivar vector: its number.
    :ivar error_code: None where the vector has none.
    :ivar cr2: of a page fault.
    :ivar rip: the address that is pushed for the handler.
    :ivar cpl: the privilege level it came from.
    :ivar handler: where the guest's own handler took over, None if delivery failed.
    :ivar note: why delivery failed, or what followed.
    :ivar implicit: whether an access of the CPU's own raised it, of a descriptor table or the TSS.
        The engine knows that from what the instruction does, never from the error code.
    """

    vector: int
    error_code: int | None
    cr2: int | None
    rip: int
    cpl: int
    handler: int | None = None
    note: str | None = None
    implicit: bool = False

    def __str__(self) -> str:
        text = f"{vector_name(self.vector)} at {format_address(self.rip)} (CPL {self.cpl})"
        if self.vector == PAGE_FAULT and self.error_code is not None and self.cr2 is not None:
            bits = f" = {ErrorCode(self.error_code)}" if self.error_code else ""
            text += f", CR2 = {format_address(self.cr2)}, error code {self.error_code:#x}{bits}"
        elif self.error_code is not None:
            text += f", error code {self.error_code:#x}"
        if self.handler is not None:
            text += f" → handler {format_address(self.handler)}"
        return text + (f": {self.note}" if self.note else "")

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON values, numbers as hex strings."""
        return {
            "exception": vector_name(self.vector),
            "vector": self.vector,
            "error_code": _hex(self.error_code),
            "cr2": _hex(self.cr2),
            "rip": _hex(self.rip),
            "cpl": self.cpl,
            "handler": _hex(self.handler),
            "note": self.note,
            "implicit": self.implicit,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a run ended, and all that it left behind.

    :ivar ending: why it ended.
    :ivar detail: the same in a sentence.
    :ivar rip: where the CPU stands.
    :ivar rflags: the flags.
    :ivar cpl: the privilege level.
    :ivar registers: general registers by name.
    :ivar control: ``cr0``, ``cr2``, ``cr3``, ``cr4`` and ``efer``.
    :ivar events: exceptions and interrupts, oldest first.
    :ivar dropped: how many more events there were than are kept.
    :ivar serial: bytes written to the serial port 0x3F8.
    :ivar debug: bytes written to the debug port 0xE9.
    :ivar exit_code: what QEMU would exit with after a write of v to port 0xF4: ``v << 1 | 1``.
    :ivar instructions: how many were executed, when a budget counted them.
    :ivar cpu: the CPU state at the end; None outside long mode.
    """

    ending: Ending
    detail: str
    rip: int
    rflags: int
    cpl: int
    registers: dict[str, int]
    control: dict[str, int]
    events: tuple[Event, ...]
    dropped: int
    serial: bytes
    debug: bytes
    exit_code: int | None
    instructions: int | None
    cpu: CpuState | None

    @property
    def fault(self) -> Event | None:
        """The exception that ended the run: the first of those that led to a shutdown."""
        if self.ending is not Ending.SHUTDOWN:
            return None
        undelivered = None
        for event in reversed(self.events):
            if event.handler is not None:
                break
            undelivered = event
        return undelivered

    def to_json(self) -> dict[str, Any]:
        """Return the whole as JSON values, numbers as hex strings."""
        return {
            "ending": str(self.ending),
            "detail": self.detail,
            "rip": _hex(self.rip),
            "rflags": _hex(self.rflags),
            "cpl": self.cpl,
            "registers": {name: _hex(value) for name, value in self.registers.items()},
            "control": {name: _hex(value) for name, value in self.control.items()},
            "events": [event.to_json() for event in self.events],
            "dropped_events": self.dropped,
            "serial": self.serial.decode("utf-8", "replace"),
            "debug": self.debug.decode("utf-8", "replace"),
            "exit_code": self.exit_code,
            "instructions": self.instructions,
        }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"
