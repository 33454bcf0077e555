"""The flaws: each breaks one rule, at one level where the rule is about levels.

A :class:`Flaw` is data: its name, the rule, the level, a sentence that says what the broken CPU
does, and how it is made. It may ask the right engine something else (another state, another
access, other entries), change the answer, or change a sequence::

    FLAWS["PRESENT_2"].sentence   # "a PDE is taken as present, whatever its bit P"

What cannot be planted in an engine that the right one cannot show is in :data:`NOT_HERE`, with the
reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.address import entry_name
from harness.cpu import CR0, CR4, CpuState, ErrorCode
from harness.engine.protocol import Engine
from harness.engine.steps import Step, StepResult
from harness.entry import PageTableFlags
from harness.outcome import UNKNOWN_PA, Access, AccessKind, Outcome
from harness.planted import sequences
from harness.planted.query import Answer, Column, Edit, Entry, Query, Rows, u64

__all__ = ["FLAWS", "NOT_HERE", "Flaw"]

_P, _RW, _US, _A, _D, _PS, _PAT_BIG, _XD = (
    u64(int(flag))
    for flag in (
        PageTableFlags.PRESENT,
        PageTableFlags.WRITABLE,
        PageTableFlags.USER_ACCESSIBLE,
        PageTableFlags.ACCESSED,
        PageTableFlags.DIRTY,
        PageTableFlags.HUGE_PAGE,
        PageTableFlags.HUGE_PAGE_PAT,
        PageTableFlags.NO_EXECUTE,
    )
)
_FP, _FW, _FU, _FRSVD, _FI, _FPK = (
    int(bit)
    for bit in (ErrorCode.P, ErrorCode.W, ErrorCode.U, ErrorCode.RSVD, ErrorCode.I, ErrorCode.PK)
)
_WP, _SMEP, _SMAP, _PKE, _LA57 = (
    int(bit) for bit in (CR0.WP, CR4.SMEP, CR4.SMAP, CR4.PKE, CR4.LA57)
)
_AC: Final = 1 << 18
_KEY = u64(0xF << 59)
_RESERVED = u64(1 << 51)
_LEVELS: Final = (5, 4, 3, 2, 1)
_PAGE_FAULT = Outcome.PAGE_FAULT.code
_MAPPED, _NO_MEMORY = Outcome.MAPPED.code, Outcome.NO_MEMORY.code
_GP, _SS = Outcome.GENERAL_PROTECTION.code, Outcome.STACK_FAULT.code
_MASK: Final = (1 << 64) - 1

_Change = Callable[[Query, Answer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """One way to be wrong.

    :ivar name: ``PRESENT_2``.
    :ivar rule: the rule of rules.md that it breaks.
    :ivar level: the level at which it does; None when it is not about one level.
    :ivar sentence: what the broken CPU does.
    :ivar state: the state in which the right engine is asked instead.
    :ivar address: the address that it is asked for instead.
    :ivar kind: the access that it is asked for instead.
    :ivar entry: the entries as the broken CPU takes them.
    :ivar root: where the broken CPU reads the root's entry.
    :ivar answer: changes the answer.
    :ivar steps: plays a sequence.
    """

    name: str
    rule: str
    level: int | None = None
    sentence: str
    state: Callable[[CpuState, Access], CpuState] | None = None
    address: Callable[[CpuState, int], int] | None = None
    kind: Callable[[CpuState, Access], Access] | None = None
    entry: Edit | None = None
    root: Callable[[CpuState, int], int] | None = None
    answer: _Change | None = None
    steps: Callable[[Engine, CpuState, Sequence[Step]], list[StepResult]] | None = None

    @property
    def probed(self) -> bool:
        """Say whether it shows in a single access."""
        return self.steps is None


# How entries are taken.


def _at(level: int, edit: Edit) -> Edit:
    """Edit the entries of one level."""
    return lambda e: edit(e) if e.level == level else e.raw


def _present(edit: Edit) -> Edit:
    """Edit present entries."""
    return lambda e: np.where(e.raw & _P != 0, edit(e), e.raw)


def _set(mask: u64) -> Edit:
    return lambda e: e.raw | mask


def _clear(mask: u64) -> Edit:
    return lambda e: e.raw & ~mask


def _if(test: Callable[[Entry], bool], edit: Edit) -> Edit:
    return lambda e: edit(e) if test(e) else e.raw


def _reserved_address(e: Entry) -> Column:
    return e.raw & ~u64(e.cpu.reserved_address)


def _big(mask: u64) -> Edit:
    """Clear bits of entries that map a big page."""
    return lambda e: np.where(e.raw & _PS != 0, e.raw & ~mask, e.raw)


def _pat_reserved(e: Entry) -> Column:
    pat = e.raw & (_PS if e.level == 1 else _PAT_BIG)
    return np.where(e.leaf & (pat != 0), e.raw | _RESERVED, e.raw)


def _key_of_table(level: int) -> Edit:
    """Take the key from the entry of a level, for every page that is mapped below it."""

    def edit(e: Entry) -> Column:
        depth = e.cpu.levels - level
        if not 0 <= depth < len(e.above):
            return e.raw
        return np.where(e.leaf, e.raw & ~_KEY | e.above[depth] & _KEY, e.raw)

    return _present(edit)


# States.


def _without(register: str, bit: int) -> Callable[[CpuState, Access], CpuState]:
    return lambda cpu, access: cpu.replace(**{register: getattr(cpu, register) & ~bit})


def _with(register: str, bit: int) -> Callable[[CpuState, Access], CpuState]:
    return lambda cpu, access: cpu.replace(**{register: getattr(cpu, register) | bit})


def _only(
    test: Callable[[CpuState, Access], bool], state: Callable[[CpuState, Access], CpuState]
) -> Callable[[CpuState, Access], CpuState]:
    return lambda cpu, access: state(cpu, access) if test(cpu, access) else cpu


def _without_la57(cpu: CpuState, access: Access) -> CpuState:
    return cpu.replace(cr4=cpu.cr4 & ~_LA57)


def _is_supervisor(cpu: CpuState, access: Access) -> bool:
    return not cpu.user or access.implicit


def _supervisor_writes(e: Entry) -> bool:
    return _is_supervisor(e.cpu, e.access) and e.access.is_write


# Addresses.


def _extended(bits: int, va: int) -> int:
    low = va & (1 << bits) - 1
    return low | (-1 << bits & _MASK if low >> bits - 1 else 0)


def _one_bit_too_few(cpu: CpuState, va: int) -> int:
    bits = 9 * cpu.levels + 12
    return _extended(bits, va) if va >> bits in (0, _MASK >> bits) else va


# Answers: the outcome and the error code.


def _faults(a: Answer) -> Rows:
    return np.asarray(a.outcome == _PAGE_FAULT, np.bool_)


def _code(test: Callable[[Query, Answer], Rows | np.bool_ | bool], change: _Code) -> _Change:
    """Change the error code of page faults."""

    def changed(q: Query, a: Answer) -> None:
        where = _faults(a) & test(q, a)
        np.copyto(a.error_code, change(a.error_code), where=where)

    return changed


_Code = Callable[[NDArray[np.uint32]], NDArray[np.uint32]]


def _missing(bit: int) -> _Change:
    mask = np.uint32(bit)
    return _code(lambda q, a: a.error_code & mask != 0, lambda code: code & ~mask)


def _same_code(q: Query, a: Answer) -> None:
    """Leave bit I as it is although the right engine was asked without SMEP."""
    if q.access.is_fetch and (q.cpu.nxe or q.cpu.smep):
        np.copyto(a.error_code, a.error_code | np.uint32(_FI), where=_faults(a))


def _stack_faults(q: Query, a: Answer) -> None:
    a.outcome[a.outcome == _GP] = _SS


def _cr2_of_page(q: Query, a: Answer) -> None:
    a.cr2[:] &= ~u64(0xFFF)


def _cr2_of_access(q: Query, a: Answer) -> None:
    np.copyto(a.cr2, u64(q.va), where=_faults(a))


def _cr2_of_last_byte(q: Query, a: Answer) -> None:
    np.copyto(a.cr2, u64(q.va + q.access.size - 1 & _MASK), where=_faults(a))


def _pk_alone(q: Query, a: Answer) -> None:
    """Leave PK out where the access fails for another reason, too."""
    keys = _faults(a) & (a.error_code & np.uint32(_FPK) != 0)
    if keys.any():
        other = q.ask(cpu=_without("cr4", _PKE)(q.cpu, q.access))
        np.copyto(a.error_code, a.error_code & ~np.uint32(_FPK), where=keys & _faults(other))


def _keys_at_fetches(q: Query, a: Answer) -> None:
    if not q.access.is_fetch or not q.cpu.pke:
        return
    read = q.ask(access=Access(AccessKind.READ))
    denied = _faults(read) & (read.error_code & np.uint32(_FPK) != 0) & (a.outcome != _PAGE_FAULT)
    code = read.error_code.copy()
    a.take(denied, read)
    if q.cpu.nxe or q.cpu.smep:
        np.copyto(a.error_code, code | np.uint32(_FI), where=denied)


def _keys_without_wp(q: Query, a: Answer) -> None:
    """Let PKRU.WD stop a supervisor's write whatever CR0.WP, which rules R/W as ever."""
    if q.cpu.user or q.cpu.wp or not q.cpu.pke or not q.access.is_write:
        return
    other = q.ask(cpu=q.cpu.replace(cr0=q.cpu.cr0 | _WP), edit=_present(_set(_RW)))
    keys = _faults(other) & (other.error_code & np.uint32(_FPK) != 0)
    a.take(keys & (a.outcome != _PAGE_FAULT), other)


