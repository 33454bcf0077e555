"""Say why a run ended in a fault: the walk that the CPU made, and the rule that decided it."""

from __future__ import annotations

from harness.cpu import CpuState, ErrorCode
from harness.describe.walks import fault_report
from harness.engine.run import PAGE_FAULT, Event, Exit
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind
from harness.walker import walk

__all__ = ["page_fault_report", "run_fault_report"]


def run_fault_report(memory: PhysicalMemory, ended: Exit) -> str | None:
    """Explain the page fault that ended a run, from the tables as the run left them.

    :returns: None when no page fault ended it, or it came outside long mode.
    """
    fault = ended.fault
    if fault is None or fault.vector != PAGE_FAULT or ended.cpu is None:
        return None
    return page_fault_report(memory, ended.cpu, fault)


def page_fault_report(memory: PhysicalMemory, cpu: CpuState, fault: Event) -> str:
    """Explain a page fault by the page tables as they are now.

    :param cpu: the CPU's state; the CPL is the fault's.
    :param fault: a #PF.
    """
    assert fault.cr2 is not None
    found = walk(memory, cpu.replace(cpl=fault.cpl), fault.cr2, _access(fault))
    report = fault_report(found)
    if fault.cpl == 3 and not fault.implicit and not (fault.error_code or 0) & ErrorCode.U:
        report += (
            "\n  the engine reports a supervisor access at CPL 3, which this instruction does not "
            "make: that is the engine's mistake"
        )
    if found.error_code != fault.error_code:
        report += (
            "\n  the page tables say otherwise now: the guest changed them, or its TLB was stale"
        )
    return report


def _access(fault: Event) -> Access:
    """Read the kind off the error code; whether it is implicit the instruction has told."""
    code = ErrorCode(fault.error_code or 0)
    if code & ErrorCode.I:
        return Access.of("fetch")
    kind = AccessKind.WRITE if code & ErrorCode.W else AccessKind.READ
    return Access(kind, implicit=fault.implicit)
