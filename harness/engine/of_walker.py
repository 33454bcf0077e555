"""A person's own walker, asked like a CPU: so that it can be judged like one.

``walker:package.module:function`` names a function of ``(memory, cpu, va, access)``. It is asked
about accesses within one page; one that spans two pages is asked page by page, the lower one first
(rule ``SPLIT``). It reads table entries by ``memory.read_u64(pa)``, and returns either

* a tuple ``(outcome, error_code, pa)``: a word of :class:`~harness.outcome.Outcome`, the error code
  of a fault (None where the walker does not say), the physical address of a translated byte; or
* an object with ``outcome``, ``error_code``, ``cr2``, ``pa`` and ``sets``, such as a
  :class:`harness.walker.Walk`: then accessed and dirty bits are compared too. Its ``completed``
  is False where ``no-memory`` means a missing table; a tuple says that with a ``pa`` of None.

What a tuple leaves out is marked as untold, and is not compared. A walker has no TLB and executes
nothing: questions of several steps are refused. It raises :class:`~harness.errors.EngineBroken`
when the function raises, or returns something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from harness.address import VirtAddr
from harness.cpu import CpuState
from harness.engine.base import Engine
from harness.engine.capabilities import Capabilities
from harness.engine.run import Budget, Exit, Start
from harness.engine.steps import AccessStep, Step, StepResult
from harness.errors import EngineBroken, InputError, NoMemory
from harness.memory import PhysicalMemory, Region
from harness.outcome import (
    MAX_ACCESS,
    Access,
    AccessKind,
    AccessLike,
    Observation,
    Outcome,
)

__all__ = ["WalkerEngine", "WalkerMemory"]

_MASK: Final = (1 << 64) - 1
_PAGE: Final = 0x1000
_WIDTHS: Final = frozenset(range(1, MAX_ACCESS + 1))
_ANYTHING: Final = Capabilities(
    maxphyaddr=frozenset(range(32, 53)),
    gib_pages="either",
    pks=True,
    pcid=True,
    cet=True,
    lass=True,
    lam=True,
    vendor="any",
    reads=_WIDTHS,
    writes=_WIDTHS,
    fetches=_WIDTHS,
    implicit_reads=_WIDTHS,
    implicit_writes=_WIDTHS,
    stack=True,
    sequences=False,
)
_ONE_ACCESS: Final = "a walker answers single accesses from pristine state"
_CODELESS: Final = (Outcome.GENERAL_PROTECTION, Outcome.STACK_FAULT)

_Function = Callable[[Any, CpuState, int, Access], Any]


class WalkerMemory:
    """What a walker may do with memory: read it.

    :param memory: the guest's RAM.
    """

    __slots__ = ("_memory", "offset", "read_u64")

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.read_u64 = memory.read_u64
        self.offset = memory.offset

    @property
    def regions(self) -> tuple[Region, ...]:
        """List the pieces of RAM."""
        return self._memory.regions


class WalkerEngine(Engine):
    """A walker over one physical memory.

    :param memory: the guest's RAM.
    :param function: the walker.
    :param name: what it is called by: ``package.module:function``.
    """

    version = "yours"

    def __init__(self, memory: PhysicalMemory, function: _Function, name: str) -> None:
        self.memory = memory
        self.name = self.spec = f"walker:{name}"
        self._function = function
        self._view = WalkerMemory(memory)

    def close(self) -> None:
        """Do nothing: a walker holds nothing."""

    @property
    def capabilities(self) -> Capabilities:
        """Tell what a walker can be asked: any single access."""
        return _ANYTHING

    def refuses(self, cpu: CpuState, steps: Sequence[Step] = ()) -> str | None:
        """Say why steps cannot be asked about, or None when they can."""
        alone = len(steps) <= 1 and all(isinstance(step, AccessStep) for step in steps)
        return None if alone else _ONE_ACCESS

    def probe(self, cpu: CpuState, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        """Ask about one access.

        :raises EngineBroken: when the function raises, or returns what is no answer.
        """
        access = Access.of(access)
        first = int(va) & _MASK
        low = _PAGE - (first & _PAGE - 1)
        if access.size <= low:
            return self._page(cpu, first, access)[0]
        lower, translated = self._page(cpu, first, _sized(access, low))
        if not translated:
            return lower
        upper, translated = self._page(cpu, first + low & _MASK, _sized(access, access.size - low))
        return _joined(lower, upper) if translated else _after(lower, upper)

    def _page(self, cpu: CpuState, va: int, access: Access) -> tuple[Observation, bool]:
        """Ask about one page; say, too, whether it was translated, to RAM or not."""
        try:
            answer = self._function(self._view, cpu, va, access)
        except NoMemory as error:  # where a table should be
            untold = frozenset({"changed"})
            return Observation(Outcome.NO_MEMORY, pa=error.pa, untold=untold), False
        except Exception as error:
            raise EngineBroken(
                f"the {self.name} raised {type(error).__name__}: {error}, for a "
                f"{access.kind} of {va:#x} at CPL {cpu.cpl}",
                engine=self.name,
            ) from error
        seen = self._observation(answer, va, access)
        missing_table = not getattr(answer, "completed", True) or seen.pa is None
        return seen, seen.outcome.has_pa and not missing_table

    def _observation(self, answer: Any, va: int, access: Access) -> Observation:
        try:
            if isinstance(answer, tuple):
                outcome, error_code, pa = answer
                changed, untold = {}, {"changed"}
            else:
                outcome, error_code, pa = answer.outcome, answer.error_code, answer.pa
                changed, untold = dict(answer.sets), set()
            outcome = Outcome(outcome)
            pa = None if pa is None or not outcome.has_pa else int(pa)
            error_code = None if error_code is None else int(error_code)
        except (AttributeError, TypeError, ValueError) as error:
            raise EngineBroken(
                f"the {self.name} must return a Walk or (outcome, error_code, pa), not {answer!r}",
                engine=self.name,
            ) from error
        if outcome is Outcome.MAPPED and pa is not None and self.memory.offset(pa) < 0:
            outcome = Outcome.NO_MEMORY
        if outcome in _CODELESS:
            error_code = 0
        elif outcome is not Outcome.PAGE_FAULT:
            error_code = None
        elif error_code is None:
            untold.add("error_code")
        if outcome is Outcome.PAGE_FAULT:
            changed, untold = {}, untold | {"changed"}
        return Observation(
            outcome,
            error_code,
            va if outcome is Outcome.PAGE_FAULT else None,
            pa,
            self._value(outcome, pa, access),
            changed,
            untold=frozenset(untold),
        )

    def _value(self, outcome: Outcome, pa: int | None, access: Access) -> int | None:
        """Give what RAM holds where the walker says that a read goes."""
        if outcome is not Outcome.MAPPED or access.kind is not AccessKind.READ or pa is None:
            return None
        try:
            return int.from_bytes(self.memory.read(pa, access.size), "little")
        except NoMemory:
            return None

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        """Answer a single access, and refuse anything else."""
        if len(steps) == 1 and isinstance(steps[0], AccessStep):
            step = steps[0]
            state = cpu if step.cpl is None else cpu.replace(cpl=step.cpl)
            return [StepResult(self.probe(state, step.va, step.access))]
        refused = Observation(Outcome.UNSUPPORTED, reason=_ONE_ACCESS)
        return [StepResult(refused) for _ in steps]

    def run(self, start: Start, budget: Budget | None = None) -> Exit:
        """Refuse: a walker executes nothing.

        :raises InputError: always.
        """
        raise InputError(f"the {self.name} cannot run code: it only translates")


def _sized(access: Access, size: int) -> Access:
    return Access(access.kind, size, implicit=access.implicit, stack=access.stack)


def _after(lower: Observation, upper: Observation) -> Observation:
    """Return what ended an access in its upper page."""
    untold = lower.untold | upper.untold
    return Observation(upper.outcome, upper.error_code, upper.cr2, upper.pa, untold=untold)


def _joined(lower: Observation, upper: Observation) -> Observation:
    """Join what was said of the two pages of an access, both of them translated."""
    changed = dict(lower.changed)
    for entry, bits in upper.changed.items():
        changed[entry] = changed.get(entry, 0) | bits
    first = lower if lower.outcome is Outcome.NO_MEMORY else upper
    pa = first.pa if first.outcome is Outcome.NO_MEMORY else lower.pa
    untold = lower.untold | upper.untold
    return Observation(first.outcome, pa=pa, changed=changed, untold=untold)
