"""Divergences of whole sequences that are understood, in the manner of :mod:`.known`.

What an engine keeps in its caches against the manual is not a matter of one access, so it cannot be
amended there. A :class:`KnownStep` names the bound of :mod:`.stale` that an engine acts without;
only an observation that is permitted once that bound is lifted, and no other, is taken for known.

Each has an example, by which :mod:`.registry` sees whether it still occurs. Nothing here fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from packaging.specifiers import SpecifierSet

from harness.check.judge.verdict import StepVerdict
from harness.check.registered.model import EngineIdentity, Registration

__all__ = ["KNOWN_STEPS", "KnownStep", "explain_step"]


@dataclass(frozen=True, kw_only=True)
class KnownStep(Registration):
    """One registered divergence of a sequence.

    :ivar acted: the bound that it acts without, as in
        :attr:`~harness.check.judge.verdict.StepVerdict.acted`.
    """

    acted: str


def explain_step(engine: EngineIdentity, verdict: StepVerdict) -> tuple[str, ...]:
    """Name the registered divergences that together explain a step; none if they do not.

    :param engine: who observed.
    :param verdict: of a step that diverges.
    """
    known = {entry.acted: entry.name for entry in KNOWN_STEPS if entry.covers(engine)}
    parts = verdict.acted.split("+")
    return tuple(known[part] for part in parts) if all(part in known for part in parts) else ()


_UNICORN: Final = SpecifierSet("==2.1.4")
_TABLES: Final = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": "0x5007"}

KNOWN_STEPS: Final[tuple[KnownStep, ...]] = (
    KnownStep(
        name="fault-keeps-tlb",
        engine="unicorn",
        versions=_UNICORN,
        rule="STALE",
        acted="fault",
        reason=(
            "QEMU's TCG leaves the TLB alone when an access faults, so that what was cached for "
            "reads is used again after a write of the same page has faulted."
        ),
        source=(
            "SDM 3A 4.10.4.1: a page fault invalidates the translations of its address; QEMU "
            "5.0.1 target/i386/excp_helper.c, handle_mmu_fault: nothing is flushed behind "
            "do_fault."
        ),
        example={
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
        name="pke-of-cached",
        engine="unicorn",
        versions=_UNICORN,
        rule="PKU",
        acted="pke",
        reason=(
            "QEMU 5.0.1 keeps what a protection key allows in the TLB, and its cpu_x86_update_cr4 "
            "does not empty the TLB when CR4.PKE changes: cached translations go on without keys, "
            "or with."
        ),
        source=(
            "QEMU 5.0.1 target/i386/helper.c, cpu_x86_update_cr4: CR4_PKE_MASK is not among the "
            "bits whose change calls tlb_flush; SDM 3A 4.6.2."
        ),
        example={
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
