"""Flaws of the walk: which address is taken, which entries end it, and what comes first.

They break MODE, CR3, CANONICAL, PRESENT, the reserved bits, PAT and ORDER.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from harness.address import entry_name
from harness.cpu import CR4, CpuState, ErrorCode
from harness.entry import PageTableFlags
from harness.outcome import UNKNOWN_PA, Access, Outcome
from harness.planted.flaws.answers import denied, faults
from harness.planted.flaws.edits import at, big, clear_bits, only_if, present, set_bits
from harness.planted.flaws.flaw import LEVELS, Change, Flaw
from harness.planted.query import Answer, Column, Entry, Query, u64

__all__ = ["FLAWS"]

_P, _PS, _XD = PageTableFlags.PRESENT, PageTableFlags.HUGE_PAGE, PageTableFlags.NO_EXECUTE
_PAT_BIG = u64(int(PageTableFlags.HUGE_PAGE_PAT))
_RESERVED = u64(1 << 51)
_LOW_1G, _LOW_2M = 0x3FFF_E000, 0x1F_E000
"""Bits 29:13 and 20:13: of a big page's address, and reserved."""
_MASK: Final = (1 << 64) - 1


# Addresses.


def _without_la57(cpu: CpuState, access: Access) -> CpuState:
    return cpu.replace(cr4=cpu.cr4 & ~int(CR4.LA57))


def _extended(bits: int, va: int) -> int:
    low = va & (1 << bits) - 1
    return low | (-1 << bits & _MASK if low >> bits - 1 else 0)


def _one_bit_too_few(cpu: CpuState, va: int) -> int:
    bits = 9 * cpu.levels + 12
    return _extended(bits, va) if va >> bits in (0, _MASK >> bits) else va


def _stack_faults(q: Query, a: Answer) -> None:
    a.outcome[a.outcome == Outcome.GENERAL_PROTECTION.code] = Outcome.STACK_FAULT.code


# Reserved bits and PAT.


def _reserved_address(e: Entry) -> Column:
    return e.raw & ~u64(e.cpu.reserved_address)


def _pat_reserved(e: Entry) -> Column:
    pat = e.raw & (u64(int(_PS)) if e.level == 1 else _PAT_BIG)
    return np.where(e.leaf & (pat != 0), e.raw | _RESERVED, e.raw)


def _pat_in_address(level: int) -> Change:
    def change(q: Query, a: Answer) -> None:
        depth = q.cpu.levels - level
        if depth < 0 or depth >= len(q.pages[0].at):
            return
        page = q.pages[0]
        pat = page.leaf(depth, q.cpu.levels) & (page.raw[depth] & _PAT_BIG != 0)
        reached = (a.outcome == Outcome.MAPPED.code) | (a.outcome == Outcome.NO_MEMORY.code)
        where = reached & (a.pa != u64(UNKNOWN_PA)) & pat
        np.copyto(a.pa, a.pa ^ _PAT_BIG, where=where)

    return change


# What comes first.


def _rights_first(level: int) -> Change:
    """Judge the rights that are withheld down to a level before anything below it is read."""

    def change(q: Query, a: Answer) -> None:
        page, depth = q.pages[0], q.cpu.levels - level
        if len(q.pages) > 1 or depth < 0 or depth + 1 >= len(page.at) or q.access.implicit:
            return
        user, write, fetch = q.cpu.user, q.access.is_write, q.access.is_fetch
        withheld = np.zeros(len(a.outcome), np.bool_)
        for raw in page.raw[: depth + 1]:
            if user:
                withheld |= raw & u64(int(PageTableFlags.USER_ACCESSIBLE)) == 0
            if write and (user or q.cpu.wp):
                withheld |= raw & u64(int(PageTableFlags.WRITABLE)) == 0
            if fetch and q.cpu.nxe:
                withheld |= raw & u64(int(_XD)) != 0
        where = faults(a) & ~denied(a) & withheld & page.there[depth + 1]
        if where.any():
            # Whether the walk comes to the next entry, the right engine knows: it would miss its P.
            reached = q.ask(edit=at(level - 1, clear_bits(_P)))
            where &= faults(reached, lacking=ErrorCode.P)
            code = a.error_code & ~np.uint32(ErrorCode.RSVD) | np.uint32(ErrorCode.P)
            np.copyto(a.error_code, code, where=where)

    return change


