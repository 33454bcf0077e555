"""All or nothing: a change to page tables that leaves no trace when it fails.

Several entries in several tables belong to one mapping, and any of the writes may fault when a
mapper's trick does not reach a table. A :class:`Transaction` takes all frames before the first
write, and, when anything fails, puts back every entry and gives back every frame, as far as the
allocator takes frames back. What remains of a failed operation is A and D bits in the entries that
its own accesses went through, and the contents of frames that are free again.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from harness.address import PhysFrame
from harness.frames import FrameAllocator, FrameDeallocator
from harness.mapping.table_access import TableAccess

__all__ = ["Transaction"]

_EMPTY_TABLE = np.zeros(512, np.uint64)


class Transaction:
    """The writes of one operation.

    :param access: how the tables are reached.
    :param frames: where new tables come from.
    """

    def __init__(self, access: TableAccess, frames: FrameAllocator) -> None:
        self._access = access
        self._frames = frames
        self._taken: list[PhysFrame] = []
        self._admitted: list[tuple[PhysFrame, int, int]] = []
        self._old: list[tuple[PhysFrame, int, int, int, NDArray[np.uint64]]] = []

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._roll_back()

    def take(self, count: int) -> list[PhysFrame] | None:
        """Take that many frames, or none of them and answer None."""
        first = len(self._taken)
        for _ in range(count):
            frame = self._frames.allocate_frame()
            if frame is None:
                return None
            self._taken.append(frame)
        return self._taken[first:]

    def write(
        self, frame: PhysFrame, level: int, va: int, index: int, words: NDArray[np.uint64]
    ) -> None:
        """Write entries of a table, from ``index`` on.

        :param frame: the table's frame; with ``level`` and ``va`` as :meth:`TableAccess.open`.
        """
        with self._access.open(frame, level, va) as table:
            old = table.load(index, len(words))
            table.store(index, words)
        self._old.append((frame, level, va, index, old))

    def add_table(
        self, frame: PhysFrame, level: int, va: int, parent: PhysFrame, index: int, raw: int
    ) -> None:
        """Make an empty table in ``frame`` and link it.

        :param level: of the new table; it translates ``va``.
        :param parent: the frame of the table above, whose entry ``index`` becomes ``raw``.
        """
        link = np.array([raw], np.uint64)
        self._access.admit(frame)
        self._admitted.append((frame, level, va))
        if self._access.visible_when_linked:
            self.write(parent, level + 1, va, index, link)
        with self._access.open(frame, level, va) as table:
            table.store(0, _EMPTY_TABLE)
        if not self._access.visible_when_linked:
            self.write(parent, level + 1, va, index, link)

    def _roll_back(self) -> None:
        for frame, level, va, index, old in reversed(self._old):
            with self._access.open(frame, level, va) as table:
                table.store(index, old)
        for frame, level, va in reversed(self._admitted):
            self._access.retire(frame, level, va)
        if isinstance(self._frames, FrameDeallocator):
            for frame in reversed(self._taken):
                self._frames.deallocate_frame(frame)