def _pat_in_address(level: int) -> _Change:
    def change(q: Query, a: Answer) -> None:
        depth = q.cpu.levels - level
        if depth < 0 or depth >= len(q.pages[0].at):
            return
        page = q.pages[0]
        pat = page.leaf(depth, q.cpu.levels) & (page.raw[depth] & _PAT_BIG != 0)
        mapped = ((a.outcome == _MAPPED) | (a.outcome == _NO_MEMORY)) & (a.pa != u64(UNKNOWN_PA))
        np.copyto(a.pa, a.pa ^ _PAT_BIG, where=mapped & pat)

    return change


# Answers: what comes first.


def _rights_first(level: int) -> _Change:
    """Judge the rights that are withheld down to a level before anything below it is read."""

    def change(q: Query, a: Answer) -> None:
        page, depth = q.pages[0], q.cpu.levels - level
        if len(q.pages) > 1 or depth < 0 or depth + 1 >= len(page.at) or q.access.implicit:
            return
        user, write, fetch = q.cpu.user, q.access.is_write, q.access.is_fetch
        withheld = np.zeros(len(a.outcome), np.bool_)
        for raw in page.raw[: depth + 1]:
            if user:
                withheld |= raw & _US == 0
            if write and (user or q.cpu.wp):
                withheld |= raw & _RW == 0
            if fetch and q.cpu.nxe:
                withheld |= raw & _XD != 0
        below = _faults(a) & (a.error_code & np.uint32(_FP | _FRSVD) != np.uint32(_FP))
        where = below & withheld & page.there[depth + 1]
        if where.any():
            # Whether the walk comes to the next entry, the right engine knows: it would miss its P.
            reached = q.ask(edit=_at(level - 1, _clear(_P)))
            where &= _faults(reached) & (reached.error_code & np.uint32(_FP) == 0)
            code = a.error_code & ~np.uint32(_FRSVD) | np.uint32(_FP)
            np.copyto(a.error_code, code, where=where)

    return change


