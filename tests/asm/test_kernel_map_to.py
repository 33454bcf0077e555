"""The guest's map_to, unmap and update_flags against the host's, operation by operation.

``map-to.asm`` carries out a list of operations; here the list is random, and the host's
OffsetPageTable carries out the same one on a copy of the machine. Results, faults and, in the
end, every entry of every table must be the same (but for A and D, which real accesses set).
"""

from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.engine.run import Ending, Start, vector_name
from harness.entry import PageTableFlags
from harness.frames import BitmapFrameAllocator
from harness.kernels import read_kernel
from harness.machine import Machine
from harness.mapping.errors import (
    AccessFault,
    FlagUpdateError,
    MapToError,
    OutsideWindow,
    UnmapError,
)
from harness.mapping.fixed_offset import FixedOffsetPageTable
from harness.mapping.mapper import Mapper
from harness.mapping.offset import OffsetPageTable
from harness.mapping.space import AddressSpace
from harness.memory import PhysicalMemory
from harness.resources import asm_dir

MAP_TO, UNMAP, UPDATE_FLAGS, WRITE, READ = 1, 2, 3, 4, 5
OK, ALREADY_MAPPED, HUGE_PARENT, NO_FRAME, NOT_MAPPED = range(5)
FAULT = 0xFFFF_FFFF << 32
OFFSET = 0x180_0000_0000
LISTS, LISTS_PA = 0x6000_0000, 0x40_0000
RESULTS = 0x10_0000
FRAMES = range(0x60_0000, 0x80_0000, 0x1000)
TABLES = (0x80_0000, 0xC0_0000)
A_AND_D = np.uint64(0x60)

Operation = tuple[int, int, int, int]


def machine() -> Machine:
    made = read_kernel(asm_dir() / "map-to.asm").build()
    made.map(LISTS, LISTS_PA, 0x20_0000, "W", PageSize.Size2MiB)
    # Frames for tables hold what somebody left there, and so does the frame at 0, which a walk
    # that follows an empty entry would take for a table.
    rng = np.random.default_rng(0)
    for start, size in ((TABLES[0], TABLES[1] - TABLES[0]), (0, 0x1000)):
        made.memory.view(start, size)[:] = rng.integers(0, 256, size, dtype=np.uint8)
    return made


def guest(machine: Machine, operations: list[Operation], tables: tuple[int, int]) -> list[int]:
    program = read_kernel(asm_dir() / "map-to.asm").assemble()
    array = np.array(operations, np.uint64)
    machine.memory.view(LISTS_PA, array.nbytes).view(np.uint64)[:] = array.ravel()
    ended = machine.run(
        program,
        registers={
            "rdi": LISTS,
            "rsi": LISTS + RESULTS,
            "rdx": len(operations),
            "rcx": OFFSET,
            "r8": tables[0],
            "r9": tables[1],
            "rsp": 0x8_0000,
        },
        start=Start(rip=0, cpu=machine.cpu),
    )
    assert ended.ending is Ending.EXIT, ended.detail
    results: NDArray[np.uint64] = machine.memory.view(LISTS_PA + RESULTS, 8 * len(operations)).view(
        np.uint64
    )
    return [int(result) for result in results]


def host(mapper: Mapper, space: AddressSpace, operation: Operation, frames: object) -> int:
    what, va, *rest = operation
    page = Page.containing_address(VirtAddr(va))
    assert isinstance(frames, BitmapFrameAllocator)
    try:
        if what == MAP_TO:
            frame = PhysFrame.from_start_address(PhysAddr(rest[0]))
            mapper.map_to(page, frame, PageTableFlags(rest[1]), frames).flush()
        elif what == UNMAP:
            mapper.unmap(page)[1].flush()
        elif what == UPDATE_FLAGS:
            mapper.update_flags(page, PageTableFlags(rest[1])).flush()
        elif what == WRITE:
            space.write_u64(va, rest[0])
        else:
            return space.read_u64(va)
    except AccessFault as fault:
        return FAULT | (fault.walk.error_code or 0)
    except MapToError.PageAlreadyMapped:
        return ALREADY_MAPPED
    except (
        MapToError.ParentEntryHugePage,
        UnmapError.ParentEntryHugePage,
        FlagUpdateError.ParentEntryHugePage,
    ):
        return HUGE_PARENT
    except MapToError.FrameAllocationFailed:
        return NO_FRAME
    except (UnmapError.PageNotMapped, FlagUpdateError.PageNotMapped):
        return NOT_MAPPED
    return OK


