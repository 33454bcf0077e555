"""Causes about the A and D bits: left out, set too often, set in the wrong entry.

The rest of the observation is as predicted. "The CPU did not set A of the PDPTE at 0x2000."
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from harness.address import entry_name, format_address
from harness.check.cause.explanation import Explanation
from harness.check.judge.compare import excess
from harness.entry import PageTableFlags
from harness.outcome import Observation
from harness.walker import Walk

__all__ = ["of_bits", "of_second_page"]

_A = int(PageTableFlags.ACCESSED)
_D = int(PageTableFlags.DIRTY)


def of_second_page(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain bits that are as if an access had not reached its upper page."""
    if walk.second is None or not walk.completed:
        return
    upper = walk.second.sets
    lower = {step.address for step in walk.steps}
    left = {at: bits for at, bits in walk.sets.items() if at in lower or at not in upper}
    if left == seen.changed:
        words = "the CPU acted as if the access ended with the lower page"
        yield Explanation.of("SPLIT", "upper-ignored", None, words)


def of_bits(walk: Walk, seen: Observation) -> list[Explanation]:
    """Explain the bits that changed and should not have, or the other way round."""
    places: dict[int, list[tuple[int, bool, int]]] = defaultdict(list)
    for page in (walk, walk.second):
        steps = () if page is None else page.steps
        for step in steps:
            place = (step.level, step is steps[-1], step.raw)
            if place not in places[step.address]:
                places[step.address].append(place)
    several = [
        list(_of_bit(walk, seen, address, bit, places[address]))
        for address, bits in excess(walk, seen).items()
        for bit in (bits & _A, bits & _D, bits & ~(_A | _D))
        if bit
    ]
    common = [
        one for one in several[0] if all(one.key in {o.key for o in other} for other in several[1:])
    ]
    if common:
        return common
    lasts = {other[-1].key: other[-1] for other in several}
    how = "+".join(sorted(map(str, lasts)))
    as_if = "; ".join(one.as_if for one in lasts.values())
    return [Explanation.of(several[0][0].rule, how, None, as_if)]


def _of_bit(
    walk: Walk, seen: Observation, address: int, bit: int, places: list[tuple[int, bool, int]]
) -> Iterator[Explanation]:
    name = {_A: "A", _D: "D"}.get(bit, f"bits {bit:#x}")
    if not places:
        words = f"the CPU changed {name} of the word at {format_address(address)}, not in the walk"
        yield Explanation.of("A" if bit == _A else "D", "elsewhere", None, words)
        return
    level, is_last, raw = places[-1]
    where = f"the {entry_name(level)} at {format_address(address)}"
    changed = bool(seen.changed.get(address, 0) & bit)
    hows: tuple[str, ...]
    levels = {place[0] for place in places}
    if bit not in (_A, _D):
        words = f"the CPU changed {name} of {where}"
        yield Explanation.of("A", "other-bits", level, words)
        yield Explanation.of("A", "other-bits", None, words)
        return
    if len(levels) > 1:
        used = " and ".join(str(used) for used in sorted(levels, reverse=True))
        words = f"the CPU treated {name} of {where} wrongly, which serves levels {used}"
        yield Explanation.of("SELF", name, None, words)
    if changed and raw & bit:
        words = f"the CPU cleared {name} of {where}"
        yield Explanation.of(name, "cleared", level, words)
        yield Explanation.of(name, "cleared", None, words)
        return
    if walk.completed:
        kind = "leaf" if is_last else "table"
        if not changed:
            hows, words = ("missing",), f"the CPU did not set {name} of {where}"
        elif is_last:
            hows, words = ("by-read",), f"the CPU set {name} of {where} without a write"
        else:
            hows, words = ("in-table",), f"the CPU set {name} of {where}, which maps no page"
        if name == "A" and not changed:
            hows = ("missing", f"missing-in-{kind}")
        rule = name
    else:
        why = {"PRESENT": "not-present"}.get(walk.rule, "rights")
        why = "reserved" if walk.rule.startswith("RSVD_") else why
        rule = "A_ON_FAULT" if name == "A" else "D"
        words = f"the CPU set {name} of {where} although the access faults"
        hows = (f"on-fault-{why}", "on-fault")
        if walk.second is not None:
            hows = ("on-fault-of-second-page", *hows)
    for how in hows:
        yield Explanation.of(rule, how, level, words)
    for how in hows:
        yield Explanation.of(rule, how, None, words)
