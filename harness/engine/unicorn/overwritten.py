"""The bytes that one access has overwritten, and how they come back.

A store may land anywhere: in RAM, in the engine's own frames, in the very entries that translate
it. What was there before is kept, newest last, until it is put back.
"""

from __future__ import annotations

from harness.engine.unicorn.core import Layout, Scratch
from harness.memory import PhysicalMemory

__all__ = ["Overwritten"]


class Overwritten:
    """What one access has overwritten so far.

    :param memory: the guest's RAM.
    :param layout: where the engine's own frames lie.
    :param scratch: these frames.
    """

    def __init__(self, memory: PhysicalMemory, layout: Layout, scratch: Scratch) -> None:
        self._memory = memory
        self._layout = layout
        self._scratch = scratch
        self._kept: list[tuple[int, bytes]] = []

    def keep(self, pa: int, size: int) -> None:
        """Keep bytes that will be overwritten; those of no memory are left out."""
        old = self._read(pa, size)
        if old is not None:
            self._kept.append((pa, old))

    def undo(self) -> None:
        """Put everything back."""
        while self._kept:
            pa, data = self._kept.pop()
            if pa in self._layout:
                self._scratch.put(pa - self._layout.scratch, data)
            else:
                self._memory.write(pa, data)

    def changed(self) -> int:
        """Count the bytes that are not as they were."""
        return sum(
            new != old
            for pa, data in self._kept
            for new, old in zip(self._read(pa, len(data)) or data, data, strict=True)
        )

    def words(self) -> set[int]:
        """Return the indices of the words of RAM that were written to."""
        hit: set[int] = set()
        for pa, data in self._kept:
            hit |= self._words(pa, len(data))
        return hit

    def words_of_page(self, va: int) -> set[int]:
        """Return the words from an access's first byte to the end of the page it lies in.

        :param va: the first byte; the words are those of the store that began there, if there is
            RAM.
        """
        for pa, _ in self._kept:
            if not (pa ^ va) & 0xFFF:
                return self._words(pa, 0x1000 - (pa & 0xFFF))
        return set()

    def _words(self, pa: int, size: int) -> set[int]:
        offset = self._memory.offset(pa)
        return set() if offset < 0 else set(range(offset >> 3, (offset + size - 1 >> 3) + 1))

    def _read(self, pa: int, size: int) -> bytes | None:
        if pa in self._layout:
            at = pa - self._layout.scratch
            return self._scratch.bytes[at : at + size].tobytes()
        return self._memory.read(pa, size) if self._memory.offset(pa) >= 0 else None
