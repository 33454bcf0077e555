"""The registered divergences of Unicorn 2.1.4, whose MMU is that of QEMU 5.0.1."""

from __future__ import annotations

import dataclasses
from typing import Final

from packaging.specifiers import SpecifierSet

from harness.check.judge.compare import Agreement, compare, excess
from harness.check.judge.explain import explain
from harness.check.judge.open_points import deciding, without_bits
from harness.check.registered.model import KnownAccess, KnownSequence
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Observation, Outcome
from harness.walker import Walk, walk

__all__ = ["UNICORN"]

_ACCESSED = int(PageTableFlags.ACCESSED)


def _accessed_in_faulting_1g(
    _: PhysicalMemory, walk: Walk, observation: Observation
) -> Observation | None:
    # A leaf whose rights deny the access is an open point (A_LEAF_DENIED), in QEMU as elsewhere.
    steps = deciding(walk).steps
    if walk.rule != "RSVD_1G" or not steps:
        return None
    last = steps[-1]
    wrong = excess(walk, observation).get(last.address, 0)
    return without_bits(observation, last.address, _ACCESSED) if wrong & _ACCESSED else None


def _gp_for_ss(_: PhysicalMemory, walk: Walk, observation: Observation) -> Observation | None:
    if (walk.outcome, observation.outcome) != (
        Outcome.STACK_FAULT,
        Outcome.GENERAL_PROTECTION,
    ):
        return None
    return dataclasses.replace(observation, outcome=Outcome.STACK_FAULT)


def _explicit_with_ac(memory: PhysicalMemory, prediction: Walk) -> Walk | None:
    cpu, access = prediction.cpu, prediction.access
    if not access.implicit or not cpu.ac or cpu.user or prediction.rule != "SMAP":
        return None
    # The same read as the supervisor's own, explicit one, for which AC counts.
    return walk(memory, cpu, prediction.va, Access(AccessKind.READ, access.size))


def _implicit_with_ac(
    memory: PhysicalMemory, prediction: Walk, observation: Observation
) -> Observation | None:
    explicit = _explicit_with_ac(memory, prediction)
    if explicit is None:
        return None
    if not isinstance(compare(explicit, observation), Agreement):
        others = [one for one in UNICORN if isinstance(one, KnownAccess) and one.instead is None]
        if not explain(others, memory, explicit, observation):
            return None
    return Observation(prediction.outcome, prediction.error_code, prediction.cr2)


_UNICORN: Final = SpecifierSet("==2.1.4")
_TABLES: Final = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": "0x5007"}

UNICORN: Final[tuple[KnownAccess | KnownSequence, ...]] = (
    KnownAccess(
        name="a-in-faulting-1g-page",
        engine="unicorn",
        versions=_UNICORN,
        rule="A_ON_FAULT",
        reason=(
            "QEMU 5.0.1 sets A in a PDPTE that maps a 1 GiB page before it checks its reserved "
            "bits 29:13, while it checks those of smaller leaves first."
        ),
        source=(
            "QEMU 5.0.1 target/i386/excp_helper.c, handle_mmu_fault: the PDPTE's PG_ACCESSED_MASK "
            "is written before `if (pdpe & PG_PSE_MASK)` leaves for do_check_protect; SDM 3A 4.8."
        ),
        amend=_accessed_in_faulting_1g,
        example={
            "cpu": {"cr3": "0x1000", "cpl": 3},
            "ram": "0x10000",
            "memory": {"0x1000": "0x2007", "0x2000": "0x2087"},
            "access": {"va": "0x0"},
        },
    ),
    KnownAccess(
        name="gp-for-ss",
        engine="unicorn",
        versions=_UNICORN,
        rule="CANONICAL",
        reason=(
            "QEMU's TCG does not know through which segment an access goes, and raises #GP for "
            "every non-canonical address."
        ),
        source=(
            "docs/quirks.md, Unicorn 10 (vector 13 on data accesses); QEMU 5.0.1 "
            "target/i386/excp_helper.c, handle_mmu_fault: a non-canonical address sets "
            "EXCP0D_GPF; SDM 1, 3.3.7.1."
        ),
        amend=_gp_for_ss,
        example={
            "cpu": {"cr3": "0x1000"},
            "ram": "0x10000",
            "memory": {},
            "access": {"va": "0x800000000000", "stack": True},
        },
    ),
    KnownAccess(
        name="ac-for-implicit",
        engine="unicorn",
        versions=_UNICORN,
        rule="SMAP",
        reason=(
            "QEMU's cpu_mmu_index_kernel lets EFLAGS.AC = 1 switch SMAP off below CPL 3 for "
            "implicit accesses as well as for explicit ones."
        ),
        source=(
            "QEMU 5.0.1 target/i386/cpu.h, cpu_mmu_index_kernel: AC_MASK gives MMU_KNOSMAP_IDX "
            "with no regard to who asks; SDM 3A 4.6.1."
        ),
        amend=_implicit_with_ac,
        example={
            "cpu": {"cr3": "0x1000", "cr4": "0x200020", "rflags": "0x40002"},
            "ram": "0x10000",
            "memory": {
                "0x1000": "0x2007",
                "0x2000": "0x3007",
                "0x3000": "0x4007",
                "0x4000": "0x5007",
            },
            "access": {"va": "0x0", "size": 8, "implicit": True},
        },
        instead=_explicit_with_ac,
    ),
    KnownSequence(
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
    KnownSequence(
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
"""Every registered divergence of Unicorn."""
