"""``Full``: its groups' sizes in closed form, its coverage by brute force, the rules it meets."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.check.matrix.block import FRAME_1G, FRAME_2M, FRAME_4K, TABLES
from harness.check.matrix.predict import ROWS, BlockWalker
from harness.check.matrix.spaces import Full
from harness.check.matrix.spaces.bits import LEAF, Bit, Field
from harness.check.matrix.spaces.group import Group
from harness.outcome import Outcome
from harness.walker import RULES

DOCS = Path(__file__).parents[4] / "docs" / "matrix.md"
both = pytest.mark.parametrize("levels", [4, 5])
PS = np.uint64(0x80)


def depths(levels: int) -> list[int]:
    """Give the number of entries that a walk to a page of 4 KiB, 2 MiB and 1 GiB reads."""
    return [levels, levels - 1, levels - 2]


def expected(levels: int) -> dict[str, int]:
    """Count the cases of the exhaustive groups in closed form."""
    above = levels - 3  # levels at which bit 7 is reserved
    flaws = sum((1 + 5 * depth) * 4 for depth in depths(levels))

    def pairs(bits: int) -> int:
        return 1 + bits + bits * (bits - 1) // 2

    return {
        "order": 24 * sum(2 ** (3 * d + above + (d < levels)) for d in depths(levels)),
        "rights": 96 * sum(8**d + 4**d for d in depths(levels)),
        "reserved": 12
        * sum(
            (d + 1) * pairs(13 * d + above + low)
            for d, low in zip(depths(levels), (0, 8, 17), strict=True)
        ),
        "keys": 64 * 2**4 * 3 * sum(16 * 2 * 2 * (d + 1) for d in depths(levels)),
        "accessed": 24 * sum((1 + 5 * d) * 4**d for d in depths(levels)),
        "ignored": 24 * sum(pairs(17 * d + 1) for d in depths(levels)),
        "widths": (3 * 4 - 3) * 2**5 * flaws,
        "implicit": 2**5 * flaws,
    }


@both
def test_the_groups_have_as_many_cases_as_their_definition_says(levels: int) -> None:
    groups = Full(levels).groups
    counts = {group.name: group.cases for group in groups if group.strength == "exhaustive"}
    assert counts == expected(levels)
    assert [group.name for group in groups if group.strength == "3-wise"] == [
        "mixed",
        "mixed faults",
    ]
    assert 5_000_000 < len(Full(levels)) < 20_000_000


def test_the_documented_groups_are_these() -> None:
    rows = re.findall(
        r"^\| `([a-z ]+)` \| ([a-z0-9-]+) \|[^|]*\| ([0-9,]+) \| ([0-9,]+) \|$",
        DOCS.read_text(),
        re.M,
    )
    documented = [
        (name, strength, *(int(count.replace(",", "")) for count in counts))
        for name, strength, *counts in rows
    ]
    pairs = zip(Full(4).groups, Full(5).groups, strict=True)
    assert documented == [(a.name, a.strength, a.cases, b.cases) for a, b in pairs]
    for levels in (4, 5):
        assert f"{len(Full(levels)):,}" in DOCS.read_text()


def rows_of(levels: int, name: str) -> list[NDArray[np.uint64]]:
    """Give the entries of a group, for each kind of CPU state that they depend on."""
    group: Group = next(group for group in Full(levels)._groups if group.name == name)
    return [rows.entries for rows in group._rows.values()]


NAMES = [*expected(4), "mixed", "mixed faults"]


@both
@pytest.mark.parametrize("name", NAMES)
def test_every_entry_leads_where_the_tables_are(levels: int, name: str) -> None:
    for entries in rows_of(levels, name):
        big = entries[levels - 3] & PS != 0
        middle = ~big & (entries[levels - 2] & PS != 0)
        for depth in range(levels - 1):
            address = entries[depth] & np.uint64(0xFF_FFFF_F000)
            leaf = big if depth == levels - 3 else middle if depth == levels - 2 else False & big
            assert (leaf | (address == TABLES[depth + 1]) | (big & (depth == levels - 2))).all()
        assert (entries[levels - 3][big] & np.uint64(0xFF_C000_0000) == FRAME_1G).all()
        assert (entries[levels - 2][middle] & np.uint64(0xFF_FFE0_0000) == FRAME_2M).all()
        assert (entries[levels - 1] & np.uint64(0xFF_FFFF_F000) == FRAME_4K).all()
        assert big.any()
        assert middle.any()
        assert not (big | middle).all()


@both
@pytest.mark.parametrize("name", NAMES)
def test_no_case_occurs_twice_in_a_group(levels: int, name: str) -> None:
    for entries in rows_of(levels, name):
        order = np.lexsort(entries)
        assert (np.diff(entries[:, order].view(np.int64), axis=1) != 0).any(axis=0).all()


def legal_options(field: Field, leaf: int, *, nxe: bool, xd_is_pruned: bool) -> list[int]:
    """Say which options make sense for a page of that leaf level: rules of this test's own."""

    def stays(option: tuple[Bit, ...]) -> bool:
        changed = set(option) ^ set(field.options[0])
        for bit in changed:
            if bit.level is not None and 1 <= bit.level < leaf:
                return False  # below the leaf
            if bit.level == LEAF and bit.mask in (1 << 12, 1 << 13) and leaf == 1:
                return False  # an address bit
            if bit.name.endswith(".nx") and xd_is_pruned and not nxe:
                return False
        return True

    return [at for at, option in enumerate(field.options) if stays(option)]


