"""A right engine with one flaw: a CPU that breaks one rule.

:class:`PlantedEngine` is an :class:`~harness.engine.base.Engine`. For each access it edits the
entries of the walk, or the state, as the flaw says, asks the right engine, puts everything back,
and tells what changed relative to the entries as they stand. It bears its inner engine's name and
version, so that what is registered of that one stays known, and its flaw in ``flaw``::

    engine = PlantedEngine(UnicornEngine(memory), FLAWS["PRESENT_2"])

A flaw of one level shows where an entry serves that level alone: where one entry is used at several
levels, editing it would break the others too, and the engine is right. ``probe_many`` and ``run``
are the inner engine's, and a sequence (``play``) is only broken by a flaw about sequences.

It raises what the inner engine raises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.address import VirtAddr
from harness.cpu import CpuState
from harness.engine.base import Engine
from harness.engine.capabilities import Capabilities
from harness.engine.run import Budget, Exit, Start
from harness.engine.steps import Step, StepResult
from harness.entry import PageTableFlags
from harness.outcome import (
    UNKNOWN_PA,
    Access,
    AccessLike,
    EntryObservations,
    Observation,
    Observations,
    Outcome,
)
from harness.planted.flaws import Flaw
from harness.planted.query import Answer, Column, Edit, Entry, Page, u64

__all__ = ["PlantedEngine"]

_P, _PS = u64(int(PageTableFlags.PRESENT)), u64(int(PageTableFlags.HUGE_PAGE))
_MASK = (1 << 64) - 1


class PlantedEngine(Engine):
    """An engine that breaks one rule.

    :param inner: a right one.
    :param flaw: how it is broken; None for not at all.
    """

    def __init__(self, inner: Engine, flaw: Flaw | None) -> None:
        self.inner = inner
        self.flaw = flaw
        self.name = inner.name
        self.version = inner.version
        self.memory = inner.memory

    @property
    def capabilities(self) -> Capabilities:
        """Tell what the inner engine can be asked."""
        return self.inner.capabilities

    def refuses(self, cpu: CpuState, steps: Sequence[Step] = ()) -> str | None:
        """Say why the inner engine cannot play steps, or None when it can."""
        return self.inner.refuses(cpu, steps)

    def close(self) -> None:
        """Give back what the inner engine holds."""
        self.inner.close()

    def probe(self, cpu: CpuState, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        """Make one access from pristine state, and put back whatever it changed."""
        access = Access.of(access)
        address = int(va) & _MASK
        if self.flaw is None or not self.flaw.probed:
            return self.inner.probe(cpu, address, access)
        query = _Probe(self.inner, self.flaw, cpu, address, access)
        try:
            answer = query.answer()
        except _Unsupported as error:
            return error.seen
        return query.observation(answer)

    def probe_many(
        self, cpu: CpuState, vas: ArrayLike, access: AccessLike = "read"
    ) -> Observations:
        """Make one access to each of many addresses, as the inner engine does."""
        return self.inner.probe_many(cpu, vas, access)

    def probe_entries(
        self,
        cpu: CpuState,
        va: int,
        access: AccessLike,
        at: Sequence[int],
        entries: NDArray[np.uint64],
        *,
        landing_words: Sequence[int] = (),
        supervisor_reads_first: bool = False,
    ) -> EntryObservations:
        """Make one access under each of many versions of the entries that it walks, in columns."""
        access = Access.of(access)
        inner, flaw = self.inner, self.flaw
        if flaw is None or not flaw.probed or inner.unsupported(cpu, access) is not None:
            return inner.probe_entries(
                cpu,
                va,
                access,
                at,
                entries,
                landing_words=landing_words,
                supervisor_reads_first=supervisor_reads_first,
            )
        given = dict(zip(at, entries, strict=True))
        try:
            query = _Versions(
                inner, flaw, cpu, va, access, given, tuple(landing_words), supervisor_reads_first
            )
            answer = query.answer()
        except _Apart:
            return self.probe_entries_singly(
                cpu, va, access, at, entries, supervisor_reads_first=supervisor_reads_first
            )
        return query.observations(answer)

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        """Do several things in order on one CPU, whose TLB lives on; memory is put back."""
        if self.flaw is None or self.flaw.steps is None:
            return self.inner.play(cpu, steps)
        return self.flaw.steps(self.inner, cpu, steps)

    def run(self, start: Start, budget: Budget | None = None) -> Exit:
        """Run guest code, as the inner engine does."""
        return self.inner.run(start, budget)


class _Unsupported(Exception):
    """The right engine cannot be asked this."""

    def __init__(self, seen: Observation) -> None:
        super().__init__(seen.reason)
        self.seen = seen


class _Apart(Exception):
    """The versions' walks read entries at different addresses: they must be asked singly."""


