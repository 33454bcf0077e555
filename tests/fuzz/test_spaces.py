"""Random address spaces: what no kernel would make is all there."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from harness.cpu import CpuState
from harness.fuzz.dice import Dice
from harness.fuzz.groups import group
from harness.fuzz.spaces import RAM, Space
from harness.fuzz.steer import DEFAULTS
from harness.memory import PhysicalMemory
from harness.walker import walk

ONLY_TABLES = {**dict.fromkeys(DEFAULTS, 0.0), "plain": 1.0}
ADDRESS = 0x000F_FFFF_FFFF_F000


def test_a_plain_space_maps_what_is_reached() -> None:
    space = Space(Dice(1, 1), ONLY_TABLES)
    memory = PhysicalMemory(RAM)
    vas = [0x1234_5000, 0x7FFF_FFFF_F000, 0xFFFF_8000_0000_0000]
    leaves = [space.reach(va) for va in vas]
    for at, word in space.words.items():
        memory.write_u64(at, word)
    cpu = CpuState(cr3=space.root)

    for va, leaf in zip(vas, leaves, strict=True):
        assert leaf is not None
        answer = walk(memory, cpu, va)
        assert answer.leaf is not None
        assert (answer.leaf.level, answer.leaf.raw) == leaf
    assert len(space.words) == 12
    assert not space.features - {"plain"}


def test_what_is_there_is_followed_and_never_changed() -> None:
    space = Space(Dice(1, 2), DEFAULTS)
    space.reach(0x5000)
    before = dict(space.words)
    for page in range(64):
        space.reach(page << 12)

    assert before.items() <= space.words.items()
    assert space.reach(0x5000) == Space(Dice(1, 2), DEFAULTS).reach(0x5000)


@pytest.mark.parametrize("levels", [4, 5])
def test_with_one_table_every_entry_is_its_own(levels: int) -> None:
    knobs = {**ONLY_TABLES, "recursive": 1.0, "table-page": 1.0, "la57": float(levels == 5)}
    space = Space(Dice(3, 4), knobs)
    space.reach(0o123_456_712_345_6000)

    assert {at & ADDRESS for at in space.words} == {space.root}
    assert {word & ADDRESS for word in space.words.values()} == {space.root}
    assert len(space.words) <= levels


def test_shapes_that_come_up() -> None:
    """Recursion at any level, shared tables, tables as pages, big pages over them, RAM's ends."""
    seen: Counter[str] = Counter()
    ends = {region.end - 0x1000 for region in RAM}
    for number in range(300):
        made = group(9, number, DEFAULTS)
        memory = PhysicalMemory(RAM)
        for at, word in made.words.items():
            memory.write_u64(at, word)
        tables = {at & ADDRESS for at in made.words}
        seen["table in the last frame of RAM"] += bool(tables & ends)
        for ask in made.asks:
            answer = walk(memory, ask.cpu, ask.va, ask.access)
            steps, leaf = answer.steps, answer.leaf
            for above, below in pairwise(steps):
                if above.address & ADDRESS == below.address & ADDRESS:
                    seen[f"own table at level {above.level}"] += 1
            addresses = [step.address for step in steps]
            seen["an entry at two levels"] += len(set(addresses)) < len(addresses)
            if leaf is None:
                seen["no memory"] += answer.pa is not None
                continue
            frame = leaf.raw & ADDRESS
            if leaf.level == 1:
                seen["a table as a page"] += frame in tables
                seen["its own page table as a page"] += frame == leaf.address & ADDRESS
                seen["an entry of its own walk"] += answer.pa is not None and (
                    answer.pa & ~7 in addresses
                )
            else:
                size = 0x1000 << 9 * (leaf.level - 1)
                seen["a big page over tables"] += any(
                    frame & -size <= at < (frame & -size) + size for at in tables
                )
                seen[f"a page at level {leaf.level}"] += 1

    wanted = [f"own table at level {level}" for level in (2, 3, 4, 5)]
    wanted += ["table in the last frame of RAM", "an entry at two levels", "no memory"]
    wanted += ["a table as a page", "its own page table as a page", "an entry of its own walk"]
    wanted += ["a big page over tables", "a page at level 2", "a page at level 3"]
    assert not [name for name in wanted if seen[name] < 10], seen
