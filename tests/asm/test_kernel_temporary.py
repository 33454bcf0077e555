"""The guest's temporary mappings against the host's, over random frames."""

from random import Random

import numpy as np
import pytest

from harness.address import PhysAddr, PhysFrame
from harness.cpu import CpuState
from harness.engine.run import Ending, Start
from harness.kernels import read_kernel
from harness.mapping.errors import NoFreeSlot
from harness.mapping.space import AddressSpace
from harness.mapping.temporary import TemporaryMapping
from harness.resources import asm_dir

KIB = 1024
LEVEL_4, LEVEL_3, LEVEL_2, LEVEL_1 = (at * KIB for at in (4, 16, 24, 32))


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_frames_through_one_page(seed: int) -> None:
    kernel = read_kernel(asm_dir() / "temporary-mapping.asm")
    program = kernel.assemble()
    rng = Random(seed)
    frames = [rng.randrange(0x20_0000, 0x100_0000, 0x1000) for _ in range(1000)]
    with kernel.build() as machine:
        marks = {frame: rng.getrandbits(64) for frame in frames}
        for frame, mark in marks.items():
            machine.memory.write_u64(frame, mark)
        machine.load(program)
        machine.memory.write_u64(program.labels["count"], len(frames))
        machine.memory.view(program.labels["frames"], 8000).view(np.uint64)[:] = frames
        ended = machine.run(program.base, start=Start(rip=0, cpu=None))
        assert ended.ending is Ending.EXIT, ended.detail
        assert ended.registers["rbx"] == len(frames)
        words = machine.memory.view(program.labels["words"], 8000).view(np.uint64)
        pages = machine.memory.view(program.labels["pages"], 8000).view(np.uint64)
        assert words.tolist() == [marks[frame] for frame in frames]

        # The host's process, in the tables that the guest built, takes the same pages.
        space = AddressSpace(machine.memory, CpuState(cr3=LEVEL_4))
        slots = TemporaryMapping(space, LEVEL_1)
        assert slots.free_slots == 512 - 1 - 8
        for frame, page, word in zip(frames, pages.tolist(), words.tolist(), strict=True):
            with slots.showing(PhysFrame.from_start_address(PhysAddr(frame))) as at:
                assert int(at) == page
                assert space.read_u64(int(at)) == word


def test_the_lectures_two_mappings_are_the_hosts_too() -> None:
    kernel = read_kernel(asm_dir() / "temporary-mapping.asm")
    result = kernel.run()
    assert result.passed, result.failures
    memory = result.machine.memory
    space = AddressSpace(memory, CpuState(cr3=LEVEL_4))
    space.write_u64(LEVEL_1 + 0 * 8, LEVEL_2 | 3)
    space.write_u64(LEVEL_1 + 9 * 8, LEVEL_4 | 3)
    assert space.read_u64(0 * KIB) == result.exit.registers["r8"]
    assert space.read_u64(36 * KIB) == result.exit.registers["r9"]


def test_host_and_guest_lend_511_slots_in_the_same_order() -> None:
    result = read_kernel(asm_dir() / "temporary-limit.asm").run()
    assert result.passed, result.failures
    space = AddressSpace(result.machine.memory, CpuState(cr3=LEVEL_4))
    slots = TemporaryMapping(space, LEVEL_1)
    assert slots.free_slots == 0
    with pytest.raises(NoFreeSlot):
        slots.map(PhysFrame.from_start_address(PhysAddr(0x40_0000)))
    # Page by page what the guest mapped is what the host gets for the same frames.
    guest = [space.read_u64(LEVEL_1 + 8 * slot) & ~0xFFF for slot in range(512)]
    for slot in range(512):
        if slot != 8:
            slots.unmap(slot * 0x1000)
    assert slots.free_slots == 511
    pages = [slots.map(PhysFrame.from_start_address(PhysAddr(n << 12))) for n in range(1, 512)]
    assert [int(page) >> 12 for page in pages] == [n for n in range(512) if n != 8]
    in_order = [0x40_0000 + 0x1000 * n for n in range(511)]
    in_order[0x63] = 0x40_0000 + 0x1000 * 511  # given back, and lent for the next frame
    assert [frame for slot, frame in enumerate(guest) if slot != 8] == in_order
    with pytest.raises(NoFreeSlot):
        slots.map(PhysFrame.from_start_address(PhysAddr(0x40_0000)))
