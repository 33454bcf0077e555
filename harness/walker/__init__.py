"""The software MMU: what the CPU does with an access, predicted from the tables in memory.

============  ====================================================================================
``walk``      one access, followed entry by entry to its verdict: the readable statement of the
              rules (``scalar.py``)
``bulk``      the same verdicts for an array of addresses, as columns (``bulk.py``)
``ranges``    a whole address space, piece by piece, holes included (``ranges.py``)
``leaves``    every page of an address space, as columns (``ranges.py``)
============  ====================================================================================

No module here imports an engine: prediction and observation meet in ``harness.check``.

``bulk`` and ``ranges`` are the names of a function and of the module that holds it; as attributes
of this package they are the functions.
"""

from harness.walker.bulk import bulk
from harness.walker.columns import BulkWalk
from harness.walker.ranges import Leaf, Leaves, Range, RangeKind, leaves, ranges
from harness.walker.rules import RULE_INDEX, RULE_TEXT, RULES
from harness.walker.scalar import Walk, walk
from harness.walker.verdict import (
    GeneralProtection,
    Mapped,
    OutsideRam,
    PageFault,
    Rights,
    StackFault,
    Step,
    Verdict,
)

__all__ = [
    "RULES",
    "RULE_INDEX",
    "RULE_TEXT",
    "BulkWalk",
    "GeneralProtection",
    "Leaf",
    "Leaves",
    "Mapped",
    "OutsideRam",
    "PageFault",
    "Range",
    "RangeKind",
    "Rights",
    "StackFault",
    "Step",
    "Verdict",
    "Walk",
    "bulk",
    "leaves",
    "ranges",
    "walk",
]