def _reserved_late(q: Query, a: Answer) -> None:
    """Look at reserved bits only when all entries are found present."""
    reserved = faults(a, having=ErrorCode.RSVD)
    if not reserved.any():
        return

    def without(e: Entry) -> Column:
        mask = e.cpu.reserved_address | (0 if e.cpu.nxe else 1 << 63)
        if e.level > 3:
            mask |= 1 << 7
        low = {3: _LOW_1G, 2: _LOW_2M}.get(e.level, 0)
        return np.where(e.raw & u64(int(_PS)) != 0, e.raw & ~u64(mask | low), e.raw & ~u64(mask))

    other = q.ask(edit=present(without))
    a.take(reserved & faults(other, lacking=ErrorCode.P), other)


# The list.


def _at_levels() -> Iterator[Flaw]:
    for level in LEVELS:
        name = entry_name(level)
        yield Flaw(
            f"PRESENT_{level}",
            "PRESENT",
            f"a {name} is taken as present, whatever its P",
            level=level,
            entry=at(level, set_bits(_P)),
        )
        yield Flaw(
            f"RSVD_ADDR_{level}",
            "RSVD_ADDR",
            f"bits 51:MAXPHYADDR of a {name} are not checked",
            level=level,
            entry=at(level, present(_reserved_address)),
        )
        yield Flaw(
            f"RSVD_NX_{level}",
            "RSVD_NX",
            f"bit 63 of a {name} is not checked while EFER.NXE = 0",
            level=level,
            entry=at(level, present(only_if(lambda e: not e.cpu.nxe, clear_bits(_XD)))),
        )
        if level > 3:
            yield Flaw(
                f"RSVD_PS_{level}",
                "RSVD_PS",
                f"bit 7 of a {name} is not checked",
                level=level,
                entry=at(level, present(clear_bits(_PS))),
            )
        if level == 3:
            yield Flaw(
                "RSVD_1G_3",
                "RSVD_1G",
                "bits 29:13 of a PDPTE that maps a page are not checked",
                level=level,
                entry=at(level, present(big(clear_bits(_LOW_1G)))),
            )
        if level == 2:
            yield Flaw(
                "RSVD_2M_2",
                "RSVD_2M",
                "bits 20:13 of a PDE that maps a page are not checked",
                level=level,
                entry=at(level, present(big(clear_bits(_LOW_2M)))),
            )
        if level < 4:
            bit = 7 if level == 1 else 12
            yield Flaw(
                f"PAT_RESERVED_{level}",
                "PAT",
                f"bit {bit} (PAT) of a {name} that maps a page is taken as reserved",
                level=level,
                entry=at(level, present(_pat_reserved)),
            )
        if level in (2, 3):
            yield Flaw(
                f"PAT_ADDRESS_{level}",
                "PAT",
                f"bit 12 (PAT) of a {name} that maps a page is taken as part of the address",
                level=level,
                answer=_pat_in_address(level),
            )
        if level > 1:
            yield Flaw(
                f"ORDER_{level}",
                "ORDER",
                f"the rights down to the {name} are judged before what is below it is read",
                level=level,
                answer=_rights_first(level),
            )


FLAWS: Final = (
    Flaw("MODE_LA57", "MODE", "CR4.LA57 is ignored: there are 4 levels", state=_without_la57),
    Flaw(
        "CR3_LOW_BITS",
        "CR3",
        "bits 11:3 of CR3 are added to the address of the root's entry",
        root=lambda cpu, pa: pa + (cpu.cr3 & 0xFF8),
    ),
    Flaw(
        "CANONICAL",
        "CANONICAL",
        "the bits above those that are translated are not looked at",
        address=lambda cpu, va: _extended(9 * cpu.levels + 12, va),
    ),
    Flaw(
        "CANONICAL_SHORT",
        "CANONICAL",
        "bit 47 (56 with five levels) need not be like those above it",
        address=_one_bit_too_few,
    ),
    Flaw(
        "CANONICAL_SS",
        "CANONICAL",
        "every non-canonical address raises #SS, through whatever segment",
        answer=_stack_faults,
    ),
    Flaw("PRESENT", "PRESENT", "every entry is taken as present", entry=set_bits(_P)),
    Flaw(
        "RSVD_ADDR",
        "RSVD_ADDR",
        "bits 51:MAXPHYADDR are checked nowhere",
        entry=present(_reserved_address),
    ),
    Flaw(
        "ORDER_RESERVED",
        "ORDER",
        "reserved bits are looked at only when all entries are found present",
        answer=_reserved_late,
    ),
    *_at_levels(),
)
