"""Every rule is held up by a case: take it out of the walker, and a case about it fails.

The mutants are made from the source of the modules. A mutation names a text that must occur there
exactly once, so that it cannot silently stop being one when the code changes.
"""

import sys
import types
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pytest

from harness.memory import PhysicalMemory
from harness.walker import RULES, leaves, ranges, walk
from harness.walker.rules import CACHING

MODULES = {
    name: sys.modules[f"harness.walker.{name}"] for name in ("scalar", "bulk", "columns", "ranges")
}


class Mutation(NamedTuple):
    """A rule, the text that states it, and the text that does not."""

    rule: str
    old: str
    new: str


def mutant(module: str, mutation: Mutation) -> types.ModuleType:
    path = MODULES[module].__file__
    assert path is not None
    with open(path, encoding="utf-8") as file:
        source = file.read()
    count = source.count(mutation.old)
    assert count == 1, f"{module}.py must hold {mutation.old!r} once, not {count} times"
    result = types.ModuleType(f"mutant_of_{module}")
    # dataclasses look their module up by name.
    sys.modules[result.__name__] = result
    exec(compile(source.replace(mutation.old, mutation.new), path, "exec"), result.__dict__)
    return result


PLANNED = "codes[outcomes != Outcome.PAGE_FAULT.code] = 0"

