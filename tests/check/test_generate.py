"""Random cases: the same on every machine, and of every kind."""

from __future__ import annotations

from collections import Counter

from harness.check.case import Case
from harness.check.generate import RAM, generate
from harness.outcome import AccessKind

PINNED_VA = 0x28_4A33_994F_E9B5


def test_a_seed_and_a_number_name_a_case() -> None:
    whole = list(generate(3, 50))

    assert list(generate(3, 10, start=20)) == whole[20:30]
    assert list(generate(4, 50)) != whole
    # Pinned: a reproducer line of an old report must go on meaning the same case.
    assert whole[0].va == PINNED_VA, hex(whole[0].va)


def test_every_case_survives_its_json() -> None:
    for case in generate(5, 200):
        assert Case.from_json(case.to_json()) == case
        assert case.ram == RAM


def test_all_kinds_of_cases_come_up() -> None:
    seen: Counter[str] = Counter()
    for case in generate(6, 3000):
        cpu, access = case.cpu, case.access
        seen.update(
            [
                f"{cpu.levels} levels",
                f"CPL {cpu.cpl}",
                str(access.kind),
                f"size {access.size}",
                *(
                    name
                    for name in ("wp", "nxe", "smep", "smap", "pke", "ac")
                    if getattr(cpu, name)
                ),
                *(f"no {name}" for name in ("wp", "nxe") if not getattr(cpu, name)),
                *(name for name in ("implicit", "stack") if getattr(access, name)),
            ]
        )
        last = case.va + access.size - 1
        seen["spans"] += case.va >> 12 != last >> 12
        seen["unaligned write"] += access.kind is AccessKind.WRITE and case.va % access.size != 0

    rare = {"CPL 1", "CPL 2", "implicit"}
    for kind in (
        *("4 levels", "5 levels", "CPL 0", "CPL 3", "read", "write", "fetch", "spans", "stack"),
        *("size 1", "size 2", "size 4", "size 8", "unaligned write"),
        *("wp", "no wp", "nxe", "no nxe", "smep", "smap", "pke", "ac", *rare),
    ):
        assert seen[kind] >= (20 if kind in rare else 100), kind
