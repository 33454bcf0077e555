"""Causes about the physical address tell a lost bit from another size of page."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

Asked = Any
"""conftest.Asked: test modules do not import one another."""


@pytest.mark.parametrize(
    ("memory", "pa", "key", "sentence"),
    [
        (
            *({0x3000: 0x20_1087}, 0x20_1123, "PAT:as-address:L2"),
            "the CPU acted as if bit 12 (PAT) of the PDE at 0x3000 belonged to the frame's address",
        ),
        (
            *({0x4000: 0x20_5007}, 0x20_0123, "BIG:as-2M:L1"),
            "the CPU acted as if the PTE at 0x4000 mapped a page of 2M",
        ),
        (
            *({0x4000: 1 << 33 | 0x5007}, 0x5123, "RSVD_ADDR:address-lost:L1"),
            "the CPU lost bits 51:33 of the frame's address in the PTE at 0x4000",
        ),
    ],
)
def test_another_address_of_a_page(
    asked: Asked, memory: dict[int, int], pa: int, key: str, sentence: str
) -> None:
    at = [0x1000, 0x2000, 0x3000, *([] if 0x3000 in memory else [0x4000])]
    seen = dataclasses.replace(asked.MAPPED, pa=pa, changed=dict.fromkeys(at, 0x20))
    found = asked.cause(memory, asked.CPU, "read", seen)
    assert found.keys[0] == key
    assert found.as_if == sentence
