"""Knobs: what decides how often each feature of a case occurs, and how coverage turns them.

A knob is a share from 0 to 1 with a name: ``recursive`` is how often an entry points to its own
table or one above. Every case tells which knobs had a part in it, and a shard counts for each knob
its cases (``recursive``) and its *credits* (``recursive!``): cases that met a cell of coverage that
was rare before this round, or that differ from the prediction. :func:`turned` gives the knobs of
the next round: a knob whose cases earned more credits than the average is turned up, by a factor
of 3 at most, and one that earned fewer is turned down, by 2 at most.

Everything here is arithmetic on the tally of the rounds before, so that the same tally gives the
same knobs on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["DEFAULTS", "turned"]

DEFAULTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        # The kind of a group; the rest are plain cases.
        "sequences": 0.005,
        "instructions": 0.005,
        "deliveries": 0.005,
        # The address space.
        "la57": 0.35,
        "plain": 0.35,
        "recursive": 0.2,
        "shared": 0.25,
        "table-page": 0.3,
        "huge": 0.17,
        "huge-above": 0.015,
        "misaligned": 0.15,
        "edge": 0.1,
        "hole": 0.06,
        "not-present": 0.05,
        "read-only": 0.2,
        "supervisor": 0.2,
        "no-execute": 0.08,
        "key": 0.4,
        "reserved": 0.015,
        "random-entry": 0.01,
        # The CPU's state.
        "user": 0.5,
        "wp": 0.5,
        "nxe": 0.75,
        "smep": 0.4,
        "smap": 0.4,
        "ac": 0.3,
        "pke": 0.4,
        "pge": 0.4,
        "cr3-low": 0.3,
        "missing": 0.004,
        # The access.
        "fetch": 0.25,
        "implicit": 0.1,
        "write": 0.5,
        "wide": 0.15,
        "no-instruction": 0.002,
        "stack": 0.15,
        "entry": 0.4,
        "span": 0.3,
        "span-tables": 0.1,
        "edge-address": 0.04,
        "not-canonical": 0.02,
    }
)
"""Every knob, and where it stands in the first round."""

_FEWEST, _MOST = 0.5, 3.0
_LEAST, _GREATEST = 0.001, 0.9
# What no turn may change: the rate of unsupported cases tells nothing, and scenarios cost as much
# as a hundred plain cases.
_FIXED: Final = frozenset({"missing", "no-instruction", "sequences", "instructions", "deliveries"})
_ENOUGH = 50


def turned(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the knobs that a tally calls for.

    :param counts: by ``knob`` how many cases it had a part in, by ``knob!`` how many credits they
        earned; ``""`` and ``"!"`` are all cases and all credits.
    """
    cases, credits = counts.get("", 0), counts.get("!", 0)
    knobs = dict(DEFAULTS)
    if not cases or not credits:
        return knobs
    for name, share in DEFAULTS.items():
        had = counts.get(name, 0)
        if name in _FIXED or had < _ENOUGH:
            continue
        lift = (counts.get(name + "!", 0) / had) / (credits / cases)
        knobs[name] = round(
            min(max(share * min(max(lift, _FEWEST), _MOST), _LEAST), max(_GREATEST, share)), 4
        )
    return knobs
