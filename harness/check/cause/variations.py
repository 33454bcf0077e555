"""As if: the changes under which a walker may predict what an engine did.

An engine that breaks one rule behaves like a right one that was asked something else: with bit
R/W of one entry set, with CR0.WP clear, with another key. :func:`changes` lists such changes for
one walk, each small enough to be one flaw; :meth:`Variation.walk` asks the walker under it. The
walker's own code is never touched: a change edits what it reads, and what it is told of the CPU
and of the access.

A flaw is bound to a level, not to an address, so that an edit is made at a level of the walk, on
each page that the access spans: in a recursive slot the same entry is changed at that level and
stays as it is at the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Final

from harness.address import entry_name, format_address
from harness.check.cause.key_variations import of_keys
from harness.check.cause.variation import (
    Edit,
    Variation,
    bit_words,
    clearing,
    deciding,
    entry_words,
    setting,
    spans,
    steps_of,
    with_registers,
)
from harness.cpu import CR0, CR4, EFER, RFLAGS, CpuState
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.outcome import Access, AccessKind
from harness.walker import Walk
from harness.walker.scalar import reserved_bits

__all__ = [
    "variations",
]

_P = int(PageTableFlags.PRESENT)
_RW = int(PageTableFlags.WRITABLE)
_US = int(PageTableFlags.USER_ACCESSIBLE)
_PS = int(PageTableFlags.HUGE_PAGE)
_PAT_BIG = int(PageTableFlags.HUGE_PAGE_PAT)
_XD = int(PageTableFlags.NO_EXECUTE)
_RESERVED = 1 << 51
# Rights: the bit that withholds it when it is so.
_RIGHTS: Final = {"U/S": (_US, 0), "R/W": (_RW, 0), "XD": (_XD, _XD)}
_RIGHT_OF: Final = {"USER_US": "U/S", "USER_RW": "R/W", "WP": "R/W", "NX": "XD"}


def variations(walk: Walk) -> Iterator[Variation]:
    """List the changes that may explain another outcome of a walk, the likeliest first.

    :param walk: the prediction that did not come true.
    """
    yield from _canonical(walk)
    yield from _stopped(walk)
    yield from _denied(walk)
    yield from _implicit(walk)
    yield from of_keys(walk)
    yield from _switches(walk)
    yield from _accesses(walk)
    yield from _reserved(walk)
    yield from _sizes(walk)
    yield from _lost(walk)
    yield from _roots(walk)


def _canonical(walk: Walk) -> Iterator[Variation]:
    bits = 9 * walk.cpu.levels + 12
    if walk.rule == "CANONICAL":
        low = walk.va & (1 << bits) - 1
        extended = low | (-1 << bits & (1 << 64) - 1 if low >> bits - 1 else 0)
        if extended != walk.va:
            words = f"bits 63:{bits} of the address were not looked at"
            yield Variation(("CANONICAL",), "ignored", words, va=extended)
        access = walk.access
        if not access.is_fetch:
            other = Access(access.kind, access.size, access.implicit, not access.stack)
            words = f"the access were {'' if other.stack else 'not '}made through SS"
            yield Variation(("CANONICAL",), "stack", words, access=other)
    for levels in (4, 5):
        if levels != walk.cpu.levels:
            cr4 = walk.cpu.cr4 ^ int(CR4.LA57)
            cpu = with_registers(walk, cr4=cr4)
            if cpu is not None:
                words = f"there were {levels} levels"
                yield Variation(("MODE",), f"{levels}-levels", words, cpu=cpu)


def _stopped(walk: Walk) -> Iterator[Variation]:
    """What ended the walk at an entry was not heeded."""
    page = deciding(walk)
    rule, level = page.rule, page.level
    if level is None or not page.steps:
        return
    raw = page.steps[-1].raw
    cpu = walk.cpu
    every = range(cpu.levels, 0, -1)
    if rule == "PRESENT":
        yield Variation(
            (rule,),
            "ignored",
            bit_words(walk, level, _P, 1),
            level,
            ((rule, "ignored", None),),
            edits={level: setting(_P)},
        )
        words = "bit P of every entry were 1"
        yield Variation((rule,), "ignored", words, edits=dict.fromkeys(every, setting(_P)))
    if not rule.startswith("RSVD_"):
        return
    wrong = reserved_bits(cpu, level, bool(raw & _PS))[rule] & raw
    also = ((rule, "ignored", None),)
    words = f"{_bits_named(wrong)} of {entry_words(walk, level)} were not reserved"
    unchecked = {level: _without_reserved(cpu, level, rule)}
    yield Variation((rule,), "ignored", words, level, also, edits=unchecked)
    as_page: dict[str, object] = {}
    if rule == "RSVD_ADDR":
        as_page = {"features": cpu.features.replace(maxphyaddr=52)}
    elif rule == "RSVD_NX":
        as_page = {"efer": cpu.efer | int(EFER.NXE)}
    elif rule == "RSVD_PS" and level == 3:
        as_page = {"features": cpu.features.replace(pdpe1gb=True)}
    if as_page and (other := with_registers(walk, **as_page)) is not None:
        yield Variation((rule,), "ignored", words, level, also, cpu=other)
    edits = {k: clearing(_reserved_by(cpu, k, rule)) for k in every}
    yield Variation((rule,), "ignored", "no entry had reserved bits of this kind", edits=edits)
    yield Variation(
        ("ORDER",),
        "reserved-late",
        "reserved bits were looked at after all entries were found present",
        edits={k: _without_reserved(cpu, k) for k in every},
        by_rules=True,
        decides=("PRESENT",),
    )


def _without_reserved(cpu: CpuState, level: int, rule: str | None = None) -> Edit:
    """Clear the bits that are reserved by one rule, or by any."""
    masks = [
        reduce(or_, (bits for name, bits in named.items() if rule in (None, name)), 0)
        for named in (reserved_bits(cpu, level, huge) for huge in (False, True))
    ]
    return lambda raw: raw & ~masks[bool(raw & _PS)]


def _reserved_by(cpu: CpuState, level: int, rule: str) -> int:
    return reserved_bits(cpu, level, True).get(rule, 0)


def _bits_named(mask: int) -> str:
    bits = [str(bit) for bit in range(63, -1, -1) if mask >> bit & 1]
    return f"bit {bits[0]}" if len(bits) == 1 else f"bits {', '.join(bits)}"


def _denied(walk: Walk) -> Iterator[Variation]:
    """A right that some level withholds was not withheld."""
    page = deciding(walk)
    rule = page.rule
    right = _RIGHT_OF.get(rule)
    every = range(walk.cpu.levels, 0, -1)
    if right is not None:
        levels = [step.level for step in page.culprits]
        mask, withheld = _RIGHTS[right]
        give = clearing(mask) if withheld else setting(mask)
        value = 0 if withheld else 1
        whole = (rule, "ignored", None)
        leaf = page.steps[-1].level
        if len(levels) == 1:
            (level,) = levels
            also: tuple[tuple[str, str, int | None], ...] = (
                ("COMBINE", f"{right}-ignored", level),
            )
            if level != leaf:
                also += (("COMBINE", f"{right}-leaf-only", None),)
            else:
                also += (("COMBINE", f"{right}-leaf-ignored", None),)
            words = bit_words(walk, level, mask, value)
            yield Variation((rule,), "ignored", words, level, (*also, whole), edits={level: give})
        else:
            also = (whole,)
            if leaf not in levels:
                also = (("COMBINE", f"{right}-leaf-only", None), whole)
            entries = ", ".join(entry_name(level) for level in levels)
            words = f"bit {right} of the {entries} were {value}"
            yield Variation(
                (rule,), "ignored", words, None, also, edits=dict.fromkeys(levels, give)
            )
        if spans(walk):
            words = f"bit {right} of every entry were {value}"
            yield Variation((rule,), "ignored", words, edits=dict.fromkeys(every, give))
    if rule == "USER_US":
        cpu = walk.cpu.replace(cpl=0, cr0=walk.cpu.cr0 | int(CR0.WP))
        words = "the page were a user page"
        if not walk.access.implicit:
            yield Variation((rule,), "ignored", words, cpu=cpu)
    # A supervisor's page taken for a user's: SMEP, SMAP and the keys then look at it.
    withheld_at = {step.level for step in steps_of(walk) if not step.raw & _US}
    missing = sorted(withheld_at, reverse=True)
    taken: list[tuple[dict[int, Edit], tuple[tuple[str, str, int | None], ...]]] = []
    if missing:
        also = (("COMBINE", "U/S-ignored", missing[0]),) if len(missing) == 1 else ()
        if page.steps and page.steps[-1].raw & _US:
            also += (("COMBINE", "U/S-leaf-only", None),)
        taken.append((dict.fromkeys(every, setting(_US)), also))
    if len(missing) > 1 and walk.second is not None:  # of one page it may be the only one
        taken += [
            ({level: setting(_US)}, (("COMBINE", "U/S-ignored", level),)) for level in missing
        ]
    keyless = with_registers(walk, cr4=walk.cpu.cr4 & ~int(CR4.PKE | CR4.PKS))
    words = "the page were a user page"
    for edits, also in taken:
        for rules, state in ((("SMEP", "SMAP"), keyless), (("PKU",), None)):
            yield Variation(
                rules, "supervisor-page", words, None, also, cpu=state, edits=edits, by_rules=True
            )


# Register, bit, name, the rules that it is part of; the first is the one that it switches.
_SWITCHES: Final = (
    ("cr0", int(CR0.WP), "CR0.WP", ("WP", "PKU", "PKS")),
    ("cr4", int(CR4.SMEP), "CR4.SMEP", ("SMEP",)),
    ("cr4", int(CR4.SMAP), "CR4.SMAP", ("SMAP",)),
    ("rflags", int(RFLAGS.AC), "EFLAGS.AC", ("SMAP",)),
    ("cr4", int(CR4.PKE), "CR4.PKE", ("PKU",)),
    ("cr4", int(CR4.PKS), "CR4.PKS", ("PKS",)),
    ("efer", int(EFER.NXE), "EFER.NXE", ("RSVD_NX",)),
)


def _switches(walk: Walk) -> Iterator[Variation]:
    for register, bit, name, rules in _SWITCHES:
        value = getattr(walk.cpu, register)
        cpu = with_registers(walk, **{register: value ^ bit})
        if cpu is None:
            continue
        now = 0 if value & bit else 1
        how = f"{name}={now}"
        level = None
        if name == "EFER.NXE":
            marked = {step.level for step in steps_of(walk) if step.raw & _XD}
            level = marked.pop() if len(marked) == 1 and not now else None
        also = ((rules[0], how, None),) if level is not None else ()
        yield Variation(rules, how, f"{name} were {now}", level, also, cpu=cpu)
    for cpl in (3, 0):
        if (walk.cpu.cpl == 3) != (cpl == 3):
            about = ("USER_US", "USER_RW", "SMEP", "SMAP", "WP", "PKU", "NX", "ERR")
            words = f"the CPL were {cpl}"
            yield Variation(about, f"CPL={cpl}", words, tier=1, cpu=walk.cpu.replace(cpl=cpl))


def _implicit(walk: Walk) -> Iterator[Variation]:
    access = walk.access
    if access.is_fetch:
        return
    other = Access(access.kind, access.size, not access.implicit, access.stack)
    rules = ("SMAP", "USER_US", "USER_RW", "WP", "PKU")
    if other.implicit:
        yield Variation(rules, "implicit", "the access were implicit", tier=1, access=other)
    else:
        how = "implicit-as-explicit"
        also = (("SMAP", how, None),)
        yield Variation(rules, how, "the access were explicit", None, also, access=other)


def _accesses(walk: Walk) -> Iterator[Variation]:
    access = walk.access
    here = 0x1000 - (walk.va & 0xFFF)
    if here < access.size:
        lower = Access(access.kind, here, access.implicit, access.stack)
        words = "the access ended with the lower page"
        also: tuple[tuple[str, str, int | None], ...] = ()
        if walk.rule == "CANONICAL" and walk.second is not None:
            also = (("CANONICAL", "ignored", None),)
        yield Variation(("SPLIT",), "upper-ignored", words, None, also, access=lower)
        upper = Access(access.kind, access.size - here, access.implicit, access.stack)
        words = "the upper page were looked at first"
        above = (walk.va | 0xFFF) + 1 & (1 << 64) - 1
        yield Variation(("SPLIT",), "upper-first", words, access=upper, va=above)
    elif here < 0x1000 and not access.is_fetch and access.size < 64:
        for size in (2, 4, 8, 16, 32, 64):
            if access.size < size and here < size:
                wider = Access(access.kind, size, access.implicit, access.stack)
                words = f"the access had {size} bytes"
                yield Variation(("SPLIT",), "wider", words, tier=1, access=wider)
    for kind in AccessKind:
        if kind is access.kind or (kind is AccessKind.FETCH and (access.implicit or access.stack)):
            continue
        as_kind = Access(kind, access.size, access.implicit, access.stack)
        about: tuple[str, ...] = ("PKU", "PKS", "NX", "WP", "USER_RW", "SMEP", "SMAP")
        tier = 1
        if access.is_fetch and (walk.cpu.pke or walk.cpu.pks):
            # Keys are for data alone: that they are asked at a fetch is a likely flaw.
            about, tier = ("PKU", "PKS"), 0
        yield Variation(about, f"as-{kind}", f"it were a {kind}", tier=tier, access=as_kind)


def _sizes(walk: Walk) -> Iterator[Variation]:
    """A page's size was read off another way."""
    for step in {step.level: step for step in steps_of(walk) if step.raw & _P}.values():
        level = step.level
        if level == 1:
            continue
        rules = ("RSVD_2M",) if level == 2 else ("RSVD_1G",) if level == 3 else ("RSVD_PS",)
        if step.raw & _PS:
            if level < 4:
                words = bit_words(walk, level, _PS, 0)
                yield Variation(
                    ("BIG",),
                    "PS-ignored",
                    words,
                    level,
                    (("BIG", "PS-ignored", None),),
                    edits={level: clearing(_PS)},
                )
                if level == 3:
                    cpu = with_registers(walk, features=walk.cpu.features.replace(pdpe1gb=False))
                    words = "the CPU had no 1 GiB pages"
                    yield Variation(("RSVD_PS",), "enforced", words, level, cpu=cpu)
        else:
            words = bit_words(walk, level, _PS, 1)
            also = (
                ((*rules[:1], "enforced", level),) if level > 3 else (("BIG", "PS-assumed", None),)
            )
            yield Variation(
                ("BIG", *rules),
                "PS-assumed",
                words,
                level,
                also,
                tier=1,
                edits={level: setting(_PS)},
            )


