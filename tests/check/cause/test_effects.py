"""Causes about what a CPU did: the error code, CR2, the physical address."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.cpu import EFER

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
    assert str(found.keys[0]) == key
    assert found.as_if == sentence


@pytest.mark.parametrize(
    ("leaf", "kind", "code", "cr2", "key", "sentence"),
    [
        (
            *(0x5003, "read", 1, 0x123, "ERR:U-missing"),
            "the CPU did as predicted, but in the error code U was missing",
        ),
        (
            *(1 << 45 | 0x5007, "write", 0xE, 0x123, "ERR:RSVD-without-P"),
            "the CPU reported RSVD without P: a reserved bit is only looked at when P = 1",
        ),
        (
            *(0x5006, "read", 4, 0, "ERR:CR2-of-page"),
            "the CPU put the first byte of the page into CR2",
        ),
        (0x5006, "read", 4, 0x456, "ERR:CR2", "the CPU put 0x456 into CR2"),
    ],
)
def test_what_a_user_is_told_of_a_fault(
    asked: Asked, leaf: int, kind: str, code: int, cr2: int, key: str, sentence: str
) -> None:
    found = asked.cause({0x4000: leaf}, asked.USER, kind, asked.fault(code, cr2))
    assert (found.rule, found.level, found.explained) == ("ERR", None, True)
    assert str(found.keys[0]) == key
    assert found.as_if == sentence


def test_i_is_told_by_the_switches_that_it_needs(asked: Asked) -> None:
    without = asked.CPU.replace(efer=asked.CPU.efer & ~int(EFER.NXE))
    found = asked.cause({0x4000: 0x5006}, without, "fetch", asked.fault(0x10))
    assert [*map(str, found.keys)] == ["ERR:I-extra:without-NXE-and-SMEP", "ERR:I-extra"]
    assert found.as_if == "the CPU did as predicted, but in the error code I was set wrongly"
