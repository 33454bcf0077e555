"""The instructions that make an access: one for each kind, width and segment that there is.

QEMU 5.0.1's TCG, which Unicorn 2.1.4 is made of, has no AVX (``vmovups`` ends the run as an invalid
instruction), and ``fldenv`` reads 6 of its 28 bytes. What is left beyond 8 bytes are far pointers,
the x87's ten-byte numbers and environment, and SSE; what no instruction does is refused
(:mod:`.capabilities`).
"""

from __future__ import annotations

from typing import Final

from harness.outcome import Access

__all__ = ["SNIPPETS", "WIDEST_AT_ONCE", "key_of"]

Key = tuple[str, int, bool, bool]
"""Kind, size, implicit, stack."""

WIDEST_AT_ONCE: Final = 8
"""unicorn 2.1.4 makes wider accesses in parts, each translated and stored before the next."""

_READS = {
    1: "mov al, [{0}]",
    2: "mov ax, [{0}]",
    4: "mov eax, [{0}]",
    6: "lfs eax, [{0}]",
    8: "mov rax, [{0}]",
    10: "fld tbyte ptr [{0}]",
    16: "movups xmm0, [{0}]",
}
_WRITES = {
    1: "mov [{0}], al",
    2: "mov [{0}], ax",
    4: "mov [{0}], eax",
    8: "mov [{0}], rax",
    10: "fstp tbyte ptr [{0}]",
    16: "movups [{0}], xmm0",
    28: "fnstenv [{0}]",
}

SNIPPETS: Final[dict[Key, str]] = {
    (kind, size, False, stack): text.format("rsp" if stack else "rsi")
    for kind, texts in (("read", _READS), ("write", _WRITES))
    for size, text in texts.items()
    for stack in (False, True)
}
"""The instruction that makes each access; the address is in RSI, or in RSP for the stack."""

# This makes the CPU itself read a descriptor from the GDT. Loading a segment register does so, too,
# and then may refuse the descriptor, or mark it as accessed, which would be a second access.
SNIPPETS["read", 8, True, False] = "verr ax"


def key_of(access: Access) -> Key:
    """Return what an access is looked up by."""
    return access.kind.value, access.size, access.implicit, access.stack
