"""Divergences that are understood: where an engine is wrong, why, and exactly when.

A :class:`Known` is registered for one engine, a range of its versions, and one rule. It does not
say "ignore this": its ``amend`` takes an observation and gives back what the engine would have
answered without that one flaw. Only if the amended observation agrees with the walker is the
difference *known*; anything else that is wrong with it still fails the run. Flaws that occur
together are taken off one after another.

Each has an example, by which :mod:`.registry` sees whether it still occurs. Nothing here fails; an
engine or version that is not registered has no known divergences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from packaging.specifiers import SpecifierSet

from harness.check.case import Case
from harness.check.judge.compare import Agreement, Difference, Judgement, case_of, compare, excess
from harness.check.registered.model import EngineIdentity, Registration
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Observation, Outcome
from harness.walker import Step, Walk, walk

__all__ = [
    "KNOWN",
    "EngineIdentity",
    "Known",
    "Verdict",
    "explain",
    "judge",
]

_ACCESSED = int(PageTableFlags.ACCESSED)
_DIRTY = int(PageTableFlags.DIRTY)
_HUGE = int(PageTableFlags.HUGE_PAGE)

_Amend = Callable[[PhysicalMemory, Walk, Observation], Observation | None]


@dataclass(frozen=True, kw_only=True)
class Known(Registration):
    """One registered divergence of a single access.

    :ivar amend: memory, prediction, observation → the observation without this flaw, or None when
        the flaw has no part in it.
    :ivar instead: memory, prediction → the walk that the engine makes instead, where it makes
        another one: what else is wrong with an observation is told by that one.
    """

    amend: _Amend
    instead: Callable[[PhysicalMemory, Walk], Walk | None] | None = None

    @cached_property
    def case(self) -> Case:
        """Give the example, ready to run."""
        return Case.from_json(self.example)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one probe, and why.

    :ivar judgement: agree, known, diverge or unsupported.
    :ivar difference: how prediction and observation differ, when they do.
    :ivar known: the registered divergences that explain it.
    """

    judgement: Judgement
    difference: Difference | None = None
    known: tuple[Known, ...] = ()


def judge(
    engine: EngineIdentity, memory: PhysicalMemory, walk: Walk, observation: Observation
) -> Verdict:
    """Say whether an observation agrees, and if not whether that is known.

    :param engine: who observed.
    :param memory: the memory in which both were made, as it was then.
    :param walk: the prediction.
    :param observation: what the engine saw.
    """
    if observation.outcome is Outcome.UNSUPPORTED:
        return Verdict(Judgement.UNSUPPORTED)
    result = compare(walk, observation)
    if isinstance(result, Agreement):
        return Verdict(Judgement.AGREE)
    difference = dataclasses.replace(result, case=case_of(memory, walk))
    known = explain(engine, memory, difference)
    return Verdict(Judgement.KNOWN if known else Judgement.DIVERGE, difference, known)


def explain(
    engine: EngineIdentity, memory: PhysicalMemory, difference: Difference
) -> tuple[Known, ...]:
    """Return the registered divergences that together explain a difference; none if they do not.

    :param engine: who observed.
    :param memory: the memory in which it happened.
    :param difference: what happened.
    """
    candidates = [known for known in KNOWN if known.covers(engine)]
    return _explain(candidates, memory, difference.walk, difference.observation)


def _explain(
    candidates: list[Known], memory: PhysicalMemory, walk: Walk, observation: Observation
) -> tuple[Known, ...]:
    # One flaw can hide another, so each applicable one is tried first.
    for known in candidates:
        amended = known.amend(memory, walk, observation)
        if amended is None:
            continue
        if isinstance(compare(walk, amended), Agreement):
            return (known,)
        others = [other for other in candidates if other is not known]
        more = _explain(others, memory, walk, amended)
        if more:
            return (known, *more)
    return ()


def _deciding(walk: Walk) -> Walk:
    """Return the walk of the page that decided: the upper one where it faulted."""
    return walk.second if walk.second is not None and not walk.completed else walk


def _without(observation: Observation, step: Step, bits: int) -> Observation:
    changed = dict(observation.changed)
    left = changed.pop(step.address) & ~bits
    if left:
        changed[step.address] = left
    return dataclasses.replace(observation, changed=changed)


def _accessed_in_faulting_1g(
    _: PhysicalMemory, walk: Walk, observation: Observation
) -> Observation | None:
    steps = _deciding(walk).steps
    # Those three are checked before A is set, at every level (unicorn 2.1.4, QEMU 5.0.1's
    # handle_mmu_fault).
    if walk.rule in ("PRESENT", "RSVD_ADDR", "RSVD_NX"):
        return None
    if walk.outcome is not Outcome.PAGE_FAULT or not steps:
        return None
    last = steps[-1]
    wrong = excess(walk, observation).get(last.address, 0)
    if last.level != 3 or not last.raw & _HUGE or not wrong & _ACCESSED:
        return None
    return _without(observation, last, _ACCESSED)


