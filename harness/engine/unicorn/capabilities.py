"""What Unicorn 2.1.4 can be asked, and what it cannot (docs/quirks.md, Unicorn).

>>> unsupported_access(Access(AccessKind.READ, 16))
>>> unsupported_access(Access(AccessKind.READ, 32))
'a probe reads 1, 2, 4, 6, 8, 10 or 16 bytes, not 32'
"""

from __future__ import annotations

from typing import Final

from harness.cpu import CpuState
from harness.engine.capabilities import Capabilities
from harness.engine.guest.access_stubs import SNIPPETS
from harness.outcome import Access, AccessKind
from harness.registers import CR4

__all__ = [
    "CAPABILITIES",
    "PHYSICAL_BITS",
    "unsupported_access",
    "unsupported_control",
    "unsupported_run",
    "unsupported_state",
]

PHYSICAL_BITS: Final = 40
"""unicorn 2.1.4: MAXPHYADDR is 40 on every CPU model."""

_TF = 1 << 8


def _widths(kind: AccessKind, *, implicit: bool) -> frozenset[int]:
    return frozenset(
        size for word, size, own, _ in SNIPPETS if (word, own) == (kind.value, implicit)
    )


CAPABILITIES: Final = Capabilities(
    maxphyaddr=frozenset({PHYSICAL_BITS}),
    reads=_widths(AccessKind.READ, implicit=False),
    writes=_widths(AccessKind.WRITE, implicit=False),
    implicit_reads=_widths(AccessKind.READ, implicit=True),
    implicit_writes=_widths(AccessKind.WRITE, implicit=True),
    # Its TLB does not know G: a load of CR3 empties it.
    global_pages=False,
    stack=True,
    instructions=True,
    deliveries="software",
    runs=True,
    events=True,
)
"""What Unicorn can be asked."""

_WHO = "Unicorn"


def unsupported_control(cpu: CpuState) -> str | None:
    """Say which of a CPU's features this engine does not have, or None when it has them all."""
    return CAPABILITIES.refuses_state(_WHO, cpu)


def unsupported_run(cpu: CpuState) -> str | None:
    """Say why this engine cannot run code in a CPU state, or None when it can."""
    missing = cpu.cr4 & int(CR4.KL | CR4.CET | CR4.UINTR | CR4.FRED)
    if missing:
        return f"Unicorn runs no code with {CR4(missing)!r} (CR4 = {cpu.cr4:#x})"
    return unsupported_control(cpu)


def unsupported_state(cpu: CpuState) -> str | None:
    """Say why this engine cannot probe in a CPU state, or None when it can."""
    reason = unsupported_control(cpu)
    if reason is None and cpu.rflags & _TF:
        return "a probe cannot run with RFLAGS.TF set"
    return reason


def unsupported_access(access: Access) -> str | None:
    """Say why no probe makes such an access, or None when one does."""
    return CAPABILITIES.refuses_access(access)