SCALAR = [
    Mutation("MODE", "levels, table = cpu.levels, cpu.root", "levels, table = 4, cpu.root"),
    Mutation("CR3", "levels, table = cpu.levels, cpu.root", "levels, table = cpu.levels, cpu.cr3"),
    Mutation("CANONICAL", "not in _CANONICAL[levels]:", "not in range(1 << 64):"),
    Mutation(
        "CANONICAL",
        "va >> 9 * levels + 11 not in _CANONICAL[levels]",
        "va >> 47 not in _CANONICAL[4]",
    ),
    Mutation("CANONICAL", "if access.stack else", "if False else"),
    Mutation("PRESENT", "if not raw & _PRESENT:", "if not raw:"),
    Mutation(
        "PRESENT",
        "if not raw & _PRESENT:",
        "if not raw & _PRESENT and not raw & reserved[1]:",
    ),
    Mutation("RSVD_ADDR", '"RSVD_ADDR": cpu.reserved_address', '"RSVD_ADDR": 0'),
    Mutation("RSVD_NX", "0 if cpu.nxe else _NO_EXECUTE", "0"),
    Mutation("RSVD_NX", "0 if cpu.nxe else _NO_EXECUTE", "_NO_EXECUTE"),
    Mutation("RSVD_PS", 'rules["RSVD_PS"] = _HUGE', "pass"),
    Mutation("RSVD_PS", "level >= 4 or (", "level >= 5 or ("),
    Mutation("RSVD_PS", "(level == 3 and not cpu.pdpe1gb)", "False"),
    Mutation("RSVD_1G", "_bits(29, 13)", "0"),
    Mutation("RSVD_1G", "_bits(29, 13)", "_bits(29, 14)"),
    Mutation("RSVD_1G", "_bits(29, 13)", "_bits(28, 13)"),
    Mutation("RSVD_1G", "_bits(29, 13)", "_bits(29, 12)"),
    Mutation("RSVD_1G", "level == 3 and huge", "level == 3"),
    Mutation("RSVD_2M", "_bits(20, 13)", "0"),
    Mutation("RSVD_2M", "_bits(20, 13)", "_bits(20, 14)"),
    Mutation("RSVD_2M", "_bits(20, 13)", "_bits(19, 13)"),
    Mutation("RSVD_2M", "_bits(20, 13)", "_bits(20, 12)"),
    Mutation("RSVD_2M", "level == 2 and huge", "level == 2"),
    Mutation("PAT", "elif level == 2 and huge:", "elif level <= 2 and huge:"),
    Mutation("PAT", "if huge or level == 1:", "if level == 1 and not huge or level > 1 and huge:"),
    Mutation("PAT", "raw & ADDRESS_MASK & ~offset | va", "raw & ADDRESS_MASK | va"),
    Mutation(
        "ORDER",
        "if raw & reserved[huge]:",
        "if raw & reserved[huge] and not"
        " denial(cpu, access, granted & (raw ^ _NO_EXECUTE), _key(raw)):",
    ),
    Mutation(
        "ORDER",
        "if not raw & _PRESENT:",
        "if denial(cpu, access, granted, 0):\n"
        "            denied = denial(cpu, access, granted, 0)\n"
        "            break\n"
        "        if not raw & _PRESENT:",
    ),
    Mutation("ORDER", "except NoMemory:", "except ZeroDivisionError:"),
    Mutation("COMBINE", "granted &= raw ^ _NO_EXECUTE", "granted = raw ^ _NO_EXECUTE"),
    Mutation("COMBINE", "granted &= raw ^", "granted &= raw & ~_USER | _USER ^"),
    Mutation("COMBINE", "granted &= raw ^", "granted &= raw & ~_WRITABLE | _WRITABLE ^"),
    Mutation("COMBINE", "granted &= raw ^ _NO_EXECUTE", "granted &= raw | _NO_EXECUTE"),
    Mutation("USER_US", "if user and not user_page:", "if False:"),
    Mutation("USER_US", "return cpu.user and not", "return cpu.cpl > 0 and not"),
    Mutation("USER_RW", "if user and write and not granted & _WRITABLE:", "if False:"),
    Mutation(
        "USER_RW",
        "if user and write and not granted & _WRITABLE:",
        "if user and write and cpu.wp and not granted & _WRITABLE:",
    ),
    Mutation("NX", "if fetch and not granted & _NO_EXECUTE:", "if False:"),
    Mutation(
        "NX",
        "if fetch and not granted & _NO_EXECUTE:",
        "if user and fetch and not granted & _NO_EXECUTE:",
    ),
    Mutation("NX", "if fetch and not granted & _NO_EXECUTE:", "if not granted & _NO_EXECUTE:"),
    Mutation("WP", "if write and not granted & _WRITABLE and cpu.wp:", "if False:"),
    Mutation(
        "WP",
        "if write and not granted & _WRITABLE and cpu.wp:",
        "if write and not granted & _WRITABLE:",
    ),
    Mutation("SMEP", "if fetch and user_page and cpu.smep:", "if False:"),
    Mutation("SMEP", "if fetch and user_page and cpu.smep:", "if fetch and cpu.smep:"),
    Mutation("SMEP", "if fetch and user_page and cpu.smep:", "if fetch and user_page:"),
    Mutation("SMAP", "if not fetch and user_page and cpu.smap and", "if False and"),
    Mutation("SMAP", "if not fetch and user_page and", "if user_page and"),
    Mutation("SMAP", "if not fetch and user_page and", "if not fetch and"),
    Mutation("SMAP", "(access.implicit or not cpu.ac)", "not cpu.ac"),
    Mutation("SMAP", "(access.implicit or not cpu.ac)", "(access.implicit or True)"),
    Mutation("SMAP", "return cpu.user and not access.implicit", "return cpu.user"),
    Mutation("PKU", "if user_page and cpu.pke:", "if False:"),
    Mutation("PKU", "if user_page and cpu.pke:", "if user_page:"),
    Mutation("PKU", "if user_page and cpu.pke:", "if cpu.pke:"),
    Mutation("PKU", "if limits & 1 or (limits & 2", "if (limits & 2"),
    Mutation("PKU", "and write and (user or cpu.wp))", "and (user or cpu.wp))"),
    Mutation("PKU", "and write and (user or cpu.wp))", "and write and cpu.wp)"),
    Mutation("PKU", "and write and (user or cpu.wp))", "and write)"),
    Mutation("PKU", "    if not fetch:\n        limits", "    if True:\n        limits"),
    Mutation("PKU", '"PKU": _P | _PK', '"PKU": _P'),
    Mutation(
        "PKU",
        "    if not fetch:\n        limits",
        "    if not fetch and not (user and write and not granted & _WRITABLE):\n        limits",
    ),
    Mutation("PKS", "elif not user_page and cpu.pks:", "elif False:"),
    Mutation("PKS", "elif not user_page and cpu.pks:", "elif cpu.pks:"),
    Mutation("PKS", "elif not user_page and cpu.pks:", "elif not user_page:"),
    Mutation("PKS", "limits = cpu.pkrs >>", "limits = cpu.pkru >>"),
    Mutation("PKS", '"PKS": _P | _PK', '"PKS": _P'),
    Mutation("KEY", "leaf >> 59 & 15", "0"),
    Mutation("KEY", "leaf >> 59 & 15", "leaf >> 59 & 7"),
    Mutation("KEY", "leaf >> 59 & 15", "leaf >> 58 & 15"),
    Mutation("KEY", "leaf >> 59 & 15", "leaf >> 59 & 31"),
    Mutation(
        "KEY",
        "denial(cpu, access, granted, _key(raw))",
        "denial(cpu, access, granted, _key(raws[0]))",
    ),
    Mutation(
        "KEY",
        "denial(cpu, access, granted, _key(raw))",
        "denial(cpu, access, granted, _key(raws[-2]))",
    ),
    Mutation("ERR", "code |= _W", "pass"),
    Mutation("ERR", "code |= _U", "pass"),
    Mutation("ERR", "code |= _I", "pass"),
    Mutation("ERR", "and (cpu.nxe or cpu.smep)", ""),
    Mutation("ERR", "and (cpu.nxe or cpu.smep)", "and cpu.nxe"),
    Mutation("ERR", "and (cpu.nxe or cpu.smep)", "and cpu.smep"),
    Mutation("ERR", "if _is_user(cpu, access):\n        code", "if cpu.user:\n        code"),
    Mutation("ERR", "_P | _RSVD\n)", "_P\n)"),
    Mutation(
        "ERR",
        "self.va if self.second is None else self.second.va",
        "(self.va if self.second is None else self.second.va) & ~0xFFF",
    ),
    Mutation("SPLIT", "(first & 0xFFF) + access.size > 0x1000 and", "False and"),
    Mutation("SPLIT", "> 0x1000 and lower.completed:", "> 0x1000:"),
    Mutation("SPLIT", "> 0x1000 and lower.completed:", ">= 0x1000 and lower.completed:"),
    Mutation("SPLIT", "> 0x1000 and lower.completed:", "> 0x1001 and lower.completed:"),
    Mutation("SPLIT", "(first | 0xFFF) + 1 &", "(first | 0xFFF) &"),
    Mutation("SPLIT", "+ 1 & 0xFFFF_FFFF_FFFF_FFFF", "+ 1"),
    Mutation("SPLIT", "_add(needs, address, bits)", "pass"),
    Mutation("SPLIT", "_add(may, address, bits)", "pass"),
    Mutation("SPLIT", "self.va if self.second is None else self.second.va", "self.va"),
    Mutation("A", "bits = _ACCESSED  # A", "bits = 0  # A"),
    Mutation("A", "bits & ~step.raw)", "bits)"),
    Mutation("D", "bits |= _DIRTY", "pass"),
    Mutation("D", "step is steps[-1] and self.access.is_write:", "self.access.is_write:"),
    Mutation("D", "step is steps[-1] and self.access.is_write:", "step is steps[-1]:"),
    Mutation("A_ON_FAULT", "steps = steps[:-1]", "pass"),
    Mutation("A_ON_FAULT", "_ACCESSED & ~step.raw)", "0)"),
    Mutation("A_ON_FAULT", "_ACCESSED & ~step.raw)", "_ACCESSED)"),
    Mutation("A_ON_FAULT", "if self.second is None and self.outcome is _PAGE_FAULT:", "if True:"),
    Mutation(
        "SELF", "_add(needs, step.address, bits & ~step.raw)", "needs[step.address] = _ACCESSED"
    ),
    Mutation(
        "SELF",
        "_add(needs, step.address, bits & ~step.raw)",
        "needs.setdefault(step.address, bits & ~step.raw)",
    ),
]


