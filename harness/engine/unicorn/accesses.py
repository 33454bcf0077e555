"""Accesses that the harness makes on the guest's behalf, each translated by Unicorn's own MMU.

Explicit ones have the rights of the guest's CPL; implicit ones are the CPU's own, of descriptor
tables and the TSS: a supervisor's with AC clear, whatever the guest was doing (SDM 3A 4.6.1). What
an access raises is a :class:`Raised`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from unicorn import UC_PROT_READ, UC_PROT_WRITE
from unicorn import x86_const as x86

from harness.engine.run import PAGE_FAULT
from harness.engine.unicorn.core import Core
from harness.errors import NoMemory

__all__ = ["Accesses", "Raised"]

_PROTECTION = 13
_AC = 1 << 18
_MASK = (1 << 64) - 1


class Raised(Exception):
    """An access, or what was read, raises an exception.

    :param implicit: whether the access was one of the CPU's own.
    """

    def __init__(self, vector: int, error_code: int, why: str, *, implicit: bool = False) -> None:
        super().__init__(why)
        self.vector = vector
        self.error_code = error_code
        self.why = why
        self.implicit = implicit


class Accesses:
    """Accesses with one kind of rights. Implicit ones last from ``with`` to its end.

    :param implicit: the CPU's own, else the guest's.
    """

    def __init__(self, core: Core, *, implicit: bool) -> None:
        self._core = core
        self._implicit = implicit
        self.flags = 0
        """RFLAGS as the guest has them."""

    def __enter__(self) -> Self:
        core = self._core
        self.flags = int(core.uc.reg_read(x86.UC_X86_REG_EFLAGS))
        if self._implicit:
            core.save()
            self._hflags = core.d[core.at.hflags // 4]
            core.d[core.at.hflags // 4] = self._hflags & ~3
            core.restore()
            core.uc.reg_write(x86.UC_X86_REG_EFLAGS, self.flags & ~_AC)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _t: TracebackType | None,
    ) -> None:
        if self._implicit:
            core = self._core
            core.save()
            core.d[core.at.hflags // 4] = self._hflags
            core.restore()
            core.uc.reg_write(x86.UC_X86_REG_EFLAGS, self.flags)

    def read(self, va: int, size: int, what: str) -> bytes:
        """Read bytes.

        :param what: names them in an error.
        :raises Raised: #PF, or #GP(0) for an address that is not canonical.
        :raises NoMemory: where there is no RAM.
        """
        return b"".join(
            self._core.memory.read(pa, count)
            for pa, count in self._pieces(va, size, UC_PROT_READ, what)
        )

    def write(self, va: int, data: bytes, what: str) -> None:
        """Write bytes, all of them or none; raises what :meth:`read` does."""
        pieces = self._pieces(va, len(data), UC_PROT_WRITE, what)
        for pa, count in pieces:
            if not self._core.memory.contains(pa, count):
                raise NoMemory(pa)
        for pa, count in pieces:
            self._core.uc.mem_write(pa, data[:count])
            data = data[count:]

    def touch(self, va: int, size: int, what: str, *, write: bool = False) -> None:
        """Translate an access without making it; raises what it would raise."""
        self._pieces(va, size, UC_PROT_WRITE if write else UC_PROT_READ, what)

    def _pieces(self, va: int, size: int, prot: int, what: str) -> list[tuple[int, int]]:
        """Translate page by page, before anything is touched."""
        core, found = self._core, []
        while size:
            count = min(size, 0x1000 - (va & 0xFFF))
            marker = core.uc.reg_read(x86.UC_X86_REG_CR2)
            core.uc.reg_write(x86.UC_X86_REG_CR2, ~va & _MASK)
            pa = core.translate(va & _MASK, prot)
            if pa is None:
                core.save()
                if core.q[core.at.cr2 // 8] == ~va & _MASK:
                    core.uc.reg_write(x86.UC_X86_REG_CR2, marker)
                    why = f"{what} at {va & _MASK:#x} is not canonical"
                    raise Raised(_PROTECTION, 0, why, implicit=self._implicit)
                error = core.d[core.at.error_code // 4]
                why = f"{what} at {va & _MASK:#x} faults"
                raise Raised(PAGE_FAULT, error, why, implicit=self._implicit)
            core.uc.reg_write(x86.UC_X86_REG_CR2, marker)
            found.append((pa, count))
            va += count
            size -= count
        return found
