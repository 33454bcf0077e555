"""The walk of ``bulk.py`` compiled by numba: the same columns, several times faster.

Imported only on demand, since loading takes a third of a second, and compiling as much again (once
per machine, if numba's cache can be written). It needs the extra ``fast``.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from harness.entry import ADDRESS_MASK
from harness.memory import PhysicalMemory
from harness.outcome import Outcome
from harness.walker.columns import BulkWalk, Plan
from harness.walker.rules import RULE_INDEX

__all__ = ["walk_pages"]

# numba makes a float of int64 and uint64 together, so every constant of the kernel has its type.
_U64 = np.uint64
_PRESENT, _HUGE, _ADDRESS, _XD = _U64(1), _U64(0x80), _U64(ADDRESS_MASK), _U64(1 << 63)
_EVERYTHING = _U64((1 << 64) - 1)
_0, _1, _3, _4, _7, _9 = (_U64(n) for n in (0, 1, 3, 4, 7, 9))
_56, _61, _8, _0X78, _0XFF8 = (_U64(n) for n in (56, 61, 8, 0x78, 0xFF8))
_PRESENT_RULE = RULE_INDEX["PRESENT"]
_COMBINE, _CANONICAL, _CR3, _ORDER = (
    RULE_INDEX[rule] for rule in ("COMBINE", "CANONICAL", "CR3", "ORDER")
)
_PAGE_FAULT, _NO_MEMORY = Outcome.PAGE_FAULT.code, Outcome.NO_MEMORY.code


def _compiled(function: Any) -> Any:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba 0.61: "cannot cache function", when no directory can be written
        return numba.njit(nogil=True)(function)


def walk_pages(
    memory: PhysicalMemory,
    plan: Plan,
    roots: NDArray[np.uint64],
    vas: NDArray[np.uint64],
    out: BulkWalk,
) -> None:
    """Walk each address's own page, and fill in every column of ``out``."""
    host = memory.buffer.ctypes.data
    runs = np.array(
        [(base, size, at - host) for base, size, at in memory.region_pointers()], np.uint64
    )
    _kernel(
        vas,
        memory.words,
        runs,
        roots,
        plan.levels,
        plan.reserved,
        plan.reserved_rules,
        plan.reserved_parts,
        plan.rights,
        plan.error_codes,
        plan.outcomes,
        out.outcome,
        out.rule,
        out.level,
        out.error_code,
        out.cr2,
        out.pa,
        out.page_size,
        out.raw,
    )


@_compiled
def _offset(runs: Any, pa: Any) -> Any:
    # Where a physical address lies in the buffer; -1 (all ones) when it is not RAM.
    for run in range(len(runs)):
        inside = pa - runs[run, 0]  # below the base it wraps and is too large
        if inside < runs[run, 1]:
            return inside + runs[run, 2]
    return _EVERYTHING


@_compiled
def _kernel(
    vas: Any,
    words: Any,
    runs: Any,
    roots: Any,
    levels: Any,
    reserved: Any,
    reserved_rules: Any,
    reserved_parts: Any,
    rights: Any,
    error_codes: Any,
    outcomes: Any,
    out_outcome: Any,
    out_rule: Any,
    out_level: Any,
    out_error_code: Any,
    out_cr2: Any,
    out_pa: Any,
    out_page_size: Any,
    out_raw: Any,
) -> None:
    for row in range(len(vas)):
        va = vas[row]
        above = np.int64(va) >> np.int64(9 * levels + 11)
        if above != 0 and above != -1:  # CANONICAL
            out_rule[row] = _CANONICAL
            out_outcome[row] = outcomes[_CANONICAL]
            continue
        raw = pa = _0
        granted = _EVERYTHING
        level = levels
        table = roots[row]
        while True:
            address = table | (va >> _U64(9 * level)) & _0XFF8
            offset = _offset(runs, address)
            if offset == _EVERYTHING:
                rule = _CR3 if level == levels else _ORDER
                pa = address
                break
            raw = words[offset >> _3]
            if not raw & _PRESENT:  # PRESENT
                rule = _PRESENT_RULE
                break
            huge = (raw >> _7) & _1
            if raw & reserved[level, huge]:  # ORDER: before any access right
                part = 0
                while not raw & reserved_parts[part, level, huge]:
                    part += 1
                rule = int(reserved_rules[part])
                break
            granted &= raw ^ _XD  # COMBINE
            if level == 1 or huge:  # PAT: in a PTE bit 7 is not a size
                rule = int(
                    rights[(granted >> _1) & _3 | (granted >> _61) & _4 | (raw >> _56) & _0X78]
                )
                if rule == _COMBINE:
                    size = _8 << _U64(9 * level)
                    pa = raw & _ADDRESS & ~(size - _1) | va & (size - _1)
                    out_page_size[row] = size
                break
            table = raw & _ADDRESS
            level -= 1
        outcome = outcomes[rule]
        if rule == _COMBINE and _offset(runs, pa) == _EVERYTHING:
            outcome = _NO_MEMORY
        out_outcome[row] = outcome
        out_rule[row] = rule
        out_level[row] = level
        out_error_code[row] = error_codes[rule]
        if outcome == _PAGE_FAULT:
            out_cr2[row] = va
        out_pa[row] = pa
        out_raw[row] = raw
