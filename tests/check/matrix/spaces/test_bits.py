"""Names of bits, choices, and what lies below a big page."""

from __future__ import annotations

import numpy as np
import pytest

from harness.check.matrix.spaces.bits import (
    ACCESS_BITS,
    CPU_BITS,
    LEAF,
    TABLES_ABOVE,
    Field,
    entry_bit,
    entry_bits,
    unread,
)
from harness.cpu import CpuState


@pytest.mark.parametrize(
    ("level", "position", "name"),
    [
        (1, 0, "pte.p"),
        (1, 7, "pte.pat"),
        (2, 1, "pde.rw"),
        (2, 7, "pde.pse"),
        (3, 2, "pdpte.us"),
        (4, 7, "pml4e.pse"),
        (5, 63, "pml5e.nx"),
        (5, 51, "pml5e.bit51"),
        (LEAF, 12, "leaf.bit12"),
        (LEAF, 5, "leaf.a"),
        (TABLES_ABOVE, 62, "tables.bit62"),
    ],
)
def test_names_of_entry_bits(level: int, position: int, name: str) -> None:
    bit = entry_bit(level, position)
    assert (bit.name, bit.level, bit.mask) == (name, level, 1 << position)
    assert bit.meaning.startswith(name.partition(".")[0].upper())


@pytest.mark.parametrize("name", ["cr0.wp", "cr4.smep", "cr4.smap", "cr4.pke", "efer.nxe"])
def test_a_switch_sets_what_its_name_says(name: str) -> None:
    bit = CPU_BITS[name]
    attribute = name.partition(".")[2]
    plain = CpuState(cr0=0x8000_0031, efer=0x500)
    assert bit.register is not None
    assert not getattr(plain, attribute)
    changed = plain.replace(**{bit.register: getattr(plain, bit.register) | bit.mask})
    assert getattr(changed, attribute)


def test_every_bit_has_a_name_of_its_own() -> None:
    names = [*CPU_BITS, *ACCESS_BITS]
    names += [entry_bit(level, at).name for level in range(-1, 6) for at in range(64)]
    assert len(set(names)) == len(names)


def test_pkru() -> None:
    assert CPU_BITS["pkru.ad0"].mask == 1
    assert CPU_BITS["pkru.wd15"].mask == 1 << 31
    every = [CPU_BITS[f"pkru.{name}{key}"].mask for key in range(16) for name in ("ad", "wd")]
    assert sum(every) == 0xFFFF_FFFF


def test_a_choice() -> None:
    bit = entry_bit(1, 1)
    assert Field.of(bit).options == ((), (bit,))
    assert Field.of(bit).name == "pte.rw"
    p, us = entry_bits([2], 0, 2)
    assert Field("both", ((), (p,), (p, us))).bits == (p, us)
    assert Field.always("usual", [p, us]).options == ((p, us),)


def test_below_a_big_page_entries_stay_as_the_first_option_has_them() -> None:
    ps, ps3, pte_rw, pde_rw = (
        entry_bit(2, 7),
        entry_bit(3, 7),
        entry_bit(1, 1),
        entry_bit(2, 1),
    )
    fields = (
        Field("size", ((), (ps,), (ps3,))),
        Field("writable", ((pte_rw,), ())),
        Field.of(pde_rw),
    )
    rule = unread(fields)
    assert rule.reason == "what lies below the entry that maps the page is not read"

    def pruned(**on: bool) -> bool:
        names = {
            bit.name: np.asarray(on[bit.name.replace(".", "_")]) for f in fields for bit in f.bits
        }
        return bool(rule.where(names))

    assert not pruned(pde_pse=False, pdpte_pse=False, pte_rw=False, pde_rw=True)
    assert not pruned(pde_pse=True, pdpte_pse=False, pte_rw=True, pde_rw=True)
    assert pruned(pde_pse=True, pdpte_pse=False, pte_rw=False, pde_rw=False)
    assert not pruned(pde_pse=False, pdpte_pse=True, pte_rw=True, pde_rw=False)
    assert pruned(pde_pse=False, pdpte_pse=True, pte_rw=True, pde_rw=True)