class _Query:
    """What one access and many have in common."""

    def __init__(
        self, inner: Engine, flaw: Flaw, cpu: CpuState, va: int, access: Access, rows: int
    ) -> None:
        self.inner = inner
        self.memory = inner.memory
        self.flaw = flaw
        self.cpu = cpu
        self.va = va
        self.access = access
        self.rows = rows
        self.pages = self._pages(cpu, va, access, None) or []

    def answer(self) -> Answer:
        """Ask what the flaw makes of the question, and let it change the answer."""
        flaw = self.flaw
        cpu = flaw.state(self.cpu, self.access) if flaw.state else self.cpu
        va = flaw.address(self.cpu, self.va) if flaw.address else self.va
        answer = self.ask(cpu=cpu, va=va, edit=flaw.entry)
        if flaw.answer is not None and self.pages:
            flaw.answer(self, answer)
        return answer

    def ask(
        self,
        *,
        cpu: CpuState | None = None,
        va: int | None = None,
        access: Access | None = None,
        edit: Edit | None = None,
    ) -> Answer:
        """Ask the right engine the same question with something changed."""
        cpu, access = cpu or self.cpu, access or self.access
        va = self.va if va is None else va
        pages = None
        if edit is not None or self.flaw.root is not None:
            pages = self._pages(cpu, va, access, edit)
        return self._ask(cpu, va, access, pages or [])

    def _ask(self, cpu: CpuState, va: int, access: Access, pages: list[Page]) -> Answer:
        raise NotImplementedError

    def _column(self, pa: int) -> Column | None:
        """Return what all rows have at a physical address, or None outside RAM."""
        if self.memory.offset(pa) < 0:
            return None
        return np.full(self.rows, self.memory.read_u64(pa), u64)

    def _pages(
        self, cpu: CpuState, va: int, access: Access, edit: Edit | None
    ) -> list[Page] | None:
        """Follow address bits down to each page; None when an entry serves several levels."""
        last = va + access.size - 1 & _MASK
        addresses = [va] if va >> 12 == last >> 12 else [va, last & ~0xFFF]
        pages = [self._page(cpu, address, access, edit) for address in addresses]
        if edit is None and self.flaw.root is None:
            return pages
        edited: set[int] = set()
        levels: dict[int, set[int]] = {}
        for page in pages:
            for depth, at in enumerate(page.at):
                levels.setdefault(at, set()).add(depth)
                if page.raw[depth] is not page.taken[depth]:
                    edited.add(at)
            if page.at and page.home != page.at[0]:
                edited |= {page.at[0], page.home}
                levels.setdefault(page.home, set()).add(-1)
        alone = all(len(levels[at]) == 1 for at in edited)
        return pages if alone else None

    def _page(self, cpu: CpuState, va: int, access: Access, edit: Edit | None) -> Page:
        page = Page([], [], [], [], 0)
        there = np.ones(self.rows, np.bool_)
        table = cpu.root
        inside = u64((1 << cpu.maxphyaddr) - 1 & ~0xFFF)
        for level in range(cpu.levels, 0, -1):
            at = home = table | va >> 9 * level & 0xFF8
            if not page.at:
                page.home = home = at if self.flaw.root is None else self.flaw.root(cpu, at)
            raw = self._column(home)
            if raw is None or self.memory.offset(at) < 0:
                break
            taken = raw
            if edit is not None:
                taken = edit(Entry(level, raw, tuple(page.taken), cpu, access))
                if (taken == raw).all():
                    taken = raw
            page.at.append(at)
            page.raw.append(raw)
            page.taken.append(taken)
            page.there.append(there)
            there = there & (taken & _P != 0)
            if level in (2, 3):
                there = there & (taken & _PS == 0)
            if not there.any():
                break
            tables = np.unique((taken & inside)[there])
            if len(tables) > 1:
                raise _Apart
            table = int(tables[0])
        return page


