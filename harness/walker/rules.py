"""The names of the paging rules, and what each says in one sentence.

A verdict names the rule that decided it, tests and campaigns count by these names, and the
``rule`` column of :func:`harness.walker.bulk` holds an index into :data:`RULES`. Rules that never
decide a verdict alone (``ERR``, ``A``, ``D`` ...) are listed too, so that one order serves all; the
last ones, :data:`CACHING`, take a sequence of accesses to be put to the test.

Source: Intel SDM volume 3A, chapter 4; the section is given with each rule.

>>> RULES[RULE_INDEX["NX"]]
'NX'
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["CACHING", "RULES", "RULE_INDEX", "RULE_TEXT"]

RULE_TEXT: Mapping[str, str] = MappingProxyType(
    {
        "MODE": "Only long mode is modelled: PE, PG, PAE and LMA are set (4.1).",
        "CR3": "CR3 bits 51:12 are the root table's frame, whatever the low 12 bits say (4.5).",
        "CANONICAL": "The address bits above the translated ones must be equal (volume 1, 3.3.7).",
        "PRESENT": "An entry whose bit 0 is clear ends the walk; its other bits are ignored (4.7).",
        "RSVD_ADDR": "In a present entry bits 51:MAXPHYADDR are reserved (4.5).",
        "RSVD_NX": "In a present entry bit 63 is reserved while EFER.NXE = 0 (4.5).",
        "RSVD_PS": "Bit 7 is reserved where this level cannot map a page (4.5), and on AMD bit 8 of"
        " a PML4E and of a PML5E (APM 2, 5.3).",
        "RSVD_1G": "In a PDPTE that maps a 1 GiB page bits 29:13 are reserved (4.5).",
        "RSVD_2M": "In a PDE that maps a 2 MiB page bits 20:13 are reserved (4.5).",
        "PAT": "In a PTE bit 7 is PAT, not a page size (4.9.2).",
        "ORDER": "Entries are taken top down, and all of them before any access right (4.7).",
        "COMBINE": "A right holds only if every level grants it (4.6.1).",
        "USER_US": "A user access needs a user page (4.6.1).",
        "USER_RW": "A user write needs a writable page, whatever CR0.WP (4.6.1).",
        "NX": "A fetch needs XD = 0 at every level (4.6.1).",
        "WP": "With CR0.WP = 1 a supervisor write needs a writable page (4.6.1).",
        "SMEP": "With CR4.SMEP = 1 a supervisor does not fetch from a user page (4.6.1).",
        "SMAP": "With CR4.SMAP = 1 a supervisor reaches a user page's data only explicitly and"
        " with EFLAGS.AC = 1 (4.6.1).",
        "PKU": "With CR4.PKE = 1 PKRU limits data accesses to user pages by key (4.6.2).",
        "PKS": "With CR4.PKS = 1 IA32_PKRS limits data accesses to supervisor pages (4.6.2).",
        "KEY": "A page's protection key is bits 62:59 of its leaf entry (4.6.2).",
        "ERR": "CR2 is the first byte of the part that faulted; the error code says why (4.7).",
        "SPLIT": "An access that spans two pages is translated page by page, the lower first.",
        "A": "A completed translation has A set in every entry it used (4.8).",
        "D": "A completed write has D set in the leaf, and in no other entry (4.8).",
        "A_ON_FAULT": "A faulting access may set A in the entries above the last one read (4.8).",
        "SELF": "One entry may serve several levels of a walk and gets the bits of them all (4.8).",
        "STALE": "Until a changed entry is invalidated an access may use what was there before, at"
        " the cost of one spurious fault at most (4.10.4).",
        "INVLPG": "INVLPG invalidates all translations of its page, global ones too, and the"
        " paging-structure caches (4.10.4.1).",
        "CR3_LOAD": "A load of CR3 invalidates all but global translations, a change of CR4.PGE"
        " those too (4.10.4.1).",
        "BIG": "One translation may serve all of a big page or a part of it, and INVLPG of any part"
        " invalidates all of them (4.10.2.3).",
    }
)

CACHING: tuple[str, ...] = ("STALE", "INVLPG", "CR3_LOAD", "BIG")
"""The rules that no single access can break: they are about what a CPU remembers."""

RULES: tuple[str, ...] = tuple(RULE_TEXT)
"""Every rule's name, in the order of the specification."""

RULE_INDEX: Mapping[str, int] = MappingProxyType({rule: i for i, rule in enumerate(RULES)})
"""The place of a rule in :data:`RULES`."""
