"""Flaws of the rights: which accesses U/S, R/W, XD, WP, SMEP, SMAP and the keys let pass.

They break COMBINE, USER_US, USER_RW, NX, WP, SMEP, SMAP, PKU and KEY.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from harness.address import entry_name
from harness.cpu import CR0, CR4, RFLAGS, CpuState, ErrorCode
from harness.entry import PageTableFlags
from harness.outcome import Access, AccessKind
from harness.planted.flaws.answers import faults
from harness.planted.flaws.edits import at, clear_bits, only_if, present, set_bits
from harness.planted.flaws.flaw import LEVELS, Flaw, State
from harness.planted.query import Answer, Column, Edit, Entry, Query, u64

__all__ = ["FLAWS"]

_RW, _US, _XD = (
    PageTableFlags.WRITABLE,
    PageTableFlags.USER_ACCESSIBLE,
    PageTableFlags.NO_EXECUTE,
)
_KEY = u64(0xF << 59)


# States.


def _without(register: str, bits: int) -> State:
    return lambda cpu, access: cpu.replace(**{register: getattr(cpu, register) & ~bits})


def _with(register: str, bits: int) -> State:
    return lambda cpu, access: cpu.replace(**{register: getattr(cpu, register) | bits})


def _only(test: Callable[[CpuState, Access], bool], state: State) -> State:
    return lambda cpu, access: state(cpu, access) if test(cpu, access) else cpu


# Who asks for what.


def _user(e: Entry) -> bool:
    return e.cpu.user and not e.access.implicit


def _user_writes(e: Entry) -> bool:
    return e.cpu.user and e.access.is_write


def _supervisor_writes(e: Entry) -> bool:
    return not _user(e) and e.access.is_write


# Answers.


def _same_code(q: Query, a: Answer) -> None:
    """Leave bit I as it is although the right engine was asked without SMEP."""
    if q.access.is_fetch and (q.cpu.nxe or q.cpu.smep):
        np.copyto(a.error_code, a.error_code | np.uint32(ErrorCode.I), where=faults(a))


def _keys_at_fetches(q: Query, a: Answer) -> None:
    if not q.access.is_fetch or not q.cpu.pke:
        return
    read = q.ask(access=Access(AccessKind.READ))
    where = faults(read, having=ErrorCode.PK) & ~faults(a)
    code = read.error_code.copy()
    a.take(where, read)
    if q.cpu.nxe or q.cpu.smep:
        np.copyto(a.error_code, code | np.uint32(ErrorCode.I), where=where)


def _keys_without_wp(q: Query, a: Answer) -> None:
    """Let PKRU.WD stop a supervisor's write whatever CR0.WP, which rules R/W as ever."""
    if q.cpu.user or q.cpu.wp or not q.cpu.pke or not q.access.is_write:
        return
    other = q.ask(cpu=_with("cr0", CR0.WP)(q.cpu, q.access), edit=present(set_bits(_RW)))
    a.take(faults(other, having=ErrorCode.PK) & ~faults(a), other)


def _key_of_table(level: int) -> Edit:
    """Take the key from the entry of a level, for every page that is mapped below it."""

    def edit(e: Entry) -> Column:
        depth = e.cpu.levels - level
        if not 0 <= depth < len(e.above):
            return e.raw
        return np.where(e.leaf, e.raw & ~_KEY | e.above[depth] & _KEY, e.raw)

    return present(edit)


def _key_without_bit_62(e: Entry) -> Column:
    return np.where(e.leaf, e.raw & ~u64(1 << 62), e.raw)


# The list.


def _at_levels() -> Iterator[Flaw]:
    for level in LEVELS:
        name = entry_name(level)
        yield Flaw(
            f"COMBINE_US_{level}",
            "COMBINE",
            f"U/S of a {name} is not looked at",
            level=level,
            entry=at(level, present(set_bits(_US))),
        )
        yield Flaw(
            f"COMBINE_RW_{level}",
            "COMBINE",
            f"R/W of a {name} is not looked at",
            level=level,
            entry=at(level, present(set_bits(_RW))),
        )
        yield Flaw(
            f"NX_{level}",
            "NX",
            f"XD of a {name} is not looked at",
            level=level,
            entry=at(level, present(only_if(lambda e: e.cpu.nxe, clear_bits(_XD)))),
        )
        if level > 1:
            yield Flaw(
                f"KEY_OF_TABLE_{level}",
                "KEY",
                f"the key of a page is that of the {name} above it",
                level=level,
                entry=_key_of_table(level),
            )


FLAWS: Final = (
    Flaw(
        "USER_US",
        "USER_US",
        "a user's access may go to a supervisor's page",
        entry=present(only_if(_user, set_bits(_US))),
    ),
    Flaw(
        "USER_RW",
        "USER_RW",
        "a user's write needs R/W nowhere",
        entry=present(only_if(_user_writes, set_bits(_RW))),
    ),
    Flaw(
        "USER_RW_WP",
        "USER_RW",
        "a user's write needs R/W only while CR0.WP = 1",
        entry=present(only_if(lambda e: _user_writes(e) and not e.cpu.wp, set_bits(_RW))),
    ),
    Flaw(
        "NX_SUPERVISOR",
        "NX",
        "XD does not stop a supervisor's fetch",
        entry=present(only_if(lambda e: e.cpu.nxe and not e.cpu.user, clear_bits(_XD))),
    ),
    Flaw(
        "WP",
        "WP",
        "a supervisor's write needs R/W nowhere, whatever CR0.WP",
        entry=present(only_if(_supervisor_writes, set_bits(_RW))),
    ),
    Flaw(
        "WP_ALWAYS",
        "WP",
        "a supervisor's write needs R/W, whatever CR0.WP",
        state=_only(lambda cpu, access: not cpu.user and not cpu.pke, _with("cr0", CR0.WP)),
    ),
    Flaw(
        "SMEP",
        "SMEP",
        "a supervisor may fetch from a user's page, whatever CR4.SMEP",
        state=_without("cr4", CR4.SMEP),
        answer=_same_code,
    ),
    Flaw(
        "SMAP",
        "SMAP",
        "a supervisor may read and write a user's page, whatever CR4.SMAP",
        state=_without("cr4", CR4.SMAP),
    ),
    Flaw(
        "SMAP_AC",
        "SMAP",
        "EFLAGS.AC = 1 does not lift SMAP",
        state=_without("rflags", RFLAGS.AC),
    ),
    Flaw(
        "SMAP_IMPLICIT",
        "SMAP",
        "implicit accesses are exempt from SMAP",
        state=_only(lambda cpu, access: access.implicit, _without("cr4", CR4.SMAP)),
    ),
    Flaw(
        "PKU",
        "PKU",
        "CR4.PKE is ignored: keys deny nothing",
        state=_without("cr4", CR4.PKE),
    ),
    Flaw("PKU_AD", "PKU", "PKRU.AD is ignored", state=_without("pkru", 0x5555_5555)),
    Flaw("PKU_WD", "PKU", "PKRU.WD is ignored", state=_without("pkru", 0xAAAA_AAAA)),
    Flaw(
        "PKU_WD_WP",
        "PKU",
        "PKRU.WD stops a supervisor's write while CR0.WP = 0, too",
        answer=_keys_without_wp,
    ),
    Flaw("PKU_FETCH", "PKU", "keys stop fetches, too", answer=_keys_at_fetches),
    Flaw(
        "KEY_BITS",
        "KEY",
        "the key is bits 61:59 of the leaf, without bit 62",
        entry=present(_key_without_bit_62),
    ),
    *_at_levels(),
)
