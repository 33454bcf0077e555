"""Root causes: planted flaws are named by rule and level, and one flaw is one finding."""

from __future__ import annotations

from typing import Any

import pytest

from harness.check.cause import Explanation
from harness.check.findings.finding import Finding
from harness.check.findings.roots import root_causes
from harness.check.model.words import words_of
from harness.walker import walk

Planted = Any
"""conftest.Planted: test modules do not import one another."""

P = "        if not raw & _PRESENT:  #"
RESERVED = "        if raw & reserved[huge]:"
COMBINE = "        granted &= raw ^ _NO_EXECUTE"
NXE = '"RSVD_NX": 0 if cpu.nxe else _NO_EXECUTE'
RSVD_2M = 'rules["RSVD_2M"] = _bits(20, 13)'
USER_US = "    if user and not user_page:"
USER_RW = "    if user and write and not granted & _WRITABLE:"
NX = "    if fetch and not granted & _NO_EXECUTE:"
WP = "granted & _WRITABLE and cpu.wp:"
SMEP = "    if fetch and user_page and cpu.smep:"
SMAP = "    if not fetch and user_page and cpu.smap and (access.implicit or not cpu.ac):"
PKE = "if user_page and cpu.pke:"
LIMITS = "if limits & 1 or (limits & 2 and write and (user or cpu.wp)):"
FRAME = "    pa = raw & ADDRESS_MASK & ~offset | va & offset"
SIZE = "        if huge or level == 1:"
CANONICAL = "    if va >> 9 * levels + 11 not in _CANONICAL[levels]:"
CODE = "    if access.is_fetch and (cpu.nxe or cpu.smep):"
CR2 = "return self.va if self.second is None else self.second.va"
BY_KEY = "    if not fetch:\n        limits"
SPANS = "(first & 0xFFF) + access.size > 0x1000 and"
LEAF = "            if step is steps[-1] and self.access.is_write:"
# The reserved masks are kept from one walk to the next, by what they depend on.
ANEW = ("key = (cpu.levels,", "key = (object(), cpu.levels,")

FOUR_LEVELS = "    if va >> 47 not in _CANONICAL[4]:"
WITHHELD = {"_USER": "COMBINE", "_WRITABLE": "COMBINE|USER_RW", "_NO_EXECUTE": "NX"}

