"""Causes about what a fault reports: its error code, CR2, and which fault it is.

They say what the CPU did, for no entry and no switch would make the walker report so: "the CPU put
the first byte of the page into CR2". Nothing here fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.address import format_address
from harness.check.cause.explanation import Explanation
from harness.cpu import ErrorCode
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = ["is_about_code_alone", "of_code", "of_segment"]

_FP, _FW, _FU, _FRSVD, _FI, _FPK = (
    int(bit)
    for bit in (ErrorCode.P, ErrorCode.W, ErrorCode.U, ErrorCode.RSVD, ErrorCode.I, ErrorCode.PK)
)
_ACCESS_BITS = _FW | _FU | _FI
_MISSING: Final = {"missing": "was missing", "extra": "was set wrongly"}


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
