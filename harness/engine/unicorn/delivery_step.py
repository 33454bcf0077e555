"""A delivery as one step: the CPU is given the state before it, and software delivers.

Unicorn leaves the delivery of exceptions to its embedder. What is told here was done by this
package (:mod:`.deliver`), through the CPU's own translations: the result says so.
"""

from __future__ import annotations

from unicorn import x86_const as x86

from harness.engine.run import Event
from harness.engine.steps import DeliverStep, StepResult
from harness.engine.unicorn.core import Core
from harness.engine.unicorn.deliver import Pending, deliver
from harness.errors import NoMemory
from harness.outcome import Observation, Outcome

__all__ = ["play_delivery"]


def play_delivery(core: Core, step: DeliverStep, cpl: int) -> StepResult:
    """Deliver an exception to its handler, or to what comes of it.

    :param core: in the state that the steps so far have made.
    :param cpl: the privilege level that it comes from.
    :returns: all but the words that changed.
    """
    uc = core.uc
    registers = core.at.registers // 8
    rsp, rip, cr2 = registers + 4, core.at.rip // 8, core.at.cr2 // 8
    hflags = core.at.hflags // 4
    core.q[rsp] = step.rsp
    core.q[rip] = step.rip
    core.q[cr2] = step.cr2
    core.restore()
    uc.reg_write(x86.UC_X86_REG_CS, step.cs)
    uc.reg_write(x86.UC_X86_REG_SS, step.ss)
    uc.reg_write(x86.UC_X86_REG_GDTR, (0, *step.gdt, 0))
    uc.reg_write(x86.UC_X86_REG_IDTR, (0, *step.idt, 0))
    uc.reg_write(x86.UC_X86_REG_TR, (0, *step.tss, 0))
    core.save()
    core.d[hflags] = core.d[hflags] & ~3 | cpl
    core.restore()
    pending = Pending(
        step.vector,
        step.error_code,
        step.software,
        origin=step.rip if step.software else None,
    )
    events: list[Event] = []
    try:
        events, entered = deliver(core, pending)
        seen = Observation(Outcome.MAPPED if entered else Outcome.SHUTDOWN)
    except NoMemory as error:
        entered, seen = False, Observation(Outcome.NO_MEMORY, pa=error.pa)
    after: dict[str, int] = {}
    if entered:
        core.save()
        after = {
            "rip": core.q[rip],
            "rsp": core.q[rsp],
            "cs": int(uc.reg_read(x86.UC_X86_REG_CS)),
            "ss": int(uc.reg_read(x86.UC_X86_REG_SS)),
            "cpl": core.d[hflags] & 3,
            "cr2": core.q[cr2],
        }
    return StepResult(seen, after, tuple(events), delivered_by="harness")
