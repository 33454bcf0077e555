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

from packaging.specifiers import SpecifierSet

from harness.check.campaign import Bench, Opener
from harness.check.compare import Judgement
from harness.check.known import EngineIdentity, is_version
from harness.check.scenario import Scenario, ask
from harness.check.steps import StepVerdict

__all__ = ["KNOWN_STEPS", "KnownStep", "explain_step", "stale_step_registrations"]


@dataclass(frozen=True)
class KnownStep:
    """One registered divergence.

    :ivar name: a word for reports.
    :ivar engine: the engine's name.
    :ivar versions: the versions that do it, as a range.
    :ivar rule: the rule of rules.md that it breaks.
    :ivar acted: the bound that it acts without, as in
        :attr:`~harness.check.steps.StepVerdict.acted`.
    :ivar reason: what the engine does, and why, in a sentence.
    :ivar source: where the reason can be read.
    :ivar example: a scenario that shows it, as JSON.
    """

    name: str
    engine: str
    versions: SpecifierSet
    rule: str
    acted: str
    reason: str
    source: str
    example: dict[str, Any]

    @cached_property
    def scenario(self) -> Scenario:
        """Give the example, ready to run."""
        return Scenario.from_json(self.example)

    def covers(self, engine: EngineIdentity) -> bool:
        """Say whether it is registered for this engine in this version."""
        return is_version(engine, self.engine, self.versions)


def explain_step(engine: EngineIdentity, verdict: StepVerdict) -> tuple[str, ...]:
    """Name the registered divergences that together explain a step; none if they do not.

    :param engine: who observed.
    :param verdict: of a step that diverges.
    """
    known = {entry.acted: entry.name for entry in KNOWN_STEPS if entry.covers(engine)}
    parts = verdict.acted.split("+")
    return tuple(known[part] for part in parts) if all(part in known for part in parts) else ()


def stale_step_registrations(engine: str | Opener = "unicorn") -> list[KnownStep]:
    """Return the registrations for this engine and version whose divergence no longer occurs.

    :param engine: a name, or what opens an engine over a memory.
    :raises EngineError: when the engine is missing or breaks.
    """
    stale = []
    for known in KNOWN_STEPS:
        with Bench(known.scenario.ram, engine) as bench:
            if not known.covers(bench.engine):
                continue
            answer = ask(bench.engine, known.scenario)
            if answer.judgement is not Judgement.UNSUPPORTED and known.name not in answer.known:
                stale.append(known)
    return stale


_UNICORN: Final = SpecifierSet("==2.1.4")
_TABLES: Final = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": "0x5007"}

KNOWN_STEPS: Final[tuple[KnownStep, ...]] = (
    KnownStep(
        "fault-keeps-tlb",
        "unicorn",
        _UNICORN,
        "STALE",
        "fault",
        "QEMU's TCG leaves the TLB alone when an access faults, so that what was cached for reads "
        "is used again after a write of the same page has faulted.",
        "SDM 3A 4.10.4.1: a page fault invalidates the translations of its address; QEMU 5.0.1 "
        "target/i386/excp_helper.c, handle_mmu_fault: nothing is flushed behind do_fault.",
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
        "QEMU 5.0.1 target/i386/helper.c, cpu_x86_update_cr4: CR4_PKE_MASK is not among the bits "
        "whose change calls tlb_flush; SDM 3A 4.6.2.",
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