@both
@pytest.mark.parametrize("name", ["mixed", "mixed faults"])
def test_every_three_choices_meet_on_every_size_of_page(levels: int, name: str) -> None:
    group: Group = next(group for group in Full(levels)._groups if group.name == name)
    fields = group.entry_fields
    for key, rows in group._rows.items():
        nxe = key[0] if key else True
        for size, leaf in enumerate((1, 2, 3)):
            chosen = rows.chosen[rows.chosen[:, 0] == size].astype(np.int64)
            options = {
                at: legal_options(field, leaf, nxe=nxe, xd_is_pruned=name == "mixed")
                for at, field in enumerate(fields)
                if at > 0
            }
            for at, legal in options.items():
                assert set(np.unique(chosen[:, at]).tolist()) == set(legal), fields[at].name
            varying = [at for at, legal in options.items() if len(legal) > 1]
            assert len(varying) > 15
            for three in combinations(varying, 3):
                code = np.zeros(len(chosen), np.int64)
                for at in three:
                    code = code * len(fields[at].options) + chosen[:, at]
                wanted = np.prod([len(options[at]) for at in three])
                assert len(np.unique(code)) == wanted, [fields[at].name for at in three]


@both
@pytest.mark.parametrize("name", ["mixed", "mixed faults"])
def test_covered_groups_meet_every_cpu_state(levels: int, name: str) -> None:
    space = Full(levels)
    starts = np.cumsum([0, *(group.cases for group in space.groups)]).tolist()
    at = [group.name for group in space.groups].index(name)
    states = {
        (
            *(cpu.wp, cpu.nxe, cpu.smep, cpu.smap, cpu.ac, bool(cpu.cr4 & 0x80), cpu.user),
            *(cpu.pke, cpu.pkru, block.access.kind),
        )
        for _, block in space.blocks(starts[at], starts[at + 1] - starts[at])
        for cpu in [block.cpu]
    }
    assert len(states) == 2**7 * 3 * 3


def met(levels: int, step: int) -> set[tuple[str, int]]:
    """Give which rules decide at which levels in one of ``step`` pieces of each group."""
    space = Full(levels)
    ledger = BlockWalker()
    result = set()
    for first, end in pairwise(np.cumsum([0, *(g.cases for g in space.groups)]).tolist()):
        for at in range(first, end, ROWS * step):
            for _, block in space.blocks(at, min(ROWS, end - at)):
                answer = ledger.predict(block)
                assert set(np.unique(answer.outcome).tolist()) <= {
                    Outcome.MAPPED.code,
                    Outcome.PAGE_FAULT.code,
                }
                cells = np.unique(answer.rule.astype(int) * 8 + answer.level)
                result |= {(RULES[cell >> 3], cell & 7) for cell in cells.tolist()}
    return result


@pytest.mark.parametrize(
    ("levels", "step"),
    [(4, 5), (5, 12), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in (4, 5))],
)
def test_every_rule_decides_at_every_level_where_it_can(levels: int, step: int) -> None:
    every, leaves = range(1, levels + 1), (1, 2, 3)
    wanted = {(rule, n) for rule in ("PRESENT", "RSVD_ADDR", "RSVD_NX") for n in every}
    wanted |= {("RSVD_PS", level) for level in every if level > 3}
    wanted |= {("RSVD_1G", 3), ("RSVD_2M", 2)}
    rights = ("COMBINE", "USER_US", "USER_RW", "NX", "WP", "SMEP", "SMAP", "PKU")
    wanted |= {(rule, level) for rule in rights for level in leaves}
    assert met(levels, step) == wanted
