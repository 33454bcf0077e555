"""Divergences of whole sequences that are understood, in the manner of :mod:`.known`.

What an engine keeps in its caches against the manual is not a matter of one access, so it cannot be
amended there. A :class:`KnownStep` names the bound of :mod:`.stale` that an engine acts without;
only an observation that is permitted once that bound is lifted, and no other, is taken for known.

Each has an example, which a test holds against the engine::

    >>> [known.rule for known in KNOWN_STEPS]
    ['STALE', 'PKU']

Nothing here fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from harness.check.known import EngineIdentity
from harness.check.scenario import Scenario
from harness.check.steps import StepVerdict

__all__ = ["KNOWN_STEPS", "KnownStep", "explain_step"]


@dataclass(frozen=True)
class KnownStep:
    """One registered divergence.

    :ivar name: a word for reports.
    :ivar engine: the engine's name.
    :ivar versions: its versions that were seen to do it.
    :ivar rule: the rule of rules.md that it breaks.
    :ivar acted: the bound that it acts without, as in
        :attr:`~harness.check.steps.StepVerdict.acted`.
    :ivar reason: what the engine does, and why, in a sentence.
    :ivar example: a scenario that shows it, as JSON.
    """

    name: str
    engine: str
    versions: tuple[str, ...]
    rule: str
    acted: str
    reason: str
    example: dict[str, Any]

    @cached_property
    def scenario(self) -> Scenario:
        """Give the example, ready to run."""
        return Scenario.from_json(self.example)

    def covers(self, engine: EngineIdentity) -> bool:
        """Say whether it is registered for this very engine and version."""
        return engine.name == self.engine and engine.version in self.versions


def explain_step(engine: EngineIdentity, verdict: StepVerdict) -> tuple[str, ...]:
    """Name the registered divergences that together explain a step; none if they do not.

    :param engine: who observed.
    :param verdict: of a step that diverges.
    """
    known = {entry.acted: entry.name for entry in KNOWN_STEPS if entry.covers(engine)}
    parts = verdict.acted.split("+")
    return tuple(known[part] for part in parts) if all(part in known for part in parts) else ()


_UNICORN: Final = ("2.1.4",)
_TABLES: Final = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": "0x5007"}

KNOWN_STEPS: Final[tuple[KnownStep, ...]] = (
    KnownStep(
        "fault-keeps-tlb",
        "unicorn",
        _UNICORN,
        "STALE",
        "fault",
        "QEMU's TCG leaves the TLB alone when an access faults, so that what was cached for reads "
        "is used again after a write of the same page has faulted (SDM 3A 4.10.4.1: a page fault "
        "invalidates the translations of its address).",
        {
            "cpu": {"cr3": "0x1000"},
            "ram": "0x10000",
            "memory": _TABLES,
            "steps": [
                {"access": {"va": "0x4000"}},
                {"write": {"0x4020": "0x0"}},
                {"access": {"va": "0x4000", "kind": "write"}},
                {"access": {"va": "0x4000"}},
            ],
        },
    ),
    KnownStep(
        "pke-of-cached",
        "unicorn",
        _UNICORN,
        "PKU",
        "pke",
        "QEMU 5.0.1 keeps what a protection key allows in the TLB, and its cpu_x86_update_cr4 does "
        "not empty the TLB when CR4.PKE changes: cached translations go on without keys, or with.",
        {
            "cpu": {"cr3": "0x1000", "pkru": "0x1"},
            "ram": "0x10000",
            "memory": _TABLES,
            "steps": [
                {"access": {"va": "0x4000"}},
                {"cr4": "0x400020"},
                {"access": {"va": "0x4000"}},
            ],
        },
    ),
)
"""Every registered divergence of sequences."""
