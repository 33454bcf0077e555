"""One row of the table of planted bugs: the flaw, and what a campaign made of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one planted bug.

    :ivar flaw: its name: ``PRESENT_2``.
    :ivar rule: the rule of docs/rules.md that the engine breaks.
    :ivar level: the level at which it does; None when it is not about one level.
    :ivar sentence: what the broken CPU does.
    :ivar found: whether a campaign reported it.
    :ivar campaign: which one did: ``matrix classic``, ``matrix full``, ``fuzz``, ...
    :ivar cases: how many cases were asked until the first that differs; None if none did.
    :ivar causes: how many root causes the campaign reported; 1 when it is right.
    :ivar shrunk_entries: how many words of memory the shrunk case has; None if there is none.
    :ivar walk_entries: how many words the walks of its accesses read: the bound.
    :ivar named_rule: the rule that the report names.
    :ivar named_level: the level that the report names.
    :ivar right: found, reported as one cause, named right, and shrunk within the bound.
    :ivar key: names the root cause that the report names.
    :ivar counts: for each campaign how many cases it took, None when it found nothing.
    :ivar note: what else must be said; for what cannot be planted, why.
    """

    flaw: str
    rule: str
    level: int | None
    sentence: str
    found: bool = False
    campaign: str = ""
    cases: int | None = None
    causes: int = 0
    shrunk_entries: int | None = None
    walk_entries: int | None = None
    named_rule: str = ""
    named_level: int | None = None
    right: bool = False
    key: str = ""
    counts: dict[str, int | None] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as one JSON object."""
        return dataclasses.asdict(self)