def test_every_rule_is_mutated() -> None:
    assert {mutation.rule for mutation in SCALAR} == set(RULES) - set(CACHING)


def caught(case: Any, walker: Any) -> bool:
    if "refused" in case.expect:
        return False
    try:
        return bool(case.predict(walker) != case.expect)
    except Exception:  # a mutant may break down altogether
        return True


@pytest.mark.parametrize("mutation", SCALAR, ids=lambda m: f"{m.rule}: {m.new}")
def test_a_case_about_the_rule_notices(mutation: Mutation, cases: Any) -> None:
    walker = mutant("scalar", mutation).walk
    about = [case for case in cases if case.about == mutation.rule]
    assert not any(caught(case, walk) for case in about)
    assert any(caught(case, walker) for case in about)


BULK = [
    Mutation("CR3", "_U64(plan.root)", "_U64(0x1000)"),
    Mutation("CANONICAL", "if astray.any():", "if False:"),
    Mutation("CANONICAL", "(9 * plan.levels + 11)", "47"),
    Mutation("PRESENT", "if absent.any():", "if False:"),
    Mutation("RSVD_1G", "np.where(raw & _HUGE, page_bits, table_bits)", "table_bits"),
    Mutation("RSVD_ADDR", "if broken.any():", "if False:"),
    Mutation("RSVD_ADDR", "in reversed(list(", "in (list("),
    Mutation("ORDER", "_CR3 if level == plan.levels else _ORDER", "_ORDER"),
    Mutation("COMBINE", "granted &= raw ^ _NO_EXECUTE", "granted = raw ^ _NO_EXECUTE"),
    Mutation("PAT", "np.full(len(raw), True)", "raw & _HUGE == 0"),
    Mutation("PAT", "ADDRESS_MASK & ~inside |", "ADDRESS_MASK |"),
    Mutation("KEY", "raw >> 56 & 0x78", "raw >> 56 & 0x38"),
    Mutation("NX", "granted >> 61 & 4", "4"),
    Mutation("USER_US", "granted >> 1 & 3", "granted >> 1 & 1 | 2"),
    Mutation("WP", "granted >> 1 & 3", "granted >> 1 & 2 | 1"),
    Mutation("ERR", "out.cr2[faulted] = vas[faulted]", "pass"),
    Mutation("ERR", PLANNED, "pass"),
    Mutation("SPLIT", "if access.size > 1:", "if False:"),
    Mutation("SPLIT", "decides = ~upper.completed | missing", "decides = ~upper.completed"),
    Mutation("SPLIT", "decides = ~upper.completed | missing", "decides = missing"),
    Mutation("SPLIT", "& out.completed)", "& True)"),
]