class _Probe(_Query):
    """One access."""

    def __init__(self, inner: Engine, flaw: Flaw, cpu: CpuState, va: int, access: Access) -> None:
        super().__init__(inner, flaw, cpu, va, access, 1)
        self.reason: str | None = None
        self.value: int | None = None

    def _ask(self, cpu: CpuState, va: int, access: Access, pages: list[Page]) -> Answer:
        memory = self.memory
        edits: dict[int, int] = {}
        homes: dict[int, int] = {}
        for page in pages:
            for depth, at in enumerate(page.at):
                edits[at] = int(page.taken[depth][0])
            if page.at and page.home != page.at[0]:
                homes[page.at[0]] = page.home
        before = {at: memory.read_u64(at) for at in edits}
        try:
            for at, word in edits.items():
                memory.write_u64(at, word)
            seen = self.inner.probe(cpu, va, access)
        finally:
            for at, word in before.items():
                memory.write_u64(at, word)
        if seen.outcome is Outcome.UNSUPPORTED:
            raise _Unsupported(seen)
        self.reason, self.value = seen.reason, seen.value
        return Answer(
            np.array([seen.outcome.code], np.uint8),
            np.array([seen.error_code or 0], np.uint32),
            np.array([seen.cr2 or 0], u64),
            np.array([UNKNOWN_PA if seen.pa is None else seen.pa], u64),
            {homes.get(at, at): np.array([bits], u64) for at, bits in seen.changed.items()},
            seen.stored,
        )

    def observation(self, answer: Answer) -> Observation:
        """Return an answer in the form of a probe's."""
        outcome = Outcome.from_code(int(answer.outcome[0]))
        pa = int(answer.pa[0])
        return Observation(
            outcome,
            int(answer.error_code[0]) if outcome.has_error_code else None,
            int(answer.cr2[0]) if outcome is Outcome.PAGE_FAULT else None,
            pa if outcome.has_pa and pa != UNKNOWN_PA else None,
            self.value if outcome is Outcome.MAPPED else None,
            {at: int(bits[0]) for at, bits in answer.changed.items() if bits[0]},
            self.reason,
            answer.stored if not outcome.has_pa else 0,
        )


class _Versions(_Query):
    """One access under many versions of its entries."""

    def __init__(
        self,
        inner: Engine,
        flaw: Flaw,
        cpu: CpuState,
        va: int,
        access: Access,
        given: dict[int, Column],
        landing_words: tuple[int, ...],
        supervisor_reads_first: bool,
    ) -> None:
        self.given = given
        self.landing_words = landing_words
        self.supervisor_reads_first = supervisor_reads_first
        super().__init__(inner, flaw, cpu, va, access, len(next(iter(given.values()))))

    def _column(self, pa: int) -> Column | None:
        found = self.given.get(pa)
        return super()._column(pa) if found is None else found

    def _ask(self, cpu: CpuState, va: int, access: Access, pages: list[Page]) -> Answer:
        taken = dict(self.given)
        for page in pages:
            for depth, at in enumerate(page.at):
                if page.taken[depth] is not page.raw[depth] or page.home != page.at[0]:
                    taken[at] = page.taken[depth]
        fixed = {
            at: self.memory.read_u64(at) for page in self.pages for at in page.at if at not in taken
        }
        # An edited answer may say that any entry has changed, those too that nobody edited.
        seen = self.inner.probe_entries(
            cpu,
            va,
            access,
            list(taken),
            np.stack(list(taken.values())),
            landing_words=self.landing_words,
            supervisor_reads_first=self.supervisor_reads_first,
        )
        changed = {
            at: after ^ word for (at, word), after in zip(taken.items(), seen.after, strict=True)
        }
        for at, word in fixed.items():
            changed[at] = np.full(self.rows, self.memory.read_u64(at) ^ word, u64)
            self.memory.write_u64(at, word)
        return Answer(seen.outcome, seen.error_code, seen.cr2, seen.pa, changed)

    def observations(self, answer: Answer) -> EntryObservations:
        """Return an answer in the form of the protocol's; other entries keep what changed."""
        after = np.stack([word ^ answer.changed.get(at, u64(0)) for at, word in self.given.items()])
        for at, bits in answer.changed.items():
            if at not in self.given and bits.any():
                word = int(np.bitwise_or.reduce(bits))
                self.memory.write_u64(at, self.memory.read_u64(at) ^ word)
        return EntryObservations(answer.outcome, answer.error_code, answer.cr2, answer.pa, after)
