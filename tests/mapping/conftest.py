"""Every flavour of mapper, at 4 and 5 levels, and a way to see that nothing has changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.cpu import CpuState
from harness.frames import BitmapFrameAllocator
from harness.mapping import BootPageTable
from harness.mapping.flavours import Flavour, Lab, set_up
from harness.memory import PhysicalMemory

#: What the tables hold, without A and D bits, and how many frames are given out.
Snapshot = tuple[dict[int, tuple[int, ...]], int]

_ACCESSED_AND_DIRTY = 0x60


@pytest.fixture(params=list(Flavour), ids=str)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture(params=[4, 5], ids=["4-level", "5-level"])
def cpu(request: pytest.FixtureRequest) -> CpuState:
    return CpuState(cr4=0x1020 if request.param == 5 else 0x20)


@pytest.fixture
def lab(flavour: Flavour, cpu: CpuState) -> Lab:
    """One trick, set up."""
    return set_up(flavour, cpu=cpu)


@pytest.fixture
def snapshot() -> Callable[[Lab], Snapshot]:
    """Take what a failed operation must leave as it was."""

    def take(lab: Lab) -> Snapshot:
        words = {}
        for table in lab.boot.tables():
            at = int(table.frame.start_address)
            words[at] = tuple(word & ~_ACCESSED_AND_DIRTY for word in lab.memory.frame(at).tolist())
        return words, lab.frames.allocated

    return take


@pytest.fixture
def booted() -> tuple[BootPageTable, BitmapFrameAllocator]:
    """An empty address space in 8 MiB of RAM, and the frames that are left."""
    ram = 8 << 20
    frames = BitmapFrameAllocator([(0x1000, ram)])
    return BootPageTable.create(PhysicalMemory(ram), CpuState(), frames), frames
