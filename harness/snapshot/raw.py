"""Raw dumps of physical memory: what QEMU's ``pmemsave`` and gdb's ``dump memory`` write.

The file is the bytes of RAM and nothing else, so the CPU state must come from elsewhere (QEMU's
``info registers``)::

    snapshot = load_raw("ram.bin", given={"cr3": 0x2a5c000, "cr4": 0x6b0}, base=0)
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.cpu import CpuState
from harness.errors import SnapshotError
from harness.jsontext import MAX_RAM
from harness.memory import PhysicalMemory
from harness.snapshot.cpu import Given, assumed, cpu_of
from harness.snapshot.files import fill, open_file
from harness.snapshot.model import Snapshot

__all__ = ["load_raw"]


def load_raw(
    path: str | os.PathLike[str],
    *,
    cpu: CpuState | None = None,
    given: Given | None = None,
    base: int = 0,
) -> Snapshot:
    """Read a raw dump of physical memory.

    :param path: the file, a whole number of 4 KiB frames.
    :param cpu: the state of the CPU whose memory it is.
    :param given: or keys of a ``cpu`` object, ``cr3`` among them; the rest is what a kernel has.
    :param base: the physical address of the first byte, a multiple of 4096.
    :raises SnapshotError: when the file is empty, holds a part of a frame, or cannot be read, or
        when it does not fit in 52 bits of physical address from ``base`` on.
    """
    path = Path(path)
    with open_file(path) as file:
        given = given or {}
        stored = {} if cpu is None else cpu.to_json()
        if "cr3" not in {*stored, *given}:
            raise SnapshotError(
                "a raw dump must come with a CPU state: give at least --cr3 (--cr4 for 5 levels)",
                path=path,
            )
        cpu = cpu_of(stored, given)
        size = os.fstat(file.fileno()).st_size
        if size == 0 or size % 4096:
            raise SnapshotError(
                f"a raw dump must be a whole number of 4 KiB frames, not {size} bytes long",
                path=path,
            )
        if size > MAX_RAM:
            raise SnapshotError(f"a raw dump must be at most {MAX_RAM:#_x} bytes long", path=path)
        memory = PhysicalMemory([(base, size)])
        if fill(memory, base, file, 0, size) != size:
            raise SnapshotError("the file must not shrink while it is read", path=path)
    return Snapshot(path, memory, cpu, assumed=assumed(stored, given))
