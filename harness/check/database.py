"""A directory of findings, replayed first by the next campaign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.check.finding import Finding

__all__ = ["Database"]


class Database:
    """Findings kept between campaigns, one JSON file a cause.

    :param path: the directory; made when something is first saved.
    """

    def __init__(self, path: str | Path = ".harness/findings") -> None:
        self.path = Path(path)

    def save(self, finding: Finding, engine: str = "unicorn") -> Path | None:
        """Store a finding, in place of an older one of its cause; None when it has no case."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Finding]:
        """Give the stored findings by name.

        :raises InputError: for a file that cannot be read as a finding; the message names it.
        """
        raise NotImplementedError

    def replay(self, engine: str = "unicorn", *, seconds: float = 10.0) -> list[Finding]:
        """Ask every stored case again, each in a process of its own.

        The findings that still differ come back. One that no longer does is moved to ``fixed/``
        and comes back with the judgement ``fixed``.
        """
        raise NotImplementedError
