"""Which virtual address everything gets, and what may not be in one place."""

from __future__ import annotations

import pytest

from harness.boot.config import BootConfig
from harness.boot.firmware import Firmware
from harness.boot.kernel import KernelImage, Segment, flat_kernel
from harness.boot.layout import Area, VirtualLayout, plan, recursive_address
from harness.boot.loader import load
from harness.errors import BootError

GIB = 1 << 30
SLOT = 1 << 39
KERNEL = flat_kernel(bytes(0x100), name="k")


def planned(
    config: BootConfig, image: KernelImage = KERNEL, physical_end: int = 4 * GIB
) -> VirtualLayout:
    return plan(image, config, physical_end=physical_end, identity=())


def refusal(config: BootConfig, image: KernelImage = KERNEL) -> str:
    with pytest.raises(BootError) as refused:
        load(image, config)
    return str(refused.value)


def test_the_slots_of_bootloader_0_9() -> None:
    layout = planned(BootConfig(map_physical_memory=True, recursive_page_table=True))
    assert layout.recursive_index == 1
    assert layout.boot_info == 2 * SLOT
    assert (layout.stack_start, layout.stack_end) == (2 * SLOT + 0x2000, 2 * SLOT + 0x20_2000)
    assert layout.physical_map is not None
    # One page more than the memory: the range of frames is inclusive.
    assert layout.physical_map.start == 3 * SLOT
    assert layout.physical_map.end == 3 * SLOT + 4 * GIB + (2 << 20)


def test_without_features_the_slots_stay_free() -> None:
    layout = planned(BootConfig())
    assert layout.recursive_index is None
    assert layout.physical_map is None
    assert layout.boot_info == 2 * SLOT
    assert layout.names(1) == layout.names(3) == ()


def test_a_kernels_own_slots_are_not_given_away() -> None:
    image = flat_kernel(b"\xf4", name="k", address=SLOT + 0x20_0000)
    layout = planned(BootConfig(recursive_page_table=True), image)
    assert layout.recursive_index == 2
    assert layout.names(1) == ("the kernel",)


def test_configured_slots_are_not_given_away() -> None:
    layout = planned(
        BootConfig(
            map_physical_memory=True,
            recursive_page_table=True,
            physical_memory_offset=SLOT,
            kernel_stack_address=2 * SLOT,
            boot_info_address=3 * SLOT,
        )
    )
    assert layout.recursive_index == 4
    assert [layout.names(slot) for slot in range(1, 5)] == [
        ("the physical memory map",),
        ("the kernel stack",),
        ("the boot info",),
        ("the recursive page table",),
    ]


def test_a_large_memory_takes_slots_in_a_row_within_one_half() -> None:
    image = flat_kernel(b"\xf4", name="k", address=4 * SLOT)
    layout = planned(BootConfig(map_physical_memory=True), image, physical_end=2 * SLOT)
    assert layout.physical_map is not None
    assert layout.physical_map.slots == range(5, 8)
    layout = planned(BootConfig(map_physical_memory=True), physical_end=253 * SLOT - 1)
    assert layout.physical_map is not None
    assert layout.physical_map.start == 3 * SLOT
    layout = planned(BootConfig(map_physical_memory=True), physical_end=255 * SLOT - 1)
    assert layout.physical_map is not None
    assert layout.physical_map.start == 0xFFFF_8000_0000_0000
    with pytest.raises(BootError) as refused:
        planned(BootConfig(map_physical_memory=True), physical_end=257 * SLOT)
    assert str(refused.value) == (
        "the level 4 table must have 258 free slots in a row: 509 of its 512 slots are free"
    )


def test_the_scratch_page_is_left_out_when_something_is_there() -> None:
    mixed = KernelImage(
        "k", bytes(8), 0x20_0000, (Segment(0x20_0000, bytes(8), 0x10, False, executable=True),)
    )
    assert planned(BootConfig(), mixed).names(31) == ("the bootloader's scratch page",)
    assert planned(BootConfig()).names(31) == ()
    taken = BootConfig(boot_info_address=0xFEE_EFEE_E000)
    assert planned(taken, mixed).names(31) == ("the kernel stack", "the boot info")
    state = load(mixed, BootConfig(map_physical_memory=True, physical_memory_offset=31 * SLOT))
    assert state.layout.names(31) == ("the physical memory map", "the bootloader's scratch page")


@pytest.mark.parametrize(
    ("index", "address"), [(511, 0xFFFF_FFFF_FFFF_F000), (1, 0x80_4020_1000), (0, 0)]
)
def test_recursive_addresses(index: int, address: int) -> None:
    assert recursive_address(index) == address