def _reserved_late(q: Query, a: Answer) -> None:
    """Look at reserved bits only when all entries are found present."""
    reserved = _faults(a) & (a.error_code & np.uint32(_FRSVD) != 0)
    if not reserved.any():
        return

    def without(e: Entry) -> Column:
        mask = e.cpu.reserved_address | (0 if e.cpu.nxe else 1 << 63)
        if e.level > 3:
            mask |= 1 << 7
        low = {3: 0x3FFF_E000, 2: 0x1F_E000}.get(e.level, 0)
        return np.where(e.raw & _PS != 0, e.raw & ~u64(mask | low), e.raw & ~u64(mask))

    other = q.ask(edit=_present(without))
    absent = _faults(other) & (other.error_code & np.uint32(_FP) == 0)
    a.take(reserved & absent, other)


def _upper_first(q: Query, a: Answer) -> None:
    if len(q.pages) < 2:
        return
    here = 0x1000 - (q.va & 0xFFF)
    size = q.access.size - here
    upper = q.ask(
        va=(q.va | 0xFFF) + 1 & _MASK,
        access=dataclasses.replace(q.access, size=1 << size.bit_length() - 1),
    )
    a.take(np.asarray(_faults(upper)), upper)


def _upper_ignored(cpu: CpuState, va: int, access: Access) -> Access:
    here = 0x1000 - (va & 0xFFF)
    if here >= access.size:
        return access
    return dataclasses.replace(access, size=1 << here.bit_length() - 1)


