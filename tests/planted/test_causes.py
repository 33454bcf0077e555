"""What planted bugs taught the search for causes: flaws that show beside registered divergences."""

from __future__ import annotations

from typing import Any

from harness.check.findings.finding import Finding
from harness.check.findings.reproducer import reproduce
from harness.check.registered.model import KnownSequence
from harness.check.registered.registry import REGISTRY
from harness.planted.engines import name_of

_BIG = {"0x1000": "0x2067", "0x2000": "0x87"}  # a 1 GiB page, A clear


def _found(flaw: str, case: dict[str, Any]) -> Finding:
    finding = reproduce({"ram": "0x10000", **case}, name_of(flaw)).finding
    assert finding is not None
    assert finding.judgement == "diverge"
    return finding


def test_a_wrong_code_is_told_where_unicorn_sets_a_in_the_leaf_that_denies() -> None:
    # a-in-faulting-1g-page is registered: it must not make PS-ignored the only explanation.
    cpu = {"cr3": "0x1000", "cr4": "0x400020", "pkru": "0x1"}
    found = _found("ERR_PK", {"cpu": cpu, "memory": _BIG, "access": {"va": "0x0"}})
    assert "ERR:PK-missing" in found.key.split("|")


def test_d_is_told_where_unicorn_sets_a_in_the_leaf_that_denies() -> None:
    memory = {**_BIG, "0x2000": "0x85"}
    asked = {"va": "0x0", "kind": "write"}
    found = _found("D_ON_FAULT_3", {"cpu": {"cr3": "0x1000"}, "memory": memory, "access": asked})
    assert found.key.split("|")[0] == "D:on-fault-rights:L3"
    assert (found.rule, found.level) == ("D", 3)


def test_a_is_told_where_unicorn_lets_an_implicit_read_pass() -> None:
    # ac-for-implicit is registered: the rest is held against the walk that Unicorn makes.
    cpu = {"cr3": "0x1000", "cr4": "0x200020", "rflags": "0x40002"}
    memory = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4000": "0x5007"}
    asked = {"va": "0x0", "size": 8, "implicit": True}
    found = _found("A_2", {"cpu": cpu, "memory": memory, "access": asked})
    assert found.key.split("|")[0] == "A:missing:L2"


def test_rights_that_are_judged_early_may_be_judged_at_every_level_below() -> None:
    cpu = {"cr3": "0x1000", "cpl": 3}
    memory = {"0x1000": "0x2003", "0x2000": "0x3007", "0x3000": "0x4007"}
    found = _found("ORDER_2", {"cpu": cpu, "memory": memory, "access": {"va": "0x0"}})
    keys = found.key.split("|")
    assert {f"ORDER:rights-first:L{level}" for level in (4, 3, 2)} <= {*keys}
    assert "ORDER:rights-first:L1" not in keys


def test_a_missing_present_further_down_is_told_from_bits_alone() -> None:
    # The code is the same at the next entry, and A of this one is set: PRESENT, or A_ON_FAULT.
    memory = {"0x1000": "0x2027", "0x2000": "0x3027", "0x3000": "0x4006"}
    found = _found(
        "PRESENT_2", {"cpu": {"cr3": "0x1000"}, "memory": memory, "access": {"va": "0x0"}}
    )
    assert "PRESENT:ignored:L2" in found.key.split("|")


def test_the_key_of_a_table_is_told_where_the_upper_page_would_have_decided() -> None:
    cpu = {"cr3": "0x1000", "cr4": "0x400020", "pkru": "0x4"}
    memory = {
        "0x1000": "0x800000000002007",
        "0x2000": "0x3007",
        "0x3000": "0x4007",
        "0x4000": "0x5007",
        "0x4008": "0x6006",
    }
    asked = {"va": "0xffe", "size": 4}
    found = _found("KEY_OF_TABLE_4", {"cpu": cpu, "memory": memory, "access": asked})
    assert "KEY:of-table:L4" in found.key.split("|")


def test_a_divergence_of_a_sequence_has_another_key_than_a_known_one() -> None:
    registered = next(known for known in REGISTRY if isinstance(known, KnownSequence))
    known = reproduce(registered.example).finding
    assert known is not None
    assert known.key == "known:fault-keeps-tlb"
    steps = [
        {"access": {"va": "0x4000"}},
        {"write": {"0x4020": "0x0"}},
        {"invlpg": "0x4000"},
        {"access": {"va": "0x4000"}},
    ]
    memory = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": "0x5007"}
    found = _found("INVLPG", {"cpu": {"cr3": "0x1000"}, "memory": memory, "steps": steps})
    assert (found.key, found.rule, found.level) == ("INVLPG:steps", "INVLPG", None)
