"""What every registered divergence says: whose it is, which rule it breaks, why, and who says so.

:mod:`.known` registers what one access shows, :mod:`.known_steps` what only a sequence shows;
:mod:`.registry` is all of them. Nothing here fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

__all__ = ["EngineIdentity", "Registration"]


class EngineIdentity(Protocol):
    """What a registration looks at: an engine's name and version."""

    @property
    def name(self) -> str:
        """The engine's word."""

    @property
    def version(self) -> str:
        """Its version."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One registered divergence.

    :ivar name: a word for reports.
    :ivar engine: the engine's name.
    :ivar versions: the versions that do it, as a range: ``==2.1.4``, ``>=2.1,<2.2``.
    :ivar rule: the rule of rules.md that it breaks.
    :ivar reason: what the engine does, and why, in a sentence.
    :ivar source: where the reason can be read: a source file and function, a manual's section, a
        measured fact.
    :ivar example: a case or a scenario that shows it, as JSON.
    """

    name: str
    engine: str
    versions: SpecifierSet
    rule: str
    reason: str
    source: str
    example: dict[str, Any]

    def covers(self, engine: EngineIdentity) -> bool:
        """Say whether it is registered for this engine in this version.

        A version that is none (a development build's name) is in no range.
        """
        try:
            version = Version(engine.version)
        except InvalidVersion:
            return False
        return engine.name == self.engine and self.versions.contains(version, prereleases=True)