def _lower_alone(q: Query, a: Answer) -> None:
    if len(q.pages) < 2 or q.access.implicit:
        return
    lower = q.ask(access=_upper_ignored(q.cpu, q.va, q.access))
    a.take(np.ones(len(a.outcome), np.bool_), lower)


def _stored(q: Query, a: Answer) -> None:
    spans = len(q.pages) > 1 and q.access.is_write and not a.stored
    # The lower page was fine: the address is the upper one's.
    if spans and _faults(a)[0] and int(a.cr2[0]) != q.va:
        a.stored = 0x1000 - (q.va & 0xFFF)


# Answers: accessed and dirty bits.


def _alone(q: Query, at: int) -> bool:
    """Say whether an entry serves one level only."""
    depths = {depth for page in q.pages for depth, other in enumerate(page.at) if other == at}
    return len(depths) == 1


def _bits(level: int | None, change: Callable[[Query, Answer, _Place], None]) -> _Change:
    """Change what became of the A and D bits of the entries of a level."""

    def changed(q: Query, a: Answer) -> None:
        for page in q.pages:
            for depth, at in enumerate(page.at):
                here = q.cpu.levels - depth
                if level in (None, here) and _alone(q, at):
                    zero = np.zeros(len(a.outcome), u64)
                    bits = a.changed.setdefault(at, zero)
                    leaf = page.leaf(depth, q.cpu.levels)
                    last = page.there[depth] & (leaf | (page.raw[depth] & _P == 0))
                    place = _Place(bits, page.raw[depth], page.there[depth], leaf, last)
                    change(q, a, place)

    return changed


@dataclass(frozen=True, slots=True)
class _Place:
    """An entry of the walk: what changed of it, what it is, where it is the leaf or the last."""

    bits: Column
    raw: Column
    there: Rows
    leaf: Rows
    last: Rows


def _went(a: Answer) -> Rows:
    return np.asarray(a.outcome == _MAPPED, np.bool_)


def _not_set(mask: u64) -> Callable[[Query, Answer, _Place], None]:
    def change(q: Query, a: Answer, place: _Place) -> None:
        place.bits[:] &= ~mask

    return change


def _cleared(q: Query, a: Answer, place: _Place) -> None:
    np.copyto(place.bits, place.bits | _A & place.raw, where=_went(a) & place.there)


def _dirty_table(q: Query, a: Answer, place: _Place) -> None:
    where = _went(a) & place.there & ~place.leaf & q.access.is_write
    np.copyto(place.bits, place.bits | _D & ~place.raw, where=where)


def _dirty_by_read(q: Query, a: Answer, place: _Place) -> None:
    where = _went(a) & place.leaf & (q.access.kind is AccessKind.READ)
    np.copyto(place.bits, place.bits | _D & ~place.raw, where=where)


def _dirty_on_fault(q: Query, a: Answer, place: _Place) -> None:
    denied = _faults(a) & (a.error_code & np.uint32(_FP | _FRSVD) == np.uint32(_FP))
    where = denied & place.leaf & q.access.is_write & (len(q.pages) == 1)
    np.copyto(place.bits, place.bits | _D & ~place.raw, where=where)


def _accessed_last(q: Query, a: Answer, place: _Place) -> None:
    ended = _faults(a) & (a.error_code & np.uint32(_FP | _FRSVD) == 0)
    absent = ended & place.there & (place.raw & _P == 0)
    denied = _faults(a) & (a.error_code & np.uint32(_FP | _FRSVD) == np.uint32(_FP)) & place.leaf
    where = (absent | denied) & (len(q.pages) == 1)
    np.copyto(place.bits, place.bits | _A & ~place.raw, where=where)


def _self(mask: u64) -> _Change:
    """Lose bits of an entry that serves several levels."""

    def change(q: Query, a: Answer) -> None:
        for page in q.pages:
            for at in page.at:
                if page.at.count(at) > 1 and at in a.changed:
                    a.changed[at] &= ~mask

    return change


# The list.


