"""What a CPU must offer to judge page tables.

An engine owns a CPU over the project's memory: the same buffer that the walkers read. It answers
probes (one access from pristine state), batches of probes, and runs. Its quirks stay inside it;
what it cannot honour it says, by :meth:`Engine.unsupported` or an ``unsupported`` outcome, and
never passes off as an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.address import VirtAddr
from harness.cpu import CpuState
from harness.engine.run import Budget, Exit, Start
from harness.engine.steps import Step, StepResult
from harness.memory import PhysicalMemory
from harness.outcome import AccessLike, EntryObservations, Observation, Observations

__all__ = ["Engine"]


class Engine(Protocol):
    """A CPU that translates by the page tables in ``memory``."""

    @property
    def name(self) -> str:
        """The engine's word in commands and reports."""

    @property
    def version(self) -> str:
        """Its version: known divergences are registered by it."""

    @property
    def memory(self) -> PhysicalMemory:
        """The guest's RAM."""

    def unsupported(self, cpu: CpuState, access: AccessLike = "read") -> str | None:
        """Say why an access in a CPU state cannot be run here, or None when it can."""

    def probe(self, cpu: CpuState, va: int | VirtAddr, access: AccessLike = "read") -> Observation:
        """Make one access from pristine state, and put back whatever it changed."""

    def probe_many(
        self, cpu: CpuState, vas: ArrayLike, access: AccessLike = "read"
    ) -> Observations:
        """Make one access to each of many addresses, in columns; the tables are put back."""

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

        ``entries[j, i]`` is what version i holds at physical address ``at[j]``; every other entry
        of the walk must have A set, and D where it may be written through. ``landing_words`` are
        the physical addresses of the words where it should land, whose content does not matter:
        there an access within an aligned word is fast.
        With ``supervisor_reads_first`` a supervisor reads the same address first, nothing being
        invalidated in between, and what becomes of that read does not matter. Memory is put back.
        """

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        """Do several things in order on one CPU, whose TLB lives on; memory is put back at the end.

        What it cannot do it gives as ``unsupported``, and all that follows it.
        """

    def run(self, start: Start, budget: Budget) -> Exit:
        """Run guest code until it ends or its budget does; memory stays as the guest left it."""

    def close(self) -> None:
        """Give back what the engine holds."""
