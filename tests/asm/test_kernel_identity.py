"""The conflicts of identity mapping, on the CPU and as the host's functions say."""

from random import Random

import numpy as np
import pytest

from harness.engine.run import Ending, Exit, Start
from harness.kernels import read_kernel
from harness.mapping.identity import find_free_region, frames_ruled_out
from harness.resources import asm_dir

KIB = 1024
PAGE = 4096
TABLES = (1, 2, 3, 4, 6, 251)
"""The pages that show tables, by number."""
LEVEL_1 = 16 * KIB
NOWHERE = (1 << 64) - 1


def run(start: int, size: int, extra: list[int]) -> Exit:
    kernel = read_kernel(asm_dir() / "identity-conflict.asm")
    program = kernel.assemble()
    with kernel.build() as machine:
        machine.load(program)
        numbers = machine.memory.view(program.labels["extra"], 2 * len(extra)).view(np.uint16)
        numbers[:] = extra
        ended = machine.run(
            program.base, registers={"rdi": start, "rsi": size}, start=Start(rip=0, cpu=None)
        )
        assert ended.ending is Ending.EXIT, ended.detail
        for page in (*TABLES, *extra):
            assert machine.memory.read_u64(LEVEL_1 + 8 * page) & ~0xFFF == page * PAGE
        # Nothing is written behind the level 1 table, even for a region beyond its 2 MiB.
        assert not machine.memory.frame(LEVEL_1 + PAGE).any()
        return ended


def in_use(pages: list[int]) -> list[tuple[int, int]]:
    return [(page * PAGE, (page + 1) * PAGE) for page in pages]


def test_the_lectures_examples_are_what_the_host_says() -> None:
    found = run(28 * KIB, 1000 * KIB, []).registers
    first = find_free_region(in_use(list(TABLES)), 1000 * KIB, start=28 * KIB)
    assert found["r8"] == first == 1008 * KIB
    ruled_out = frames_ruled_out(1008 * KIB, 1000 * KIB)
    assert found["rbx"] == len(ruled_out) == 250
    assert found["r10"] == int(next(iter(ruled_out)).start_address) == 1008 * KIB
    assert found["r11"] == 2008 * KIB


@pytest.mark.parametrize("seed", range(8))
def test_the_first_free_region_is_the_hosts(seed: int) -> None:
    rng = Random(seed)
    extra = rng.sample([n for n in range(7, 512) if n not in TABLES], rng.randrange(1, 9))
    start, size = rng.randrange(1, 64) * PAGE, rng.randrange(1, 120) * PAGE
    found = run(start, size, extra).registers
    first = find_free_region(in_use([*TABLES, *extra]), size, start=start, end=0x40_0000)
    assert found["r8"] == (NOWHERE if first is None else first)
    if first is not None and first + size <= 0x20_0000:
        assert (found["r10"], found["rbx"]) == (first, len(frames_ruled_out(first, size)))
        assert found["r11"] == first + size


def test_nowhere_is_room_for_what_is_larger_than_the_rest() -> None:
    extra = [300, 511]
    found = run(28 * KIB, 0x20_0000 + PAGE, extra).registers
    assert find_free_region(in_use(extra), 0x20_1000, start=28 * KIB, end=0x40_0000) is None
    assert found["r8"] == NOWHERE