def _has_pat(level: int, raw: int) -> bool:
    if level == 1:
        return bool(raw & _P and raw & _PS)
    return bool(raw & _P and raw & _PS and raw & _PAT_BIG)


def _reserved_pat(level: int) -> Edit:
    return lambda raw: raw | _RESERVED if _has_pat(level, raw) else raw


def _reserved(walk: Walk) -> Iterator[Variation]:
    """A bit that is not reserved was taken for it."""
    if walk.cpu.maxphyaddr == 52:
        return
    for level in range(3, 0, -1):
        if any(step.level == level and _has_pat(level, step.raw) for step in steps_of(walk)):
            words = (
                f"bit {12 if level > 1 else 7} (PAT) of {entry_words(walk, level)} were reserved"
            )
            yield Variation(
                ("PAT",),
                "reserved",
                words,
                level,
                (("PAT", "reserved", None),),
                edits={level: _reserved_pat(level)},
            )
    for step in {step.level: step for step in steps_of(walk) if step.raw & _P}.values():
        level, raw = step.level, step.raw
        for bit in (*range(9, 12), *range(52, 63)):
            if raw >> bit & 1:
                rule = "KEY" if bit >= 59 else "RSVD_ADDR"
                words = f"bit {bit} of {entry_words(walk, level)} were reserved"
                yield Variation(
                    (rule,),
                    f"bit-{bit}-reserved",
                    words,
                    level,
                    tier=1,
                    edits={level: setting(_RESERVED)},
                )
    for width in range(walk.cpu.maxphyaddr - 1, 31, -1):
        if any(step.raw & ADDRESS_MASK & -1 << width for step in steps_of(walk)):
            cpu = with_registers(walk, features=walk.cpu.features.replace(maxphyaddr=width))
            if cpu is not None:
                words = f"MAXPHYADDR were {width}"
                yield Variation(("RSVD_ADDR",), "enforced", words, tier=1, cpu=cpu)
            return


