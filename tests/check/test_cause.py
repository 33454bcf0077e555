"""Causes: planted flaws are named by rule and level, and one flaw is one finding.

Flaws are planted in a copy of the walker's source, one line changed, so that what is explained
never comes from the code that explains.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator

import pytest

from harness.check.campaign import Bench, shrink_finding
from harness.check.case import Case
from harness.check.cause import Cause, cause_of, finding_of, root_causes
from harness.check.compare import Difference, Judgement, compare
from harness.check.finding import Finding
from harness.check.known import KNOWN, Verdict
from harness.check.words import words_of
from harness.cpu import CR0, CR4, EFER, CpuState
from harness.fuzz.groups import generate
from harness.outcome import Access, Observation, Outcome
from harness.walk import RULE_TEXT, walk

SOURCE = inspect.getsource(sys.modules["harness.walk.scalar"])
CASES = tuple(generate(7, 1500))


class Planted:
    """The engine of these tests, of which no divergence is registered."""

    name = "planted"
    version = "1.0"


ENGINE = Planted()


def mutant(*changes: tuple[str, str]) -> types.ModuleType:
    text = SOURCE
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    module = types.ModuleType("mutant")
    exec(compile(text, "mutant", "exec"), module.__dict__)
    return module


def observed(module: types.ModuleType, case: Case) -> Observation:
    answer = module.walk(words_of(case), case.cpu, case.va, case.access)
    return Observation(
        answer.outcome, answer.error_code, answer.cr2, answer.pa, None, dict(answer.sets)
    )


def differences(
    answer: Callable[[Case], Observation], cases: tuple[Case, ...] = CASES
) -> Iterator[tuple[int, Difference]]:
    for number, case in enumerate(cases):
        prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
        result = compare(prediction, answer(case))
        if isinstance(result, Difference):
            yield number, dataclasses.replace(result, case=case)


def findings(
    answer: Callable[[Case], Observation], cases: tuple[Case, ...] = CASES
) -> list[Finding]:
    found: dict[str, Finding] = {}
    for number, difference in differences(answer, cases):
        verdict = Verdict(Judgement.DIVERGE, difference)
        finding = finding_of(difference, verdict, ENGINE, number)
        old = found.get(finding.key)
        found[finding.key] = finding if old is None else old.merged(finding)
    return list(found.values())


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
def test_a_planted_flaw_is_named(flaw: str) -> None:
    changes, rule, level = FLAWS[flaw]
    module = mutant(*changes)

    found = findings(lambda case: observed(module, case))
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
    assert most.details["explained"]


def test_a_not_set_and_d_are_told_apart_on_a_fault() -> None:
    def answer(case: Case) -> Observation:
        prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
        page = prediction.second or prediction
        seen = Observation(
            prediction.outcome, prediction.error_code, prediction.cr2, prediction.pa, None,
            dict(prediction.sets),
        )  # fmt: skip
        if prediction.outcome is not Outcome.PAGE_FAULT:
            return seen
        last = page.steps[-1]
        return dataclasses.replace(seen, changed={last.address: 0x20 & ~last.raw})

    (cause,) = root_causes(findings(answer))

    assert (cause.rule, cause.level) == ("A_ON_FAULT", None)
    assert cause.details["levels"] == [5, 4, 3, 2, 1]


TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5007}
CPU = CpuState(cr3=0x1000)
USER = CPU.replace(cpl=3)


def cause(
    memory: dict[int, int], cpu: CpuState, access: str | Access, seen: Observation, va: int = 0x123
) -> Cause:
    case = Case(cpu, 0x10000, {**TABLES, **memory}, va, Access.of(access))
    prediction = walk(case.build(), case.cpu, case.va, case.access)
    return cause_of(words_of(case), prediction, seen)


ALL_A = {0x1000: 0x20, 0x2000: 0x20, 0x3000: 0x20, 0x4000: 0x20}
MAPPED = Observation(Outcome.MAPPED, pa=0x5123, changed=ALL_A)
WRITTEN = Observation(Outcome.MAPPED, pa=0x5123, changed={**ALL_A, 0x4000: 0x60})


def fault(code: int, cr2: int = 0x123, changed: dict[int, int] | None = None) -> Observation:
    return Observation(Outcome.PAGE_FAULT, code, cr2, changed=changed or {})


NO_NXE = CPU.replace(efer=CPU.efer & ~int(EFER.NXE))


@pytest.mark.parametrize(
    ("found", "rule", "level", "sentence"),
    [
        (
            cause({0x3000: 0x4006}, CPU, "read", MAPPED),
            "PRESENT",
            2,
            "the CPU acted as if bit P of the PDE at 0x3000 were 1",
        ),
        (
            cause({0x3000: 0x4005}, USER, "write", WRITTEN),
            "USER_RW",
            2,
            "the CPU acted as if bit R/W of the PDE at 0x3000 were 1",
        ),
        (
            cause({0x2000: 0x3003}, USER, "read", MAPPED),
            "USER_US",
            3,
            "the CPU acted as if bit U/S of the PDPTE at 0x2000 were 1",
        ),
        (
            cause({0x4000: 0x5005}, CPU.replace(cr0=CPU.cr0 & ~int(CR0.WP)), "write", fault(3)),
            "WP",
            None,
            "the CPU acted as if CR0.WP were 1",
        ),
        (
            cause({0x1000: 1 << 45 | 0x2007}, CPU, "read", MAPPED),
            "RSVD_ADDR",
            4,
            "the CPU acted as if bit 45 of the PML4E at 0x1000 were not reserved",
        ),
        (
            cause({0x4000: 0x5002}, USER, "read", fault(5)),
            "PRESENT",
            1,
            "the CPU acted as if bit P of the PTE at 0x4000 were 1",
        ),
        (
            cause({0x4000: 0x5003}, USER, "read", fault(1)),
            "ERR",
            None,
            "the CPU did as predicted, but in the error code U was missing",
        ),
        (
            cause({0x4000: 0x5006}, NO_NXE, "fetch", fault(0x10)),
            "ERR",
            None,
            "the CPU did as predicted, but in the error code I was set wrongly",
        ),
        (
            cause({0x4000: 1 << 45 | 0x5007}, CPU, "write", fault(0xA)),
            "ERR",
            None,
            "the CPU reported RSVD without P: a reserved bit is only looked at when P = 1",
        ),
        (
            cause({0x4000: 0x5006}, CPU, "read", fault(0, 0)),
            "ERR",
            None,
            "the CPU put the first byte of the page into CR2",
        ),
        (
            cause({}, CPU, "read", dataclasses.replace(MAPPED, changed={**ALL_A, 0x2000: 0})),
            "A",
            3,
            "the CPU did not set A of the PDPTE at 0x2000",
        ),
        (
            cause({0x4000: 0x5006}, CPU, "read", fault(0, changed={0x4000: 0x20})),
            "A_ON_FAULT",
            1,
            "the CPU set A of the PTE at 0x4000 although the access faults",
        ),
        (
            cause({}, CPU.replace(cr4=CPU.cr4 | int(CR4.SMEP)), "fetch", MAPPED),
            "SMEP",
            None,
            "the CPU acted as if CR4.SMEP were 0",
        ),
        (
            cause({0x3000: 0x0020_0087}, CPU, "read", MAPPED),
            "COMBINE",
            2,
            None,
        ),
    ],
)  # fmt: skip
def test_a_cause_is_told(found: Cause, rule: str, level: int | None, sentence: str | None) -> None:
    assert (found.rule, found.level) == (rule, level), found
    if sentence is not None:
        assert found.as_if == sentence
        assert found.explained
    else:
        assert not found.explained


def test_an_agreement_has_no_cause() -> None:
    with pytest.raises(ValueError, match="only a difference has a cause"):
        cause({}, CPU, "read", MAPPED)


def test_all_rsvd_without_p_are_one_cause() -> None:
    """As QEMU 7.2 does (facts.md): any reserved bit at any level."""
    module = mutant(("), _P | _RSVD", "), _RSVD"))

    found = findings(lambda case: observed(module, case))

    # One already before causes are chosen: millions of cases need no more room than one.
    assert len(found) == 1
    assert found[0].key.split("|")[0] == "ERR:RSVD-without-P"
    assert [finding.key for finding in root_causes(found)] == ["ERR:RSVD-without-P"]
    decided = {
        walk(words_of(d.case), d.case.cpu, d.case.va, d.case.access).rule  # type: ignore[arg-type]
        for _, d in differences(lambda case: observed(module, case))
        if d.case is not None
    }
    assert len(decided) >= 4


def test_a_self_referencing_entry_names_self() -> None:
    memory = {0x1000: 0x1007}
    case = Case(CPU, 0x10000, memory, 0, Access.of("write"))
    prediction = walk(case.build(), case.cpu, case.va, case.access)
    assert prediction.sets == {0x1000: 0x60}
    seen = Observation(Outcome.MAPPED, pa=0x1000, changed={0x1000: 0x20})

    found = cause_of(words_of(case), prediction, seen)

    assert found.rule == "SELF"
    assert found.keys == ("SELF:D", "D:missing:L1", "D:missing")


def test_two_levels_that_break_are_one_finding_with_both() -> None:
    module = mutant((P, f"{P[:-4]} and level not in (2, 4):  #"))

    (found,) = root_causes(findings(lambda case: observed(module, case)))

    assert (found.key, found.level, found.details["levels"]) == ("PRESENT:ignored", None, [4, 2])


def test_two_flaws_are_two_findings() -> None:
    module = mutant((SMEP, "    if False:"), ("bits = _ACCESSED  # A", "bits = 0"))

    found = root_causes(findings(lambda case: observed(module, case)))

    assert {finding.rule for finding in found} == {"A", "SMEP"}


def test_a_cause_that_others_explain_together_is_dropped() -> None:
    """x explains most at first; but a, b and c are needed anyway, and explain all that it does."""

    def of(number: int, *keys: str) -> Finding:
        ones = [{"key": key, "rule": "A", "level": None, "as_if": ""} for key in keys]
        return Finding(
            key="|".join(keys),
            judgement="diverge",
            rule="A",
            sentence="",
            first=number,
            details={"explanations": ones},
        )

    sets = (("a",), ("x", "a"), ("x", "b"), ("b",), ("x", "c"), ("c",))
    found = root_causes(of(number, *keys) for number, keys in enumerate(sets))

    assert [(finding.key, finding.count) for finding in found] == [("a", 2), ("b", 2), ("c", 2)]


def test_order_does_not_matter() -> None:
    module = mutant((USER_US, "    if False:"))
    found = findings(lambda case: observed(module, case))

    assert root_causes(found[::-1]) == root_causes(found)


def test_what_is_not_explained_so_passes_unchanged() -> None:
    broke = Finding(key="broke:x", judgement="broke", rule="MODE", sentence="it died", first=3)

    assert root_causes([broke]) == [broke]


def test_a_known_divergence_is_a_finding_of_its_name() -> None:
    known = KNOWN[0]
    with Bench(known.case.ram) as bench:
        _, _, verdict = bench.ask(known.case)
        assert verdict.difference is not None
        finding = finding_of(verdict.difference, verdict, bench.engine, 7)

    assert finding.key == f"known:{known.name}"
    assert (finding.judgement, finding.rule, finding.first) == ("known", known.rule, 7)
    assert finding.known == (known.name,)
    assert finding.details["sources"] == [known.source]


def test_a_finding_has_all_that_is_told() -> None:
    module = mutant((NX, "    if False:"))
    found = findings(lambda case: observed(module, case))

    for finding in found:
        details = finding.details
        assert finding.case is not None
        case = Case.from_json(finding.case)
        prediction = walk(words_of(case), case.cpu, case.va, case.access)  # type: ignore[arg-type]
        assert details["predicted"]["rule"] == prediction.rule == "NX"
        assert details["observed"]["outcome"] != "page-fault" or prediction.second
        assert details["rule_text"] == RULE_TEXT[finding.rule]
        levels = [entry["level"] for entry in details["walk"] if entry["page"] == 0]
        assert levels == [step.level for step in prediction.steps]
        assert any(entry["decides"] for entry in details["walk"])
        assert Finding.from_json(finding.to_json()) == finding


# Registered divergences may stand beside a flaw.


def test_a_flaw_is_found_beside_a_registered_divergence() -> None:
    """R/W of a 1 GiB page is not heeded by an engine that sets A before it looks."""

    class Unicorn:
        name = "unicorn"
        version = "2.1.4"

    memory = {0x1000: 0x2007, 0x2000: 0x81}
    case = Case(USER, 0x10000, memory, 0x123, Access.of("write"))
    prediction = walk(case.build(), case.cpu, case.va, case.access)
    assert prediction.rule == "USER_US"
    seen = Observation(Outcome.PAGE_FAULT, 0x3, 0x123, changed={0x1000: 0x20, 0x2000: 0x20})

    assert cause_of(words_of(case), prediction, seen, Unicorn()).rule == "ERR"


def test_a_finding_that_no_longer_differs_is_left_as_it_is() -> None:
    case = Case(CPU, 0x10000, TABLES, 0x123, Access.of("read"))
    finding = Finding(
        key="A:missing", judgement="diverge", rule="A", sentence="", case=case.to_json()
    )

    assert shrink_finding(finding) == finding
