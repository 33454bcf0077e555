"""What a CPU did, where no entry and no switch would make the walker report so.

Three kinds of explanation:

* codes: the error code, CR2, and which fault it is ("the CPU put the first byte of the page into
  CR2");
* the physical address: another frame, or another size of page ("the CPU acted as if bit 12 (PAT) of
  the PDE at 0x3000 belonged to the frame's address");
* order: a CPU walks to the end and judges rights then; one that judges at each level reports a
  right where an entry further down is not present, or has a reserved bit set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.address import entry_name, format_address
from harness.check.cause.explanation import Explanation
from harness.cpu import CR4, ErrorCode
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.outcome import Observation, Outcome
from harness.walker import Walk
from harness.walker.scalar import denial, error_code

__all__ = ["is_about_code_alone", "of_address", "of_code", "of_order", "of_segment"]

_FP, _FW, _FU, _FRSVD, _FI, _FPK = (
    int(bit)
    for bit in (ErrorCode.P, ErrorCode.W, ErrorCode.U, ErrorCode.RSVD, ErrorCode.I, ErrorCode.PK)
)
_ACCESS_BITS = _FW | _FU | _FI
_MISSING: Final = {"missing": "was missing", "extra": "was set wrongly"}
_PS = int(PageTableFlags.HUGE_PAGE)
_PAT_BIG = int(PageTableFlags.HUGE_PAGE_PAT)
_RW = int(PageTableFlags.WRITABLE)
_US = int(PageTableFlags.USER_ACCESSIBLE)
_XD = int(PageTableFlags.NO_EXECUTE)
_RIGHTS: Final = ("USER_US", "USER_RW", "NX", "WP")


def is_about_code_alone(walk: Walk, seen: Observation) -> bool:
    """Say whether no other fault would have this code: what is wrong is the code itself."""
    if walk.outcome is not seen.outcome or seen.outcome is not Outcome.PAGE_FAULT:
        return False
    assert walk.error_code is not None
    assert seen.error_code is not None
    if walk.cr2 != seen.cr2:
        return False
    code = seen.error_code
    impossible = bool(code & (_FRSVD | _FPK)) and not code & _FP
    return impossible or not (walk.error_code ^ code) & ~_ACCESS_BITS


def of_code(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain another error code or CR2 of the page fault that was predicted."""
    if walk.outcome is not seen.outcome or seen.outcome is not Outcome.PAGE_FAULT:
        return
    assert walk.error_code is not None
    assert seen.error_code is not None
    wrong = walk.error_code ^ seen.error_code
    if walk.cr2 != seen.cr2:
        if not wrong:
            yield _of_cr2(walk, seen)
        return
    if not wrong:
        return
    if seen.error_code & _FRSVD and wrong == _FP:
        sentence = "the CPU reported RSVD without P: a reserved bit is only looked at when P = 1"
        yield Explanation.of("ERR", "RSVD-without-P", None, sentence)
    names = [
        f"{ErrorCode(bit)}-{'missing' if walk.error_code & bit else 'extra'}"
        for bit in (_FP, _FW, _FU, _FRSVD, _FI, _FPK)
        if wrong & bit
    ]
    names += [f"bit-{bit}-extra" for bit in range(6, 32) if wrong >> bit & 1]
    told = ", ".join(f"{n.rpartition('-')[0]} {_MISSING[n.rpartition('-')[2]]}" for n in names)
    sentence = f"the CPU did as predicted, but in the error code {told}"
    how = "+".join(names)
    cpu = walk.cpu
    if wrong == _FI:
        switches = [name for name, on in (("NXE", cpu.nxe), ("SMEP", cpu.smep)) if on]
        if len(switches) < 2:
            only = f"{switches[0]}-only" if switches else "without-NXE-and-SMEP"
            if walk.access.is_fetch:
                yield Explanation.of("ERR", f"{how}:{only}", None, sentence)
    if wrong == _FU and walk.access.implicit:
        yield Explanation.of("ERR", f"{how}:implicit", None, sentence)
        if how == "U-extra":
            words = "the CPU acted as if the access were explicit"
            yield Explanation.of("SMAP", "implicit-as-explicit", None, words)
    yield Explanation.of("ERR", how, None, sentence)