def _by_level() -> Iterator[Flaw]:
    for level in _LEVELS:
        name = entry_name(level)

        def flaw(word: str, rule: str, sentence: str, edit: Edit, level: int = level) -> Flaw:
            return Flaw(
                name=f"{word}_{level}",
                rule=rule,
                level=level,
                sentence=sentence,
                entry=_at(level, edit),
            )

        def answers(
            word: str, rule: str, sentence: str, answer: _Change, level: int = level
        ) -> Flaw:
            return Flaw(
                name=f"{word}_{level}", rule=rule, level=level, sentence=sentence, answer=answer
            )

        yield flaw("PRESENT", "PRESENT", f"a {name} is taken as present, whatever its P", _set(_P))
        yield flaw(
            "RSVD_ADDR",
            "RSVD_ADDR",
            f"bits 51:MAXPHYADDR of a {name} are not checked",
            _present(_reserved_address),
        )
        yield flaw(
            "RSVD_NX",
            "RSVD_NX",
            f"bit 63 of a {name} is not checked while EFER.NXE = 0",
            _present(_if(lambda e: not e.cpu.nxe, _clear(_XD))),
        )
        if level > 3:
            yield flaw(
                "RSVD_PS", "RSVD_PS", f"bit 7 of a {name} is not checked", _present(_clear(_PS))
            )
        if level == 3:
            yield flaw(
                "RSVD_1G",
                "RSVD_1G",
                "bits 29:13 of a PDPTE that maps a page are not checked",
                _present(_big(u64(0x3FFF_E000))),
            )
        if level == 2:
            yield flaw(
                "RSVD_2M",
                "RSVD_2M",
                "bits 20:13 of a PDE that maps a page are not checked",
                _present(_big(u64(0x1F_E000))),
            )
        if level < 4:
            bit = 7 if level == 1 else 12
            yield flaw(
                "PAT_RESERVED",
                "PAT",
                f"bit {bit} (PAT) of a {name} that maps a page is taken as reserved",
                _present(_pat_reserved),
            )
        if level in (2, 3):
            yield answers(
                "PAT_ADDRESS",
                "PAT",
                f"bit 12 (PAT) of a {name} that maps a page is taken as part of the address",
                _pat_in_address(level),
            )
        if level > 1:
            yield answers(
                "ORDER",
                "ORDER",
                f"the rights down to the {name} are judged before what is below it is read",
                _rights_first(level),
            )
        yield flaw(
            "COMBINE_US", "COMBINE", f"U/S of a {name} is not looked at", _present(_set(_US))
        )
        yield flaw(
            "COMBINE_RW", "COMBINE", f"R/W of a {name} is not looked at", _present(_set(_RW))
        )
        yield flaw(
            "NX",
            "NX",
            f"XD of a {name} is not looked at",
            _present(_if(lambda e: e.cpu.nxe, _clear(_XD))),
        )
        if level > 1:
            yield Flaw(
                name=f"KEY_OF_TABLE_{level}",
                rule="KEY",
                level=level,
                sentence=f"the key of a page is that of the {name} above it",
                entry=_key_of_table(level),
            )
        yield answers("A", "A", f"A of a {name} is not set", _bits(level, _not_set(_A)))
        if level < 4:
            yield answers(
                "D", "D", f"D of a {name} that maps a page is not set", _bits(level, _not_set(_D))
            )
            yield answers(
                "D_BY_READ",
                "D",
                f"a read sets D of a {name} that maps the page",
                _bits(level, _dirty_by_read),
            )
            yield answers(
                "D_ON_FAULT",
                "D",
                f"a write that faults sets D of the {name} that maps the page",
                _bits(level, _dirty_on_fault),
            )
        if level > 1:
            yield answers(
                "D_IN_TABLE",
                "D",
                f"a write sets D of a {name} that maps no page",
                _bits(level, _dirty_table),
            )
        yield answers(
            "A_ON_FAULT",
            "A_ON_FAULT",
            f"an access that ends at a {name} with a fault sets A in it",
            _bits(level, _accessed_last),
        )


