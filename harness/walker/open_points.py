"""The points of paging that the manual leaves to the CPU, or does not speak of.

Two CPUs may differ in one of these and both be right. An observation that differs from the
prediction in nothing else is *open*: neither agreement nor divergence, and counted under the
point's name. ``docs/rules.md`` shows these points below the rules.

>>> OPEN_POINTS["D_OF_LOWER"].rule
'D'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["OPEN_POINTS", "OpenPoint"]


@dataclass(frozen=True, kw_only=True)
class OpenPoint:
    """One choice that a CPU is free to make.

    :ivar name: what reports and tallies call it.
    :ivar rule: the rule of :data:`~harness.walker.rules.RULE_TEXT` that it leaves open.
    :ivar text: the ways a CPU may go, and which ways were seen, in a few sentences.
    :ivar source: where the manual grants the choice, or where it falls silent.
    """

    name: str
    rule: str
    text: str
    source: str


_POINTS: Final = (
    OpenPoint(
        name="A_ON_FAULT",
        rule="A_ON_FAULT",
        text="When an access faults, A may be set or not in the entries above the last one read."
        " Unicorn and QEMU set it on the way down; KVM's walker sets it only on success.",
        source="SDM 3A 4.8 speaks of completed translations only.",
    ),
    OpenPoint(
        name="A_LEAF_DENIED",
        rule="A_ON_FAULT",
        text="When the leaf's rights forbid the access, A of that leaf may be set or not."
        " The emulators leave it clear, except where a divergence is registered.",
        source="SDM 3A chapter 6, page-fault exception: a footnote calls it model-specific.",
    ),
    OpenPoint(
        name="D_OF_LOWER",
        rule="D",
        text="When a write spans two pages and the upper one faults, D of the lower page may be"
        " set or not. Unicorn and Bochs both set it, independently of each other.",
        source="SDM 3A 4.8 does not speak of it.",
    ),
    OpenPoint(
        name="SPLIT_CANONICAL",
        rule="SPLIT",
        text="When an access crosses the canonical edge and its lower page faults, either fault"
        " may come first: #GP (or #SS through SS) for the address, or #PF for the page. Bochs"
        " raises #GP or #SS, which is likelier on a CPU; Unicorn raises #PF.",
        source="SDM 1, 3.3.7.1 and SDM 3A 4.7 give no order between the two.",
    ),
    OpenPoint(
        name="PK_OF_DENIED",
        rule="PKS",
        text="When a user access meets a supervisor page whose key IA32_PKRS denies too, PK may be"
        " set in the error code or not. A key denies with AD, and a write with WD when"
        " CR0.WP = 1. Open for WD with CR0.WP = 0 too: QEMU sets PK there and Bochs does not."
        " For AD both leave PK clear.",
        source="SDM 3A 4.6.2 and 4.7 do not say which violation is reported.",
    ),
    OpenPoint(
        name="FRAME_ORDER",
        rule="SPLIT",
        text="When an exception's frame meets a missing stack page, any byte of the frame may be"
        " the one that faults first. The CPUs and emulators we know push SS first, so CR2 is the"
        " highest slot.",
        source="SDM 3A 6.14.2 lists the frame but gives no order of its writes.",
    ),
    OpenPoint(
        name="WIDE_PARTS",
        rule="SPLIT",
        text="When an x87 or SSE write of more than 8 bytes spans two pages and one faults, part"
        " of it may be stored or nothing. Unicorn stores it in parts, each before it translates"
        " the next.",
        source="SDM 3A 8.1.1 (9.1.1 in newer editions), 'Guaranteed Atomic Operations'.",
    ),
)

OPEN_POINTS: Final[Mapping[str, OpenPoint]] = MappingProxyType(
    {point.name: point for point in _POINTS}
)
"""Every open point by its name, in the order of ``docs/rules.md``."""
