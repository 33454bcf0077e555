"""A walk in words: level by level, and why it ended as it did.

:func:`explain` tells a whole walk, and :func:`fault_report` a fault, in plain text for terminals,
logs and test failures. Every report of a fault names the virtual address, CR2, CR3, the level and
the entry that decided, the error code decoded, and the rule. :func:`walk_rows` gives the entries
in columns, for whoever draws tables::

    >>> print(fault_report(walk(memory, cpu, 0x4123, "write")))  # doctest: +SKIP
    page fault: a user write of 0x4123
      CR2         0x4123
      CR3         0x1000
      error code  0x7 = P W U: a user write: the page is present and its rights forbid it
      decided at  level 1, PTE 4 at 0x4020 = 0x5003 (P R/W)
      rule        USER_US: A user access needs a user page (4.6.1).
"""

from __future__ import annotations

import textwrap
from typing import Final, NamedTuple

from harness.address import entry_name, format_address, is_canonical, table_name
from harness.cpu import CpuState, ErrorCode
from harness.entry import PageTableEntry
from harness.outcome import Outcome
from harness.walker import RULE_TEXT, Step, Walk

__all__ = [
    "WIDTH",
    "WalkRow",
    "bits_of",
    "explain",
    "fault_report",
    "headline",
    "index_of",
    "rights_lines",
    "verdict_lines",
    "walk_rows",
]

WIDTH: Final = 100
"""Columns that a report is wrapped at."""

# Bits by their names in the manual; PS and PAT depend on the level.
_BITS = (
    (0, "P"),
    (1, "R/W"),
    (2, "U/S"),
    (3, "PWT"),
    (4, "PCD"),
    (5, "A"),
    (6, "D"),
    (8, "G"),
    (63, "XD"),
)


class WalkRow(NamedTuple):
    """One entry that a walk read, for people.

    :ivar name: ``PML4E``, ``PDE`` ...
    :ivar slot: its place in the table, decimal and octal.
    :ivar address: where the entry lies.
    :ivar raw: its value.
    :ivar leads_to: the next table, or the page.
    :ivar bits: those that are set, by the manual's names.
    :ivar decides: this entry decided what became of the access.
    """

    name: str
    slot: str
    address: str
    raw: str
    leads_to: str
    bits: str
    decides: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """Give the columns that are text."""
        return self.name, self.slot, self.address, self.raw, self.leads_to, self.bits


def index_of(step: Step) -> int:
    """Return an entry's place in its table."""
    return step.address % 4096 // 8


def bits_of(entry: PageTableEntry) -> str:
    """Name the bits that are set in an entry, address and protection key apart.

    :param entry: at its level.
    """
    raw = entry.raw
    names = [name for bit, name in _BITS if raw >> bit & 1]
    if entry.page_size is not None and entry.level > 1:
        names.append("PS")
    elif raw >> 7 & 1 and entry.level > 1:
        names.append("bit 7")
    if entry.pat:
        names.append("PAT")
    if entry.page_size is not None and entry.key:
        names.append(f"key {entry.key}")
    return " ".join(names) or "none"


def walk_rows(walk: Walk) -> list[WalkRow]:
    """List the entries that a walk read, from the root down.

    :param walk: of one page: of an access that spans two, ``walk.second`` is the other one.
    """
    culprits = {step.address for step in walk.culprits} if not walk.completed else set()
    rows = []
    for step in walk.steps:
        entry = step.entry
        rows.append(
            WalkRow(
                entry_name(step.level),
                f"{index_of(step)} = 0o{index_of(step):03o}",
                format_address(step.address),
                format_address(step.raw),
                _leads_to(entry),
                bits_of(entry),
                step.address in culprits,
            )
        )
    return rows


def _leads_to(entry: PageTableEntry) -> str:
    if not entry.is_present:
        return "not present" if entry.raw else "unused"
    where = format_address(entry.address)
    if entry.page_size is not None:
        return f"{entry.page_size.letter} page {where}"
    return f"{table_name(entry.level - 1)} {where}" if entry.level > 1 else where


def headline(walk: Walk) -> str:
    """Say in a line what was asked.

    :param walk: the walk.
    """
    access = walk.access
    who = (
        "an implicit supervisor"
        if access.implicit
        else "a user"
        if walk.cpu.user
        else "a supervisor"
    )
    size = f" of {access.size} bytes" if access.size > 1 else ""
    through = " through SS" if access.stack else ""
    return f"{who} {access.kind}{size}{through} at {format_address(walk.va)}"


