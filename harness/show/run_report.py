"""Say why a run ended in a fault: the walk that the CPU made, and the rule that decided it."""

from __future__ import annotations

from harness.cpu import ErrorCode
from harness.engine.run import PAGE_FAULT, Event, Exit
from harness.errors import CpuStateError
from harness.memory import PhysicalMemory
from harness.outcome import Access
from harness.show.report import fault_report
from harness.walk import walk

__all__ = ["run_fault_report"]


def run_fault_report(memory: PhysicalMemory, ended: Exit) -> str | None:
    """Explain the page fault that ended a run, from the tables as the run left them.

    :returns: None when no page fault ended it, or it came outside long mode.
    """
    fault = ended.fault
    if fault is None or fault.vector != PAGE_FAULT or ended.cpu is None or fault.cr2 is None:
        return None
    try:
        cpu = ended.cpu.replace(cpl=fault.cpl)
    except CpuStateError:
        return None
    return fault_report(walk(memory, cpu, fault.cr2, _access(fault)), cpu)


def _access(fault: Event) -> Access:
    """Read the access off the error code; an implicit one has U/S clear at CPL 3."""
    code = ErrorCode(fault.error_code or 0)
    if code & ErrorCode.I:
        return Access("fetch")
    implicit = fault.cpl == 3 and not code & ErrorCode.U
    return Access("write" if code & ErrorCode.W else "read", implicit=implicit)
