"""The matrix that kvm-unit-tests' ``access`` enumerates: 19,169,280 cases with 4 or 5 levels.

27 bits, as docs/matrix.md describes them: seven of the PTE, nine of the PDE, the PDPTE's R/W,
PKRU's AD and WD for key 1, whether the leaf has key 1, CPL 3, write, fetch, *twice*, EFER.NXE,
CR0.WP and CR4.PKE. What is illegal there is pruned here, with the reason. SMEP stays 0; entries
above are present, writable, user pages and accessed; a PDE that leads to a table has key 2, which
PKRU denies everything, so that a key taken from the wrong entry shows.

kvm-unit-tests' bit makes the PDPTE read-only; ours, ``pdpte.rw``, says what the entry holds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.check.matrix.spaces.bits import (
    ACCESS_BITS,
    CPU_BITS,
    LEAF,
    Bit,
    Field,
    Illegal,
    On,
    entry_bits,
)
from harness.check.matrix.spaces.group import Group
from harness.check.matrix.spaces.space import Space

__all__ = ["Classic"]

_P, _RW, _US, _A, _D, _PS, _XD = 0, 1, 2, 5, 6, 7, 63
_KEY = 59
_TABLE = 1 << _P | 1 << _RW | 1 << _US | 1 << _A
# The PDPTE's R/W is chosen; so are all bits of the PDE, whose key is 2 when it is no leaf.
_TABLES = {5: _TABLE, 4: _TABLE, 3: _TABLE & ~(1 << _RW), 2: 2 << _KEY, 1: 0}
_KEY_2_DENIED = 3 << 2 * 2

_PDPTE = entry_bits([3], _RW)
_PDE = entry_bits([2], _P, _RW, _US, _A, _D, _PS, _XD, 51, 13)
_PTE = entry_bits([1], _P, _RW, _US, _A, _D, _XD, 51)
_LEAF_KEY = Bit("leaf.key", "the entry that maps the page has key 1", level=LEAF, mask=1 << _KEY)
_PKRU = (
    Bit("pkru.ad", "PKRU: no access to pages of key 1", register="pkru", mask=1 << 2),
    Bit("pkru.wd", "PKRU: no write to pages of key 1", register="pkru", mask=2 << 2),
)
_CPU = tuple(CPU_BITS[name] for name in ("efer.nxe", "cr0.wp", "cr4.pke"))
_ACCESS = (CPU_BITS["user"], *(ACCESS_BITS[name] for name in ("write", "fetch", "twice")))


def _reserved_twice(on: On) -> NDArray[np.bool_]:
    disabled = ~on["efer.nxe"]
    reserved = [on["pte.bit51"], on["pde.bit51"], on["pde.bit13"]]
    reserved += [on["pte.nx"] & disabled, on["pde.nx"] & disabled]
    return sum(bit.astype(np.int8) for bit in reserved) > np.int8(1)  # type: ignore[return-value]


@lru_cache(maxsize=2)
def _group(levels: int) -> Group:
    return Group(
        name="classic",
        sentence="what kvm-unit-tests' access enumerates",
        levels=levels,
        cpu_fields=tuple(Field.of(bit) for bit in (*_CPU, *_PKRU, *_ACCESS)),
        entry_fields=tuple(Field.of(bit) for bit in (*_PDPTE, _LEAF_KEY, *_PDE, *_PTE)),
        illegal_cpu=(
            Illegal("a fetch is no write", lambda on: on["fetch"] & on["write"]),
            Illegal(
                "PKRU says nothing while CR4.PKE = 0",
                lambda on: (on["pkru.ad"] | on["pkru.wd"]) & ~on["cr4.pke"],
            ),
        ),
        illegal_entries=(
            Illegal(
                "bit 13 is an address bit of a PDE that leads to a table",
                lambda on: on["pde.bit13"] & ~on["pde.pse"],
            ),
            Illegal("one reserved bit at a time, XD being one while NXE = 0", _reserved_twice),
        ),
        depends=("efer.nxe",),
        registers={"pkru": _KEY_2_DENIED},
        tables=tuple(_TABLES[level] for level in range(levels, 0, -1)),
    )


class Classic(Space):
    """kvm-unit-tests' matrix.

    :param levels: 4 or 5.
    :raises InputError: for any other number.
    """

    name = "classic"

    @staticmethod
    def _made(levels: int) -> tuple[Group, ...]:
        return (_group(levels),)