def random_operations(rng: Random, count: int) -> list[Operation]:
    pages = [
        slot << 39 | third << 30 | second << 21 | first << 12
        for slot in (0, 2, 3, 77, 255)
        for third in (0, 1, 300)
        for second in (3, 511)
        for first in (0, 1, 511)
    ]
    pages += [page | 0xFFFF << 48 | 1 << 47 for page in pages]
    pages = rng.sample(pages, 25)
    found = []
    for _ in range(count):
        page = rng.choice(pages)
        if rng.random() < 0.05:
            page = OFFSET + rng.choice((0, 0x20_0000, 0x20_3000))
            what = rng.choice((MAP_TO, UNMAP, UPDATE_FLAGS))
        else:
            what = rng.choices((MAP_TO, UNMAP, UPDATE_FLAGS, WRITE, READ), (5, 2, 2, 4, 4))[0]
        # Present, and writable, user, no-execute, global or not.
        flags = 1 | rng.choice((0, 2, 2)) | rng.choice((0, 4)) | rng.choice((0, 1 << 63, 1 << 8))
        if what == MAP_TO:
            found.append((what, page, rng.choice(FRAMES), flags))
        elif what == UPDATE_FLAGS:
            found.append((what, page, 0, flags))
        else:
            found.append((what, page, rng.getrandbits(64), 0))
    return found


def tables(memory: PhysicalMemory, root: int, frames: tuple[int, int]) -> NDArray[np.uint64]:
    words = memory.view(frames[0], frames[1] - frames[0]).view(np.uint64)
    everything = np.concatenate([memory.frame(root), words, memory.view(0, 0x2_0000).view("u8")])
    return np.asarray(everything & ~A_AND_D, np.uint64)


@pytest.mark.parametrize("seed", range(5))
def test_the_guest_does_what_the_offset_page_table_does(seed: int) -> None:
    operations = random_operations(Random(seed), 2_000)
    with machine() as ours, machine() as twin:
        got = guest(ours, operations, TABLES)
        space = AddressSpace(twin.memory, twin.cpu)
        mapper = OffsetPageTable(space, OFFSET)
        frames = BitmapFrameAllocator([TABLES])
        want = [host(mapper, space, operation, frames) for operation in operations]
        for operation, ours_says, twin_says in zip(operations, got, want, strict=True):
            assert ours_says == twin_says, (operation, hex(ours_says), hex(twin_says))
        # Every kind of result there is, and faults of reads, writes and read-only pages.
        assert {OK, ALREADY_MAPPED, HUGE_PARENT, NOT_MAPPED, FAULT, FAULT | 2, FAULT | 3} <= set(
            got
        )
        assert (
            tables(ours.memory, ours.cpu.root, TABLES) == tables(twin.memory, twin.cpu.root, TABLES)
        ).all()
        data = [m.memory.view(FRAMES.start, FRAMES.stop - FRAMES.start) for m in (ours, twin)]
        assert data[0].any()
        assert (data[0] == data[1]).all()


def test_running_out_of_frames_is_the_same_error_and_maps_nothing() -> None:
    for count in range(4):
        frames = (TABLES[0], TABLES[0] + 0x1000 * count)
        operations = [(MAP_TO, 0x4444_4444_4000, FRAMES[0], 3), (READ, 0x4444_4444_4000, 0, 0)]
        with machine() as ours:
            got = guest(ours, operations, frames)
            assert got == ([NO_FRAME, FAULT] if count < 3 else [OK, 0])


