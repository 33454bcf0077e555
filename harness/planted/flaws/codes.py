"""Flaws of what a page fault reports: its error code and CR2.

They break ERR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CR4, ErrorCode
from harness.planted.flaws.answers import faults
from harness.planted.flaws.flaw import Change, Flaw
from harness.planted.query import Answer, Query, Rows, u64

__all__ = ["FLAWS"]

_MASK: Final = (1 << 64) - 1
_Codes = NDArray[np.uint32]


# Error codes.


def _code(
    test: Callable[[Query, Answer], Rows | bool], change: Callable[[_Codes], _Codes]
) -> Change:
    """Change the error code of page faults where a test holds."""

    def changed(q: Query, a: Answer) -> None:
        np.copyto(a.error_code, change(a.error_code), where=faults(a) & test(q, a))

    return changed


def _set(bit: ErrorCode) -> Callable[[_Codes], _Codes]:
    return lambda code: code | np.uint32(bit)


def _clear(bit: ErrorCode) -> Callable[[_Codes], _Codes]:
    return lambda code: code & ~np.uint32(bit)


def _pk_alone(q: Query, a: Answer) -> None:
    """Leave PK out where the access fails for another reason, too."""
    keys = faults(a, having=ErrorCode.PK)
    if keys.any():
        other = q.ask(cpu=q.cpu.replace(cr4=q.cpu.cr4 & ~int(CR4.PKE)))
        np.copyto(a.error_code, _clear(ErrorCode.PK)(a.error_code), where=keys & faults(other))


# CR2.


def _cr2_of_page(q: Query, a: Answer) -> None:
    a.cr2[:] &= ~u64(0xFFF)


def _cr2_of_access(q: Query, a: Answer) -> None:
    np.copyto(a.cr2, u64(q.va), where=faults(a))


def _cr2_of_last_byte(q: Query, a: Answer) -> None:
    np.copyto(a.cr2, u64(q.va + q.access.size - 1 & _MASK), where=faults(a))


# The list.

_BITS: Final = (
    ("P", ErrorCode.P),
    ("W", ErrorCode.W),
    ("U", ErrorCode.U),
    ("RSVD", ErrorCode.RSVD),
    ("I", ErrorCode.I),
    ("PK", ErrorCode.PK),
)

FLAWS: Final = (
    *(
        Flaw(
            f"ERR_{name}",
            "ERR",
            f"bit {name} of the error code is never set",
            answer=_code(lambda q, a: True, _clear(bit)),
        )
        for name, bit in _BITS
    ),
    Flaw(
        "ERR_RSVD_P",
        "ERR",
        "a reserved bit is reported with P = 0",
        answer=_code(lambda q, a: faults(a, having=ErrorCode.RSVD), _clear(ErrorCode.P)),
    ),
    Flaw(
        "ERR_I_ALWAYS",
        "ERR",
        "bit I is set for a fetch with EFER.NXE = CR4.SMEP = 0, too",
        answer=_code(lambda q, a: q.access.is_fetch, _set(ErrorCode.I)),
    ),
    Flaw(
        "ERR_I_NXE",
        "ERR",
        "bit I is set for a fetch only with EFER.NXE = 1, not with CR4.SMEP = 1 alone",
        answer=_code(lambda q, a: q.access.is_fetch and not q.cpu.nxe, _clear(ErrorCode.I)),
    ),
    Flaw(
        "ERR_U_IMPLICIT",
        "ERR",
        "an implicit access at CPL 3 is reported as a user's",
        answer=_code(lambda q, a: q.access.implicit and q.cpu.user, _set(ErrorCode.U)),
    ),
    Flaw(
        "ERR_PK_ALONE",
        "ERR",
        "PK is left out when another right fails, too",
        answer=_pk_alone,
    ),
    Flaw("ERR_CR2_PAGE", "ERR", "CR2 is the page's first byte", answer=_cr2_of_page),
    Flaw(
        "ERR_CR2_ACCESS",
        "ERR",
        "CR2 is the access's first byte when its upper page faults, too",
        answer=_cr2_of_access,
    ),
    Flaw("ERR_CR2_LAST", "ERR", "CR2 is the access's last byte", answer=_cr2_of_last_byte),
)
