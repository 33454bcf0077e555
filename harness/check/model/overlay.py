"""A memory with changes of its own, for a model of what the CPU does to memory.

A model must see what the CPU has done to memory so far, and must not do it again. It works on an
:class:`Overlay`, and a walk reads that like any other memory::

    overlay = Overlay(memory)
    overlay.write_u64(0x4020, 0)     # the memory keeps its word
    found = walk(overlay.as_memory(), cpu, 0x4123)
    overlay.set_bits(found.sets)     # as the CPU would

:func:`pieces` says where the bytes are that such a walk reaches. Reading and writing outside RAM
raises :class:`~harness.errors.NoMemory`, as memory does.
"""

from __future__ import annotations

from typing import cast

from harness.errors import NoMemory
from harness.memory import PhysicalMemory
from harness.walker import Walk

__all__ = ["Overlay", "pieces"]


class Overlay:
    """A memory with changes of its own.

    :param under: what shows where nothing was changed.
    """

    __slots__ = ("_under", "words")

    def __init__(self, under: PhysicalMemory | Overlay) -> None:
        self._under = under
        self.words: dict[int, int] = {}
        """What was changed: address → u64."""

    def as_memory(self) -> PhysicalMemory:
        """Give it the type of what a walker reads; reading is all that a walker does."""
        return cast(PhysicalMemory, self)

    def offset(self, pa: int) -> int:
        """Return where an address is in RAM, negative when it is not."""
        return self._under.offset(pa)

    def read_u64(self, pa: int) -> int:
        """Return a word.

        :param pa: a multiple of 8.
        """
        found = self.words.get(pa)
        return self._under.read_u64(pa) if found is None else found

    def write_u64(self, pa: int, word: int) -> None:
        """Change a word.

        :param pa: a multiple of 8.
        :raises NoMemory: when it is not RAM.
        """
        if self.offset(pa) < 0:
            raise NoMemory(pa)
        self.words[pa] = word

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes."""
        first, last = pa & ~7, pa + size - 1 & ~7
        data = b"".join(self.read_u64(at).to_bytes(8, "little") for at in range(first, last + 8, 8))
        return data[pa - first : pa - first + size]

    def write(self, pa: int, data: bytes) -> None:
        """Change bytes."""
        at = pa
        for byte in data:
            word = self.read_u64(at & ~7)
            shift = 8 * (at & 7)
            self.write_u64(at & ~7, word & ~(0xFF << shift) | byte << shift)
            at += 1

    def set_bits(self, bits: dict[int, int]) -> None:
        """Set bits of words, as the CPU sets A and D."""
        for pa, mask in bits.items():
            self.write_u64(pa, self.read_u64(pa) | mask)

    def changed(self) -> dict[int, int]:
        """Return the address of each word that is different now → the bits that are."""
        found = {}
        for pa, word in sorted(self.words.items()):
            bits = word ^ self._under.read_u64(pa)
            if bits:
                found[pa] = bits
        return found


def pieces(found: Walk) -> list[tuple[int, int]]:
    """Return the physical address and the size of each part of an access, the lower page first.

    :param found: a walk that translated every byte.
    """
    assert found.pa is not None
    size = found.access.size
    low = min(size, 0x1000 - (found.va & 0xFFF))
    parts = [(found.pa, low)]
    if found.second is not None:
        assert found.second.pa is not None
        parts.append((found.second.pa, size - low))
    return parts
