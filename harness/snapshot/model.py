"""What every kind of snapshot gives: memory, and the CPU whose tables lie in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.cpu import CpuState
from harness.memory import PhysicalMemory

__all__ = ["Snapshot"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A machine that was stopped: its RAM and the CPU state that paging depends on.

    :ivar path: the file or folder that it was read from.
    :ivar memory: the RAM; what was not stored reads as zero.
    :ivar cpu: the state of the CPU.
    :ivar cr2: the address of its last page fault, None when that was not stored.
    :ivar rip: where it was stopped, None when that was not stored.
    :ivar assumed: what neither the file nor anybody has told: ``maxphyaddr``.
    """

    path: Path
    memory: PhysicalMemory
    cpu: CpuState
    cr2: int | None = field(default=None, kw_only=True)
    rip: int | None = field(default=None, kw_only=True)
    assumed: frozenset[str] = field(default=frozenset(), kw_only=True)

    @property
    def name(self) -> str:
        """Give the name of the file or folder, without the folders above it."""
        return self.path.resolve().name
