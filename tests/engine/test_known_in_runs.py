"""A run ends where Unicorn has set A in a 1 GiB page's entry that no CPU would have set."""

from __future__ import annotations

import pytest

from harness.engine.run import Ending
from harness.machine import Machine


@pytest.mark.parametrize(
    ("entry", "ending"),
    [
        (0x4000_0083 | 1 << 13, Ending.UNSUPPORTED),  # a reserved bit of a 1 GiB page
        (0x4000_0083 | 1 << 45, Ending.SHUTDOWN),  # one of every entry's: A stays as it was
        (0x4000_00A3 | 1 << 45, Ending.SHUTDOWN),
        (0x4000_0082 | 1 << 13, Ending.SHUTDOWN),  # not present
    ],
)
def test_a_reserved_bit_of_a_1_gib_page(entry: int, ending: Ending) -> None:
    with Machine(0x40_0000) as machine:
        pdpt = machine.walk(0).steps[1].address & ~0xFFF
        machine.memory.write_u64(pdpt + 8, entry)
        ended = machine.run("mov rax, [0x40000000]\nhlt")
    assert ended.ending is ending
    assert ("a-in-faulting-1g-page" in ended.detail) is (ending is Ending.UNSUPPORTED)
