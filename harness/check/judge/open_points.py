"""Open points: where the manual leaves the choice to the CPU, as amendments of an observation.

docs/rules.md lists the open points (:data:`harness.walker.open_points.OPEN_POINTS`). An observation
that differs from the prediction at such points only is neither agreement nor divergence: its
judgement is ``open``. Each :class:`OpenWay` takes an observation and gives back what the CPU would
have shown had it gone the way that the walker predicts, or None when its point has no part in it.

``A_ON_FAULT`` is not here: the walker predicts a *set* there (``Walk.may_set``), and every member
agrees. ``FRAME_ORDER`` is about deliveries (:mod:`harness.check.model.delivery`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.address import is_canonical
from harness.check.judge.compare import excess, permitted
from harness.cpu import ErrorCode
from harness.entry import PageTableFlags
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = ["OPEN_WAYS", "RIGHTS", "OpenWay", "deciding", "without_bits"]

_ACCESSED = int(PageTableFlags.ACCESSED)
_DIRTY = int(PageTableFlags.DIRTY)
_PK = int(ErrorCode.PK)
_MASK = (1 << 64) - 1

RIGHTS: Final = frozenset(
    ("USER_US", "USER_RW", "NX", "WP", "SMEP", "SMAP", "PKU", "PKS"),
)
"""Rules by which the rights of a page deny an access."""


@dataclass(frozen=True, slots=True)
class OpenWay:
    """The other way at one open point.

    :ivar name: the point's: ``D_OF_LOWER``.
    :ivar amend: prediction, observation → the observation without this difference, or None.
    """

    name: str
    amend: Callable[[Walk, Observation], Observation | None]


def deciding(walk: Walk) -> Walk:
    """Return the walk of the page that decided: the upper one where it faulted."""
    return walk.second if walk.second is not None and not walk.completed else walk


def without_bits(observation: Observation, address: int, bits: int) -> Observation:
    """Return an observation in which bits of one entry have not changed."""
    changed = dict(observation.changed)
    left = changed.pop(address) & ~bits
    if left:
        changed[address] = left
    return dataclasses.replace(observation, changed=changed)


def _accessed_of_denied_leaf(walk: Walk, observation: Observation) -> Observation | None:
    page = deciding(walk)
    leaf = page.leaf
    if walk.rule not in RIGHTS or leaf is None or observation.outcome is not walk.outcome:
        return None
    if not excess(walk, observation).get(leaf.address, 0) & _ACCESSED:
        return None
    return without_bits(observation, leaf.address, _ACCESSED)


def _dirty_of_lower(walk: Walk, observation: Observation) -> Observation | None:
    leaf = walk.leaf
    if not walk.access.is_write or walk.second is None or walk.completed or leaf is None:
        return None
    if observation.outcome is not walk.outcome:
        return None
    if not excess(walk, observation).get(leaf.address, 0) & _DIRTY:
        return None
    return without_bits(observation, leaf.address, _DIRTY)


def _canonical_first(walk: Walk, observation: Observation) -> Observation | None:
    if walk.outcome is not Outcome.PAGE_FAULT or walk.second is not None:
        return None
    upper = (walk.va | 0xFFF) + 1 & _MASK
    spans = (walk.va & 0xFFF) + walk.access.size > 0x1000
    stack = Outcome.STACK_FAULT if walk.access.stack else Outcome.GENERAL_PROTECTION
    if not spans or is_canonical(upper, walk.cpu.levels) or observation.outcome is not stack:
        return None
    if observation.error_code != 0 or not permitted(walk, observation.changed):
        return None
    return Observation(walk.outcome, walk.error_code, walk.cr2, changed=observation.changed)


def _key_of_denied(walk: Walk, observation: Observation) -> Observation | None:
    if walk.rule != "PKS" or not walk.cpu.user or walk.access.implicit:
        return None
    if walk.error_code is None or observation.error_code != walk.error_code & ~_PK:
        return None
    return dataclasses.replace(observation, error_code=walk.error_code)


def _stored_in_part(walk: Walk, observation: Observation) -> Observation | None:
    # Only what parts of 8 bytes or less can have left on the lower page.
    lower = 0x1000 - (walk.va & 0xFFF)
    wide = walk.access.size > 8 and walk.second is not None and not walk.completed
    if not wide or not 0 < observation.stored <= lower:
        return None
    return dataclasses.replace(observation, stored=0)


OPEN_WAYS: Final = (
    OpenWay("A_LEAF_DENIED", _accessed_of_denied_leaf),
    OpenWay("D_OF_LOWER", _dirty_of_lower),
    OpenWay("SPLIT_CANONICAL", _canonical_first),
    OpenWay("PK_OF_DENIED", _key_of_denied),
    OpenWay("WIDE_PARTS", _stored_in_part),
)
"""Every open point of single accesses that can show as a difference."""
