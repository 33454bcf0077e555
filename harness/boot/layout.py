"""Where the bootloader puts things in the virtual address space.

Before a page is mapped, `plan` decides on an address for everything, as bootloader 0.9 does: the
kernel's segments say theirs, the configuration may fix the others, and what is left takes free
slots of the level 4 table, from slot 1 upwards: the recursive slot (left out again without its
feature), the BootInfo with the kernel's stack behind it, the map of the physical memory.  For the
lecture's kernel these are slots 1, 2 and 3: its `physical_memory_offset` is 0x180_0000_0000.

Every decision is an `Area` with a name, which serves twice: two that overlap are a `BootError`
that says which and what to change, and the listing of the level 4 table says what each slot is for.

Two things are done better than in 0.9: slots that the configuration fixes are not given away, and
an overlap is found before it corrupts anything.

    >>> Area("the kernel", 0x20_0000, 0x20_3000).slots
    range(0, 1)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from harness.address import format_address, is_canonical, sign_extend
from harness.boot.bootinfo import FRAME_SIZE
from harness.boot.config import BootConfig
from harness.boot.kernel import KernelImage
from harness.errors import BootError

__all__ = ["Area", "VirtualLayout", "plan", "recursive_address"]

SLOT = 1 << 39
"""Bytes that one entry of the level 4 table covers: 512 GiB."""

LARGE_PAGE = 1 << 21
"""Bytes of the pages of the physical memory map."""

VGA_TEXT = 0xB_8000
"""Physical, and identity-mapped virtual, address of the text screen."""

# bootloader 0.9, page_table.rs: the page through which it copies the last page of .data. The
# tables for it stay behind, so that slot 31 of the lecture's level 4 table is not empty.
SCRATCH_PAGE = 0xFEE_EFEE_E000


@dataclass(frozen=True, slots=True)
class Area:
    """A range of virtual addresses with a purpose.

    :param name: what it is, with its article
    :param start: first address
    :param end: address behind the last one
    :param setting: what to change to move it; empty when it cannot be moved
    """

    name: str
    start: int
    end: int
    setting: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({format_address(self.start)} to {format_address(self.end - 1)})"

    @property
    def slots(self) -> range:
        """The entries of the level 4 table that cover it."""
        return range(self.start >> 39 & 0x1FF, ((self.end - 1) >> 39 & 0x1FF) + 1)

    def overlaps(self, other: Area) -> bool:
        """Say whether an address lies in both."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class VirtualLayout:
    """Everything that the bootloader maps, and where.

    :param areas: all of it, by name
    :param boot_info: address of the BootInfo
    :param stack_start: address of the lowest page of stack; the page below is the guard page
    :param stack_end: address behind the highest page of stack
    :param physical_map: where the physical memory is mapped, None without its feature
    :param recursive_index: the recursive slot, None without its feature
    """

    areas: tuple[Area, ...]
    boot_info: int
    stack_start: int
    stack_end: int
    physical_map: Area | None
    recursive_index: int | None

    def names(self, slot: int) -> tuple[str, ...]:
        """Say what a slot of the level 4 table is for."""
        return tuple(dict.fromkeys(a.name for a in self.areas if slot in a.slots))

    def names_at(self, address: int) -> tuple[str, ...]:
        """Say what a virtual address is for."""
        if self.stack_start - FRAME_SIZE <= address < self.stack_start:
            return ("the guard page below the kernel stack",)
        return tuple(dict.fromkeys(a.name for a in self.areas if a.start <= address < a.end))


def recursive_address(index: int) -> int:
    """Give the address of the level 4 table through the recursive slot.

    :param index: the slot, 0 to 511
    """
    return sign_extend(index << 39 | index << 30 | index << 21 | index << 12)


