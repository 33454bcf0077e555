"""What the bulk walker answers in, and what it works out beforehand: columns, and a plan.

:class:`BulkWalk` is one column for each thing that a walk says; :class:`Plan` holds all that
depends on the CPU's state and the access alone. The plain walker (:mod:`.bulk`) and the compiled
one share both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.outcome import Access, Outcome
from harness.walker.rules import RULE_INDEX, RULES
from harness.walker.scalar import denial, error_code, reserved_bits, reserved_masks

__all__ = ["BulkWalk", "Plan"]

_U64 = np.uint64
_COMBINE, _CANONICAL, _CR3, _ORDER = (
    RULE_INDEX[rule] for rule in ("COMBINE", "CANONICAL", "CR3", "ORDER")
)


@dataclass(frozen=True, slots=True, eq=False)
class BulkWalk:
    """The verdicts on an array of accesses, in columns of one length.

    A number that a verdict does not have is 0. Of an access that spans two pages, each row tells
    of the page that decided, as ``Walk`` does; of the lower one where both let it pass.

    :ivar outcome: :attr:`Outcome.code`
    :ivar rule: the index in ``RULES`` of the rule that decided
    :ivar level: the level of the entry that decided
    :ivar error_code: what #PF pushes
    :ivar cr2: the address that #PF leaves in CR2
    :ivar pa: the physical address reached, or the one that is not RAM
    :ivar page_size: bytes of the page that ``pa`` lies in, unless ``pa`` is an entry's address
    :ivar raw: the last entry read
    """

    outcome: NDArray[np.uint8]
    rule: NDArray[np.uint8]
    level: NDArray[np.uint8]
    error_code: NDArray[np.uint32]
    cr2: NDArray[np.uint64]
    pa: NDArray[np.uint64]
    page_size: NDArray[np.uint64]
    raw: NDArray[np.uint64]

    @classmethod
    def blank(cls, count: int) -> BulkWalk:
        """Return columns of ``count`` rows, to be filled in."""
        return cls(
            outcome=np.zeros(count, np.uint8),
            rule=np.zeros(count, np.uint8),
            level=np.zeros(count, np.uint8),
            error_code=np.zeros(count, np.uint32),
            cr2=np.zeros(count, np.uint64),
            pa=np.zeros(count, np.uint64),
            page_size=np.zeros(count, np.uint64),
            raw=np.zeros(count, np.uint64),
        )

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Tell which accesses were translated, be there RAM behind them or not."""
        return np.equal(self.rule, _COMBINE)

    def rows(self, where: slice | NDArray[np.intp] | NDArray[np.bool_]) -> BulkWalk:
        """Return some of the rows; a slice gives views."""
        return BulkWalk(*(getattr(self, field.name)[where] for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All that a walk needs to know of a CPU and an access, as tables to index.

    :ivar reserved: [level][bit 7 of the entry] → all reserved bits
    :ivar reserved_rules: the rules behind them, in the order in which they are named
    :ivar reserved_parts: [rule of ``reserved_rules``][level][bit 7] → that rule's bits
    :ivar rights: [key, X, U/S, R/W] → the rule that forbids the access, or COMBINE
    :ivar error_codes: [rule] → what #PF pushes
    :ivar outcomes: [rule] → the code of the outcome
    """

    root: int
    levels: int
    reserved: NDArray[np.uint64]
    reserved_rules: NDArray[np.uint8]
    reserved_parts: NDArray[np.uint64]
    rights: NDArray[np.uint8]
    error_codes: NDArray[np.uint32]
    outcomes: NDArray[np.uint8]

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, cpu: CpuState, access: Access) -> Plan:
        """Ask ``scalar.py`` for every answer that a walk may need."""
        rules = [rule for rule in RULES if rule.startswith("RSVD_")]
        parts = np.zeros((len(rules), 6, 2), _U64)
        for level in range(1, 6):
            for huge in (False, True):
                for rule, mask in reserved_bits(cpu, level, huge).items():
                    parts[rules.index(rule), level, int(huge)] = mask
        rights = np.zeros(128, np.uint8)
        for at in range(128):
            granted = (at & 3) << 1 | (at >> 2 & 1) << 63
            rights[at] = RULE_INDEX[denial(cpu, access, granted, at >> 3) or "COMBINE"]
        outcomes = np.full(len(RULES), Outcome.PAGE_FAULT.code, np.uint8)
        refused = Outcome.STACK_FAULT if access.stack else Outcome.GENERAL_PROTECTION
        outcomes[_CANONICAL] = refused.code
        outcomes[_COMBINE] = Outcome.MAPPED.code
        outcomes[[_CR3, _ORDER]] = Outcome.NO_MEMORY.code
        codes = np.array([error_code(cpu, access, rule) for rule in RULES], np.uint32)
        codes[outcomes != Outcome.PAGE_FAULT.code] = 0
        return cls(
            cpu.root,
            cpu.levels,
            np.array(reserved_masks(cpu), _U64),
            np.array([RULE_INDEX[rule] for rule in rules], np.uint8),
            parts,
            rights,
            codes,
            outcomes,
        )