def explain(walk: Walk) -> str:
    """Return a walk for a person: each entry, the rights of all levels together, the verdict.

    :param walk: the walk.
    """
    lines = [
        f"{headline(walk)}, CPL {walk.cpu.cpl}, {walk.cpu.levels} levels",
        f"CR3 {format_address(walk.cpu.cr3)}",
    ]
    pages = [walk] if walk.second is None else [walk, walk.second]
    for page in pages:
        if len(pages) > 1:
            lines.append(f"the page of {format_address(page.va)}")
        rows = walk_rows(page)
        widths = [
            max(map(len, column)) for column in zip(*(row.cells for row in rows), strict=True)
        ]
        for row in rows:
            cells = [f"{cell:<{width}}" for cell, width in zip(row.cells, widths, strict=True)]
            lines.append(f"{'✗' if row.decides else ' '} {'  '.join(cells)}".rstrip())
        lines += rights_lines(page)
    lines += verdict_lines(walk)
    return "\n".join(lines)


def rights_lines(walk: Walk) -> list[str]:
    """Say what all levels together allow on the page of the first byte, if it has one."""
    rights = walk.rights
    if rights is None:
        return []
    words = [
        "user" if rights.user else "supervisor",
        "writable" if rights.writable else "read-only",
        "executable" if rights.executable else "not executable",
    ]
    if walk.cpu.pke or walk.cpu.pks:
        words.append(f"key {rights.key}")
    return [f"all levels together: {', '.join(words)}"]


def verdict_lines(walk: Walk) -> list[str]:
    """Say what became of the access, by which rule, and which bits it sets."""
    if walk.outcome not in (Outcome.MAPPED, Outcome.NO_MEMORY):
        return fault_report(walk).splitlines()
    assert walk.pa is not None
    if walk.outcome is Outcome.MAPPED:
        assert walk.page_size is not None
        verdict = (
            f"mapped: physical address {format_address(walk.pa)}, {walk.page_size.letter} page"
        )
    elif walk.completed:
        verdict = f"translated to {format_address(walk.pa)}, where there is no RAM"
    else:
        verdict = f"no RAM at {format_address(walk.pa)}, where the next entry should be"
    lines = [verdict, f"rule {walk.rule}: {RULE_TEXT[walk.rule]}"]
    sets = walk.sets
    if sets:
        lines.append("sets " + ", ".join(_set(walk, at, bits) for at, bits in sets.items()))
    return lines


def _set(walk: Walk, address: int, bits: int) -> str:
    names = " and ".join(name for bit, name in ((5, "A"), (6, "D")) if bits >> bit & 1)
    pages = [walk] if walk.second is None else [walk, walk.second]
    level = next(s.level for page in pages for s in page.steps if s.address == address)
    return f"{names} in the {entry_name(level)}"


def fault_report(walk: Walk, cpu: CpuState | None = None) -> str:
    """Return the report of a fault: plain text, one line a fact.

    :param walk: one that ended in a fault; any other is told as :func:`explain` ends.
    :param cpu: the CPU's state, if it is not the walk's own.
    """
    cpu = cpu or walk.cpu
    if walk.outcome in (Outcome.MAPPED, Outcome.NO_MEMORY):
        return "\n".join([headline(walk), *(f"  {line}" for line in verdict_lines(walk))])
    name = str(walk.outcome).replace("-", " ")
    lines = [f"{name}: {headline(walk)}"]
    facts: list[tuple[str, str]] = []
    if walk.cr2 is not None:
        facts.append(("CR2", format_address(walk.cr2)))
    facts.append(("CR3", format_address(cpu.cr3)))
    if walk.error_code is not None:
        facts.append(("error code", _code(walk)))
    facts.append(("decided at", _decided(walk)))
    culprits = walk.culprits
    if len(culprits) > 1 or any(step.level != walk.level for step in culprits):
        entries = ", ".join(f"{entry_name(step.level)} {index_of(step)}" for step in culprits)
        facts.append(("withheld by", f"{entries}: every level must grant it"))
    facts.append(("rule", f"{walk.rule}: {RULE_TEXT[walk.rule]}"))
    for label, text in facts:
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {label:<11} ", subsequent_indent=" " * 14
        )
    return "\n".join(lines)


def _code(walk: Walk) -> str:
    assert walk.error_code is not None
    code = ErrorCode(walk.error_code)
    if walk.outcome is not Outcome.PAGE_FAULT:
        return f"{int(code):#x}"
    bits = f" = {code}" if code else ""
    return f"{int(code):#x}{bits}: {code.sentence()}"


def _decided(walk: Walk) -> str:
    if walk.level is None or walk.rule == "CANONICAL":
        page = walk.va if not is_canonical(walk.va, walk.cpu.levels) else walk.va | 0xFFF
        bit = 9 * walk.cpu.levels + 11
        return f"no entry: bits 63:{bit} of {format_address(page)} are not all equal"
    pages = [walk] if walk.second is None else [walk.second, walk]
    steps = [step for page in pages for step in page.steps if step.level == walk.level]
    if not steps:
        return f"level {walk.level}"
    step = steps[0]
    return (
        f"level {step.level}, {entry_name(step.level)} {index_of(step)} at "
        f"{format_address(step.address)} = {format_address(step.raw)} ({bits_of(step.entry)})"
    )
