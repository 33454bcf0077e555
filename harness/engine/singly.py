"""What a loop in the guest answers about many versions of a walk's entries, asked one by one.

This is the plain statement of :meth:`Engine.probe_entries <harness.engine.protocol.Engine>`: write
a version, make the access, note what it left, go on. Engines without a faster way use it, and a
test holds the faster ways to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.cpu import CpuState
from harness.outcome import Access, AccessKind, EntryObservations, Outcome

if TYPE_CHECKING:
    from harness.engine.protocol import Engine

__all__ = ["probe_entries_singly"]


def probe_entries_singly(
    engine: Engine,
    cpu: CpuState,
    va: int,
    access: Access,
    at: Sequence[int],
    entries: NDArray[np.uint64],
    *,
    supervisor_reads_first: bool = False,
) -> EntryObservations:
    """Make one access under each of many versions of the entries that it walks.

    :param at: the physical addresses of the entries that differ.
    :param entries: ``entries[j, i]`` is what version i holds at ``at[j]``.
    :param supervisor_reads_first: a supervisor reads the same address first; what becomes
        of that read does not matter.
    """
    memory = engine.memory
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
                for pa, bits in engine.probe(supervisor, va, first).changed.items():
                    words[pa] = memory.read_u64(pa) ^ bits
                    memory.write_u64(pa, words[pa])
            seen = engine.probe(cpu, va, access)
            out.outcome[row] = seen.outcome.code
            out.error_code[row] = seen.error_code or 0
            out.cr2[row] = seen.cr2 or 0
            if seen.pa is not None:
                out.pa[row] = seen.pa
            if seen.outcome is Outcome.UNSUPPORTED:
                out.reason = seen.reason
            out.untold |= seen.untold
            out.after[:, row] = [words[pa] ^ seen.changed.get(pa, 0) for pa in at]
    finally:
        for pa, word in zip(at, before, strict=True):
            memory.write_u64(pa, word)
    return out
