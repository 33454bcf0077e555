"""Reports of walks and faults: every fact that a report must name is in it."""

from __future__ import annotations

import pytest

from harness.cpu import CpuState
from harness.describe.walks import bits_of, explain, fault_report, walk_rows
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessLike
from harness.walker import RULE_TEXT, walk

CPU = CpuState(cr3=0x1018)
USER = CPU.replace(cpl=3)


@pytest.fixture
def memory() -> PhysicalMemory:
    memory = PhysicalMemory(0x10000)
    words = {
        0x1000: 0x2007,
        0x2000: 0x3007,
        0x2008: 0x83,
        0x3000: 0x4005,
        0x3008: 0x20_10E7,
        0x4000: 0x5005,
        0x4008: 0x0000_00F0_0000_0003,
        0x4010: 0x8,
        0x1FF8: 0x9999_9000_0003,
    }
    for at, word in words.items():
        memory.write_u64(at, word)
    return memory


def test_a_fault_report_names_everything(memory: PhysicalMemory) -> None:
    assert fault_report(walk(memory, USER, 0x123, "write")) == "\n".join(
        [
            "page fault: a user write at 0x123",
            "  CR2         0x123",
            "  CR3         0x1018",
            "  error code  0x7 = P W U: a user write: the page is present and its rights forbid it",
            "  decided at  level 1, PTE 0 at 0x4000 = 0x5005 (P U/S)",
            "  withheld by PDE 0, PTE 0: every level must grant it",
            "  rule        USER_RW: A user write needs a writable page, whatever CR0.WP (4.6.1).",
        ]
    )


@pytest.mark.parametrize(
    ("cpu", "va", "access", "parts"),
    [
        (CPU, 0x2000, "read", ["PRESENT", "PTE 2 at 0x4010 = 0x8 (PWT)", "0x0: a supervisor read"]),
        (CPU, 1 << 47, "read", ["general protection", "bits 63:47", "error code  0x0"]),
        (CPU, 1 << 47, Access.of("read"), ["CANONICAL"]),
        (CPU, 0xFFFF_FFFF_FFFF_F000, "read", ["RSVD_ADDR", "PML4E 511 at 0x1ff8", "P RSVD"]),
        (USER, 0x4000_0000, "read", ["USER_US", "level 3, PDPTE 1", "(P R/W PS)"]),
        (CPU, 0x1FFD, Access.of("read", size=8), ["CR2         0x2000", "PTE 2"]),
        (CPU, 0x1FFD, Access.of("write", size=8), ["WP", "PTE 1", "withheld by PDE 0: every"]),
    ],
)
def test_each_kind_of_fault(
    memory: PhysicalMemory, cpu: CpuState, va: int, access: AccessLike, parts: list[str]
) -> None:
    found = walk(memory, cpu, va, access)

    report = fault_report(found)

    assert all(part in report for part in parts), report
    assert RULE_TEXT[found.rule].split()[0] in report
    assert max(map(len, report.splitlines())) <= 100


def test_a_stack_fault_and_an_access_behind_the_canonical_half(memory: PhysicalMemory) -> None:
    stack = walk(memory, CPU, 1 << 47, Access.of("read", size=1))
    assert "general protection" in fault_report(stack)
    through_ss = walk(memory, CPU, 1 << 47, Access(stack.access.kind, 8, stack=True))
    report = fault_report(through_ss)
    assert report.startswith("stack fault: a supervisor read of 8 bytes through SS at")


def test_a_fault_report_of_what_is_no_fault_says_what_it_is(memory: PhysicalMemory) -> None:
    assert fault_report(walk(memory, CPU, 0x123)).splitlines()[1] == (
        "  mapped: physical address 0x5123, 4K page"
    )


def test_explain_tells_the_whole_walk(memory: PhysicalMemory) -> None:
    assert explain(walk(memory, CPU, 0x123)) == "\n".join(
        [
            "a supervisor read at 0x123, CPL 0, 4 levels",
            "CR3 0x1018",
            "  PML4E  0 = 0o000  0x1000  0x2007  PDPT 0x2000     P R/W U/S",
            "  PDPTE  0 = 0o000  0x2000  0x3007  PD 0x3000       P R/W U/S",
            "  PDE    0 = 0o000  0x3000  0x4005  PT 0x4000       P U/S",
            "  PTE    0 = 0o000  0x4000  0x5005  4K page 0x5000  P U/S",
            "all levels together: user, read-only, executable",
            "mapped: physical address 0x5123, 4K page",
            f"rule COMBINE: {RULE_TEXT['COMBINE']}",
            "sets A in the PML4E, A in the PDPTE, A in the PDE, A in the PTE",
        ]
    )


def test_explain_tells_both_pages_and_what_lies_outside(memory: PhysicalMemory) -> None:
    both = explain(
        walk(memory, CPU.replace(pkru=0, cr4=0x40_0020), 0xFFE, Access.of("read", size=4))
    )
    assert "the page of 0xffe" in both
    assert "the page of 0x1000" in both
    assert "key 0" in both
    assert "translated to 0xf0_0000_0000, where there is no RAM" in both
    nothing = explain(walk(memory, CPU.replace(cr3=0x9_0000), 0))
    assert "no RAM at 0x9_0000, where the next entry should be" in nothing


def test_the_entries_that_decided_are_marked(memory: PhysicalMemory) -> None:
    rows = walk_rows(walk(memory, USER, 0x123, "write"))

    assert [row.name for row in rows if row.decides] == ["PDE", "PTE"]
    assert not any(row.decides for row in walk_rows(walk(memory, CPU, 0x123)))


def test_bits_are_named_by_level(memory: PhysicalMemory) -> None:
    big = walk(memory, CPU, 0x20_0000).steps[-1].entry
    assert bits_of(big) == "P R/W U/S A D PS PAT"
    assert bits_of(type(big)(0x80, 1)) == "PAT"
    assert bits_of(type(big)(0x80, 4)) == "bit 7"
    assert bits_of(type(big)(0x5800_0000_0000_0001, 1)) == "P key 11"
    assert bits_of(type(big)(0, 1)) == "none"
