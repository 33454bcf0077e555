"""What a CPU must offer to judge page tables.

An engine owns a CPU over the project's memory: the same buffer that the walkers read. Four duties
are abstract: :attr:`Engine.capabilities`, :meth:`Engine.play`, :meth:`Engine.run` and
:meth:`Engine.close`. Probes and batches of probes follow from them, and an engine that is faster at
these overrides them. Its quirks stay inside it; what it cannot honour it says, by
:meth:`Engine.refuses` or an ``unsupported`` outcome, and never passes off as an answer.

:mod:`harness.engine.conformance` holds an engine to all this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.address import VirtAddr
from harness.cpu import CpuState
from harness.engine.capabilities import Capabilities
from harness.engine.run import Budget, Exit, Start
from harness.engine.steps import AccessStep, Step, StepResult
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

__all__ = ["Engine"]

_MASK = (1 << 64) - 1


class Engine(ABC):
    """A CPU that translates by the page tables in ``memory``.

    :ivar name: the engine's word in reports: what is registered of it is found by that.
    :ivar version: its version: registered divergences hold for a range of them.
    :ivar memory: the guest's RAM.
    :ivar spec: the string that opens it again; its name, unless :func:`open_engine` was given
        another one.
    """

    name: str
    version: str
    memory: PhysicalMemory
    spec: str = ""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Tell what it can be asked."""

    @abstractmethod
    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        """Do several things in order on one CPU, whose TLB lives on; memory is put back at the end.

        What it cannot do it gives as ``unsupported``, and all that follows it.

        :param cpu: the state at the first step.
        :returns: what was seen, one result for each step.
        """

    @abstractmethod
    def run(self, start: Start, budget: Budget | None = None) -> Exit:
        """Run guest code until it ends or its budget does; memory stays as the guest left it.

        :raises InputError: when it runs no code, or cannot hold the CPU state.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the engine holds; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def title(self) -> str:
        """Name it in sentences."""
        return self.name

    def refuses(self, cpu: CpuState, steps: Sequence[Step] = ()) -> str | None:
        """Say why steps cannot be played in a CPU state, or None when they can.

        :param steps: none asks about the state alone.
        """
        return self.capabilities.refuses(self.title, cpu, steps)

    def unsupported(self, cpu: CpuState, access: AccessLike = "read") -> str | None:
        """Say why an access in a CPU state cannot be probed, or None when it can."""
        return self.refuses(cpu, [AccessStep(0, Access.of(access))])

    def probe(self, cpu: CpuState, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        """Make one access from pristine state, and put back whatever it changed.

        :param cpu: the state to make it in; its CPL decides user or supervisor.
        :param va: the virtual address, canonical or not.
        :param access: ``"read"``, ``"write"``, ``"fetch"`` or an :class:`Access`.
        """
        step = AccessStep(int(va) & _MASK, Access.of(access))
        reason = self.refuses(cpu, [step])
        if reason is not None:
            return Observation(Outcome.UNSUPPORTED, reason=reason)
        return self.play(cpu, [step])[0].seen

    def probe_many(
        self, cpu: CpuState, vas: ArrayLike, access: AccessLike = "read"
    ) -> Observations:
        """Make one access to each of many addresses, in columns; the tables are put back.

        :param vas: virtual addresses, one dimension, converted to uint64.
        :returns: columns in the order of ``vas``.
        """
        addresses = np.ascontiguousarray(vas, dtype=np.uint64)
        out = Observations.blank(len(addresses))
        for row, va in enumerate(addresses.tolist()):
            out.set_row(row, self.probe(cpu, va, access))
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
    ) -> EntryObservations:
        """Make one access under each of many versions of the entries that it walks, in columns.

        :param at: the physical addresses of the entries that differ. Every other entry of the walk
            must have A set, and D where it may be written through.
        :param entries: ``entries[j, i]`` is what version i holds at ``at[j]``.
        :param landing_words: the physical addresses of the words where it should land, whose
            content does not matter: there an access within an aligned word may be fast.
        :param supervisor_reads_first: a supervisor reads the same address first, nothing being
            invalidated in between, and what becomes of that read does not matter.
        :returns: columns in the order of the versions; memory is as before.
        """
        return self.probe_entries_singly(
            cpu, va, access, at, entries, supervisor_reads_first=supervisor_reads_first
        )

    def probe_entries_singly(
        self,
        cpu: CpuState,
        va: int,
        access: AccessLike,
        at: Sequence[int],
        entries: NDArray[np.uint64],
        *,
        supervisor_reads_first: bool = False,
    ) -> EntryObservations:
        """Do what :meth:`probe_entries` does by single probes: the plain statement of it.

        Write a version, make the access, note what it left, go on. A test holds the faster ways to
        this one.
        """
        memory, access = self.memory, Access.of(access)
        out = EntryObservations.blank(len(at), entries.shape[1])
        before = [memory.read_u64(pa) for pa in at]
        supervisor = cpu.replace(cpl=0)
        first = Access(AccessKind.READ, access.size)
        try:
            for row in range(entries.shape[1]):
                words = dict(zip(at, entries[:, row].tolist(), strict=True))
                for pa, word in words.items():
                    memory.write_u64(pa, word)
                if supervisor_reads_first:
                    for pa, bits in self.probe(supervisor, va, first).changed.items():
                        words[pa] = memory.read_u64(pa) ^ bits
                        memory.write_u64(pa, words[pa])
                seen = self.probe(cpu, va, access)
                out.outcome[row] = seen.outcome.code
                out.error_code[row] = seen.error_code or 0
                out.cr2[row] = seen.cr2 or 0
                out.pa[row] = UNKNOWN_PA if seen.pa is None else seen.pa
                if seen.outcome is Outcome.UNSUPPORTED:
                    out.reason = seen.reason
                out.untold |= seen.untold
                out.after[:, row] = [words[pa] ^ seen.changed.get(pa, 0) for pa in at]
        finally:
            for pa, word in zip(at, before, strict=True):
                memory.write_u64(pa, word)
        return out
