"""What may be stale, what must not be, and how often the tables are read."""

from random import Random

import pytest

from harness.engine.run import Ending, Exit, Start
from harness.kernels import read_kernel
from harness.machine import Machine
from harness.resources import asm_dir

OLD_OR_NEW = {"r8": (0xA, 0xB), "r10": (0xA, 0xB), "r12": (0xA, 0xB), "r13": (0xA, 0xB)}
NEW = {"rbx": 0xA, "r9": 0xB, "r11": 0xA, "r14": 0xB}


def run(name: str, machine: Machine, registers: dict[str, int]) -> Exit:
    ended = machine.run(
        read_kernel(asm_dir() / f"{name}.asm").assemble(),
        registers={"rsp": 0x8_0000, **registers},
        start=Start(rip=0, cpu=machine.cpu),
    )
    assert ended.ending is Ending.HALT, ended.detail
    return ended


@pytest.mark.parametrize("seed", range(10))
def test_only_what_the_rules_permit_is_seen_at_any_page(seed: int) -> None:
    rng = Random(seed)
    page = rng.randrange(1, 256) << 39 | rng.getrandbits(27) << 12
    first, second = rng.sample(range(0x20_0000, 0x100_0000, 0x1000), 2)
    with Machine(0x100_0000, identity=0x14_0000) as machine:
        machine.map(page, first, 0x1000)
        entry = machine.walk(page).steps[-1].address
        seen = run(
            "tlb-stale", machine, {"rdi": page, "rsi": entry, "rdx": first, "rcx": second}
        ).registers
        assert {name: seen[name] for name in NEW} == NEW
        for name, permitted in OLD_OR_NEW.items():
            assert seen[name] in permitted
        assert (machine.memory.read_u64(first), machine.memory.read_u64(second)) == (0xA, 0xB)


@pytest.mark.parametrize("count", [16, 17, 64, 300, 512])
def test_entries_touched_and_fills_of_buffers_of_many_sizes(count: int) -> None:
    with read_kernel(asm_dir() / "tlb-fills.asm").build() as machine:
        found = run(
            "tlb-fills",
            machine,
            {"rdi": 0x40_0000, "rsi": 0x60_0000, "rdx": 0x5000, "rcx": 0x3018, "r8": count},
        ).registers
        assert (found["rax"], found["rbx"]) == (count, 1)
        assert found["r10"] <= count
        assert 1 <= found["r11"] <= count
        # unicorn 2.1.4: a TLB entry for each 4 KiB, whatever the page.
        assert (found["r10"], found["r11"]) == (count, count)
        assert (found["r12"], found["r13"]) == (1, 16)
        # The walker counts the same entries: the accesses' leaves, each once.
        for base, entries in ((0x40_0000, count), (0x60_0000, 1)):
            leaves = {machine.walk(base + 4096 * n).steps[-1].address for n in range(count)}
            assert len(leaves) == entries
