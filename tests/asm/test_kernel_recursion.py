"""The recursion kernel at random slots and addresses, and what a recursive slot is and costs."""

from random import Random

import pytest

from harness.address import VirtAddr, sign_extend
from harness.engine.run import Ending, Start
from harness.kernels import read_kernel
from harness.machine import Machine
from harness.mapping.recursive_address import (
    entry_address,
    octal,
    recursive_region,
    shown_by,
    table_address,
)
from harness.resources import asm_dir
from harness.walker import Range, RangeKind, ranges

GIB = 1 << 30
LEVELS = (1, 2, 3, 4)


@pytest.mark.parametrize("seed", range(20))
def test_every_level_is_read_and_written_through_any_slot(seed: int) -> None:
    rng = Random(seed)
    slot = (511, 510, 256, 255, 1, *rng.sample(range(2, 510), 15))[seed]
    top = rng.choice([i for i in range(1, 510) if not {i, i + 1} & {slot, 255}])
    lower = [rng.randrange(511) for _ in range(3)]
    target = top
    for index in lower:
        target = target << 9 | index
    target = sign_extend(target << 12, 4)
    kernel = read_kernel(asm_dir() / "recursion-levels.asm")
    program = kernel.assemble()
    with Machine(0x100_0000, identity=0) as machine:
        machine.map(0x7_F000, 0x7_F000, 0x1000)
        machine.map(0x10_0000, 0x10_0000, 0x2000)
        frames = rng.sample(range(0x20_0000, 0x100_0000, 0x1000), 5)
        neighbours = [target, *(target + (1 << 3 + 9 * level) for level in LEVELS)]
        for page, frame in zip(neighbours, frames, strict=True):
            machine.map(page, frame, 0x1000)
        machine.map_recursive(slot)
        before = machine.walk(target, "write").steps
        ended = machine.run(
            program,
            registers={"rdi": target, "rcx": slot, "rsp": 0x8_0000},
            start=Start(rip=0, cpu=machine.cpu),
        )
        assert ended.ending is Ending.HALT, ended.detail
        found = ended.registers
        assert [found[f"r{n}"] for n in range(8, 12)] == [0x11, 0x12, 0x13, 0x14]
        assert found["rbx"] == 4
        # The arithmetic is the host's, and the entries read are those of the walk.
        assert [found[f"r{n}"] for n in range(12, 16)] == [
            int(entry_address(target, level, slot)) for level in LEVELS
        ]
        read = [machine.memory.read_u64(program.labels["entries"] + 8 * n) for n in range(4)]
        assert [raw & ~0x60 for raw in read] == [step.raw & ~0x60 for step in reversed(before)]
        after = machine.walk(target, "write").steps
        assert [step.raw & ~0x60 for step in after] == [step.raw & ~0x60 for step in before]
        assert [machine.memory.read_u64(frame) for frame in frames] == [
            0x10,
            0x11,
            0x12,
            0x13,
            0x14,
        ]


@pytest.mark.parametrize(
    ("slot", "level_4", "level_1", "last", "digits"),
    [
        (
            511,
            0xFFFF_FFFF_FFFF_F000,
            0xFFFF_FF80_0000_0000,
            0xFFFF_FFFF_FFFF_FFFF,
            "0o_177777_777_777_777_777_0000",
        ),
        (
            256,
            0xFFFF_8040_2010_0000,
            0xFFFF_8000_0000_0000,
            0xFFFF_807F_FFFF_FFFF,
            "0o_177777_400_400_400_400_0000",
        ),
        (
            255,
            0x0000_7FBF_DFEF_F000,
            0x0000_7F80_0000_0000,
            0x0000_7FFF_FFFF_FFFF,
            "0o_000000_377_377_377_377_0000",
        ),
    ],
)
def test_the_index_and_the_sign_extension_of_a_slot(
    slot: int, level_4: int, level_1: int, last: int, digits: str
) -> None:
    table = table_address(0, 4, slot)
    assert int(table) == level_4
    assert table.p4_index == table.p3_index == table.p2_index == table.p1_index == slot
    assert octal(table) == digits
    assert recursive_region(slot) == (VirtAddr(level_1), VirtAddr(last))
    assert VirtAddr(level_1).p4_index == VirtAddr(last).p4_index == slot
    shown = shown_by(table, slot)
    assert shown is not None
    assert shown.level == 4
    # The CPU finds the level 4 table there; without the sign extension it raises #GP.
    with Machine(0x40_0000) as machine:
        machine.map_recursive(slot)
        seen = machine.probe(level_4)
        assert (str(seen.outcome), seen.pa) == ("mapped", machine.cpu.root)
        bare = level_4 & (1 << 48) - 1
        refused = slot >= 256
        assert str(machine.probe(bare).outcome) == ("general-protection" if refused else "mapped")


@pytest.mark.parametrize("slot", [511, 256, 255, 300])
def test_a_recursive_slot_costs_512_gib(slot: int) -> None:
    with Machine(0x40_0000) as machine:
        machine.map(0x7000_0000_0000, 0x20_0000, 0x1000)
        first, last = (int(end) for end in recursive_region(slot))

        def in_slot() -> list[Range]:
            return [r for r in ranges(machine.memory, machine.cpu) if first <= r.start <= last]

        # Nothing was there, all of it free for others;
        [free] = in_slot()
        assert (free.kind, free.start, free.size) == (RangeKind.GAP, first, 512 * GIB)
        machine.map_recursive(slot)
        # then all of it belongs to the slot, which shows each table, once: the root, 4 for 4 MiB
        # of RAM, 3 for the other page.
        pieces = in_slot()
        assert sum(piece.size for piece in pieces) == 512 * GIB
        assert (pieces[0].start, pieces[-1].end) == (first, last + 1)
        shown = [piece.pa for piece in pieces if piece.kind is RangeKind.PAGE]
        assert sorted(pa for pa in shown if pa is not None) == list(range(0x1000, 0x9000, 0x1000))