def _of_cr2(walk: Walk, seen: Observation) -> Explanation:
    assert seen.cr2 is not None
    assert walk.cr2 is not None
    if walk.cr2 != walk.va and seen.cr2 == walk.va:
        how, what = "CR2-of-access", "the first byte of the access, not of the part that faulted"
    elif seen.cr2 == walk.cr2 & ~0xFFF:
        how, what = "CR2-of-page", "the first byte of the page"
    elif seen.cr2 == walk.va + walk.access.size - 1 & (1 << 64) - 1:
        how, what = "CR2-of-last-byte", "the last byte of the access"
    elif seen.cr2 == 0:
        how, what = "CR2-zero", "0"
    else:
        how, what = "CR2", format_address(seen.cr2)
    return Explanation.of("ERR", how, None, f"the CPU put {what} into CR2")


def of_segment(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain the other one of the two faults that a non-canonical address may raise."""
    pair = (Outcome.GENERAL_PROTECTION, Outcome.STACK_FAULT)
    if walk.rule == "CANONICAL" and seen.outcome in pair and walk.outcome is not seen.outcome:
        how = "" if seen.outcome is Outcome.STACK_FAULT else "not "
        words = f"the CPU acted as if the access were {how}made through SS"
        yield Explanation.of("CANONICAL", "stack", None, words)


def of_address(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain another physical address of a page that both found."""
    leaf, predicted, reached = walk.leaf, walk.pa, seen.pa
    if leaf is None or not walk.completed or reached is None or predicted is None:
        return
    if not seen.outcome.has_pa or reached == predicted:
        return
    level = leaf.level
    name = f"the {entry_name(level)} at {format_address(leaf.address)}"
    frame = leaf.raw & ADDRESS_MASK
    size = 8 << 9 * level
    wrong = reached ^ predicted
    if level > 1 and leaf.raw & _PAT_BIG and wrong == _PAT_BIG:
        words = f"the CPU acted as if bit 12 (PAT) of {name} belonged to the frame's address"
        yield Explanation.of("PAT", "as-address", level, words)
        yield Explanation.of("PAT", "as-address", None, words)
        return
    for bits, page in ((12, "4K"), (21, "2M"), (30, "1G")):
        low = (1 << bits) - 1
        starts = (frame & ~low, frame & -size)
        if 1 << bits != size and reached in [start | walk.va & low for start in starts]:
            rule = "PAT" if level == 1 and leaf.raw & _PS else "BIG"
            words = f"the CPU acted as if {name} mapped a page of {page}"
            yield Explanation.of(rule, f"as-{page}", level, words)
            yield Explanation.of(rule, f"as-{page}", None, words)
    for bits in range(51, 31, -1):
        if reached == predicted & (1 << bits) - 1:
            words = f"the CPU lost bits 51:{bits} of the frame's address in {name}"
            yield Explanation.of("RSVD_ADDR", "address-lost", level, words)
            break


def of_order(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain a right that is reported where something below it should have been."""
    page = walk.second if walk.second is not None and not walk.completed else walk
    if seen.outcome is not Outcome.PAGE_FAULT or seen.cr2 != page.va:
        return
    if page.rule not in ("PRESENT", "ORDER") and not page.rule.startswith("RSVD_"):
        return
    granted = _RW | _US | _XD | 1
    steps = page.steps
    whole = None
    # What a user's page must not be asked for is known at the leaf alone.
    cpu = walk.cpu.replace(cr4=walk.cpu.cr4 & ~int(CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.PKS))
    for step in steps if page.rule != "PRESENT" else steps[:-1]:
        granted &= step.raw ^ _XD
        rule = denial(cpu, walk.access, granted, 0)
        if rule in _RIGHTS and seen.error_code == error_code(walk.cpu, walk.access, rule):
            words = (
                f"the CPU acted as if rights were judged at level {step.level} ({rule}), before "
                f"the entry of level {page.level} was looked at"
            )
            if step is steps[-1] and page.rule != "ORDER":
                words = "the CPU acted as if rights were judged before reserved bits"
            whole = whole or words
            yield Explanation.of("ORDER", "rights-first", step.level, words)
    if whole is not None:
        yield Explanation.of("ORDER", "rights-first", None, whole)
