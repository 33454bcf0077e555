"""Random cases: the same on every machine, and of every kind."""

from __future__ import annotations

import hashlib
from collections import Counter

from harness.check.question import Question
from harness.fuzz.groups import SIZE, case, generate, group
from harness.fuzz.spaces import RAM
from harness.fuzz.steer import DEFAULTS
from harness.outcome import AccessKind

# A reproducer line of an old report must go on meaning the same case. When the generator is changed
# on purpose, this changes.
PINNED = "b9021d53faa5d824e29b772c76238183"


def test_a_seed_and_a_number_name_a_case() -> None:
    whole = list(generate(3, 100))

    assert list(generate(3, 30, start=45)) == whole[45:75]
    assert case(3, 45, DEFAULTS) == whole[45]
    assert group(3, 45 // SIZE, DEFAULTS).question(45 % SIZE) == whole[45]
    assert list(generate(4, 100)) != whole


def test_the_cases_are_pinned() -> None:
    digest = hashlib.sha256()
    for one in generate(1, 320):
        digest.update(one.line().encode())
    assert digest.hexdigest()[:32] == PINNED


def test_knobs_decide() -> None:
    turned = {**DEFAULTS, "la57": 1.0, "user": 0.0}

    assert {one.cpu.levels for one in generate(3, 160, knobs=turned)} == {5}
    assert 3 not in {one.cpu.cpl for one in generate(3, 160, knobs=turned)}


def test_every_case_survives_its_json() -> None:
    for one in generate(5, 200):
        assert Question.from_json(one.to_json()) == one
        assert one.ram == RAM


def test_every_knob_has_a_part_in_some_cases() -> None:
    seen: Counter[str] = Counter()
    for number in range(400):
        made = group(6, number, DEFAULTS)
        for ask in made.asks:
            seen.update(ask.features | made.features)

    kinds = {"sequences", "instructions", "deliveries"}
    assert set(seen) == set(DEFAULTS) - kinds
    assert all(0 < count < 400 * SIZE for count in seen.values())


def test_all_kinds_of_cases_come_up() -> None:
    seen: Counter[str] = Counter()
    for one in generate(6, 3200):
        cpu, access = one.cpu, one.access
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
        last = one.va + access.size - 1
        seen["spans"] += one.va >> 12 != last >> 12
        seen["unaligned write"] += access.kind is AccessKind.WRITE and one.va % access.size != 0

    rare = {"CPL 1", "CPL 2", "implicit", *(f"size {size}" for size in (6, 10, 16, 28))}
    for kind in (
        *("4 levels", "5 levels", "CPL 0", "CPL 3", "read", "write", "fetch", "spans", "stack"),
        *("size 1", "size 2", "size 4", "size 8", "unaligned write"),
        *("wp", "no wp", "nxe", "no nxe", "smep", "smap", "pke", "ac", *rare),
    ):
        assert seen[kind] >= (20 if kind in rare else 100), kind
