"""What may be stale: the sets that the manual gives, and engines that leave them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.check.bench import Bench
from harness.check.judge.compare import Judgement
from harness.check.model.caches import History
from harness.check.question import Question
from harness.cpu import CpuState
from harness.engine import Engine, open_engine
from harness.engine.steps import (
    AccessStep,
    ControlStep,
    InvlpgStep,
    Step,
    StepResult,
    WriteStep,
)
from harness.engine.unicorn import UnicornEngine
from harness.fuzz import sequences
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Observation, Outcome

PERMITTED = (Judgement.AGREE, Judgement.OPEN, Judgement.KNOWN)

P, W, U, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
PGE = 0x80
CPU = CpuState(cr3=0x1000)
READ, WRITE = Access(), Access(AccessKind.WRITE)
LEAF, PDE = 0x4020, 0x3000
WORDS = {0x1000: 0x2067, 0x2000: 0x3067, 0x3000: 0x4067, LEAF: 0x5067, LEAF + 8: 0x7067}
"""Page 4 is frame 5, page 5 is frame 7, and nothing waits for its A or D."""

Tell = Callable[[History], None]


@pytest.fixture
def history() -> History:
    return made()


def made(cpu: CpuState = CPU, **words: int) -> History:
    memory = PhysicalMemory(0x1_0000)
    for pa, word in WORDS.items():
        memory.write_u64(pa, word)
    for name, word in words.items():
        memory.write_u64(int(name[1:], 16), word)
    return History(memory, cpu)


def may(history: History, va: int = 0x4000, access: Access = READ, cpu: CpuState = CPU) -> set[Any]:
    """The physical address of each translation that is possible, or the rule of its fault."""
    return {w.rule if w.pa is None else w.pa for w in history.candidates(cpu, va, access)}


# The sets.


def test_without_changes_there_is_the_plain_walk_alone(history: History) -> None:
    assert len(history.candidates(CPU, 0x4000, READ)) == 1
    assert may(history) == {0x5000}


def test_a_changed_entry_may_be_old_or_new_until_it_is_invalidated(history: History) -> None:
    history.write({LEAF: 0x6067})
    assert may(history) == {0x5000, 0x6000}
    history.write({LEAF: 0x8067})
    assert may(history) == {0x5000, 0x6000, 0x8000}
    history.invlpg(0x4FFF)
    assert may(history) == {0x8000}


def test_present_to_absent_and_back(history: History) -> None:
    history.write({LEAF: 0})
    assert may(history) == {0x5000, "PRESENT"}
    history.invlpg(0x4000)
    assert may(history) == {"PRESENT"}
    history.write({LEAF: 0x5067})
    assert may(history) == {"PRESENT", 0x5000}, "one spurious fault"
    history.fault(0x4008)
    assert may(history) == {0x5000}, "and no second one"


def test_a_fault_at_one_page_says_nothing_of_another(history: History) -> None:
    history.write({LEAF: 0x6067})
    history.fault(0x5000)
    assert may(history) == {0x5000, 0x6000}


def test_invlpg_of_another_page_leaves_whole_translations_only(history: History) -> None:
    memory_of_new_table = {0xA020: 0x9067}
    history.write({**memory_of_new_table, PDE: 0xA067})
    # The old PDE may be cached, and so the old table is read; or nothing is.
    assert may(history) == {0x5000, 0x9000}
    history.write({LEAF: 0x6067})
    assert may(history) == {0x5000, 0x6000, 0x9000}, "the old table's new entry"
    history.invlpg(0x20_0000)
    assert may(history) == {0x5000, 0x6000, 0x9000}
    history.write({LEAF: 0x8067})
    assert may(history) == {0x5000, 0x6000, 0x9000}, "no cache leads to the old table any more"


def test_a_new_entry_above_an_old_one_below_was_never_there(history: History) -> None:
    history.write({LEAF: 0x6067})
    history.write({PDE: 0x4065})
    cpu = CPU.replace(cpl=3)
    found = history.candidates(cpu, 0x4000, WRITE)
    assert {(w.outcome, w.pa) for w in found} == {
        (Outcome.MAPPED, 0x5000),
        (Outcome.MAPPED, 0x6000),
        (Outcome.PAGE_FAULT, None),
    }
    reads = history.candidates(cpu, 0x4000, READ)
    raws = {tuple(step.raw for step in w.steps[2:]) for w in reads}
    assert raws == {(0x4067, 0x5067), (0x4067, 0x6067), (0x4065, 0x6067)}
    assert (0x4065, 0x5067) not in raws


def test_a_load_of_cr3_spares_global_translations_only() -> None:
    for pge, spared in ((0, {0x6000}), (PGE, {0x5000, 0x6000})):
        cpu = CPU.replace(cr4=0x20 | pge)
        history = made(cpu, x4020=0x5167)
        history.write({LEAF: 0x6067})
        history.load(ControlStep("cr3", 0x1000), cpu)
        assert may(history, cpu=cpu) == spared
        assert history.settled is (pge == 0)
    history.load(ControlStep("cr4", 0x20), cpu)
    assert may(history) == {0x6000}, "a change of CR4.PGE spares nothing"
    history = made(CPU.replace(cr4=0xA0))
    history.write({LEAF: 0x6067})
    history.load(ControlStep("cr3", 0x1000), CPU.replace(cr4=0xA0))
    assert may(history) == {0x6000}, "the translation was not global"


def test_a_global_translation_comes_from_the_old_root() -> None:
    cpu = CPU.replace(cr4=0xA0)
    history = made(cpu, x4020=0x5167, x8000=0)
    history.load(ControlStep("cr3", 0x8000), cpu)
    after = cpu.replace(cr3=0x8000)
    assert may(history, cpu=after) == {"PRESENT", 0x5000}
    history.invlpg(0x4000)
    assert may(history, cpu=after) == {"PRESENT"}


def test_invlpg_of_any_part_of_a_big_page_is_enough() -> None:
    history = made(x3000=PS | 0x67)
    history.write({PDE: 0x4067})
    assert may(history) == {0x4000, 0x5000}
    history.invlpg(0x1F_F000)
    assert may(history) == {0x5000}
    history = made(x3000=PS | 0x67)
    history.write({PDE: 0x4067})
    history.invlpg(0x20_0000)
    assert may(history) == {0x4000, 0x5000}, "that is another page"


def test_control_bits_are_heeded_at_once(history: History) -> None:
    history.write({LEAF: 0x5065})
    history.write({LEAF: 0x5067})
    history.load(ControlStep("cr0", 0x8004_0033), CPU)
    assert may(history, access=WRITE, cpu=CPU.replace(cr0=0x8004_0033)) == {0x5000}
    assert may(history, access=WRITE) == {0x5000, "WP"}


def test_what_nxe_made_reserved_was_checked_when_it_was_cached() -> None:
    history = made(x4020=0x5067 | 1 << 63)
    history.load(ControlStep("efer", 0x500), CPU)
    off = CPU.replace(efer=0x500)
    assert may(history, cpu=off) == {"RSVD_NX", 0x5000}
    history.invlpg(0x4000)
    assert may(history, cpu=off) == {"RSVD_NX"}


def test_two_pages_of_one_access_are_stale_each_for_itself(history: History) -> None:
    history.write({LEAF: 0x6067, LEAF + 8: 0x8067})
    walks = history.candidates(CPU, 0x4FFE, Access(AccessKind.READ, 4))
    pairs = {(w.pa, w.second and w.second.pa) for w in walks}
    assert pairs == {(a + 0xFFE, b) for a in (0x5000, 0x6000) for b in (0x7000, 0x8000)}


# The engine, right and broken.


class Flawed(UnicornEngine):
    """Unicorn, with one thing done otherwise; nothing of it is registered."""

    name = "flawed"

    def __init__(self, memory: PhysicalMemory, flaw: Any) -> None:
        super().__init__(memory)
        self._flaw = flaw

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        play = super().play
        return list(self._flaw(play, cpu, list(steps)))


Play = Callable[[CpuState, list[Step]], list[StepResult]]
NOTHING = WriteStep({})


def no_invlpg(play: Play, cpu: CpuState, steps: list[Step]) -> list[StepResult]:
    return play(cpu, [NOTHING if isinstance(step, InvlpgStep) else step for step in steps])


def cr3_keeps_all(play: Play, cpu: CpuState, steps: list[Step]) -> list[StepResult]:
    kept = [
        NOTHING if isinstance(s, ControlStep) and (s.register, s.value) == ("cr3", cpu.cr3) else s
        for s in steps
    ]
    return play(cpu, kept)


def pge_keeps_all(play: Play, cpu: CpuState, steps: list[Step]) -> list[StepResult]:
    kept = [NOTHING if isinstance(s, ControlStep) and s.register == "cr4" else s for s in steps]
    return play(cpu, kept)


def tell(last: Callable[[Observation], Observation]) -> Any:
    """A flaw that changes what the last step shows."""

    def flaw(play: Play, cpu: CpuState, steps: list[Step]) -> list[StepResult]:
        *most, final = play(cpu, steps)
        return [*most, dataclasses.replace(final, seen=last(final.seen))]

    return flaw


def judged(words: dict[int, int], steps: list[Step], flaw: Any = None, **cpu: int) -> Any:
    scenario = Question(CPU.replace(**cpu), 0x1_0000, WORDS | words, steps)
    memory = PhysicalMemory(0x1_0000)
    engine: Engine = open_engine("unicorn", memory) if flaw is None else Flawed(memory, flaw)
    try:
        return Bench.over(engine).ask(scenario).engines[0]
    finally:
        engine.close()


READS = AccessStep(0x4000, READ)
MOVED = WriteStep({LEAF: 0x6067})
RELOAD = ControlStep("cr3", 0x1000)

FLAWS: list[tuple[Any, str, dict[int, int], list[Step], dict[str, int]]] = [
    (no_invlpg, "INVLPG", {}, [READS, MOVED, InvlpgStep(0x4000), READS], {}),
    (no_invlpg, "INVLPG", {}, [READS, WriteStep({LEAF: 0}), InvlpgStep(0x4008), READS], {}),
    (
        no_invlpg,
        "BIG",
        {PDE: PS | 0x67},
        [READS, WriteStep({PDE: 0x4067}), InvlpgStep(0x10_0000), READS],
        {},
    ),
    (cr3_keeps_all, "CR3_LOAD", {}, [READS, MOVED, RELOAD, READS], {}),
    (cr3_keeps_all, "CR3_LOAD", {}, [READS, MOVED, RELOAD, READS], {"cr4": 0xA0}),
    (
        pge_keeps_all,
        "CR3_LOAD",
        {LEAF: 0x5167},
        [READS, MOVED, ControlStep("cr4", 0x20), READS],
        {"cr4": 0xA0},
    ),
]


@pytest.mark.parametrize(("flaw", "rule", "words", "steps", "cpu"), FLAWS)
def test_a_flaw_of_invalidation_is_found_and_named(
    flaw: Any, rule: str, words: dict[int, int], steps: list[Step], cpu: dict[str, int]
) -> None:
    assert judged(words, steps, **cpu).judgement is Judgement.AGREE

    answer = judged(words, steps, flaw, **cpu)

    assert (answer.judgement, answer.rule) == (Judgement.DIVERGE, rule), answer.sentence
    assert answer.sentence.startswith(f"step {len(steps)}: a read of 0x4000 at CPL 0 ended as ")
    assert "as if" in answer.sentence


def test_a_mixture_that_was_never_there_is_found() -> None:
    # The leaf moves, then the PDE admits users: old leaf and new PDE never stood together.
    supervisors = {PDE: 0x4063}
    steps: list[Step] = [READS, MOVED, WriteStep({PDE: 0x4067}), AccessStep(0x4000, READ, 3)]
    for there in (
        Observation(Outcome.MAPPED, pa=0x6000),
        Observation(Outcome.PAGE_FAULT, 5, 0x4000),
    ):
        answer = judged(supervisors, steps, tell(lambda _, seen=there: seen))  # type: ignore[misc]
        assert answer.judgement is Judgement.AGREE
    answer = judged(supervisors, steps, tell(lambda _: Observation(Outcome.MAPPED, pa=0x5000)))
    assert (answer.judgement, answer.rule, answer.decisive.acted) == (
        Judgement.DIVERGE,
        "STALE",
        ("order",),
    )


def test_invlpg_of_any_page_empties_the_paging_structure_caches() -> None:
    # The PDE leads to another table first; then the old table's leaf changes.
    other = {0xA020: 0x9067}
    steps: list[Step] = [
        READS,
        MOVED,
        WriteStep({LEAF: 0x5065}),
        WriteStep({PDE: 0xA067}),
        InvlpgStep(0),
    ]
    steps += [WriteStep({LEAF: 0x8067}), AccessStep(0x4000, READ)]
    assert judged(other, steps).judgement is Judgement.AGREE
    never = tell(lambda seen: dataclasses.replace(seen, pa=0x8000, value=0))
    answer = judged(other, steps, never)
    assert (answer.judgement, answer.rule) == (Judgement.DIVERGE, "INVLPG"), answer.sentence


def test_a_second_spurious_fault_is_one_too_many() -> None:
    fault = Observation(Outcome.PAGE_FAULT, 0, 0x4000)
    steps: list[Step] = [WriteStep({LEAF: 0x5067}), READS]
    assert judged({LEAF: 0}, steps, tell(lambda _: fault)).judgement is Judgement.AGREE

    def both(play: Play, cpu: CpuState, steps: list[Step]) -> list[StepResult]:
        return [*play(cpu, steps)[:-2], StepResult(fault), StepResult(fault)]

    answer = judged({LEAF: 0}, [*steps, READS], both)
    assert (answer.judgement, answer.rule, answer.decisive.acted) == (
        Judgement.DIVERGE,
        "STALE",
        ("fault",),
    )


def test_a_and_d_are_of_the_old_or_the_new_translation_and_of_no_other_entry() -> None:
    steps: list[Step] = [READS, WriteStep({LEAF: 0x6007}), READS]

    def telling(**changed: int) -> Any:
        bits = {int(name[1:], 16): mask for name, mask in changed.items()}
        return tell(lambda seen: Observation(Outcome.MAPPED, pa=0x6000, changed=bits))

    assert judged({}, steps, telling(x4020=A)).judgement is Judgement.AGREE
    for wrong in ({}, {"x4020": A | D}, {"x4020": A, "x4028": A}, {"x4020": A, "x8000": A}):
        assert judged({}, steps, telling(**wrong)).judgement is Judgement.DIVERGE, wrong
    old = tell(lambda seen: Observation(Outcome.MAPPED, pa=0x5000))
    assert judged({}, steps, old).judgement is Judgement.AGREE, "A of the old entry was cached"


def test_what_is_read_and_stored_is_looked_at() -> None:
    store = AccessStep(0x4000, Access(AccessKind.WRITE, 4), value=0x1234_5678)
    read = AccessStep(0x4000, Access(AccessKind.READ, 4))
    answer = judged({}, [store, read])
    assert answer.judgement is Judgement.AGREE
    assert answer.verdicts[1].result.seen.value == 0x1234_5678
    wrong = tell(lambda seen: dataclasses.replace(seen, value=0x1234_5679))
    answer = judged({}, [store, read], wrong)
    assert (answer.judgement, answer.decisive.fields) == (Judgement.DIVERGE, ("value",))
    lost = tell(lambda seen: dataclasses.replace(seen, changed={}))
    assert judged({}, [store], lost).judgement is Judgement.DIVERGE


def test_random_sequences_agree_with_unicorn() -> None:
    memory = PhysicalMemory(sequences.RAM)
    permitted = 0
    with open_engine("unicorn", memory) as engine:
        for number in range(1500):
            answer = Bench.over(engine).ask(sequences.generate(3, number)).engines[0]
            assert answer.judgement in PERMITTED, (number, answer.sentence)
            permitted += sum(len(verdict.predicted) > 1 for verdict in answer.verdicts)
    assert permitted > 300, "much of it asks about what may be stale"
    assert not memory.buffer.any()


@pytest.mark.parametrize(
    ("flaw", "rules"), [(no_invlpg, {"INVLPG", "BIG"}), (cr3_keeps_all, {"CR3_LOAD"})]
)
def test_random_sequences_find_flaws(flaw: Any, rules: set[str]) -> None:
    memory = PhysicalMemory(sequences.RAM)
    found = set()
    with Flawed(memory, flaw) as engine:
        for number in range(1500):
            answer = Bench.over(engine).ask(sequences.generate(3, number)).engines[0]
            if answer.judgement is Judgement.DIVERGE:
                found.add(answer.rule)
    assert rules <= found
