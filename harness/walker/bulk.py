"""The software MMU for arrays of addresses: the verdicts of ``walk``, as columns.

Whole address spaces are compared with a CPU in batches of up to millions of addresses. For these
:func:`bulk` walks all addresses of a chunk down one level at a time. What a walk may do at its
end (rights, keys, error codes) depends on the CPU's state and the access alone, so that the
answers for every combination are asked of ``scalar.py`` beforehand, 128 of them, and looked up.
Only the walk itself is stated a second time here; a property test holds the two together.

>>> verdicts = bulk(memory, cpu, [0x4123, 0x5000])  # doctest: +SKIP
>>> verdicts.pa[0], RULES[verdicts.rule[1]]  # doctest: +SKIP
(0x5123, 'PRESENT')

It fails only for addresses that do not fit in 64 bits. numpy is enough; with numba installed (the
extra ``fast``) large arrays are walked by compiled code with the same answers, several times
faster.
"""

import sys
from collections.abc import Iterable
from dataclasses import fields
from operator import index
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.errors import AddressError
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessLike, Outcome
from harness.walker.columns import BulkWalk, Plan
from harness.walker.rules import RULE_INDEX

__all__ = ["BulkWalk", "bulk"]

# Addresses walked at once: their temporaries stay in a core's cache.
_CHUNK = 1 << 14
# numba is loaded when this process has asked for so many addresses: who asks for that many asks
# for more, and loading costs 0.3 s (on a machine's first time 0.9 s).
_WORTH_LOADING = 1 << 19

_asked = 0
_FAST = "harness.walker._fast"

_U64 = np.uint64
_PRESENT = int(PageTableFlags.PRESENT)
_HUGE = int(PageTableFlags.HUGE_PAGE)
_NO_EXECUTE = int(PageTableFlags.NO_EXECUTE)
_EVERYTHING = (1 << 64) - 1
_COMBINE, _CANONICAL, _CR3, _ORDER = (
    RULE_INDEX[rule] for rule in ("COMBINE", "CANONICAL", "CR3", "ORDER")
)