def _gp_for_ss(_: PhysicalMemory, walk: Walk, observation: Observation) -> Observation | None:
    if (walk.outcome, observation.outcome) != (
        Outcome.STACK_FAULT,
        Outcome.GENERAL_PROTECTION,
    ):
        return None
    return dataclasses.replace(observation, outcome=Outcome.STACK_FAULT)


def _dirty_of_first_page(
    _: PhysicalMemory, walk: Walk, observation: Observation
) -> Observation | None:
    leaf = walk.leaf
    if not walk.access.is_write or walk.second is None or walk.completed or leaf is None:
        return None
    if not excess(walk, observation).get(leaf.address, 0) & _DIRTY:
        return None
    return _without(observation, leaf, _DIRTY)


def _lower_part_stored(
    _: PhysicalMemory, walk: Walk, observation: Observation
) -> Observation | None:
    # Only what parts of 8 bytes or less can have left on the lower page.
    lower = 0x1000 - (walk.va & 0xFFF)
    wide = walk.access.size > 8 and walk.second is not None and not walk.completed
    if not wide or not 0 < observation.stored <= lower:
        return None
    return dataclasses.replace(observation, stored=0)


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
        others = [known for known in KNOWN if known.amend is not _implicit_with_ac]
        if not _explain(others, memory, explicit, observation):
            return None
    return Observation(prediction.outcome, prediction.error_code, prediction.cr2)


_UNICORN: Final = SpecifierSet("==2.1.4")

KNOWN: Final[tuple[Known, ...]] = (
    Known(
        name="a-in-faulting-1g-page",
        engine="unicorn",
        versions=_UNICORN,
        rule="A_ON_FAULT",
        reason=(
            "QEMU 5.0.1 sets A in a PDPTE that maps a 1 GiB page before it checks bits 29:13 and "
            "the rights, while it sets A in smaller leaves only after both."
        ),
        source=(
            "QEMU 5.0.1 target/i386/excp_helper.c, handle_mmu_fault: the PDPTE's PG_ACCESSED_MASK "
            "is written before `if (pdpe & PG_PSE_MASK)` leaves for do_check_protect; SDM 3A 4.8."
        ),
        amend=_accessed_in_faulting_1g,
        example={
            "cpu": {"cr3": "0x1000", "cpl": 3},
            "ram": "0x10000",
            "memory": {"0x1000": "0x2007", "0x2000": "0x83"},
            "access": {"va": "0x0"},
        },
    ),
    Known(
        name="gp-for-ss",
        engine="unicorn",
        versions=_UNICORN,
        rule="CANONICAL",
        reason=(
            "QEMU's TCG does not know through which segment an access goes, and raises #GP for "
            "every non-canonical address."
        ),
        source=(
            "facts.md, Unicorn 10 (vector 13 on data accesses); QEMU 5.0.1 "
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
    Known(
        name="d-of-first-page",
        engine="unicorn",
        versions=_UNICORN,
        rule="D",
        reason=(
            "QEMU's TCG translates the lower page of a write that spans two pages, and sets D "
            "there, before it looks at the upper one; D stays set when that one faults."
        ),
        source=(
            "QEMU 5.0.1 accel/tcg/cputlb.c, store_helper: the lower page has been filled by "
            "tlb_fill before the upper one (page2) is; SDM 3A 4.8."
        ),
        amend=_dirty_of_first_page,
        example={
            "cpu": {"cr3": "0x1000"},
            "ram": "0x10000",
            "memory": {
                "0x1000": "0x2007",
                "0x2000": "0x3007",
                "0x3000": "0x4007",
                "0x4000": "0x5007",
            },
            "access": {"va": "0xffe", "kind": "write", "size": 4},
        },
    ),
    Known(
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
    Known(
        name="lower-part-stored",
        engine="unicorn",
        versions=_UNICORN,
        rule="SPLIT",
        reason=(
            "QEMU's TCG makes a write of more than 8 bytes in parts (movups 8 and 8, fstp 8 and "
            "2, fnstenv 4 each), and stores each before it translates the next. The SDM allows "
            "that of x87 and SSE instructions (volume 3A, 'Guaranteed Atomic Operations'); SPLIT "
            "does not."
        ),
        source=(
            "QEMU 5.0.1 target/i386/translate.c, gen_sto_env_A0, and fpu_helper.c, "
            "helper_fstt_ST0 and helper_fstenv: one store after another; SDM 3A 8.1.1 (9.1.1 in "
            "newer editions)."
        ),
        amend=_lower_part_stored,
        example={
            "cpu": {"cr3": "0x1000"},
            "ram": "0x10000",
            "memory": {
                "0x1000": "0x2007",
                "0x2000": "0x3007",
                "0x3000": "0x4007",
                "0x4000": "0x5067",
            },
            "access": {"va": "0xff8", "kind": "write", "size": 16},
        },
    ),
)
"""Every registered divergence."""
