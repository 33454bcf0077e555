"""Physical memory before the kernel: what is RAM, what the firmware says of it, who gets frames.

`Firmware.pc` is a PC with so much RAM, with the memory map that QEMU's BIOS reports for it (its
e820 table, as bootloader 0.9 rounds it to frames).  Two sources of frames can stand on it:

- `BootloaderFrames` hands out frames as bootloader 0.9's own allocator does, frame for frame: it
  enlarges a region of the wanted type when the frame behind it is usable, and else begins a new
  region in the first usable one (in the last one for page tables).  Its memory map afterwards is
  the one that the kernel is told.
- `PrintoutFrames` takes the frames of a memory map that somebody printed: page tables only from
  its PageTable regions, and so on, so that a machine can be rebuilt from its BootInfo.

Either raises a `BootError` when it has no frame left.

    >>> frames = BootloaderFrames(Firmware.pc(128 << 20).memory_map)
    >>> frames.mark(FrameRange(0, 0x1000), MemoryRegionType.FrameZero)
    >>> hex(frames.allocate(MemoryRegionType.KernelStack))
    '0x1000'
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from harness.boot.bootinfo import (
    FRAME_SIZE,
    MAX_REGIONS,
    FrameRange,
    MemoryRegion,
    MemoryRegionType,
)
from harness.errors import BootError

__all__ = [
    "BootloaderFrames",
    "Firmware",
    "FrameSource",
    "PrintoutFrames",
    "ram_of",
]

_MIB = 1 << 20
_SMALLEST, _LARGEST = 2 * _MIB, 512 << 30
# QEMU's pc machine: RAM from 3.5 GiB up is split at 3 GiB.
_SPLIT_FROM, _SPLIT_AT = 0xE000_0000, 0xC000_0000
_FOUR_GIB = 1 << 32
_Type = MemoryRegionType


@dataclass(frozen=True, slots=True)
class Firmware:
    """What the machine has before the bootloader runs.

    :param ram: regions of RAM, as (base, size) in bytes
    :param memory_map: what the firmware reports, sorted, without overlaps
    :raises BootError: when the memory map is not sorted or overlaps
    """

    ram: tuple[tuple[int, int], ...]
    memory_map: tuple[MemoryRegion, ...]

    def __post_init__(self) -> None:
        _check_sorted(self.memory_map)

    @classmethod
    def pc(cls, memory: int, *, amd_hole: bool = False) -> Self:
        """Describe a PC as QEMU's BIOS does.

        The 128 KiB at the top of RAM are the firmware's, and so are 4 KiB below and 64 KiB above
        the VGA memory.  Of 3.5 GiB and more, all beyond 3 GiB lies at 4 GiB.

        :param memory: bytes of RAM, a multiple of 4 KiB, from 2 MiB to 512 GiB
        :param amd_hole: reserve 12 GiB below 1 TiB, as QEMU since 7.1 does for AMD CPUs; the
            lecture's machine has it
        :raises BootError: when the size is not one of these
        """
        if memory % FRAME_SIZE or not _SMALLEST <= memory <= _LARGEST:
            raise BootError(
                f"the memory must be a multiple of 4 KiB from 2 MiB to 512 GiB, not {memory} bytes"
            )
        low = _SPLIT_AT if memory >= _SPLIT_FROM else memory
        high = memory - low
        ranges = [
            (0, 0x9_F000, _Type.Usable),
            (0x9_F000, 0xA_0000, _Type.Reserved),
            (0xF_0000, 0x10_0000, _Type.Reserved),
            (0x10_0000, low - 0x2_0000, _Type.Usable),
            (low - 0x2_0000, low, _Type.Reserved),
            (0xFFFC_0000, _FOUR_GIB, _Type.Reserved),
        ]
        ram = [(0, low)]
        if high:
            ranges.append((_FOUR_GIB, _FOUR_GIB + high, _Type.Usable))
            ram.append((_FOUR_GIB, high))
        if amd_hole:
            ranges.append((0xFD_0000_0000, 0x100_0000_0000, _Type.Reserved))
        return cls(tuple(ram), tuple(MemoryRegion(FrameRange(a, b), t) for a, b, t in ranges))

    @property
    def end(self) -> int:
        """Address behind the last region, to which bootloader 0.9 maps physical memory."""
        return max(region.end for region in self.memory_map)


def ram_of(memory_map: Iterable[MemoryRegion]) -> tuple[tuple[int, int], ...]:
    """Guess which part of a printed memory map is RAM, as regions of (base, size).

    A memory map does not say so of reserved regions.  They count as RAM where they follow other
    regions without a gap, as the firmware's share of a bank does; those that stand alone are
    devices.  Below 1 MiB all is RAM, the VGA memory included.

    :raises BootError: when the map is not sorted or overlaps, or has no RAM
    """
    regions = tuple(memory_map)
    _check_sorted(regions)
    ram: list[tuple[int, int]] = []
    for region in regions:
        follows = bool(ram) and ram[-1][1] == region.start
        if region.region_type in (_Type.Reserved, _Type.BadMemory) and not follows:
            continue
        if follows:
            ram[-1] = (ram[-1][0], region.end)
        else:
            ram.append((region.start, region.end))
    above = [(start, end) for start, end in ram if end > _MIB]
    if not above:
        raise BootError("the memory map must have RAM above 1 MiB: it has none")
    if above[0][0] <= _MIB:
        above[0] = (0, above[0][1])
    else:
        above.insert(0, (0, _MIB))
    return tuple((start, end - start) for start, end in above)


class FrameSource(Protocol):
    """Gives frames to the bootloader, by what they are for."""

    def allocate(self, region_type: MemoryRegionType) -> int:
        """Give the address of a frame that nobody has.

        :raises BootError: when there is none
        """

    def available(self, region_type: MemoryRegionType) -> int:
        """Count the frames that `allocate` can still give for a purpose."""

    def kernel_file(self, needed: Sequence[int], total: int) -> dict[int, int]:
        """Give frames for the pages of the kernel's file.

        :param needed: numbers of the pages that segments use
        :param total: how many pages the file has
        :returns: the frame's address for each page that gets one, all needed ones among them
        :raises BootError: when there are not so many
        """

    @property
    def memory_map(self) -> tuple[MemoryRegion, ...]:
        """The memory map with what has been given so far."""


class BootloaderFrames:
    """Hand out frames, and keep the memory map, as bootloader 0.9 does.

    :param memory_map: what the firmware reports
    """

    KERNEL_FILE = 0x40_0000
    """Where the bootloader's earlier stages leave the kernel's file."""

    def __init__(self, memory_map: Iterable[MemoryRegion]) -> None:
        self._regions = list(memory_map)

    @property
    def memory_map(self) -> tuple[MemoryRegion, ...]:
        """The memory map with what has been given so far."""
        return tuple(self._regions)

    def available(self, region_type: MemoryRegionType) -> int:
        """Count the usable frames: any of them may be given for any purpose."""
        return sum(len(r.range) for r in self._regions if r.region_type == _Type.Usable)

    def allocate(self, region_type: MemoryRegionType) -> int:
        """Give the address of a usable frame.

        :param region_type: what the frame is for
        :raises BootError: when there is no usable frame, or no room for one more region
        """
        for index, (region, behind) in enumerate(itertools.pairwise(self._regions)):
            if (
                region.region_type == region_type
                and behind.region_type == _Type.Usable
                and behind.start == region.end
            ):
                frame = behind.start
                self._regions[index] = _region(region.start, frame + FRAME_SIZE, region_type)
                self._regions[index + 1 : index + 2] = _nonempty(
                    _region(frame + FRAME_SIZE, behind.end, _Type.Usable)
                )
                return frame
        usable = [r for r in self._regions if r.region_type == _Type.Usable]
        if not usable:
            raise BootError(
                f"the memory must have a free frame for the {region_type.name} region: it is used "
                "up; give the machine more"
            )
        frame = usable[-1 if region_type == _Type.PageTable else 0].start
        self.mark(FrameRange(frame, frame + FRAME_SIZE), region_type)
        return frame

    def kernel_file(self, needed: Sequence[int], total: int) -> dict[int, int]:
        """Give all pages of the file the frames from `KERNEL_FILE` up, as `FrameSource` says."""
        area = FrameRange(self.KERNEL_FILE, self.KERNEL_FILE + total * FRAME_SIZE)
        self.mark(area, _Type.Kernel)
        return dict(enumerate(area.frames()))

    def mark(self, area: FrameRange, region_type: MemoryRegionType) -> None:
        """Take a certain range of frames out of a usable region.

        :raises BootError: when it is not part of one usable region, or there is no room for one
            more region
        """
        for index, region in enumerate(self._regions):
            if (
                region.region_type == _Type.Usable
                and region.start <= area.start
                and area.end <= region.end
            ):
                self._regions[index : index + 1] = _nonempty(
                    _region(region.start, area.start, _Type.Usable),
                    MemoryRegion(area, region_type),
                    _region(area.end, region.end, _Type.Usable),
                )
                break
        else:
            raise BootError(
                f"the memory must have usable frames at {area.start:#_x} to {area.end - 1:#_x} "
                f"for the {region_type.name} region: it has not; give the machine more"
            )
        if len(self._regions) > MAX_REGIONS:
            raise BootError(
                f"the memory map must have at most {MAX_REGIONS} regions: the memory is too "
                "fragmented"
            )


class PrintoutFrames:
    """Hand out the frames of a memory map by the types that it gives them.

    :param memory_map: what a kernel printed
    """

    def __init__(self, memory_map: Iterable[MemoryRegion]) -> None:
        self._map = tuple(memory_map)
        self._frames: dict[MemoryRegionType, Iterator[int]] = {}
        self._left: dict[MemoryRegionType, int] = {}
        for region_type in _Type:
            # The kernel's file lies in the largest Kernel region, its .bss in the others.
            regions = [r for r in self._map if r.region_type == region_type]
            if region_type == _Type.Kernel:
                regions.sort(key=lambda r: -len(r.range))
            self._frames[region_type] = (f for r in regions for f in r.range.frames())
            self._left[region_type] = sum(len(r.range) for r in regions)

    @property
    def memory_map(self) -> tuple[MemoryRegion, ...]:
        """The memory map as it was printed."""
        return self._map

    def available(self, region_type: MemoryRegionType) -> int:
        """Count the frames that the regions of a type have left."""
        return self._left[region_type]

    def allocate(self, region_type: MemoryRegionType) -> int:
        """Give the address of the next frame in the regions of a type.

        :raises BootError: when they have none left
        """
        frame = next(self._frames[region_type], None)
        if frame is None:
            total = sum(len(r.range) for r in self._map if r.region_type == region_type)
            raise BootError(
                f"the BootInfo must have more frames in its {region_type.name} regions for this "
                f"kernel: all {total} are used up"
            )
        self._left[region_type] -= 1
        return frame

    def kernel_file(self, needed: Sequence[int], total: int) -> dict[int, int]:
        """Give the needed pages frames of the Kernel regions, as `FrameSource` says."""
        return {page: self.allocate(_Type.Kernel) for page in needed}


def _check_sorted(memory_map: tuple[MemoryRegion, ...]) -> None:
    for before, after in itertools.pairwise(r for r in memory_map if len(r.range)):
        if after.start < before.end:
            raise BootError(
                f"the regions of a memory map must be sorted and not overlap: {after.range!s} "
                f"comes after {before.range!s}"
            )


def _region(start: int, end: int, region_type: MemoryRegionType) -> MemoryRegion:
    return MemoryRegion(FrameRange(start, end), region_type)


def _nonempty(*regions: MemoryRegion) -> list[MemoryRegion]:
    return [region for region in regions if len(region.range)]