def bulk(
    memory: PhysicalMemory,
    cpu: CpuState,
    vas: NDArray[np.uint64] | Iterable[SupportsIndex],
    access: AccessLike = "read",
    *,
    roots: NDArray[np.uint64] | None = None,
    fast: bool | None = None,
) -> BulkWalk:
    """Tell what a CPU in this state does with the same access to each of many addresses.

    :param memory: the physical memory that holds the tables
    :param cpu: the registers and features that rule the walks
    :param vas: the first bytes' virtual addresses, canonical or not
    :param access: what is done there
    :param roots: the address of each walk's root table, to walk as many address spaces at once;
        CR3's for all of them if None
    :param fast: walk with numba (True), with numpy (False), or with numba if it is installed and
        enough addresses were asked for to pay for loading it (None)
    :raises AddressError: an address does not fit in 64 bits
    :raises ImportError: ``fast`` is True and numba is not installed
    """
    access = Access.of(access)
    addresses = _addresses(vas)
    plan = Plan.of(cpu, access)
    tables = _roots(roots, plan, len(addresses))
    walk_pages = _walker(len(addresses), fast)
    result = BulkWalk.blank(len(addresses))
    for start in range(0, len(addresses), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part = result.rows(chunk)
        walk_pages(memory, plan, tables[chunk], addresses[chunk], part)
        if access.size > 1:
            _walk_upper_pages(
                walk_pages, memory, plan, tables[chunk], addresses[chunk], access.size, part
            )
    return result


class _Walker(Protocol):
    # Walks each address's own page and fills in every column of ``out``, which is all zeros.
    def __call__(
        self,
        memory: PhysicalMemory,
        plan: Plan,
        roots: NDArray[np.uint64],
        vas: NDArray[np.uint64],
        out: BulkWalk,
        /,
    ) -> None: ...


def _walk_pages(
    memory: PhysicalMemory,
    plan: Plan,
    roots: NDArray[np.uint64],
    vas: NDArray[np.uint64],
    out: BulkWalk,
) -> None:
    # The lanes still walking: their rows, addresses, rights so far, and the entry last read.
    rows = np.arange(len(vas))
    lane_vas = vas
    granted = np.full(len(vas), _EVERYTHING, _U64)
    raw = np.zeros(len(vas), _U64)

    def settle(
        where: NDArray[np.bool_], rule: int | NDArray[np.uint8], level: int, pa: Any = 0
    ) -> None:
        # Write down the lanes that end here, and go on with the others.
        nonlocal rows, lane_vas, granted, raw
        ended = rows[where]
        out.rule[ended] = rule
        out.level[ended] = level
        out.raw[ended] = raw[where]
        out.pa[ended] = pa
        rest = ~where
        rows, lane_vas, granted, raw = rows[rest], lane_vas[rest], granted[rest], raw[rest]

    above = vas.view(np.int64) >> (9 * plan.levels + 11)
    astray = (above != 0) & (above != -1)
    if astray.any():  # CANONICAL
        settle(astray, _CANONICAL, 0)
    table = roots[rows]
    for level in range(plan.levels, 0, -1):
        address = table | lane_vas >> _U64(9 * level) & _U64(0xFF8)
        offset = memory.offsets(address)
        outside = offset < 0
        if outside.any():
            settle(outside, _CR3 if level == plan.levels else _ORDER, level, address[outside])
            offset = offset[~outside]
        raw = memory.words[offset >> 3]
        absent = raw & _PRESENT == 0
        if absent.any():  # PRESENT
            settle(absent, RULE_INDEX["PRESENT"], level)
        table_bits, page_bits = plan.reserved[level]
        broken = raw & np.where(raw & _HUGE, page_bits, table_bits) != 0
        if broken.any():  # ORDER: before any access right
            settle(broken, _reserved_rules(plan, level, raw[broken]), level)
        granted &= raw ^ _NO_EXECUTE  # COMBINE
        leaf = raw & _HUGE != 0 if level > 1 else np.full(len(raw), True)  # PAT
        if leaf.any():
            inside = _U64((8 << 9 * level) - 1)
            pa = raw & ADDRESS_MASK & ~inside | lane_vas & inside
            rule = plan.rights[granted >> 1 & 3 | granted >> 61 & 4 | raw >> 56 & 0x78][leaf]
            out.page_size[rows[leaf]] = np.where(rule == _COMBINE, inside + _U64(1), _U64(0))
            settle(leaf, rule, level, np.where(rule == _COMBINE, pa[leaf], _U64(0)))
        if not len(rows):
            break
        table = raw & ADDRESS_MASK
    out.outcome[:] = plan.outcomes[out.rule]
    out.error_code[:] = plan.error_codes[out.rule]
    faulted = out.outcome == Outcome.PAGE_FAULT.code
    out.cr2[faulted] = vas[faulted]
    out.outcome[out.completed & (memory.offsets(out.pa) < 0)] = Outcome.NO_MEMORY.code


def _reserved_rules(plan: Plan, level: int, raw: NDArray[np.uint64]) -> NDArray[np.uint8]:
    rules = np.zeros(len(raw), np.uint8)
    huge = (raw & _HUGE != 0).astype(np.intp)
    parts = plan.reserved_parts[:, level]
    for rule, masks in reversed(list(zip(plan.reserved_rules, parts, strict=True))):
        rules[raw & masks[huge] != 0] = rule
    return rules


def _walk_upper_pages(
    walk_pages: _Walker,
    memory: PhysicalMemory,
    plan: Plan,
    roots: NDArray[np.uint64],
    vas: NDArray[np.uint64],
    size: int,
    out: BulkWalk,
) -> None:
    # SPLIT: where the lower page let the access pass, the upper page's walk may still decide.
    last = vas + _U64(size - 1)
    rows = np.flatnonzero(((vas ^ last) >> 12 != 0) & out.completed)
    if not len(rows):
        return
    upper = BulkWalk.blank(len(rows))
    walk_pages(memory, plan, roots[rows], last[rows] & ~_U64(0xFFF), upper)
    mapped, no_memory = Outcome.MAPPED.code, Outcome.NO_MEMORY.code
    missing = (out.outcome[rows] == mapped) & (upper.outcome == no_memory)
    decides = ~upper.completed | missing
    for field in fields(BulkWalk):
        getattr(out, field.name)[rows[decides]] = getattr(upper, field.name)[decides]


def _roots(roots: NDArray[np.uint64] | None, plan: Plan, count: int) -> NDArray[np.uint64]:
    if roots is None:
        return np.broadcast_to(_U64(plan.root), count)
    if roots.shape != (count,):
        raise AddressError(f"there must be a root for each of {count} addresses, not {roots.shape}")
    return np.ascontiguousarray(roots, _U64)


def _addresses(vas: NDArray[np.uint64] | Iterable[SupportsIndex]) -> NDArray[np.uint64]:
    if isinstance(vas, np.ndarray):
        if vas.ndim != 1 or vas.dtype.kind not in "ui":
            raise AddressError(
                "virtual addresses must be a one-dimensional array of integers, "
                f"not {vas.ndim}-dimensional of {vas.dtype}"
            )
        if vas.dtype.kind == "i" and len(vas) and vas.min() < 0:
            raise AddressError(f"a virtual address must fit in 64 bits, not {int(vas.min()):#_x}")
        return np.ascontiguousarray(vas, _U64)
    numbers = [index(va) for va in vas]
    wide = next((va for va in numbers if va >> 64), None)
    if wide is not None:
        raise AddressError(f"a virtual address must fit in 64 bits, not {wide:#_x}")
    return np.array(numbers, _U64)


def _walker(count: int, fast: bool | None) -> _Walker:
    global _asked
    _asked += count
    if fast or (fast is None and (_asked >= _WORTH_LOADING or _FAST in sys.modules)):
        try:
            from harness.walker._fast import walk_pages
        except ImportError:  # not installed, or not for this numpy
            if fast:
                raise
        else:
            return walk_pages
    return _walk_pages
