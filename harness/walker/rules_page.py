"""The page ``docs/rules.md``, made from the rules and the open points.

``python -m harness.walker.rules_page > docs/rules.md`` writes it anew; a test holds the committed
page to it. What a rule says stands in :mod:`harness.walker.rules`. The notes here say more about
some rules than a report has room for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from harness.walker.open_points import OPEN_POINTS
from harness.walker.rules import RULE_TEXT

__all__ = ["NOTES", "SECTIONS", "rules_page"]

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Input": ("MODE", "CR3", "CANONICAL"),
        "Walk, from the root down": (
            "PRESENT",
            "RSVD_ADDR",
            "RSVD_NX",
            "RSVD_PS",
            "RSVD_1G",
            "RSVD_2M",
            "PAT",
            "ORDER",
        ),
        "Access rights, once a leaf is reached": (
            "COMBINE",
            "USER_US",
            "USER_RW",
            "NX",
            "WP",
            "SMEP",
            "SMAP",
            "PKU",
            "PKS",
            "KEY",
        ),
        "The fault": ("ERR", "SPLIT"),
        "Accessed and dirty": ("A", "D", "A_ON_FAULT", "SELF"),
        "Caching": ("STALE", "INVLPG", "CR3_LOAD", "BIG"),
    }
)
"""Every rule once, by the section of the page that it stands in."""

NOTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "MODE": "CR4.LA57 selects five levels. A combination that no CPU accepts is refused when"
        " the CPU state is built: PG without PE, or a reserved bit of a control register.",
        "CR3": "The low 12 bits hold PWT and PCD, or a PCID when CR4.PCIDE = 1. Bits"
        " 51:MAXPHYADDR must be 0; else loading CR3 raises #GP.",
        "CANONICAL": "These are bits 63:47, or 63:56 with CR4.LA57 = 1. Otherwise the access raises"
        " #GP(0), or #SS(0) through SS, before any walk.",
        "PRESENT": "The access raises #PF with P = 0. A set reserved bit changes nothing.",
        "RSVD_PS": "This holds for a PML5E and a PML4E, and for a PDPTE when CPUID offers no 1 GiB"
        " pages.",
        "RSVD_1G": "Bit 12 is PAT.",
        "RSVD_2M": "Bit 12 is PAT.",
        "ORDER": "The first entry that is not present or has a reserved bit set decides. A"
        " reserved bit gives #PF with P = 1 and RSVD = 1.",
        "COMBINE": "The page is a user page iff U/S = 1 at every level, writable iff R/W = 1 at"
        " every level, and executable iff XD = 0 at every level. A report names this rule when"
        " every level lets the access through.",
        "USER_US": "A user access is one at CPL 3 that is not implicit.",
        "NX": "User and supervisor fetches obey it alike.",
        "WP": "With CR0.WP = 0 a supervisor may write to a read-only page.",
        "SMAP": "The CPU makes implicit accesses on its own account: it reads the GDT, the IDT and"
        " the TSS, and pushes an exception's frame. They fault whatever EFLAGS.AC is.",
        "PKU": "PKRU.AD of the key forbids every data access. PKRU.WD forbids user writes, and"
        " supervisor writes iff CR0.WP = 1. Fetches are free. The error code has PK = 1 even when"
        " another right fails too.",
        "PKS": "AD and WD mean what they mean in PKRU.",
        "KEY": "With CR4.PKE = CR4.PKS = 0 the CPU ignores these bits.",
        "ERR": "P (bit 0) says that the walk reached a leaf or a reserved bit; W/R (1) a write;"
        " U/S (2) an access at CPL 3; RSVD (3) a reserved bit; I/D (4) a fetch, iff EFER.NXE = 1"
        " or CR4.SMEP = 1; PK (5) a protection key. An implicit access at CPL 3 has U/S = 0.",
        "SPLIT": "The engines we know report the lower page's fault first. When either page"
        " faults, the access writes nothing.",
        "A": "The CPU never clears A.",
        "A_ON_FAULT": "The last entry read does not change: it is the one that was not present or"
        " had a reserved bit, or the leaf whose rights were judged. D is set nowhere.",
        "SELF": "This happens in a recursive slot. A write through it sets A, and when the entry is"
        " the leaf D too, in that same entry.",
        "STALE": "The access may use the old or the new translation, rights, and knowledge of A"
        " and D. The spurious fault comes when rights widen or an entry becomes present.",
        "INVLPG": "It acts on pages of every size, in the current PCID.",
        "CR3_LOAD": "PCIDs are not modelled here. A change of CR4.PAE, CR4.LA57, CR4.SMEP, CR0.PG"
        " or CR0.WP invalidates what the manual says it does.",
    }
)
"""What the page says of a rule beyond its sentence in ``RULE_TEXT``."""

_HEAD = """\
# The rules of x86-64 paging

<!-- made by: python -m harness.walker.rules_page > docs/rules.md -->

The walker follows these rules. Each verdict names the rule that decided it, tests cite rules by
name, and campaigns count how often they exercised each rule. `harness/walker/rules.py` holds the
sentences, and this page is made from them.

A number in brackets is a section of the Intel SDM, volume 3A, unless a volume is given. AMD's APM,
volume 2, chapter 5, agrees except where the section *Vendors* says so. The levels are called PML5,
PML4, PDPT, PD and PT, as in the manual; the `x86_64` crate calls them P5 to P1.
"""

_VENDORS = """
## Vendors

The walker follows Intel unless a CPU's `vendor` is `amd`. One difference is known: on AMD bit 8 of
a PML5E and of a PML4E is reserved (APM volume 2, figures of section 5.3), and Intel ignores it.
"""

_OPEN = """
## Open

Here the manual leaves the choice to the CPU, or does not speak. An observation that differs from
the prediction only in one of these points is neither agreement nor divergence. Its verdict is
*open*: it is counted apart, under the point's name. `harness/walker/open_points.py` holds the
points.

| point | of rule | the ways | source |
|---|---|---|---|
"""


def rules_page() -> str:
    """Return the whole page in Markdown."""
    parts = [_HEAD]
    for title, rules in SECTIONS.items():
        rows = "".join(
            f"| `{rule}` | {' '.join(filter(None, (RULE_TEXT[rule], NOTES.get(rule))))} |\n"
            for rule in rules
        )
        parts.append(f"\n## {title}\n\n| rule | says |\n|---|---|\n{rows}")
    points = "".join(
        f"| `{point.name}` | `{point.rule}` | {point.text} | {point.source} |\n"
        for point in OPEN_POINTS.values()
    )
    return "".join((*parts, _VENDORS, _OPEN, points))


if __name__ == "__main__":
    print(rules_page(), end="")