def test_areas() -> None:
    area = Area("x", 0xFFFF_FFFF_FFE0_0000, 1 << 64)
    assert area.slots == range(511, 512)
    assert str(area) == "x (0xffff_ffff_ffe0_0000 to 0xffff_ffff_ffff_ffff)"
    assert Area("x", 0, 8).overlaps(Area("y", 7, 9))
    assert not Area("x", 0, 8).overlaps(Area("y", 8, 9))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            BootConfig(map_physical_memory=True, physical_memory_offset=0),
            "the physical memory map (0x0 to 0x1_001f_ffff) must not overlap the kernel "
            "(0x20_0000 to 0x20_0fff): choose another physical-memory-offset",
        ),
        (
            BootConfig(
                map_physical_memory=True,
                physical_memory_offset=GIB,
                kernel_stack_address=2 * GIB,
                kernel_stack_size=4,
            ),
            "the physical memory map (0x4000_0000 to 0x1_401f_ffff) must not overlap the kernel "
            "stack (0x8000_0000 to 0x8000_4fff): choose another physical-memory-offset",
        ),
        (
            BootConfig(
                map_physical_memory=True,
                physical_memory_offset=GIB,
                boot_info_address=5 * GIB,
                kernel_stack_address=SLOT,
            ),
            "the physical memory map (0x4000_0000 to 0x1_401f_ffff) must not overlap the boot info "
            "(0x1_4000_0000 to 0x1_4000_0fff): choose another physical-memory-offset",
        ),
        (
            BootConfig(recursive_page_table=True, recursive_index=0),
            "the recursive page table (0x0 to 0x7f_ffff_ffff) must not overlap the kernel "
            "(0x20_0000 to 0x20_0fff): choose another recursive slot",
        ),
        (
            BootConfig(
                map_physical_memory=True,
                recursive_page_table=True,
                physical_memory_offset=7 * SLOT,
                recursive_index=7,
            ),
            "the physical memory map (0x380_0000_0000 to 0x381_001f_ffff) must not overlap the "
            "recursive page table (0x380_0000_0000 to 0x3ff_ffff_ffff): choose another "
            "physical-memory-offset",
        ),
        (
            BootConfig(kernel_stack_address=0x1F_F000, kernel_stack_size=2),
            "the kernel stack (0x1f_f000 to 0x20_1fff) must not overlap the kernel "
            "(0x20_0000 to 0x20_0fff): choose another kernel-stack-address",
        ),
        (
            BootConfig(boot_info_address=0x20_0000),
            "the boot info (0x20_0000 to 0x20_0fff) must not overlap the kernel "
            "(0x20_0000 to 0x20_0fff): choose another boot-info-address",
        ),
        (
            BootConfig(boot_info_address=0x5000, kernel_stack_address=GIB),
            "the boot info (0x5000 to 0x5fff) must not overlap the bootloader "
            "(0x1000 to 0x1_4fff): choose another boot-info-address",
        ),
        (
            BootConfig(kernel_stack_address=0x7FFF_FFFF_F000, kernel_stack_size=1),
            "the kernel stack (0x7fff_ffff_f000 to 0x8000_0000_0fff) must lie within one half of "
            "the canonical addresses: choose another kernel-stack-address",
        ),
        (
            BootConfig(map_physical_memory=True, physical_memory_offset=(1 << 64) - GIB),
            "the physical memory map (0xffff_ffff_c000_0000 to 0x1_0000_0000_c01f_ffff) must lie "
            "within one half of the canonical addresses: choose another physical-memory-offset",
        ),
    ],
)
def test_what_may_not_be_in_one_place(config: BootConfig, message: str) -> None:
    assert refusal(config) == message


def test_a_kernel_may_not_lie_where_the_bootloader_is() -> None:
    image = flat_kernel(b"\xf4", name="k", address=0x7000)
    assert refusal(BootConfig(), image) == (
        "the kernel (0x7000 to 0x7fff) must not overlap the bootloader (0x1000 to 0x1_4fff): "
        "choose another link address"
    )
    image = flat_kernel(b"\xf4", name="k", address=0xB_8000)
    assert "must not overlap the text screen (0xb_8000 to 0xb_8fff)" in refusal(BootConfig(), image)


def test_a_machine_decides_how_large_the_map_is() -> None:
    config = BootConfig(map_physical_memory=True)
    layout = load(KERNEL, config, Firmware.pc(8 * GIB)).layout
    assert layout.physical_map is not None
    assert layout.physical_map.end - layout.physical_map.start == 9 * GIB + (2 << 20)