def plan(
    image: KernelImage, config: BootConfig, *, physical_end: int, identity: tuple[Area, ...]
) -> VirtualLayout:
    """Decide on an address for everything.

    :param image: the kernel
    :param config: what it asks for
    :param physical_end: address behind the last region of the memory map
    :param identity: what the bootloader has identity-mapped for itself
    :raises BootError: when two areas overlap, one does not fit at its place, or no slot is free
    """
    kernel = [Area("the kernel", s.first_page, s.end_page, "link address") for s in image.segments]
    # bootloader 0.9 maps the page at the end too (an inclusive range of frames).
    map_size = (physical_end & -LARGE_PAGE) + LARGE_PAGE

    # What has a fixed place comes first, so that the free slots are really free.
    slots = _Slots(kernel)
    stack_size = (1 + config.kernel_stack_size) * FRAME_SIZE
    boot_info = _boot_info_area(slots.fix(config.boot_info_address, FRAME_SIZE))
    stack = _stack_area(slots.fix(config.kernel_stack_address, stack_size), stack_size)
    physical = _map_area(slots.fix(config.physical_memory_offset, map_size), map_size)
    index = config.recursive_index
    if index is not None:
        slots.fix(sign_extend(index << 39), SLOT)
    else:
        index = slots.take(1)
    if boot_info is None:
        boot_info = _boot_info_area(sign_extend(slots.take(1) << 39))
        assert boot_info is not None
    if stack is None:
        stack = _stack_area(boot_info.end, stack_size)
        assert stack is not None
    if config.map_physical_memory and physical is None:
        physical = _map_area(sign_extend(slots.take(-(-map_size // SLOT)) << 39), map_size)

    optional = [physical] if physical else []
    if config.recursive_page_table:
        base = sign_extend(index << 39)
        optional.append(Area("the recursive page table", base, base + SLOT, "recursive slot"))
    areas = (*optional, stack, boot_info, *kernel, *identity)
    _check(areas)
    scratch = Area("the bootloader's scratch page", SCRATCH_PAGE, SCRATCH_PAGE + FRAME_SIZE)
    if _has_mixed_page(image) and not any(area.overlaps(scratch) for area in areas):
        areas = (*areas, scratch)
    return VirtualLayout(
        areas=areas,
        boot_info=boot_info.start,
        stack_start=stack.start + FRAME_SIZE,
        stack_end=stack.end,
        physical_map=physical,
        recursive_index=index if config.recursive_page_table else None,
    )


class _Slots:
    """The free slots of the level 4 table."""

    def __init__(self, areas: list[Area]) -> None:
        self.used = {0}
        for area in areas:
            self.used.update(area.slots)

    def fix(self, address: int | None, size: int) -> int | None:
        # An address that the configuration gave; its slots are not free any more.
        if address is not None:
            self.used.update(Area("", address, address + size).slots)
        return address

    def take(self, count: int) -> int:
        for half in (range(256), range(256, 512)):
            for first in half[: max(0, len(half) - count + 1)]:
                wanted = range(first, first + count)
                if self.used.isdisjoint(wanted):
                    self.used.update(wanted)
                    return first
        raise BootError(
            f"the level 4 table must have {count} free slots in a row: {512 - len(self.used)} of "
            "its 512 slots are free"
        )


def _boot_info_area(start: int | None) -> Area | None:
    if start is None:
        return None
    return Area("the boot info", start, start + FRAME_SIZE, "boot-info-address")


def _stack_area(start: int | None, size: int) -> Area | None:
    if start is None:
        return None
    return Area("the kernel stack", start, start + size, "kernel-stack-address")


def _map_area(start: int | None, size: int) -> Area | None:
    if start is None:
        return None
    return Area("the physical memory map", start, start + size, "physical-memory-offset")


def _has_mixed_page(image: KernelImage) -> bool:
    # A page that begins with bytes of the file and ends with zeros.
    return any(
        s.data and s.memsize > len(s.data) and (s.vaddr + len(s.data)) % FRAME_SIZE
        for s in image.segments
    )


def _check(areas: tuple[Area, ...]) -> None:
    for area in areas:
        last = area.end - 1
        canonical = last < 1 << 64 and is_canonical(area.start) and is_canonical(last)
        if not canonical or (area.start ^ last) >> 47:
            raise BootError(
                f"{area} must lie within one half of the canonical addresses: "
                f"choose another {area.setting}"
            )
    for one, other in itertools.combinations(areas, 2):
        if one.overlaps(other):
            raise BootError(f"{one} must not overlap {other}: choose another {one.setting}")
