"""Random states of a CPU in long mode, for one address space.

Mostly what the engine has; rarely what it must own up to not having (another MAXPHYADDR, no 1 GiB
pages, PKS, PCID), which has to end as ``unsupported``::

    >>> cpu = random_state(Dice(1, 2), DEFAULTS, levels=5, root=0x1000, features=set())
    >>> cpu.levels, hex(cpu.root)
    (5, '0x1000')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from harness.cpu import CR0, CR4, EFER, RFLAGS, CpuFeatures, CpuState
from harness.fuzz.dice import Dice

__all__ = ["random_state"]

_CR0 = int(CR0.PE | CR0.ET | CR0.NE | CR0.PG)  # without AM: alignment checks are not paging
_CR4 = int(CR4.PAE | CR4.OSFXSR)
_LONG_MODE = int(EFER.LME | EFER.LMA)
_NXE, _AC, _WP, _LA57 = int(EFER.NXE), int(RFLAGS.AC), int(CR0.WP), int(CR4.LA57)
_SWITCHES: Final = tuple(
    (name, int(bit))
    for name, bit in (
        ("smep", CR4.SMEP),
        ("smap", CR4.SMAP),
        ("pke", CR4.PKE),
        ("pge", CR4.PGE),
    )
)
_PKRU: Final = (0, 0, 0x5555_5554, 0xAAAA_AAA8, 0xFFFF_FFFF)
_DEFAULT: Final = CpuFeatures()
_MISSING: Final = (
    (CpuFeatures(pdpe1gb=False), 0),
    (CpuFeatures(maxphyaddr=46), 0),
    (_DEFAULT, int(CR4.PKS)),
    (_DEFAULT, int(CR4.PCIDE)),
)


def random_state(
    dice: Dice, knobs: Mapping[str, float], *, levels: int, root: int, features: set[str]
) -> CpuState:
    """Make a state.

    :param dice: what decides.
    :param knobs: how often each feature occurs.
    :param levels: 4 or 5.
    :param root: the top table's address.
    :param features: takes in the knobs that had a part in it.
    """
    roll = dice.roll
    cr4 = _CR4 | (_LA57 if levels == 5 else 0)
    for name, bit in _SWITCHES:
        if roll() < knobs[name]:
            cr4 |= bit
            features.add(name)
    cr0, efer, rflags, cr3 = _CR0, _LONG_MODE, 0, root
    if roll() < knobs["wp"]:
        cr0 |= _WP
        features.add("wp")
    if roll() < knobs["nxe"]:
        efer |= _NXE
        features.add("nxe")
    if roll() < knobs["ac"]:
        rflags = _AC
        features.add("ac")
    if roll() < knobs["cr3-low"]:
        cr3 |= int(roll() * 0x1000)
        features.add("cr3-low")
    cpl = 3
    if roll() < knobs["user"]:
        features.add("user")
    else:
        cpl = 0 if roll() < 0.7 else 1 + int(roll() * 2)
    offered = _DEFAULT
    if roll() < knobs["missing"]:
        features.add("missing")
        offered, bit = dice.pick(_MISSING)
        cr4 |= bit
    return CpuState(
        cr0=cr0,
        cr3=cr3,
        cr4=cr4,
        efer=efer,
        rflags=rflags,
        pkru=dice.pick(_PKRU) if roll() < 0.7 else dice.bits(32),
        pkrs=dice.bits(32) if roll() < 0.1 else 0,
        cpl=cpl,
        features=offered,
    )
