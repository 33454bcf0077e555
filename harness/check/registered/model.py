"""What a registered divergence is: whose it is, which rule it breaks, why, and who says so.

A :class:`KnownAccess` shows in one access. It does not say "ignore this": its ``amend`` takes an
observation and gives back what the engine would have answered without that one flaw. Only if the
amended observation agrees with the walker is the difference *known*; anything else that is wrong
with it still fails the run. A :class:`KnownSequence` shows in a sequence only: it names the bound
of :mod:`harness.check.model.caches` that an engine acts without.

One file for each engine that has some (:mod:`.unicorn`); :mod:`.registry` is all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from harness.check.question import Question
from harness.memory import PhysicalMemory
from harness.outcome import Observation
from harness.walker import Walk

__all__ = ["EngineIdentity", "KnownAccess", "KnownSequence", "Registration"]

Amend: TypeAlias = Callable[[PhysicalMemory, Walk, Observation], Observation | None]


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
    :ivar rule: the rule of docs/rules.md that it breaks.
    :ivar reason: what the engine does, and why, in a sentence.
    :ivar source: where the reason can be read: a source file and function, a manual's section, a
        measured fact.
    :ivar example: a question that shows it, as JSON.
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

        Unparseable versions (a development build's name) never match.
        """
        try:
            version = Version(engine.version)
        except InvalidVersion:
            return False
        return engine.name == self.engine and self.versions.contains(version, prereleases=True)

    @cached_property
    def question(self) -> Question:
        """Give the example, ready to ask."""
        return Question.from_json(self.example)


@dataclass(frozen=True, kw_only=True)
class KnownAccess(Registration):
    """One registered divergence of a single access.

    :ivar amend: memory, prediction, observation → the observation without this flaw, or None when
        the flaw has no part in it.
    :ivar instead: memory, prediction → the walk that the engine makes instead, where it makes
        another one: what else is wrong with an observation is told by that one.
    """

    amend: Amend
    instead: Callable[[PhysicalMemory, Walk], Walk | None] | None = None


@dataclass(frozen=True, kw_only=True)
class KnownSequence(Registration):
    """One registered divergence of a sequence.

    :ivar acted: the bound that it acts without, as in
        :attr:`~harness.check.judge.verdict.StepVerdict.acted`.
    """

    acted: str