@pytest.mark.parametrize("mutation", BULK, ids=lambda m: f"{m.rule}: {m.new}")
def test_a_case_notices_in_bulk(
    mutation: Mutation, cases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutation.old == PLANNED:  # what is worked out before the walk
        monkeypatch.setattr(MODULES["bulk"], "Plan", mutant("columns", mutation).Plan)
        walker = MODULES["bulk"].bulk
    else:
        walker = mutant("bulk", mutation).bulk

    def notices(case: Any) -> bool:
        if "refused" in case.expect:
            return False
        try:
            row = walker(case.memory, case.cpu, [case.va], case.access, fast=False)
        except Exception:
            return True
        answer = walk(case.memory, case.cpu, case.va, case.access)
        wants = (
            answer.outcome.code,
            RULES.index(answer.rule),
            answer.level or 0,
            answer.error_code or 0,
            answer.cr2 or 0,
            answer.pa or 0,
        )
        columns = (row.outcome, row.rule, row.level, row.error_code, row.cr2, row.pa)
        return wants != tuple(int(column[0]) for column in columns)

    assert any(notices(case) for case in cases)


MANY = 50_000  # a mutant may describe pages without end
RANGES = [
    Mutation("PRESENT", "if not raw & _PRESENT:", "if not raw:"),
    Mutation("RSVD_1G", "(big if raw & _HUGE else small)", "small"),
    Mutation("RSVD_1G", "np.where(raw & _HUGE, _U64(big), _U64(small))", "_U64(small)"),
    Mutation("PAT", "elif level == 1 or raw & _HUGE:", "elif raw & _HUGE:"),
    Mutation("PAT", "else np.full(len(entries.raw), True)", "else entries.raw & _HUGE == 0"),
    Mutation("PAT", "ADDRESS_MASK & -span", "ADDRESS_MASK"),
    Mutation("PAT", "& ~(size - _U64(1))", ""),
    Mutation("COMBINE", "granted[good] & (raw[good] ^ _NO_EXECUTE)", "raw[good] ^ _NO_EXECUTE"),
    Mutation("ORDER", "if (offsets < 0).any():", "if False:"),
]


@pytest.mark.parametrize("mutation", RANGES, ids=lambda m: f"{m.rule}: {m.new}")
def test_random_tables_notice_in_ranges(mutation: Mutation, randomly: Any) -> None:
    module = mutant("ranges", mutation)

    def notices(seed: int) -> bool:
        some = randomly(seed, 1)
        words = some.memory.words
        words[np.random.default_rng(seed).random(len(words)) < 0.99] &= ~np.uint64(1)
        words[some.cpu.root >> 3] = 0x9_0007  # leads out of RAM
        try:
            listed = [tuple(piece) for piece in islice(module.ranges(some.memory, some.cpu), MANY)]
            columns = [tuple(leaf) for leaf in module.leaves(some.memory, some.cpu, limit=MANY)]
        except Exception:
            return True
        same = listed == [tuple(piece) for piece in islice(ranges(some.memory, some.cpu), MANY)]
        return not same or columns != [tuple(leaf) for leaf in leaves(some.memory, some.cpu)]

    assert any(notices(seed) for seed in range(20))


def test_a_mutation_must_fit() -> None:
    with pytest.raises(AssertionError, match="must hold 'no such text' once, not 0 times"):
        mutant("scalar", Mutation("A", "no such text", ""))
    assert mutant("scalar", Mutation("A", "bits = _ACCESSED  # A", "bits = _ACCESSED")).walk(
        PhysicalMemory(0x1000), _cpu(), 0
    )


def _cpu() -> Any:
    from harness.cpu import CpuState

    return CpuState()
