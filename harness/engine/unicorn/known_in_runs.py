"""A registered divergence of Unicorn's MMU that a run cannot put right.

The others are: the checks before instructions (:mod:`.preflight`) keep AC from implicit accesses,
and :mod:`.stack` tells #SS from #GP.
"""

from __future__ import annotations

from unicorn import x86_const as x86

from harness.engine.unicorn.core import Core

__all__ = ["accessed_in_faulting_1g"]

_RSVD = 1 << 3
_LA57, _PRESENT, _ACCESSED, _PAGE_SIZE = 1 << 12, 1 << 0, 1 << 5, 1 << 7
_ADDRESS = (1 << 52) - (1 << 12)
_RESERVED_1G = (1 << 30) - (1 << 13)


def accessed_in_faulting_1g(core: Core, error_code: int) -> int | None:
    """Return where a 1 GiB page's entry lies whose A bit Unicorn may have set, and no CPU would.

    ``a-in-faulting-1g-page``: it sets A before it looks at the reserved bits. Whether A was set
    before cannot be told any more.

    :param error_code: of the #PF that has just been raised; CR2 is its address.
    """
    if not error_code & _RSVD:
        return None
    read = core.uc.reg_read
    va = int(read(x86.UC_X86_REG_CR2))
    table = int(read(x86.UC_X86_REG_CR3)) & _ADDRESS
    for shift in (48, 39, 30) if read(x86.UC_X86_REG_CR4) & _LA57 else (39, 30):
        at = table + 8 * (va >> shift & 511)
        if not core.memory.contains(at, 8):
            return None
        entry = core.memory.read_u64(at)
        if not entry & _PRESENT:
            return None
        table = entry & _ADDRESS
    return at if entry & _PAGE_SIZE and entry & _ACCESSED and entry & _RESERVED_1G else None
