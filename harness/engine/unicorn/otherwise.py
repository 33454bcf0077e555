"""Execute one instruction with something different, and put that back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from unicorn import UC_PROT_EXEC
from unicorn import x86_const as x86

from harness.engine.unicorn.core import Core
from harness.engine.unicorn.preflight import Go

__all__ = ["otherwise"]

_SMAP = 1 << 23
"""unicorn 2.1.4: the hflags bit of CR4.SMAP."""
_CR4_SMAP = 1 << 21


@contextlib.contextmanager
def otherwise(core: Core, at: int, go: Go) -> Iterator[None]:
    """Change what the check asked for, as long as this lasts.

    :param at: the instruction.
    """
    registers = {getattr(x86, f"UC_X86_REG_{name.upper()}"): v for name, v in go.registers.items()}
    before = {number: core.uc.reg_read(number) for number in registers}
    for number, value in registers.items():
        core.uc.reg_write(number, value)
    if go.without_smap:
        core.save()
        core.d[core.at.hflags // 4] &= ~_SMAP
        core.restore()
    code = None if go.code is None else core.fetch(at, len(go.code))
    if go.code is not None:
        _patch(core, at, go.code)
    try:
        yield
    finally:
        for number, value in before.items():
            core.uc.reg_write(number, value)
        if code is not None:
            _patch(core, at, code)
        core.save()
        if go.without_smap and core.uc.reg_read(x86.UC_X86_REG_CR4) & _CR4_SMAP:
            core.d[core.at.hflags // 4] |= _SMAP
            core.restore()


def _patch(core: Core, at: int, code: bytes) -> None:
    for place, byte in enumerate(code):
        pa = core.translate(at + place, UC_PROT_EXEC)
        if pa is not None:
            core.uc.mem_write(pa, bytes([byte]))
    core.uc.ctl_remove_cache(at, at + len(code))
