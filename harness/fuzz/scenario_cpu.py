"""The CPU that a random scenario begins with: in either ring, each guard on now and then.

Every kind of scenario has shares of its own::

    cpu = scenario_cpu(rng, 0x1000, wp=0.7, guards=0.2, flags=((AC, 0.3),), pkru=(0, 0xC))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from harness.cpu import CR0, CR4, EFER, CpuState

__all__ = ["scenario_cpu"]

_CR0 = int(CR0.PG | CR0.NE | CR0.ET | CR0.MP | CR0.PE)
_LONG_MODE = int(EFER.LME | EFER.LMA)
_WP, _NXE, _PAE, _LA57, _PGE = (int(bit) for bit in (CR0.WP, EFER.NXE, CR4.PAE, CR4.LA57, CR4.PGE))
_GUARDS = tuple(int(bit) for bit in (CR4.SMEP, CR4.SMAP, CR4.PKE))


def scenario_cpu(
    rng: Random,
    root: int,
    *,
    wp: float,
    guards: float,
    flags: Iterable[tuple[int, float]],
    pkru: Sequence[int | None],
    cpls: Sequence[int] = (0, 3),
    pge: float = 0.0,
) -> CpuState:
    """Return a random state.

    :param root: the root table's address.
    :param wp: the share of states with CR0.WP.
    :param guards: of those with CR4.SMEP, with SMAP, with PKE.
    :param flags: bits of RFLAGS, and the share of each.
    :param pkru: what PKRU may be; None is any value.
    :param cpls: what the CPL may be.
    :param pge: the share of states with global pages.
    """
    chance = rng.random
    cr4 = _PAE | (_LA57 if chance() < 0.25 else 0)
    if pge:
        cr4 |= _PGE if chance() < pge else 0
    for bit in _GUARDS:
        cr4 |= bit if chance() < guards else 0
    return CpuState(
        cr0=_CR0 | (_WP if chance() < wp else 0),
        cr3=root,
        cr4=cr4,
        efer=_LONG_MODE | (_NXE if chance() < 0.8 else 0),
        rflags=2 | sum(bit for bit, share in flags if chance() < share),
        pkru=rng.choice([rng.getrandbits(32) if value is None else value for value in pkru]),
        cpl=rng.choice(cpls),
    )
