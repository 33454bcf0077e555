"""Causes about the physical address: another frame, or another size of page.

"The CPU acted as if bit 12 (PAT) of the PDE at 0x3000 belonged to the frame's address." Nothing
here fails.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.address import entry_name, format_address
from harness.check.cause.explanation import Explanation
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.outcome import Observation
from harness.walker import Walk

__all__ = ["of_address"]

_PS = int(PageTableFlags.HUGE_PAGE)
_PAT_BIG = int(PageTableFlags.HUGE_PAGE_PAT)


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
