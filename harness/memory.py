"""The guest's physical memory: one buffer that every engine maps and every walker reads.

RAM has regions; what lies between them is not RAM, and touching it raises
:class:`~harness.errors.NoMemory` with the address. All regions lie one after another, in address
order, in one anonymous mapping that the kernel commits page by page when it is first written, so
that a large and sparse RAM is cheap. The same bytes are seen as ``buffer`` (numpy, u8), as
``words`` (numpy, u64) and through addresses (``read_u64``, ``read``, ``frame``, ...)::

    >>> memory = PhysicalMemory([(0, 0x10_0000), (0xfffc_0000, 0x4_0000)])
    >>> memory.write_u64(0xfffc_0008, 7)
    >>> hex(memory.offset(0xfffc_0008)), int(memory.words[memory.offset(0xfffc_0008) // 8])
    ('0x100008', 7)
    >>> memory.read_u64(0x10_0000)
    Traceback (most recent call last):
    harness.errors.NoMemory: a physical access must stay inside RAM, and 0x10_0000 is not RAM

Nothing needs closing: the mapping goes when the last view of it does. An engine that maps the
buffer by :meth:`PhysicalMemory.region_pointers` must hold on to the PhysicalMemory meanwhile.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from operator import index
from typing import NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.address import ENTRIES_PER_TABLE, PhysAddr, VirtAddr
from harness.errors import InputError, NoMemory

__all__ = ["PhysicalMemory", "Region"]

_FRAME = 0x1000
_COPY_BLOCK = 1 << 16
# Linux's value; the mmap module has it from Python 3.13 on only.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)

_Address: TypeAlias = int | PhysAddr


class Region(NamedTuple):
    """A piece of RAM.

    :ivar base: its first physical address.
    :ivar size: bytes.
    """

    base: int
    size: int

    @property
    def end(self) -> int:
        """Give the first physical address behind it."""
        return self.base + self.size

    def __repr__(self) -> str:
        return f"Region({self.base:#_x}, {self.size:#_x})"


class PhysicalMemory:
    """RAM, all zero at first.

    :param ram: bytes of RAM from address 0, or ``(base, size)`` for each region.
    :raises InputError: when a region is empty, not made of whole 4 KiB frames, beyond 52 bits or
        over another one, when there is no region, or when the host has no room.
    """

    __slots__ = (
        "_bases",
        "_low_end",
        "_merged",
        "_offsets",
        "_quads",
        "buffer",
        "regions",
        "words",
    )

    regions: tuple[Region, ...]
    """The regions as given, in address order."""
    buffer: NDArray[np.uint8]
    """All of RAM, byte by byte, one region after another."""
    words: NDArray[np.uint64]
    """All of RAM as little-endian u64 words; the same memory as ``buffer``."""

    def __init__(self, ram: SupportsIndex | Iterable[tuple[int, int]]) -> None:
        self.regions = _checked_regions(
            [(0, index(ram))] if isinstance(ram, SupportsIndex) else ram
        )
        self._merged = _merge(self.regions)
        self._bases = [region.base for region in self._merged]
        self._offsets = [0]
        for region in self._merged[:-1]:
            self._offsets.append(self._offsets[-1] + region.size)
        size = sum(region.size for region in self._merged)
        try:
            mapping = mmap.mmap(
                -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            )
        except (OSError, OverflowError, ValueError) as error:
            raise InputError(
                f"the host must have room for the RAM, and refuses {size:#_x} bytes: {error}"
            ) from error
        self.buffer = np.frombuffer(mapping, np.uint8)
        self.words = self.buffer.view("<u8")
        # Indexing this is three times as fast as indexing numpy.
        self._quads = memoryview(mapping).cast("Q")
        first = self._merged[0]
        self._low_end = first.end if first.base == 0 else 0

    @property
    def size(self) -> int:
        """Give the bytes of RAM in all regions."""
        return self.buffer.nbytes

    def __repr__(self) -> str:
        regions = ", ".join(f"({region.base:#_x}, {region.size:#_x})" for region in self.regions)
        return f"PhysicalMemory([{regions}])"

    def region_pointers(self) -> list[tuple[int, int, int]]:
        """Return ``(base, size, host address)`` for each run of RAM, adjacent regions as one."""
        host = self.buffer.ctypes.data
        return [
            (region.base, region.size, host + offset)
            for region, offset in zip(self._merged, self._offsets, strict=True)
        ]

    def offset(self, pa: _Address) -> int:
        """Return where ``pa`` lies in ``buffer``, in bytes, or -1 when it is not RAM."""
        pa = _physical(pa)
        if 0 <= pa < self._low_end:
            return pa
        run = bisect_right(self._bases, pa) - 1
        if run < 0 or pa >= self._merged[run].end:
            return -1
        return pa - self._bases[run] + self._offsets[run]

    def address(self, offset: int) -> int:
        """Return the physical address of a byte of ``buffer``; :meth:`offset` the other way.

        :raises IndexError: when the buffer has no such byte.
        """
        left = offset
        for region in self._merged:
            if left < region.size:
                return region.base + left
            left -= region.size
        raise IndexError(offset)

    def offsets(self, pas: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return :meth:`offset` for each of an array of physical addresses."""
        pas = np.asarray(pas, np.uint64)
        if self._low_end and len(self._merged) == 1:
            return np.where(pas < np.uint64(self._low_end), pas.view(np.int64), np.int64(-1))
        bases = np.array(self._bases, np.uint64)
        ends = np.array([region.end for region in self._merged], np.uint64)
        shifts = np.array(self._offsets, np.uint64) - bases  # wraps, and wraps back below
        run = np.maximum(np.searchsorted(bases, pas, side="right") - 1, 0)
        inside = (pas >= bases[run]) & (pas < ends[run])
        return np.where(inside, (pas + shifts[run]).view(np.int64), np.int64(-1))

    def contains(self, pa: _Address, size: int = 1) -> bool:
        """Say whether all of the ``size`` bytes from ``pa`` on are RAM.

        :param size: bytes, 1 or more.
        """
        return self._missing(_physical(pa), size) is None

    def _missing(self, pa: int, size: int) -> int | None:  # the first address that is not RAM
        if size < 0:
            raise InputError(f"a size must be 0 or more bytes, not {size!r}")
        run = bisect_right(self._bases, pa) - 1
        if run < 0 or pa >= self._merged[run].end:
            return pa
        end = self._merged[run].end
        return end if pa + size > end else None

    def _slice(self, pa: int, size: int) -> slice:
        missing = self._missing(pa, size)
        if missing is not None:
            raise NoMemory(missing)
        start = self.offset(pa)
        return slice(start, start + size)

    def read_u64(self, pa: _Address) -> int:
        """Return the little-endian u64 at ``pa``, which need not be aligned.

        :raises NoMemory: when a byte of it is not RAM.
        """
        # The walker's inner loop: the usual case first, without a call.
        try:
            if 0 <= pa < self._low_end and not pa & 7:  # type: ignore[operator]
                return self._quads[pa >> 3]  # type: ignore[operator]
        except TypeError:
            pa = _physical(pa)
        offset = self.offset(pa)
        if offset >= 0 and not offset & 7:
            return self._quads[offset >> 3]
        return int.from_bytes(self.read(pa, 8), "little")

    def write_u64(self, pa: _Address, value: int) -> None:
        """Write a little-endian u64 at ``pa``, which need not be aligned.

        :raises NoMemory: when a byte of it is not RAM.
        :raises InputError: when ``value`` does not fit in 64 bits.
        """
        pa = _physical(pa)
        value = index(value)
        if value < 0 or value >> 64:
            raise InputError(f"a word must fit in 64 bits, not be {value:#_x}")
        offset = self.offset(pa)
        if offset >= 0 and not offset & 7:
            self._quads[offset >> 3] = value
        else:
            self.write(pa, value.to_bytes(8, "little"))

    def read(self, pa: _Address, size: int) -> bytes:
        """Return ``size`` bytes from ``pa`` on.

        :raises NoMemory: when one of them is not RAM; it names the first such address.
        """
        return self.buffer[self._slice(_physical(pa), size)].tobytes()

    def write(self, pa: _Address, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` from ``pa`` on, all of it or nothing.

        :raises NoMemory: when one byte would not be in RAM; it names the first such address.
        """
        self.buffer[self._slice(_physical(pa), len(data))] = np.frombuffer(data, np.uint8)

    def view(self, pa: _Address, size: int) -> NDArray[np.uint8]:
        """Return the bytes from ``pa`` on, not a copy: writes to it are writes to RAM.

        :param size: bytes.
        :raises NoMemory: when one of them is not RAM.
        """
        return self.buffer[self._slice(_physical(pa), size)]

    def frame(self, pa: _Address) -> NDArray[np.uint64]:
        """Return the 512 words of a 4 KiB frame, not a copy: writes to it are writes to RAM.

        :param pa: the frame's address, a multiple of 4096.
        :raises NoMemory: when it is not RAM.
        :raises InputError: when ``pa`` is not a frame's address.
        """
        pa = _physical(pa)
        if pa & (_FRAME - 1):
            raise InputError(f"a frame's address must be a multiple of 0x1000, not {pa:#_x}")
        offset = self.offset(pa)
        if offset < 0:
            raise NoMemory(pa)
        return self.words[offset >> 3 : (offset >> 3) + ENTRIES_PER_TABLE]

    def copy(self) -> PhysicalMemory:
        """Return a RAM of its own with the same regions and bytes; zero pages stay uncommitted."""
        other = PhysicalMemory(self.regions)
        step = _COPY_BLOCK // 8
        for start in range(0, len(self.words), step):
            block = self.words[start : start + step]
            if block.any():
                other.words[start : start + step] = block
        return other


def _physical(pa: _Address) -> int:
    if isinstance(pa, VirtAddr):
        raise TypeError(f"physical memory has no virtual addresses such as {pa!r}")
    return index(pa)


def _checked_regions(ram: Iterable[tuple[int, int]]) -> tuple[Region, ...]:
    regions = sorted(Region(index(base), index(size)) for base, size in ram)
    if not regions:
        raise InputError("RAM must have at least one region, not none")
    for region in regions:
        if region.size <= 0:
            raise InputError(f"a region of RAM must not be empty, as {region} is")
        if (region.base | region.size) & (_FRAME - 1):
            raise InputError(f"a region of RAM must be made of whole 4 KiB frames, not be {region}")
        if region.base < 0 or (region.end >> PhysAddr.BITS and region.end != 1 << PhysAddr.BITS):
            raise InputError(f"a region of RAM must lie in 52 bits, unlike {region}")
    for low, high in pairwise(regions):
        if high.base < low.end:
            raise InputError(f"regions of RAM must not overlap, as {low} and {high} do")
    return tuple(regions)


def _merge(regions: tuple[Region, ...]) -> list[Region]:
    merged = [regions[0]]
    for region in regions[1:]:
        last = merged[-1]
        if region.base == last.end:
            merged[-1] = Region(last.base, last.size + region.size)
        else:
            merged.append(region)
    return merged
