"""A campaign's report with something in every place, and one whose strings try to break out."""

from __future__ import annotations

import dataclasses

import pytest

from harness.describe.walks import WalkRow
from harness.show.campaign import CampaignReport, FindingReport, Planted, Registered, outcome_rows
from harness.show.coverage import Coverage

HITS = {
    f"{rule}/{level}/{kind}/{ring}{levels}": 3 ** (level + levels)
    for rule in ("PRESENT", "RSVD_NX")
    for levels in (4, 5)
    for level in range(1, levels + 1)
    for kind in ("read", "write", "fetch")
    for ring in ("user", "kernel")
    if (rule, level, kind) != ("RSVD_NX", 3, "write")
} | {
    "CANONICAL/-/read/user4": 12,
    "WP/1/write/kernel4": 12_345_678,
    "NX/1/fetch/user4": 1,
    "NX/2/fetch/user4": 40_000,
}
REACHABLE = frozenset(HITS) | {
    "RSVD_NX/3/write/user4",
    "SMEP/1/fetch/kernel4",
    "SMEP/2/fetch/kernel4",
    "SMAP/1/implicit/user4",
}
ROWS = (
    WalkRow("PML4E", "1 = 0o001", "0x1008", "0x2007", "PDPT 0x2000", "P R/W U/S", False),
    WalkRow("PDPTE", "2 = 0o002", "0x2010", "0x3007", "PD 0x3000", "P R/W U/S", False),
    WalkRow("PDE", "3 = 0o003", "0x3018", "0x8000_0000_0020_0087", "2M page 0x20_0000",
            "P R/W U/S XD PS", True),
)  # fmt: skip
FINDING = FindingReport(
    key="NX/2",
    judgement="diverge",
    rule="NX",
    level=2,
    sentence="the CPU acts as if XD in the PDE were 0: it maps the page where the walker faults",
    count=1_234_567,
    first=42,
    headline="a user fetch at 0x80_4060_0008",
    walk=ROWS,
    predicted=(
        "page fault: error code 0x15 = P U I: a user fetch: the page is present and its rights "
        "forbid it",
        "decided at level 2, PDE 3 at 0x3018 = 0x8000_0000_0020_0087",
    ),
    observed="mapped to 0x20_0008",
    notes=(("as if", "XD were 0 in the PDE"),),
    known=("a-in-faulting-1g-page",),
    command="harness probe .harness/reproducers/nx-2-3f9a.jsonl",
    files=(".harness/reproducers/nx-2-3f9a.jsonl", ".harness/reproducers/test_nx_2_3f9a.py"),
    case='{"cpu": {"cr3": "0x1000", "cpl": 3}, "access": {"va": "0x8040600008", "kind": "fetch"}}',
    details={"as_if": "XD = 0"},
)
BROKE = FindingReport(
    key="broke/7",
    judgement="broke",
    rule="MODE",
    level=None,
    sentence="the engine was ended by signal 11 on this case",
    first=7_000_000,
    command="harness matrix classic --levels 4 --case 7000000",
)
REPORT = CampaignReport(
    name="matrix classic",
    engine="unicorn 2.1.4",
    facts=(("levels", "4 and 5"), ("slice", "1/100")),
    command="harness matrix classic --levels 4 --levels 5 --slice 1/100",
    cases=383_386,
    of_cases=383_386,
    resumed_cases=100_000,
    judgements={"agree": 382_000, "known": 1_000, "diverge": 300, "unsupported": 85, "broke": 1},
    seconds=75.25,
    workers=2,
    deaths=1,
    outcomes=outcome_rows(
        {"page-fault 0x15": 300, "mapped": 30_000, "page-fault 0x0": 353_000, "stack-fault": 86}
    ),
    coverage=Coverage(HITS, REACHABLE),
    findings=(FINDING, BROKE),
    registered=(
        Registered("a-in-faulting-1g-page", "A_ON_FAULT", "QEMU sets A too early.", 1_000),
        Registered("gp-for-ss", "CANONICAL", "TCG does not know the segment.", 0, stale=True),
    ),
    unsupported=(("this engine has no PKS", 85),),
    scenarios=(("aliases (4 levels)", "agree"), ("smep after a write (5 levels)", "known")),
    replayed=(("WP: a supervisor write was let through", "fixed"),),
    planted=(
        Planted("WP_1", "WP", 1, "R/W of the PTE is taken for 1", "matrix classic", 12_000, 4, 4,
                "WP, level 1", True),
        Planted("NX_4", "NX", 4, "XD of the PML4E is ignored", "matrix full"),
        Planted("MODE", "MODE", None, "paging is off", note="such a state cannot be built"),
    ),
    notes=("the findings are kept in .harness/findings",),
)  # fmt: skip
NASTY = (
    "<script>alert(1)</script> & \"quoted\" 'single' ]]> \x00\x1b[31m\x07 \ud800 \uffff "
    "{{ 7 * 7 }} [bold red]markup[/] \u202eback ‘é’ 🙂"
)


@pytest.fixture
def report() -> CampaignReport:
    """A campaign that found a divergence and a death."""
    return REPORT


@pytest.fixture
def clean() -> CampaignReport:
    """A campaign in which all agree."""
    return CampaignReport(
        name="matrix classic",
        engine="unicorn 2.1.4",
        cases=1000,
        of_cases=1000,
        judgements={"agree": 1000},
        seconds=2.0,
        outcomes=outcome_rows({"mapped": 1000}),
        coverage=Coverage({"A/1/read/user4": 1000}),
    )


@pytest.fixture
def nasty() -> CampaignReport:
    """A campaign whose every string is :data:`NASTY`."""
    row = WalkRow(NASTY, NASTY, NASTY, NASTY, NASTY, NASTY, True)
    finding = FindingReport(
        key=NASTY,
        judgement="diverge",
        rule=NASTY,
        level=9,
        sentence=NASTY,
        headline=NASTY,
        walk=(row,),
        predicted=(NASTY,),
        observed=NASTY,
        notes=((NASTY, NASTY),),
        known=(NASTY,),
        command=NASTY,
        files=(NASTY,),
        case=NASTY,
        details={NASTY: NASTY},
    )
    return CampaignReport(
        name=NASTY,
        engine=NASTY,
        facts=((NASTY, NASTY),),
        command=NASTY,
        cases=5,
        judgements={"diverge": 5},
        outcomes=outcome_rows({NASTY: 1, "page-fault zz": 2, "": 3}),
        coverage=Coverage({NASTY: 1, f"{NASTY}/{NASTY}/{NASTY}/{NASTY}": 2}, frozenset({"//"})),
        findings=(finding, dataclasses.replace(finding, judgement="broke", level=None)),
        registered=(Registered(NASTY, NASTY, NASTY, 1, stale=True),),
        unsupported=((NASTY, 5),),
        scenarios=((NASTY, NASTY), (NASTY, "diverge")),
        replayed=((NASTY, NASTY),),
        planted=(Planted(NASTY, NASTY, None, NASTY, NASTY, None, None, None, NASTY, note=NASTY),),
        notes=(NASTY,),
    )
