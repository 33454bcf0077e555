"""The matrix of what ``Classic`` leaves out: 1 GiB pages, SMEP and SMAP, every bit at every level.

All combinations of all bits would be more than 10^40. So the bits are taken in groups: each group
varies, in all combinations, what belongs together, and keeps the rest as a kernel would have it.
Two more groups vary everything at once, in a covering array under every CPU state. docs/matrix.md
says what is exhaustive and what is covered to which strength; ``Full(4).groups`` gives the counts.

Whatever is set in a case has a name here, the plain bits of upper entries too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from harness.check.matrix.spaces.bits import (
    ACCESS_BITS,
    CPU_BITS,
    LEAF,
    TABLES_ABOVE,
    Bit,
    Field,
    Illegal,
    On,
    entry_bit,
    entry_bits,
    unread,
)
from harness.check.matrix.spaces.group import Group
from harness.check.matrix.spaces.space import Space

__all__ = ["Full"]

_P, _RW, _US, _PWT, _PCD, _A, _D, _PS, _G, _XD = 0, 1, 2, 3, 4, 5, 6, 7, 8, 63
_PAT_OF_BIG = 12
_KEY = (59, 60, 61, 62)
_ADDRESS = range(40, 52)  # from MAXPHYADDR up
_RESERVED_1G = range(13, 30)  # of these, 13 to 20 are reserved in a 2 MiB page, too
_FREE = (9, 10, 11)
_FREE_HIGH = tuple(range(52, 59))

_LEAF_SIZE = Field("size of the page", ((), (entry_bit(2, _PS),), (entry_bit(3, _PS),)))
_KIND = Field("kind", ((), (ACCESS_BITS["write"],), (ACCESS_BITS["fetch"],)))
_SIZE = Field("size", ((), *((ACCESS_BITS[f"size{size}"],) for size in (2, 4, 8))))
_ALL_PKRU = tuple(CPU_BITS[f"pkru.{name}{key}"] for key in range(16) for name in ("ad", "wd"))


def _cpu(*names: str) -> tuple[Field, ...]:
    return tuple(Field.of(CPU_BITS[name]) for name in names)


def _each(levels: Iterable[int], *positions: int) -> tuple[Field, ...]:
    return tuple(Field.of(bit) for bit in entry_bits(levels, *positions))


def _down(levels: int) -> range:
    return range(levels, 0, -1)


def _but_one(levels: int, position: int) -> Iterator[tuple[Bit, ...]]:
    # The bit set at every level, then at all but the root, and so on.
    bits = entry_bits(_down(levels), position)
    yield bits
    for missing in bits:
        yield tuple(bit for bit in bits if bit is not missing)


def _at_most(count: int, bits: tuple[Bit, ...]) -> Iterator[tuple[Bit, ...]]:
    for chosen in range(count + 1):
        yield from combinations(bits, chosen)


_LOW_BITS = tuple(entry_bit(LEAF, position) for position in _RESERVED_1G)


def _address_bits(on: On) -> NDArray[np.bool_]:
    # Bits that are part of the frame's address in a page of that size.
    result = np.asarray(False)
    big = on["pde.pse"] | on["pdpte.pse"]
    for bit in (entry_bit(LEAF, _PAT_OF_BIG), *_LOW_BITS):
        if bit.name in on:
            allowed = big if bit.mask < 1 << 21 else on["pdpte.pse"]
            result = result | (on[bit.name] & ~allowed)
    return result


_NO_ADDRESS = Illegal("in a smaller page that bit is an address bit", _address_bits)
_XD_RESERVED = "XD is reserved while EFER.NXE = 0, which is another group's subject"


def _xd_without_nxe(on: On) -> NDArray[np.bool_]:
    result = np.asarray(False)
    for name in on:
        if name.endswith(".nx"):
            result = result | on[name]
    return result & ~on["efer.nxe"]


def _order(levels: int) -> Group:
    per_level = [
        _each([level], _P, _XD, 51, *((_PS,) if level > 3 else ())) for level in _down(levels)
    ]
    fields = (
        _LEAF_SIZE,
        Field.always("rights", entry_bits(_down(levels), _RW, _US)),
        *(field for level in per_level for field in level),
        *_each([LEAF], 13),
    )
    return Group(
        name="order",
        sentence="P, XD, bit 51 and bit 7 at every level, bit 13 of big pages: what ends the walk",
        levels=levels,
        cpu_fields=(*_cpu("efer.nxe", "cr0.wp", "user"), _KIND),
        entry_fields=fields,
        illegal_entries=(unread(fields), _NO_ADDRESS),
    )


def _rights(levels: int) -> Group:
    fields = (
        _LEAF_SIZE,
        Field.always("usual", entry_bits(_down(levels), _P, _A)),
        *_each(_down(levels), _RW, _US, _XD),
    )
    return Group(
        name="rights",
        sentence="R/W, U/S and XD at every level against WP, SMEP, SMAP, AC, NXE and every access",
        levels=levels,
        cpu_fields=(
            *_cpu("efer.nxe", "cr0.wp", "cr4.smep", "cr4.smap", "rflags.ac", "user"),
            _KIND,
        ),
        entry_fields=fields,
        illegal_entries=(unread(fields), Illegal(_XD_RESERVED, _xd_without_nxe)),
        depends=("efer.nxe",),
    )


def _reserved(levels: int) -> Group:
    every = (
        *(bit for level in _down(levels) for bit in entry_bits([level], *_ADDRESS, _XD)),
        *entry_bits(range(levels, 3, -1), _PS),
        *_LOW_BITS,
    )
    fields = (
        _LEAF_SIZE,
        Field("present", tuple(_but_one(levels, _P))),
        Field.always("usual", entry_bits(_down(levels), _RW, _US)),
        Field("reserved", tuple(_at_most(2, every))),
    )
    return Group(
        name="reserved",
        sentence="each reserved bit at each level, alone and in pairs; one entry not present",
        levels=levels,
        cpu_fields=(*_cpu("efer.nxe", "user"), _KIND),
        entry_fields=fields,
        illegal_entries=(unread(fields), _NO_ADDRESS),
    )


def _keys(levels: int) -> Group:
    registers = []
    for key in range(16):
        mine = (CPU_BITS[f"pkru.ad{key}"], CPU_BITS[f"pkru.wd{key}"])
        for chosen in _at_most(2, mine):
            others = [
                CPU_BITS[f"pkru.{name}{other}"]
                for other in range(16)
                if other != key
                for name, bit in zip(("ad", "wd"), mine, strict=True)
                if bit not in chosen
            ]
            registers.append((*chosen, *others))
    fields = (
        _LEAF_SIZE,
        Field("user page", tuple(_but_one(levels, _US))),
        Field.always("usual", entry_bits(_down(levels), _P, _A)),
        Field.always("writable", entry_bits([TABLES_ABOVE], _RW)),
        Field("key of tables", ((), entry_bits([TABLES_ABOVE], *_KEY))),
        *_each([LEAF], _RW),
        Field("key", _key_values()),
    )
    return Group(
        name="keys",
        sentence="PKRU with one key unlike the others against the key of each size of page",
        levels=levels,
        cpu_fields=(
            *_cpu("cr4.pke", "cr0.wp", "cr4.smap", "user"),
            _KIND,
            Field("pkru", tuple(dict.fromkeys(registers))),
        ),
        entry_fields=fields,
        illegal_entries=(unread(fields),),
    )


def _key_values() -> tuple[tuple[Bit, ...], ...]:
    return tuple(
        entry_bits([LEAF], *(position for at, position in enumerate(_KEY) if key >> at & 1))
        for key in range(16)
    )


def _flaws(levels: int) -> Field:
    # All that an entry needs, and one thing missing or too much at one level.
    needed = entry_bits(_down(levels), _P, _RW, _US)
    wrong = entry_bits(_down(levels), 51, _XD)
    options = [needed]
    options += [tuple(bit for bit in needed if bit is not missing) for missing in needed]
    options += [(*needed, bit) for bit in wrong]
    return Field("one flaw", tuple(options))


_NXE = Field.always("XD is a right", (CPU_BITS["efer.nxe"],))


def _accessed(levels: int) -> Group:
    fields = (_LEAF_SIZE, _flaws(levels), *_each(_down(levels), _A, _D))
    return Group(
        name="accessed",
        sentence="A and D at every level, where nothing is wrong and where one entry has one flaw",
        levels=levels,
        cpu_fields=(_NXE, *_cpu("cr0.wp", "user"), _KIND, Field.of(ACCESS_BITS["twice"])),
        entry_fields=fields,
        illegal_entries=(unread(fields),),
    )


def _ignored(levels: int) -> Group:
    free = (_PWT, _PCD, _G, *_FREE, *_FREE_HIGH, *_KEY)
    every = (
        *entry_bits(_down(levels), *free),
        entry_bit(1, _PS),
        entry_bit(LEAF, _PAT_OF_BIG),
    )
    fields = (
        _LEAF_SIZE,
        Field.always("usual", entry_bits(_down(levels), _P, _RW, _US, _A)),
        Field("ignored", tuple(_at_most(2, every))),
    )
    return Group(
        name="ignored",
        sentence="each bit without effect on the access, alone and in pairs: caching, G, free, key",
        levels=levels,
        cpu_fields=(
            Field.always("no key is allowed anything", _ALL_PKRU),
            *_cpu("cr4.pge", "user"),
            _KIND,
            Field.of(ACCESS_BITS["twice"]),
        ),
        entry_fields=fields,
        illegal_entries=(unread(fields), _NO_ADDRESS),
    )


def _widths(levels: int) -> Group:
    fields = (_LEAF_SIZE, _flaws(levels), *_each([LEAF], _A, _D))
    return Group(
        name="widths",
        sentence="accesses of 1, 2, 4 and 8 bytes, where one entry has one flaw",
        levels=levels,
        cpu_fields=(
            _NXE,
            *_cpu("cr0.wp", "cr4.smap", "rflags.ac", "user"),
            _KIND,
            _SIZE,
            Field.of(ACCESS_BITS["twice"]),
        ),
        entry_fields=fields,
        illegal_cpu=(
            Illegal(
                "a fetch has no width of its own",
                lambda on: on["fetch"] & (on["size2"] | on["size4"] | on["size8"]),
            ),
        ),
        illegal_entries=(unread(fields),),
    )


def _implicit(levels: int) -> Group:
    fields = (_LEAF_SIZE, _flaws(levels), *_each([LEAF], _A, _D))
    return Group(
        name="implicit",
        sentence="the CPU's own read of a descriptor at either CPL, where one entry has one flaw",
        levels=levels,
        cpu_fields=(
            _NXE,
            Field.always("implicit", (ACCESS_BITS["implicit"],)),
            *_cpu("cr4.smap", "rflags.ac", "cr4.pke", "user"),
            Field("pkru", ((), _ALL_PKRU)),
        ),
        entry_fields=fields,
        illegal_entries=(unread(fields),),
    )


def _everything(levels: int) -> tuple[Field, ...]:
    # What both covered groups vary besides rights and keys.
    bundles = (("caching", (_PWT, _PCD)), ("free", _FREE), ("free above", _FREE_HIGH))
    return (
        *_each(_down(levels), _A, _D, _G),
        *(
            Field(f"{name} of level {level}", ((), entry_bits([level], *positions)))
            for name, positions in bundles
            for level in _down(levels)
        ),
        Field("key of tables", ((), entry_bits([TABLES_ABOVE], *_KEY))),
        *_each([1], _PS),
        *_each([LEAF], _PAT_OF_BIG),
    )


def _every_state() -> tuple[Field, ...]:
    pattern = {
        f"pkru.{name}{key}"
        for key in range(16)
        for name, bit in (("ad", 1), ("wd", 2))
        if key & bit
    }
    some = tuple(bit for bit in _ALL_PKRU if bit.name in pattern)
    others = tuple(bit for bit in _ALL_PKRU if bit.name not in pattern)
    pke = CPU_BITS["cr4.pke"]
    return (
        *_cpu("efer.nxe", "cr0.wp", "cr4.smep", "cr4.smap", "rflags.ac", "cr4.pge", "user"),
        _KIND,
        Field("pkru", (some, (*some, pke), (*others, pke))),
    )


def _mixed(levels: int) -> Group:
    no_xd = ((), *((bit,) for bit in entry_bits(_down(levels), _XD)))
    fields = (
        _LEAF_SIZE,
        Field.always("present", entry_bits(_down(levels), _P)),
        Field("user page", tuple(_but_one(levels, _US))),
        Field("writable", tuple(_but_one(levels, _RW))),
        Field("not executable", no_xd),
        Field("key", _key_values()),
        *_everything(levels),
    )
    return Group(
        name="mixed",
        sentence="rights, keys, A, D and ignored bits together, under every CPU state",
        levels=levels,
        cpu_fields=_every_state(),
        entry_fields=fields,
        illegal_entries=(unread(fields), _NO_ADDRESS, Illegal(_XD_RESERVED, _xd_without_nxe)),
        depends=("efer.nxe",),
        strength=3,
    )


def _mixed_faults(levels: int) -> Group:
    present = entry_bits(_down(levels), _P)
    reserved = (
        *entry_bits(_down(levels), 51),
        *entry_bits(_down(levels), _XD),
        *entry_bits(range(levels, 3, -1), _PS),
        entry_bit(LEAF, 13),
    )
    flaws = (*_but_one(levels, _P), *((*present, bit) for bit in reserved))
    fields = (
        _LEAF_SIZE,
        Field("one flaw", flaws),
        Field("user page", tuple(_but_one(levels, _US))),
        Field("writable", tuple(_but_one(levels, _RW))),
        *_each([LEAF], *_KEY),
        *_everything(levels),
    )
    return Group(
        name="mixed faults",
        sentence="the same with an entry that is not present or has a reserved bit set",
        levels=levels,
        cpu_fields=_every_state(),
        entry_fields=fields,
        illegal_entries=(unread(fields), _NO_ADDRESS),
        strength=3,
    )


_MAKERS = (
    _order,
    _rights,
    _reserved,
    _keys,
    _accessed,
    _ignored,
    _widths,
    _implicit,
    _mixed,
    _mixed_faults,
)


@lru_cache(maxsize=2)
def _groups(levels: int) -> tuple[Group, ...]:
    return tuple(make(levels) for make in _MAKERS)


class Full(Space):
    """The matrix of everything, in groups.

    :param levels: 4 or 5.
    :raises InputError: for any other number.
    """

    name = "full"

    @staticmethod
    def _made(levels: int) -> tuple[Group, ...]:
        return _groups(levels)
