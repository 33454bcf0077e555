"""What every space must do: number, slice, name, invert; tried on both matrices."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.check.matrix.block import FRAME_1G, FRAME_2M, FRAME_4K, TABLES, VA4, VA5, Block
from harness.check.matrix.spaces import Classic, Full, Space
from harness.check.matrix.spaces.bits import CPU_BITS, Field, Illegal, entry_bit
from harness.check.matrix.spaces.group import MOST_ROWS, Group
from harness.errors import InputError

SPACES = [Classic(4), Classic(5), Full(4), Full(5)]
each_space = pytest.mark.parametrize("space", SPACES, ids=repr)

LEVELS = {"pml5e": 5, "pml4e": 4, "pdpte": 3, "pde": 2, "pte": 1}
PLACES = {"p": 0, "rw": 1, "us": 2, "pwt": 3, "pcd": 4, "a": 5, "d": 6, "pse": 7, "pat": 7, "g": 8}
PLACES |= {"nx": 63} | {f"bit{at}": at for at in range(64)}
FRAMES = {1: FRAME_4K, 2: FRAME_2M, 3: FRAME_1G}


def spelled_out(space: Space, names: tuple[str, ...]) -> dict[str, Any]:
    """Say what a case with these bits must be: a reading of the names of its own."""
    levels = space.levels
    chosen: dict[int, int] = dict.fromkeys(range(1, levels + 1), 0)
    special = {"leaf": 0, "tables": 0}
    cpu = {"cr0": 0x8000_0031, "cr4": 0x20, "efer": 0x500, "rflags": 2, "pkru": 0, "cpl": 0}
    cpu["cr4"] |= 1 << 12 if levels == 5 else 0
    switches = {
        "cr0.wp": 16,
        "cr4.pge": 7,
        "cr4.smep": 20,
        "cr4.smap": 21,
        "cr4.pke": 22,
        "efer.nxe": 11,
        "rflags.ac": 18,
    }
    access = {"kind": "read", "size": 1, "implicit": False, "twice": False}
    for name in names:
        where, _, what = name.partition(".")
        if name == "leaf.key":
            special["leaf"] |= 1 << 59
        elif where in LEVELS:
            chosen[LEVELS[where]] |= 1 << PLACES[what]
        elif where in special:
            special[where] |= 1 << PLACES[what]
        elif name in switches:
            cpu[where] |= 1 << switches[name]
        elif where == "pkru":
            key = int(what[2:] or 1)
            cpu["pkru"] |= (1 if what.startswith("ad") else 2) << 2 * key
        elif name == "user":
            cpu["cpl"] = 3
        elif name in ("write", "fetch"):
            access["kind"] = name
        elif name == "twice":
            access["twice"] = True
        elif name == "implicit":
            access |= {"implicit": True, "size": 8}
        else:
            access["size"] = int(name.removeprefix("size"))
    if space.name == "classic":
        cpu["pkru"] |= 3 << 4
        for level in range(3, levels + 1):
            chosen[level] |= 0x25 if level == 3 else 0x27
    leaf = 3 if chosen[3] & 0x80 else 2 if chosen[2] & 0x80 else 1
    entries = []
    for depth, level in enumerate(range(levels, 0, -1)):
        address = FRAMES[level] if level == leaf or level == 1 else TABLES[depth + 1]
        more = special["leaf"] if level == leaf else special["tables"] if level > leaf else 0
        if space.name == "classic" and level == 2 > leaf:
            more |= 2 << 59
        entries.append(chosen[level] | more | address)
    return {"entries": entries, "cpu": cpu, **access}


def told(block: Block) -> dict[str, Any]:
    cpu, access = block.cpu, block.access
    registers = ("cr0", "cr4", "efer", "rflags", "pkru", "cpl")
    return {
        "entries": block.entries[:, 0].tolist(),
        "cpu": {register: getattr(cpu, register) for register in registers},
        "kind": str(access.kind),
        "size": access.size,
        "implicit": access.implicit,
        "twice": block.supervisor_reads_first,
    }


def numbers(space: Space) -> st.SearchStrategy[int]:
    """Numbers of cases, as many from small groups as from large ones."""
    ends = np.cumsum([0, *(group.cases for group in space.groups)]).tolist()
    ranges = [st.integers(a, b - 1) for a, b in pairwise(ends)]
    return st.one_of(ranges)


@each_space
@given(data=st.data())
def test_a_case_is_what_its_bits_say(space: Space, data: st.DataObject) -> None:
    number = data.draw(numbers(space))
    block = space.block(number)
    assert len(block) == 1
    assert told(block) == spelled_out(space, space.bits(number))
    assert block.va == (VA5 if space.levels == 5 else VA4)
    assert block.cpu.cr3 == TABLES[0]


@each_space
@given(data=st.data())
def test_bits_give_back_the_number(space: Space, data: st.DataObject) -> None:
    number = data.draw(numbers(space))
    bits = space.bits(number)
    assert space.number(reversed(bits), group=space.group(number)) == number
    first = space.number(bits)
    assert first <= number
    assert set(space.bits(first)) == set(bits)
    assert len(set(bits)) == len(bits)


@each_space
@settings(max_examples=30)
@given(data=st.data())
def test_a_slice_is_a_slice_of_the_whole(space: Space, data: st.DataObject) -> None:
    first = data.draw(numbers(space))
    count = data.draw(st.integers(0, min(200_000, len(space) - first)))
    end = first
    for at, block in space.blocks(first, count):
        assert at == end
        end = at + len(block)
        assert 0 < len(block) <= MOST_ROWS
        assert block.entries.dtype == np.uint64
        assert not block.entries.flags.writeable
        for row in {0, len(block) // 2, len(block) - 1}:
            alone = told(space.block(at + row))
            assert alone == told(block.rows(slice(row, row + 1)))
    assert end == first + count


@each_space
def test_all_blocks_together_are_all_cases(space: Space) -> None:
    end = 0
    for at, block in space.blocks():
        assert at == end
        end += len(block)
    assert end == len(space) == sum(group.cases for group in space.groups)


@each_space
def test_legal_and_pruned_ones_are_all_combinations(space: Space) -> None:
    legal = sum(group.cases for group in space.groups if group.strength == "exhaustive")
    assert legal + sum(space.pruned().values()) == space.total
    assert all(count > 0 for count in space.pruned().values())


@each_space
def test_a_space_goes_by_pickle(space: Space) -> None:
    other = pickle.loads(pickle.dumps(space))
    assert len(pickle.dumps(space)) < 200
    assert other.identity() == space.identity()
    assert told(other.block(12_345)) == told(space.block(12_345))


def test_identities_differ() -> None:
    assert len({str(space.identity()) for space in SPACES}) == 4
    identity = Classic(4).identity()
    assert identity.pop("digest").isalnum()
    assert identity == {
        "space": "classic",
        "levels": 4,
        "cases": 19_169_280,
        "groups": {"classic": 19_169_280},
    }


def test_refusals() -> None:
    space = Classic(4)
    end = len(space)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: Classic(3), "a matrix must have 4 or 5 levels, not 3"),
        (lambda: space.bits(end), f"a case of Classic(4) must be 0 to {end - 1}, not {end}"),
        (lambda: space.group(-1), f"a case of Classic(4) must be 0 to {end - 1}, not -1"),
        (
            lambda: space.blocks(end - 1, 2),
            f"cases must lie within the {end} of Classic(4), not be 2 from {end - 1} on",
        ),
        (
            lambda: space.number(["fetch", "write"]),
            "bits must make a legal case of Classic(4), not be 'fetch write'",
        ),
        (
            lambda: space.number(["pde.bit13"]),
            "bits must make a legal case of Classic(4), not be 'pde.bit13'",
        ),
        (
            lambda: space.number(["nonsense"]),
            "bits must make a legal case of Classic(4), not be 'nonsense'",
        ),
    ]
    for ask, message in refused:
        with pytest.raises(InputError) as caught:
            ask()
        assert str(caught.value) == message


def small_group(**changes: Any) -> Group:
    rw, us, xd = entry_bit(1, 1), entry_bit(1, 2), entry_bit(1, 63)
    ps = Field("size of the page", ((), (entry_bit(2, 7),)))
    given: dict[str, Any] = {
        "name": "small",
        "sentence": "for a test",
        "levels": 4,
        "cpu_fields": (Field.of(CPU_BITS["efer.nxe"]), Field.of(CPU_BITS["user"])),
        "entry_fields": (ps, Field.of(rw), Field.of(us), Field.of(xd)),
        "illegal_cpu": (Illegal("no users here", lambda on: on["user"] & ~on["efer.nxe"]),),
        "illegal_entries": (
            Illegal("first", lambda on: on["pte.rw"] & on["pte.us"]),
            Illegal("second", lambda on: on["pte.us"] | (on["pte.nx"] & ~on["efer.nxe"])),
        ),
        "depends": ("efer.nxe",),
    }
    return Group(**(given | changes))


def test_each_pruned_combination_counts_under_its_first_reason() -> None:
    group = small_group()
    # 16 rows: 4 are rw and us; 4 more are us; without NXE 4 of the other 8 have XD.
    assert group.total == 64
    assert group.pruned() == {"no users here": 16, "first": 12, "second": 12 + 4}
    assert len(group) == 8 + 8 + 4


def test_illegal_combinations_are_not_enumerated() -> None:
    group = small_group()
    for number in range(len(group)):
        bits = group.bits(number)
        assert "pte.us" not in bits
        assert not ("pte.nx" in bits and "efer.nxe" not in bits)
        assert not ("user" in bits and "efer.nxe" not in bits)
        assert group.number(bits) == number
    assert group.number(["pte.us"]) is None
    assert group.number(["user"]) is None


def test_a_covered_group_leaves_out_illegal_options_and_counts_none() -> None:
    group = small_group(
        strength=2,
        illegal_entries=(Illegal("XD", lambda on: on["pte.nx"] & ~on["efer.nxe"]),),
    )
    assert group.pruned() == {}
    assert group.info == ("small", len(group), "2-wise", "for a test")
    seen = {frozenset(group.bits(number)) for number in range(len(group))}
    assert len(seen) == len(group)
    assert not any("pte.nx" in bits and "efer.nxe" not in bits for bits in seen)
    for size in (set(), {"pde.pse"}):
        for pair in ({"pte.rw"}, {"pte.us"}, {"pte.rw", "pte.us"}, set()):
            assert any(
                bits & {"pde.pse", "pte.rw", "pte.us", "efer.nxe"} == size | pair for bits in seen
            )


def test_what_is_illegal_in_three_fields_cannot_be_covered() -> None:
    group = small_group(
        strength=3,
        illegal_entries=(Illegal("both", lambda on: on["pte.rw"] & on["pte.us"]),),
    )
    with pytest.raises(ValueError) as caught:
        len(group)
    assert str(caught.value) == (
        "what is illegal in a covered group must be so in one field, or in one and the first"
    )


def test_a_bit_belongs_to_one_field() -> None:
    with pytest.raises(ValueError) as caught:
        small_group(entry_fields=(Field.of(entry_bit(1, 1)), Field.of(entry_bit(1, 1))))
    assert str(caught.value) == "a bit must belong to one field, and ['pte.rw'] belong to more"