FLAWS: dict[str, tuple[list[tuple[str, str]], str, int | None]] = {
    "P ignored": ([(P, "        if False:  #")], "PRESENT", None),
    **{
        f"P ignored at {level}": ([(P, f"{P[:-4]} and level != {level}:  #")], "PRESENT", level)
        for level in (1, 2, 3, 4)
    },
    "RSVD_ADDR ignored": (
        [('"RSVD_ADDR": cpu.reserved_address', '"RSVD_ADDR": 0'), ANEW],
        "RSVD_ADDR",
        None,
    ),
    "RSVD_NX ignored": ([(NXE, '"RSVD_NX": 0'), ANEW], "RSVD_NX", None),
    "RSVD_NX while NXE = 1": ([(NXE, '"RSVD_NX": _NO_EXECUTE'), ANEW], "RSVD_NX", None),
    "RSVD_1G ignored": ([('rules["RSVD_1G"] = _bits(29, 13)', "pass"), ANEW], "RSVD_1G", 3),
    "RSVD_2M ignored": ([(RSVD_2M, "pass"), ANEW], "RSVD_2M", 2),
    "PAT reserved": ([(RSVD_2M, RSVD_2M.replace("13", "12")), ANEW], "PAT", 2),
    "PAT in the address": ([(FRAME, FRAME.replace("~offset", "~(offset & ~0x1000)"))], "PAT", None),
    "rights before entries": (
        [
            (
                COMBINE,
                f"{COMBINE}\n        denied = denial(cpu, access, granted, 0)"
                "\n        if level > 1 and denied in ('USER_US', 'USER_RW', 'NX', 'WP'):"
                "\n            break\n"
                "        denied = None",
            )
        ],
        "ORDER",
        None,
    ),
    **{
        f"{bit} not combined at {level}": (
            [(COMBINE, f"{COMBINE[:19]} raw ^ _NO_EXECUTE | ({bit} if level == {level} else 0)")],
            rule,
            level,
        )
        for bit, rule in WITHHELD.items()
        for level in (2, 3, 4)
    },
    "U/S of the leaf alone": (
        [
            (
                COMBINE,
                "        granted = granted & (raw ^ _NO_EXECUTE) & ~_USER | raw & _USER",
            )
        ],
        "COMBINE",
        None,
    ),
    "USER_US ignored": ([(USER_US, "    if False:")], "USER_US", None),
    "USER_RW ignored": ([(USER_RW, "    if False:")], "USER_RW", None),
    "USER_RW by WP": ([(USER_RW, f"{USER_RW[:-1]} and cpu.wp:")], "USER_RW", None),
    "NX ignored": ([(NX, "    if False:")], "NX", None),
    "WP ignored": ([(WP, "granted & _WRITABLE and False:")], "WP", None),
    "WP = 0 as 1": ([(WP, "granted & _WRITABLE:")], "WP", None),
    "SMEP ignored": ([(SMEP, "    if False:")], "SMEP", None),
    "SMEP = 0 as 1": ([(SMEP, "    if fetch and user_page:")], "SMEP", None),
    "SMEP for supervisor pages": ([(SMEP, "    if fetch and cpu.smep:")], "SMEP", None),
    "SMAP ignored": ([(SMAP, "    if False:")], "SMAP", None),
    "AC for implicit accesses": (
        [(SMAP, SMAP.replace("(access.implicit or not cpu.ac)", "not cpu.ac"))],
        "SMAP",
        None,
    ),
    "AC ignored": ([(SMAP, f"{SMAP[:43]}:")], "SMAP", None),
    "PKE ignored": ([(PKE, "if False:")], "PKU", None),
    "PKE = 0 as 1": ([(PKE, "if user_page:")], "PKU", None),
    "keys of supervisor pages": ([(PKE, "if cpu.pke:")], "PKU", None),
    "AD ignored": ([(LIMITS, LIMITS.replace("limits & 1 or", ""))], "PKU", None),
    "keys of fetches": ([(BY_KEY, BY_KEY.replace("not fetch", "True"))], "PKU", None),
    "another key": ([("leaf >> 59 & 15", "leaf >> 58 & 15")], "KEY", None),
    "I without SMEP": ([(CODE, "    if access.is_fetch and cpu.nxe:")], "ERR", None),
    "I always": ([(CODE, "    if access.is_fetch:")], "ERR", None),
    "RSVD without P": ([("), _P | _RSVD", "), _RSVD")], "ERR", None),
    "P without RSVD": ([("), _P | _RSVD", "), _P")], "ERR", None),
    "no PK": ([('"PKU": _P | _PK', '"PKU": _P')], "ERR", None),
    "U of implicit accesses": (
        [("    if _is_user(cpu, access):\n        code", "    if cpu.user:\n        code")],
        "ERR",
        None,
    ),
    "CR2 of the access": ([(CR2, "return self.va")], "ERR", None),
    "CR2 of the page": ([(CR2, "return self.va & ~0xFFF")], "ERR", None),
    "no second page": ([(SPANS, "False and")], "SPLIT", None),
    "A never": ([("bits = _ACCESSED  # A", "bits = 0")], "A", None),
    "A not at 3": ([("bits = _ACCESSED  # A", "bits = _ACCESSED * (step.level != 3)")], "A", 3),
    "D by reads": ([(LEAF, "            if step is steps[-1]:")], "D", None),
    "D in tables": ([(LEAF, "            if self.access.is_write:")], "D", None),
    "D never": ([(LEAF, "            if False:")], "D", None),
    "low bits of CR3": ([("cpu.levels, cpu.root  # CR3", "cpu.levels, cpu.cr3")], "CR3", None),
    "any address": ([(CANONICAL, "    if False:")], "CANONICAL", None),
    "5 levels as 4": ([(CANONICAL, FOUR_LEVELS)], "CANONICAL|MODE", None),
    "#GP through SS": (
        [("Outcome.STACK_FAULT if access.stack", "Outcome.GENERAL_PROTECTION if access.stack")],
        "CANONICAL",
        None,
    ),
    "no 2 MiB pages": ([(SIZE, "        if huge and level != 2 or level == 1:")], "BIG", 2),
    "offset of 4 KiB": ([(FRAME, FRAME.replace("va & offset", "va & 0xFFF"))], "BIG", None),
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_planted_flaw_is_named(planted: Planted, flaw: str) -> None:
    changes, rule, level = FLAWS[flaw]
    answer = planted.flawed(*changes)

    found = planted.findings(answer)
    causes = root_causes(found)

    total = sum(finding.count for finding in found)
    assert total > 0
    assert sum(finding.count for finding in causes) == total
    most = max(causes, key=lambda finding: finding.count)
    assert most.rule in rule.split("|"), most.key
    assert most.level == level
    # Where an access spans two pages a flaw may look like another one; that is rare.
    assert total - most.count <= max(1, total // 20), [(cause.key, cause.count) for cause in causes]
    assert len(causes) <= 3
    assert most.explained


def test_all_rsvd_without_p_are_one_cause(planted: Planted) -> None:
    """As QEMU 7.2 does (docs/quirks.md): any reserved bit at any level."""
    answer = planted.flawed(("), _P | _RSVD", "), _RSVD"))

    found = planted.findings(answer)

    # One already before causes are chosen: millions of cases need no more room than one.
    assert len(found) == 1
    assert found[0].key.split("|")[0] == "ERR:RSVD-without-P"
    assert [finding.key for finding in root_causes(found)] == ["ERR:RSVD-without-P"]
    decided = {
        walk(words_of(case), case.cpu, case.va, case.access).rule  # type: ignore[arg-type]
        for _, case, _ in planted.differences(answer)
    }
    assert len(decided) >= 4


def test_two_levels_that_break_are_one_finding_with_both(planted: Planted) -> None:
    answer = planted.flawed((P, f"{P[:-4]} and level not in (2, 4):  #"))

    (found,) = root_causes(planted.findings(answer))

    assert (found.key, found.level, found.levels) == ("PRESENT:ignored", None, (4, 2))


def test_two_flaws_are_two_findings(planted: Planted) -> None:
    answer = planted.flawed((SMEP, "    if False:"), ("bits = _ACCESSED  # A", "bits = 0"))

    found = root_causes(planted.findings(answer))

    assert {finding.rule for finding in found} == {"A", "SMEP"}


def test_a_cause_that_others_explain_together_is_dropped() -> None:
    """x explains most at first; but a, b and c are needed anyway, and explain all that it does."""

    def of(number: int, *keys: str) -> Finding:
        ones = tuple(Explanation.of("A", key, None, "") for key in keys)
        return Finding(
            key="|".join(keys),
            judgement="diverge",
            rule="A",
            sentence="",
            first=number,
            explanations=ones,
        )

    sets = (("a",), ("x", "a"), ("x", "b"), ("b",), ("x", "c"), ("c",))
    found = root_causes(of(number, *keys) for number, keys in enumerate(sets))

    assert [(finding.key, finding.count) for finding in found] == [
        ("A:a", 2),
        ("A:b", 2),
        ("A:c", 2),
    ]


def test_order_does_not_matter(planted: Planted) -> None:
    answer = planted.flawed((USER_US, "    if False:"))
    found = planted.findings(answer)

    assert root_causes(found[::-1]) == root_causes(found)


def test_what_is_not_explained_so_passes_unchanged() -> None:
    broke = Finding(key="broke:x", judgement="broke", rule="MODE", sentence="it died", first=3)

    assert root_causes([broke]) == [broke]