def _lost(walk: Walk) -> Iterator[Variation]:
    """An entry was taken for less generous than it is."""
    levels = sorted({step.level for step in steps_of(walk) if step.raw & _P}, reverse=True)
    raws = {step.level: step.raw for step in steps_of(walk)}
    for right, (mask, withheld) in _RIGHTS.items():
        for level in levels:
            if raws[level] & mask != withheld:
                take = setting(mask) if withheld else clearing(mask)
                words = bit_words(walk, level, mask, 1 if withheld else 0)
                yield Variation(
                    ("COMBINE",),
                    f"{right}-lost",
                    words,
                    level,
                    (("COMBINE", f"{right}-lost", None),),
                    tier=1,
                    edits={level: take},
                )
    for level in levels:
        also = (("PRESENT", "lost", None),)
        words = bit_words(walk, level, _P, 0)
        yield Variation(
            ("PRESENT",), "lost", words, level, also, tier=1, edits={level: clearing(_P)}
        )


def _roots(walk: Walk) -> Iterator[Variation]:
    low = walk.cpu.cr3 & 0xFFF
    if low:
        words = f"the root table began at {format_address(walk.cpu.cr3)}"
        edits: tuple[Edit, ...] = (
            lambda pa: pa | low,
            lambda pa: pa + low,
            lambda pa: (pa | low) & ~7,
            lambda pa: (pa + low) & ~7,
        )
        for edit in edits:
            yield Variation(("CR3",), "low-bits", words, root=edit)