def _whole() -> Iterator[Flaw]:
    def flaw(name: str, rule: str, sentence: str, **how: object) -> Flaw:
        return Flaw(name=name, rule=rule, sentence=sentence, **how)  # type: ignore[arg-type]

    yield flaw("MODE_LA57", "MODE", "CR4.LA57 is ignored: there are 4 levels", state=_without_la57)
    yield flaw(
        "CR3_LOW_BITS",
        "CR3",
        "bits 11:3 of CR3 are added to the address of the root's entry",
        root=lambda cpu, at: at + (cpu.cr3 & 0xFF8),
    )
    yield flaw(
        "CANONICAL",
        "CANONICAL",
        "the bits above those that are translated are not looked at",
        address=lambda cpu, va: _extended(9 * cpu.levels + 12, va),
    )
    yield flaw(
        "CANONICAL_SHORT",
        "CANONICAL",
        "bit 47 (56 with five levels) need not be like those above it",
        address=_one_bit_too_few,
    )
    yield flaw(
        "CANONICAL_SS",
        "CANONICAL",
        "every non-canonical address raises #SS, through whatever segment",
        answer=_stack_faults,
    )
    yield flaw("PRESENT", "PRESENT", "every entry is taken as present", entry=_set(_P))
    yield flaw(
        "RSVD_ADDR",
        "RSVD_ADDR",
        "bits 51:MAXPHYADDR are checked nowhere",
        entry=_present(_reserved_address),
    )
    yield flaw(
        "ORDER_RESERVED",
        "ORDER",
        "reserved bits are looked at only when all entries are found present",
        answer=_reserved_late,
    )
    yield flaw(
        "USER_US",
        "USER_US",
        "a user's access may go to a supervisor's page",
        entry=_present(
            _if(lambda e: e.cpu.user and not e.access.implicit, _set(_US)),
        ),
    )
    yield flaw(
        "USER_RW",
        "USER_RW",
        "a user's write needs R/W nowhere",
        entry=_present(_if(lambda e: e.cpu.user and e.access.is_write, _set(_RW))),
    )
    yield flaw(
        "USER_RW_WP",
        "USER_RW",
        "a user's write needs R/W only while CR0.WP = 1",
        entry=_present(_if(lambda e: e.cpu.user and e.access.is_write and not e.cpu.wp, _set(_RW))),
    )
    yield flaw(
        "NX_SUPERVISOR",
        "NX",
        "XD does not stop a supervisor's fetch",
        entry=_present(_if(lambda e: e.cpu.nxe and not e.cpu.user, _clear(_XD))),
    )
    yield flaw(
        "WP",
        "WP",
        "a supervisor's write needs R/W nowhere, whatever CR0.WP",
        entry=_present(_if(_supervisor_writes, _set(_RW))),
    )
    yield flaw(
        "WP_ALWAYS",
        "WP",
        "a supervisor's write needs R/W, whatever CR0.WP",
        state=_only(lambda cpu, access: not cpu.user and not cpu.pke, _with("cr0", _WP)),
    )
    yield flaw(
        "SMEP",
        "SMEP",
        "a supervisor may fetch from a user's page, whatever CR4.SMEP",
        state=_without("cr4", _SMEP),
        answer=_same_code,
    )
    yield flaw(
        "SMAP",
        "SMAP",
        "a supervisor may read and write a user's page, whatever CR4.SMAP",
        state=_without("cr4", _SMAP),
    )
    yield flaw(
        "SMAP_AC",
        "SMAP",
        "EFLAGS.AC = 1 does not lift SMAP",
        state=_without("rflags", _AC),
    )
    yield flaw(
        "SMAP_IMPLICIT",
        "SMAP",
        "implicit accesses are exempt from SMAP",
        state=_only(lambda cpu, access: access.implicit, _without("cr4", _SMAP)),
    )
    yield flaw("PKU", "PKU", "CR4.PKE is ignored: keys deny nothing", state=_without("cr4", _PKE))
    yield flaw("PKU_AD", "PKU", "PKRU.AD is ignored", state=_without("pkru", 0x5555_5555))
    yield flaw("PKU_WD", "PKU", "PKRU.WD is ignored", state=_without("pkru", 0xAAAA_AAAA))
    yield flaw(
        "PKU_WD_WP",
        "PKU",
        "PKRU.WD stops a supervisor's write while CR0.WP = 0, too",
        answer=_keys_without_wp,
    )
    yield flaw("PKU_FETCH", "PKU", "keys stop fetches, too", answer=_keys_at_fetches)
    yield flaw(
        "KEY_BITS",
        "KEY",
        "the key is bits 61:59 of the leaf, without bit 62",
        entry=_present(lambda e: np.where(e.leaf, e.raw & ~u64(1 << 62), e.raw)),
    )
    codes = {"P": _FP, "W": _FW, "U": _FU, "RSVD": _FRSVD, "I": _FI, "PK": _FPK}
    for name, bit in codes.items():
        yield flaw(
            f"ERR_{name}",
            "ERR",
            f"bit {name} of the error code is never set",
            answer=_missing(bit),
        )
    yield flaw(
        "ERR_RSVD_P",
        "ERR",
        "a reserved bit is reported with P = 0",
        answer=_code(
            lambda q, a: a.error_code & np.uint32(_FRSVD) != 0, lambda code: code & ~np.uint32(_FP)
        ),
    )
    yield flaw(
        "ERR_I_ALWAYS",
        "ERR",
        "bit I is set for a fetch with EFER.NXE = CR4.SMEP = 0, too",
        answer=_code(lambda q, a: q.access.is_fetch, lambda code: code | np.uint32(_FI)),
    )
    yield flaw(
        "ERR_I_NXE",
        "ERR",
        "bit I is set for a fetch only with EFER.NXE = 1, not with CR4.SMEP = 1 alone",
        answer=_code(
            lambda q, a: q.access.is_fetch and not q.cpu.nxe, lambda code: code & ~np.uint32(_FI)
        ),
    )
    yield flaw(
        "ERR_U_IMPLICIT",
        "ERR",
        "an implicit access at CPL 3 is reported as a user's",
        answer=_code(
            lambda q, a: q.access.implicit and q.cpu.user, lambda code: code | np.uint32(_FU)
        ),
    )
    yield flaw(
        "ERR_PK_ALONE",
        "ERR",
        "PK is left out when another right fails, too",
        answer=_pk_alone,
    )
    yield flaw("ERR_CR2_PAGE", "ERR", "CR2 is the page's first byte", answer=_cr2_of_page)
    yield flaw(
        "ERR_CR2_ACCESS",
        "ERR",
        "CR2 is the access's first byte when its upper page faults, too",
        answer=_cr2_of_access,
    )
    yield flaw("ERR_CR2_LAST", "ERR", "CR2 is the access's last byte", answer=_cr2_of_last_byte)
    yield flaw(
        "SPLIT_UPPER_FIRST",
        "SPLIT",
        "the upper page's fault is reported first",
        answer=_upper_first,
    )
    yield flaw(
        "SPLIT_UPPER_IGNORED", "SPLIT", "the upper page is not translated", answer=_lower_alone
    )
    yield flaw(
        "SPLIT_STORED",
        "SPLIT",
        "the lower page is written although the upper one faults",
        answer=_stored,
    )
    yield flaw("A_CLEARED", "A", "A is cleared where it was set", answer=_bits(None, _cleared))
    yield flaw(
        "SELF_A", "SELF", "A of an entry that serves several levels is not set", answer=_self(_A)
    )
    yield flaw(
        "SELF_D", "SELF", "D of an entry that serves several levels is not set", answer=_self(_D)
    )
    yield flaw(
        "STALE",
        "STALE",
        "the later of two edits is seen before the earlier one: a mixture that was never there",
        steps=sequences.edits_out_of_order,
    )
    yield flaw("INVLPG", "INVLPG", "INVLPG invalidates nothing", steps=sequences.without_invlpg)
    yield flaw(
        "CR3_LOAD",
        "CR3_LOAD",
        "a load of CR3 with the value that it has invalidates nothing",
        steps=sequences.without_cr3,
    )
    yield flaw(
        "CR3_LOAD_PGE",
        "CR3_LOAD",
        "a change of CR4.PGE invalidates nothing",
        steps=sequences.without_pge,
    )
    yield flaw(
        "BIG",
        "BIG",
        "INVLPG of one part of a big page leaves its other parts",
        steps=sequences.parts_of_big_pages,
    )


FLAWS: Final[dict[str, Flaw]] = {flaw.name: flaw for flaw in (*_whole(), *_by_level())}
"""Every flaw by its name."""

NOT_HERE: Final[tuple[tuple[str, int | None, str], ...]] = (
    ("MODE", None, "an illegal combination is refused when the state is built: no engine is asked"),
    ("CR3", None, "bits 51:MAXPHYADDR of CR3 are refused when the state is built"),
    ("RSVD_PS", 3, "Unicorn offers 1 GiB pages, and cannot be asked as a CPU without them"),
    ("PKS", None, "Unicorn does not implement CR4.PKS: its cases are counted as unsupported"),
)
"""Rule, level and reason of what cannot be planted in a wrapped Unicorn."""
