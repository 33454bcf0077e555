"""The engine's face: probes, batches and runs over one memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.address import VirtAddr, is_canonical
from harness.cpu import CpuState
from harness.engine.base import Engine
from harness.engine.capabilities import Capabilities
from harness.engine.guest.access_stubs import WIDEST_AT_ONCE
from harness.engine.guest.slots import HIGHEST, LOWEST, needs_slot
from harness.engine.run import Budget, Exit, Start
from harness.engine.steps import Step, StepResult
from harness.engine.unicorn.batch import Batcher
from harness.engine.unicorn.borrowed import (
    any_entry_leads_there,
    leads_there,
    refusal,
    rows_that_lead_there,
    steps_lead,
)
from harness.engine.unicorn.calibrate import calibrate
from harness.engine.unicorn.capabilities import CAPABILITIES, unsupported_state
from harness.engine.unicorn.core import Layout, Scratch
from harness.engine.unicorn.entries import ROWS, EntryLoop
from harness.engine.unicorn.hooks import BATCH
from harness.engine.unicorn.library import VERSION
from harness.engine.unicorn.play import Player
from harness.engine.unicorn.probe import Prober
from harness.engine.unicorn.run import Runner
from harness.memory import PhysicalMemory
from harness.outcome import (
    UNKNOWN_PA,
    Access,
    AccessKind,
    AccessLike,
    EntryObservations,
    Observation,
    Observations,
    Outcome,
)

__all__ = ["UnicornEngine"]

_MASK = (1 << 64) - 1
_COLUMNS = ("outcome", "error_code", "cr2", "pa", "value")


class UnicornEngine(Engine):
    """Unicorn over one physical memory.

    :param memory: the guest's RAM; Unicorn maps this very buffer.
    :raises EngineBroken: when calibration fails: this build of Unicorn cannot be trusted.
    :raises EngineError: when RAM leaves no room for the engine's own 2 MiB below 2^40.
    """

    name = "unicorn"
    version = VERSION

    def __init__(self, memory: PhysicalMemory) -> None:
        calibrate()
        self.memory = memory
        self._closed = False
        self._layout = Layout.beside(memory)
        self._scratch = Scratch(self._layout)
        self._prober = Prober(memory, self._layout, self._scratch)
        self._batchers: dict[AccessKind, Batcher] = {}
        self._entry_loop: EntryLoop | None = None
        self._runner: Runner | None = None
        self._player: Player | None = None

    def close(self) -> None:
        """Give back what Unicorn holds; the engine cannot be used any more."""
        if self._closed:
            return
        self._closed = True
        self._prober.close()
        for batcher in self._batchers.values():
            batcher.close()
        if self._entry_loop is not None:
            self._entry_loop.close()
        if self._runner is not None:
            self._runner.close()
        if self._player is not None:
            self._player.close()

    title = "Unicorn"

    @property
    def capabilities(self) -> Capabilities:
        """Tell what Unicorn can be asked."""
        return CAPABILITIES

    def refuses(self, cpu: CpuState, steps: Sequence[Step] = ()) -> str | None:
        """Say why steps cannot be played in a CPU state, or None when they can."""
        return unsupported_state(cpu) or CAPABILITIES.refuses(self.title, cpu, steps)

    def probe(self, cpu: CpuState, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        """Make one access from pristine state, and put back whatever it changed.

        :param cpu: the state to make it in; its CPL decides user or supervisor.
        :param va: the virtual address, canonical or not.
        :param access: ``"read"``, ``"write"``, ``"fetch"`` or an :class:`Access`.
        """
        access, first = Access.of(access), int(va) & _MASK
        if self._leads_to_us(cpu, first, access):
            return Observation(Outcome.UNSUPPORTED, reason=refusal(self._layout))
        return self._prober.probe(cpu, first, access)

    def _leads_to_us(self, cpu: CpuState, va: int, access: Access) -> bool:
        asked = {va, va + access.size - 1 & _MASK}
        return leads_there(self._layout, self.memory, cpu.root, cpu.levels, asked, pages=False)

    def probe_many(
        self,
        cpu: CpuState,
        vas: ArrayLike,
        access: AccessLike = "read",
    ) -> Observations:
        """Make one access to each of many addresses; the tables are as before afterwards.

        Reads and writes that stay within a page run as a loop in the guest; everything else as
        single probes.

        :param vas: virtual addresses, one dimension, converted to uint64.
        :returns: columns in the order of ``vas``.
        """
        access = Access.of(access)
        addresses = np.ascontiguousarray(vas, dtype=np.uint64)
        reason = self.unsupported(cpu, access)
        if reason is not None:
            return Observations.blank(len(addresses), Outcome.UNSUPPORTED, reason=reason)
        ours = np.zeros(len(addresses), np.bool_)
        for ends in {0, access.size - 1}:
            asked = addresses + np.uint64(ends)
            through, onto = rows_that_lead_there(self._layout, self.memory, cpu, asked)
            ours |= through | onto
        out = Observations.blank(len(addresses))
        if ours.any():
            others = self.probe_many(cpu, addresses[~ours], access)
            for column in _COLUMNS:
                getattr(out, column)[~ours] = getattr(others, column)
            for row in np.flatnonzero(ours).tolist():
                out.set_row(row, self.probe(cpu, int(addresses[row]), access))
            return out
        single = np.arange(len(addresses))
        if (
            access.kind is not AccessKind.FETCH
            and not access.implicit
            and not access.stack
            and access.size <= WIDEST_AT_ONCE
            and self.memory.offset(cpu.root) >= 0
            and Batcher.takes(cpu)
        ):
            single = self._batches(cpu, addresses, access, out)
        for row in single.tolist():
            out.set_row(row, self._prober.probe(cpu, int(addresses[row]), access))
        return out

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
        singly: bool = False,
    ) -> EntryObservations:
        """Make one access under each of many versions of the entries that it walks, in columns.

        Accesses within an aligned word run as a loop in the guest, others as single probes.

        :param cpu: the state to make it in.
        :param va: the virtual address.
        :param access: how it is accessed.
        :param at: the physical addresses of the entries that differ. Every other entry of the walk
            must have A set, and D where it may be written through.
        :param entries: ``entries[j, i]`` is what version i holds at ``at[j]``.
        :param landing_words: the physical addresses of the words where the access should land; what
            they hold does not matter. One that lands elsewhere is asked again singly.
        :param supervisor_reads_first: a supervisor reads the same address first, and nothing is
            invalidated in between; what becomes of that read does not matter.
        :param singly: make single probes of them all.
        :returns: columns in the order of the versions; memory is as before.
        """
        access = Access.of(access)
        reason = self.unsupported(cpu, access)
        if reason is not None:
            return EntryObservations.blank(
                len(at), entries.shape[1], Outcome.UNSUPPORTED, reason=reason
            )
        out = EntryObservations.blank(len(at), entries.shape[1])
        left = np.arange(len(out))
        # Single probes refuse what leads to the engine's own frames.
        singly = singly or any_entry_leads_there(self._layout, entries)
        if (
            not singly
            and EntryLoop.takes(access, va, len(at), len(landing_words))
            and is_canonical(va, cpu.levels)
        ):
            left = self._loop_entries(
                cpu,
                va,
                access,
                at,
                entries,
                landing_words,
                out,
                supervisor_reads_first=supervisor_reads_first,
            )
        if len(left):
            some = self.probe_entries_singly(
                cpu,
                va,
                access,
                at,
                entries[:, left],
                supervisor_reads_first=supervisor_reads_first,
            )
            out.put(left, some)
        return out

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        """Do several things in order on one CPU, whose TLB lives on; memory is put back at the end.

        :param cpu: the state at the first step.
        :param steps: what is done.
        :returns: what was seen of each; ``unsupported`` from the first on that cannot be run.
        """
        if self._player is None:
            self._player = Player(self.memory, self._layout, self._scratch)
        if steps_lead(self._layout, self.memory, cpu, steps):
            reason = Observation(Outcome.UNSUPPORTED, reason=refusal(self._layout))
            return [StepResult(reason)] * len(steps)
        return self._player.play(cpu, steps)

    def run(self, start: Start, budget: Budget | None = None) -> Exit:
        """Run guest code until it ends or its budget does; memory stays as the guest left it.

        :param budget: 10 seconds of wall time by default.
        :raises InputError: when Unicorn cannot hold the CPU state, or a register does not exist.
        """
        if self._runner is None:
            self._runner = Runner(self.memory, self._layout, self._scratch)
        return self._runner.run(start, budget or Budget())

    def _loop_entries(
        self,
        cpu: CpuState,
        va: int,
        access: Access,
        at: Sequence[int],
        entries: NDArray[np.uint64],
        landing_words: Sequence[int],
        out: EntryObservations,
        *,
        supervisor_reads_first: bool,
    ) -> NDArray[np.intp]:
        """Run what a loop can answer; return the rows that are left."""
        if self._entry_loop is None:
            self._entry_loop = EntryLoop(self.memory, self._layout, self._scratch)
        left = []
        for start in range(0, len(out), ROWS):
            rows = slice(start, start + ROWS)
            part = out.rows(rows)
            if self._entry_loop.run(
                cpu,
                va,
                access,
                at,
                entries[:, rows],
                landing_words,
                part,
                supervisor_reads_first=supervisor_reads_first,
            ):
                lost = (part.outcome == Outcome.MAPPED.code) & (part.pa == UNKNOWN_PA)
            else:
                lost = np.full(len(part), True)
            left.append(start + np.flatnonzero(lost))
        return np.concatenate(left) if left else np.empty(0, np.intp)

    def _batches(
        self, cpu: CpuState, vas: NDArray[np.uint64], access: Access, out: Observations
    ) -> NDArray[np.intp]:
        """Run what can run in batches; return the rows that are left."""
        batcher = self._batchers.get(access.kind)
        if batcher is None:
            batcher = Batcher(self.memory, self._layout, self._scratch, access.kind)
            self._batchers[access.kind] = batcher
        if access.size == 1:
            rows, spanning = np.arange(len(vas)), np.empty(0, np.intp)
        else:
            spans = (vas & np.uint64(0xFFF)) > np.uint64(0x1000 - access.size)
            rows, spanning = np.nonzero(~spans)[0], np.nonzero(spans)[0]
        slot, left = HIGHEST, [spanning]
        while len(rows) and slot >= LOWEST:
            asked = vas if len(rows) == len(vas) else vas[rows]
            needed = needs_slot(asked, slot, cpu.levels, access.size)
            now, rows = (rows, rows[:0]) if not needed.any() else (rows[~needed], rows[needed])
            for start in range(0, len(now), BATCH):
                chunk = now[start : start + BATCH]
                if len(now) == len(vas):
                    place = slice(start, start + len(chunk))
                    part = _rows(out, place)
                    left.append(chunk[batcher.run(cpu, vas[place], slot, access.size, part)])
                    continue
                part = Observations.blank(len(chunk))
                left.append(chunk[batcher.run(cpu, vas[chunk], slot, access.size, part)])
                for column in _COLUMNS:
                    getattr(out, column)[chunk] = getattr(part, column)
            slot -= 1
        return np.concatenate([rows, *left])


def _rows(out: Observations, rows: slice) -> Observations:
    """Give some rows as columns of their own, which are views."""
    return Observations(*(getattr(out, column)[rows] for column in _COLUMNS))
