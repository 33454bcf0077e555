"""Random questions to the MMU: tables, CPU states and accesses that no kernel would make.

Each case builds the tables of one walk (of two, where the access spans pages) out of random bits
and asks one access of it. Probabilities are chosen so that every rule decides a share of the
cases: entries are mostly present and mostly well formed, or every walk would end at the root.
Nothing here knows the rules; a case that makes no sense is as welcome as any.

The same seed and number give the same case, on every machine::

    >>> [case] = generate(seed=7, count=1, start=1234)
    >>> [case] == list(generate(seed=7, count=1, start=1234))
    True

It cannot fail; a negative count is no cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from harness.check.case import Case
from harness.cpu import CR0, CR4, EFER, RFLAGS, CpuFeatures, CpuState
from harness.memory import Region
from harness.outcome import Access, AccessKind

__all__ = ["RAM", "generate"]

RAM: Final = (Region(0, 0x40_0000), Region(0x1_0000_0000, 0x10_0000))
"""The RAM of every generated case: two regions, so that addresses and offsets differ."""

_PHYSICAL_BITS = 40
_CR0 = int(CR0.PE | CR0.ET | CR0.NE | CR0.PG)  # without AM: alignment checks are not paging
_LONG_MODE = int(EFER.LME | EFER.LMA)
_NXE, _AC, _WP = int(EFER.NXE), int(RFLAGS.AC), int(CR0.WP)
_PAE, _LA57 = int(CR4.PAE), int(CR4.LA57)
_OPTIONAL_CR4 = tuple(int(bit) for bit in (CR4.SMEP, CR4.SMAP, CR4.PKE, CR4.PGE))
_P, _RW, _US, _A, _D, _PS, _G, _PAT, _XD = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 12, 63))
_NO_FEATURES: Final = CpuFeatures(pdpe1gb=False)
_WIDE: Final = CpuFeatures(maxphyaddr=46)
_SIZES = (1, 1, 2, 4, 8, 8)


def generate(seed: int, count: int, *, start: int = 0) -> Iterator[Case]:
    """Make random cases.

    :param seed: names the sequence; 0 or more.
    :param count: how many.
    :param start: the number of the first one in the sequence.
    """
    for number in range(start, start + count):
        yield _case(Random(seed << 40 | number))


def _case(rng: Random) -> Case:
    cpu = _cpu(rng)
    access = _access(rng)
    va = _address(rng, cpu.levels, access.size)
    tables = [cpu.root, *(_frame(rng) for _ in range(cpu.levels - 1))]
    if rng.random() < 0.12:  # SELF: one table serves two levels
        tables[rng.randrange(1, cpu.levels)] = tables[rng.randrange(cpu.levels)]
    # How generous the entries of this case are: without such cases few walks reach a leaf.
    plain = rng.random() < 0.35
    words: dict[int, int] = {}
    last = va + access.size - 1 & 0xFFFF_FFFF_FFFF_FFFF
    for address in dict.fromkeys((va, last)):
        for level, table in zip(range(cpu.levels, 0, -1), tables, strict=True):
            at = table | (address >> 9 * level & 0xFF8)
            if at in words:
                continue
            if not _in_ram(at):
                break
            below = tables[cpu.levels - level + 1] if level > 1 else 0
            words[at] = _entry(rng, level, below, plain)
    return Case(cpu, RAM, words, va, access)


def _cpu(rng: Random) -> CpuState:
    chance = rng.random
    cr4 = _PAE | (_LA57 if chance() < 0.35 else 0)
    for bit in _OPTIONAL_CR4:
        if chance() < 0.4:
            cr4 |= bit
    # Rarely, what the default engine must own up to not having.
    features = CpuFeatures() if chance() < 0.995 else rng.choice((_NO_FEATURES, _WIDE))
    if chance() < 0.005:
        cr4 |= int(CR4.PKS)
    root = rng.randrange(1, 256) << 12 if chance() < 0.95 else _frame(rng)
    if not _in_ram(root):
        root = 0x1000
    return CpuState(
        cr0=_CR0 | (_WP if chance() < 0.5 else 0),
        cr3=root | (rng.getrandbits(12) if chance() < 0.3 else 0),
        cr4=cr4,
        efer=_LONG_MODE | (_NXE if chance() < 0.75 else 0),
        rflags=_AC if chance() < 0.3 else 0,
        pkru=rng.choice((0, 0, 0x5555_5554, 0xFFFF_FFFF, rng.getrandbits(32))),
        pkrs=rng.getrandbits(32) if chance() < 0.1 else 0,
        cpl=3 if chance() < 0.5 else rng.choice((0, 0, 0, 0, 0, 1, 2)),
        features=features,
    )


def _access(rng: Random) -> Access:
    chance = rng.random
    kind = rng.choice(tuple(AccessKind))
    if kind is AccessKind.FETCH:
        return Access(kind)
    if chance() < 0.08:
        return Access(AccessKind.READ, 8, implicit=True)
    return Access(kind, rng.choice(_SIZES), stack=chance() < 0.15)


def _address(rng: Random, levels: int, size: int) -> int:
    bits = 9 * levels + 12
    va = rng.getrandbits(bits)
    how = rng.random()
    if how < 0.25:  # near the end of a page, so that wide accesses span two
        va = (va | 0xFFF) - rng.randrange(2 * size)
    elif how < 0.3:  # at the edges of the canonical halves
        va = rng.choice((0, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1))
        va = va - rng.randrange(8) & (1 << bits) - 1
    elif how < 0.35:  # one index at every level, as in a recursive slot
        va = sum((va >> 12 & 511) << 12 + 9 * level for level in range(levels)) | va & 0xFFF
    if va >> bits - 1:
        va |= -1 << bits & 0xFFFF_FFFF_FFFF_FFFF
    if rng.random() < 0.03:
        va ^= 1 << rng.randrange(bits - 1, 64)
    return va


def _entry(rng: Random, level: int, table: int, plain: bool) -> int:
    chance = rng.random
    bits = _P | _RW | _US if plain or chance() < 0.5 else 0
    if not bits:
        for bit, share in ((_P, 0.93), (_RW, 0.7), (_US, 0.7)):
            if chance() < share:
                bits |= bit
    if not plain and chance() < 0.12:
        bits |= _XD
    for bit in (_A, _D, _G):
        if chance() < 0.4:
            bits |= bit
    how = chance()
    if how < 0.4:
        bits |= rng.getrandbits(4) << 59
    elif how < 0.45:
        bits |= rng.getrandbits(12) << 52 & ~_XD
    elif how < 0.47:
        bits |= 1 << rng.randrange(_PHYSICAL_BITS, 52)
    elif how < 0.49:
        bits |= rng.getrandbits(3) << 9 | rng.getrandbits(2) << 3
    elif how < 0.495:
        return rng.getrandbits(64)
    page = level == 1 or chance() < (0.015 if level > 3 else 0.2)
    if not page:
        return bits | table
    if level > 1 or chance() < 0.4:
        bits |= _PS  # in a PTE this is PAT
    return bits | _page_frame(rng, level)


def _page_frame(rng: Random, level: int) -> int:
    frame = _frame(rng)
    if level in (2, 3):
        inside = (1 << 3 + 9 * level) - 1
        if rng.random() < 0.85:
            frame &= ~inside
            if level == 3 and rng.random() < 0.5:
                frame = 0x1_0000_0000 if rng.random() < 0.5 else 0
        if rng.random() < 0.3:
            frame |= _PAT
    return frame


def _frame(rng: Random) -> int:
    how = rng.random()
    if how < 0.6:
        return rng.randrange(0, RAM[0].end, 0x1000)
    if how < 0.9:
        return RAM[1].base + rng.randrange(0, RAM[1].size, 0x1000)
    return rng.getrandbits(_PHYSICAL_BITS) & ~0xFFF


def _in_ram(pa: int) -> bool:
    return any(region.base <= pa < region.end for region in RAM)
