"""Many versions of a walk's entries, one after another: the plain way, by the manual's answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from harness.cpu import CpuState
from harness.engine import Engine, open_engine
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Outcome

READ, WRITE = Access(AccessKind.READ), Access(AccessKind.WRITE)


@pytest.fixture
def engine() -> Iterator[Engine]:
    memory = PhysicalMemory(0x20_0000)
    for at, word in ((0x1000, 0x2027), (0x2000, 0x3027), (0x3000, 0x4027), (0x4000, 0x77)):
        memory.write_u64(at, word)
    engine = open_engine("unicorn", memory)
    yield engine
    engine.close()


def test_tells_what_each_version_did(engine: Engine) -> None:
    versions = np.array([[0x5007, 0x5006, 0x5005]], np.uint64)

    seen = engine.probe_entries_singly(CpuState(cr3=0x1000), 8, WRITE, (0x4000,), versions)

    assert seen.outcome.tolist() == [
        Outcome.MAPPED.code,
        Outcome.PAGE_FAULT.code,
        Outcome.PAGE_FAULT.code,
    ]
    assert seen.error_code.tolist()[1:] == [0x2, 0x3]
    assert seen.cr2.tolist()[1:] == [8, 8]
    assert seen.pa[0] == 0x5008
    assert seen.after.tolist() == [[0x5067, 0x5006, 0x5005]]
    assert engine.memory.read_u64(0x4000) == 0x77


def test_twice_keeps_what_the_supervisor_read_left(engine: Engine) -> None:
    """A user may not write there, but the supervisor's read has set A."""
    versions = np.array([[0x5003]], np.uint64)
    cpu = CpuState(cr3=0x1000, cpl=3)

    once = engine.probe_entries_singly(cpu, 8, WRITE, (0x4000,), versions)
    warmed = engine.probe_entries_singly(
        cpu, 8, WRITE, (0x4000,), versions, supervisor_reads_first=True
    )

    assert (once.error_code[0], warmed.error_code[0]) == (0x7, 0x7)
    assert (once.after[0, 0], warmed.after[0, 0]) == (0x5003, 0x5023)


def test_says_why_it_is_unsupported(engine: Engine) -> None:
    cpu = CpuState(cr3=0x1000, cr4=0x2_0020)

    seen = engine.probe_entries_singly(cpu, 8, READ, (0x4000,), np.zeros((1, 2), np.uint64))

    assert (seen.outcome == Outcome.UNSUPPORTED.code).all()
    assert seen.reason == "Unicorn does not implement PCID (CR4 = 0x20020)"