def test_the_cpu_agrees_with_the_walker_after_random_operations() -> None:
    operations = random_operations(Random(50), 1_500)
    with machine() as ours:
        guest(ours, operations, TABLES)
        for va in {operation[1] for operation in operations}:
            for kind in ("read", "write", "fetch"):
                seen, says = ours.probe(va, kind), ours.walk(va, kind)
                assert (seen.outcome, seen.pa) == (says.outcome, says.pa)


@pytest.mark.parametrize("seed", range(12))
def test_the_fixed_offset_kernel_does_what_its_twin_does(seed: int) -> None:
    kernel = read_kernel(asm_dir() / "fixed-offset.asm")
    rng = Random(seed)
    offset, free = 10 << 40, (0x1_0000, 0x1_0000 + 0x1000 * rng.choice((1, 2, 3, 16)))
    # Where three, two, one or none of the tables are missing, or the page is mapped.
    page = rng.choice(
        [
            rng.randrange(100, 256) << 39 | rng.getrandbits(27) << 12,
            0xFFFF << 48 | 1 << 47 | rng.getrandbits(35) << 12,
            rng.randrange(1, 512) << 30 | rng.getrandbits(18) << 12,
            rng.randrange(1, 512) << 21 | rng.getrandbits(9) << 12,
            0x18_0000 | rng.getrandbits(3) << 12,
            0x10_0000,
        ]
    )
    frame = rng.randrange(0x20_0000, 0xFF_F000, 0x1000)
    with kernel.build() as ours, kernel.build() as twin:
        mark = rng.getrandbits(64)
        ended = ours.run(
            kernel.assemble(),
            registers={
                "rdi": page,
                "rsi": frame,
                "rdx": 3,
                "rcx": offset,
                "r12": mark,
                "r8": free[0],
                "r9": free[1],
                "rsp": 0x8_0000,
            },
            start=Start(rip=0, cpu=ours.cpu),
        )
        assert ended.ending is Ending.EXIT, ended.detail
        space = AddressSpace(twin.memory, twin.cpu)
        mapper = FixedOffsetPageTable(space, offset)
        frames = BitmapFrameAllocator([free])
        assert ended.registers["rax"] == host(mapper, space, (MAP_TO, page, frame, 3), frames)
        assert ended.registers["r10"] == offset + free[0]
        if ended.registers["rax"] == OK:
            assert ended.registers["rbx"] == ours.memory.read_u64(frame) == mark
            assert ended.registers["r11"] == offset + frame
        if ended.registers["rax"] == NO_FRAME:
            return  # the guest leaves empty tables behind, as the crate does; the host does not
        size = ended.registers["r8"] - free[0]
        for start, length in ((0x1000, 0x7000), (free[0], size)):
            got, want = (
                machine.memory.view(start, length).view(np.uint64) & ~A_AND_D
                for machine in (ours, twin)
            )
            assert (got == want).all()


def test_a_table_outside_the_window_cannot_be_shown() -> None:
    kernel = read_kernel(asm_dir() / "fixed-offset.asm")
    free = (0x40_0000, 0x50_0000)  # the window has a level 1 table for the first 2 MiB alone
    with kernel.build() as ours:
        ended = ours.run(
            kernel.assemble(),
            registers={
                "rdi": 0x4444_4444_4000,
                "rsi": 0x30_0000,
                "rdx": 3,
                "rcx": 10 << 40,
                "r8": free[0],
                "r9": free[1],
                "rsp": 0x8_0000,
            },
            start=Start(rip=0, cpu=ours.cpu),
        )
        space = AddressSpace(ours.memory, ours.cpu)
        with pytest.raises(OutsideWindow):
            FixedOffsetPageTable(space, 10 << 40).map_to(
                Page.containing_address(VirtAddr(0x4444_4444_4000)),
                PhysFrame.from_start_address(PhysAddr(0x30_0000)),
                PageTableFlags.PRESENT,
                BitmapFrameAllocator([free]),
            )
    # The kernel gives up with ud2, for which it has no handler.
    assert [vector_name(event.vector) for event in ended.events][:2] == ["#PF", "#UD"]
    assert ended.ending is Ending.SHUTDOWN
