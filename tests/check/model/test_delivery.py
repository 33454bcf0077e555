"""Delivery through broken tables, by the model: the manual's words, and engines that differ."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.check.bench import Bench
from harness.check.judge.compare import Judgement
from harness.check.question import Question
from harness.cpu import CpuState
from harness.engine import Engine, open_engine
from harness.engine.steps import DeliverStep, Step, StepResult
from harness.engine.unicorn import UnicornEngine
from harness.fuzz import deliveries
from harness.memory import PhysicalMemory
from harness.outcome import Outcome

PERMITTED = (Judgement.DELIVERED, Judgement.OPEN, Judgement.KNOWN, Judgement.AGREE)

CPU = CpuState(cr3=0x1000, cpl=3)
# Page n is frame n, for the supervisor; the IDT, the GDT and the TSS each have a page.
IDT, GDT, TSS, STACK, RSP0, IST1 = 0x5000, 0x6000, 0x7000, 0x8800, 0x9800, 0xA800
HANDLER = 0xB000
RF = 1 << 16


def leaf(page: int) -> int:
    return 0x4000 + 8 * (page >> 12)


def words(at: int, data: bytes) -> dict[int, int]:
    assert at % 8 == 0
    data += bytes(-len(data) % 8)
    return {at + 8 * n: word for n, (word,) in enumerate(struct.iter_unpack("<Q", data))}


def gate(vector: int, *, selector: int = 8, ist: int = 0, kind: int = 0x8E) -> dict[int, int]:
    handler = HANDLER + vector
    return words(
        IDT + 16 * vector,
        struct.pack("<HHBBHII", handler & 0xFFFF, selector, ist, kind, handler >> 16, 0, 0),
    )


MEMORY = {0x1000: 0x2023, 0x2000: 0x3023, 0x3000: 0x4023}
MEMORY |= {leaf(page): page | 0x63 for page in range(0x5000, 0xD000, 0x1000)}
MEMORY |= words(GDT, struct.pack("<5Q", 0, 0x0020_9B00_0000_0000, 0x0000_9300 << 32, 0, 0))
MEMORY |= words(TSS, struct.pack("<IQ", 0, RSP0) + bytes(24) + struct.pack("<Q", IST1))
for _vector in (6, 8, 13, 14):
    MEMORY |= gate(_vector)


class Flawed(UnicornEngine):
    """Unicorn over a memory in which something is changed before each delivery."""

    name = "flawed"

    def __init__(self, memory: PhysicalMemory, change: Callable[[PhysicalMemory], None]) -> None:
        super().__init__(memory)
        self._change = change

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        before = self.memory.words.copy()
        self._change(self.memory)
        try:
            return super().play(cpu, steps)
        finally:
            self.memory.words[:] = before


def deliver(
    memory: dict[int, int],
    flaw: Callable[[PhysicalMemory], None] | None = None,
    cpu: CpuState = CPU,
    **given: Any,
) -> Any:
    given = {"vector": 6, "rsp": STACK, "rip": 0x1234, "cs": 0x23, "ss": 0x1B} | given
    step = DeliverStep(idt=(IDT, 0xFFF), gdt=(GDT, 0x27), tss=(TSS, 0x67), **given)
    scenario = Question(cpu, 0x1_0000, MEMORY | memory, [step])
    ram = PhysicalMemory(0x1_0000)
    engine: Engine = open_engine("unicorn", ram) if flaw is None else Flawed(ram, flaw)
    try:
        return Bench.over(engine).ask(scenario).engines[0]
    finally:
        engine.close()


def agreed(memory: dict[int, int] | None = None, cpu: CpuState = CPU, **given: Any) -> StepResult:
    answer = deliver(memory or {}, None, cpu, **given)
    assert answer.judgement is Judgement.DELIVERED, answer.sentence
    result = answer.decisive.result
    assert isinstance(result, StepResult)
    return result


def way(result: StepResult) -> list[tuple[int, int | None]]:
    return [(event.vector, event.error_code) for event in result.events]


def test_a_handler_is_entered_on_rsp0_and_finds_its_frame() -> None:
    result = agreed()
    assert result.registers == {
        "rip": HANDLER + 6,
        "rsp": RSP0 - 40,
        "cs": 8,
        "ss": 0,
        "cpl": 0,
        "cr2": 0,
    }
    assert result.seen.changed[RSP0 - 8] == 0x1B
    assert result.seen.changed[RSP0 - 16] == STACK
    assert result.seen.changed[RSP0 - 24] == RF | 2
    assert (result.seen.changed[RSP0 - 32], result.seen.changed[RSP0 - 40]) == (0x23, 0x1234)


def test_an_abort_and_a_software_interrupt_push_rf_as_it_was() -> None:
    events: list[dict[str, Any]] = [
        {"vector": 8, "error_code": 0},
        {"vector": 0x80, "software": True},
    ]
    for given in events:
        memory = gate(0x80, kind=0xEE)
        result = agreed(memory, **given)
        words = 6 if "error_code" in given else 5
        frame = [result.seen.changed.get(RSP0 - 8 * n, 0) for n in range(1, words + 1)]
        assert frame[2] == 2


def test_an_ist_goes_before_rsp0_and_without_a_change_of_ring() -> None:
    assert agreed(gate(6, ist=1)).registers["rsp"] == IST1 - 40
    kernel = CPU.replace(cpl=0)
    assert agreed(gate(6, ist=1), kernel, cs=8, ss=0x10).registers["rsp"] == IST1 - 40
    assert agreed({}, kernel, cs=8, ss=0x10).registers["rsp"] == STACK - 40


@pytest.mark.parametrize(
    ("memory", "expected", "cr2"),
    [
        (gate(6, kind=0x0E), [(6, None), (11, 6 << 3 | 3), (8, 0)], 0),
        (gate(6, kind=0x8C), [(6, None), (13, 6 << 3 | 3)], 0),
        (gate(6, selector=0), [(6, None), (13, 1)], 0),
        (gate(6, selector=0x10), [(6, None), (13, 0x11)], 0),
        (gate(6, selector=0x30), [(6, None), (13, 0x31)], 0),
        ({leaf(RSP0): 0}, [(6, None), (14, 2), (8, 0)], RSP0 - 40),
        ({leaf(TSS): 0}, [(6, None), (14, 0), (8, 0)], TSS + 4),
        ({leaf(GDT): 0}, [(6, None), (14, 0), (8, 0)], GDT + 8),
        ({leaf(IDT): 0}, [(6, None), (14, 0), (8, 0)], IDT + 16 * 8),
        ({leaf(TSS): 0x7067 | 1 << 50}, [(6, None), (14, 9), (8, 0)], TSS + 4),
    ],
)
def test_what_is_broken_is_told_as_the_manual_tells_it(
    memory: dict[int, int], expected: list[tuple[int, int | None]], cr2: int
) -> None:
    result = agreed(memory)
    if result.seen.outcome is Outcome.MAPPED:
        assert result.registers["cr2"] == cr2
    assert way(result) == expected


def test_a_page_fault_while_a_page_fault_is_delivered_is_a_double_fault() -> None:
    result = agreed({leaf(RSP0): 0} | gate(8, ist=1), vector=14, error_code=7, cr2=0x1234)
    assert way(result) == [(14, 7), (8, 0)]
    assert result.registers["rsp"] == IST1 - 48
    assert [event.cr2 for event in result.events] == [0x1234, None]


def test_smap_hits_implicit_accesses_whatever_ac() -> None:
    user = {0x1000: 0x2027, 0x2000: 0x3027, 0x3000: 0x4027, leaf(GDT): GDT | 0x67}
    for rflags in (2, 0x4_0002):
        cpu = CPU.replace(cr4=0x20_0020, rflags=rflags)
        assert way(agreed(user, cpu)) == [(6, None), (14, 1), (8, 0)]
        assert way(agreed(user, cpu.replace(cr4=0x20))) == [(6, None)]


def test_a_software_interrupt_needs_a_gate_that_is_open_and_is_never_part_of_a_double_fault() -> (
    None
):
    assert way(agreed(gate(0x80), vector=0x80, software=True)) == [
        (0x80, None),
        (13, 0x80 << 3 | 2),
    ]
    broken = gate(14, ist=1) | {leaf(RSP0): 0} | gate(0x80, kind=0xEE)
    assert way(agreed(broken, vector=0x80, software=True)) == [(0x80, None), (14, 2)]


def test_what_is_not_judged_says_so() -> None:
    answer = deliver({}, vector=1)
    assert (answer.judgement, answer.sentence) == (
        Judgement.UNSUPPORTED,
        "delivery of #DB: #DB is neither a fault nor a software interrupt",
    )
    answer = deliver({GDT + 8: 0x0020_9A00_0000_0000})
    assert "accessed bit is clear" in answer.sentence
    answer = deliver({leaf(TSS): 0x8000_0063})
    assert "0x80000004, which is not RAM" in answer.sentence


# Planted flaws: what the engine reads is not what is there.


def without_ist(memory: PhysicalMemory) -> None:
    for vector in (6, 8, 13, 14):
        at = IDT + 16 * vector
        memory.write_u64(at, memory.read_u64(at) & ~(7 << 32))


def without_rsp0(memory: PhysicalMemory) -> None:
    memory.write(TSS + 4, struct.pack("<Q", STACK))


def without_present(memory: PhysicalMemory) -> None:
    for vector in (6, 11):
        at = IDT + 16 * vector
        memory.write_u64(at, memory.read_u64(at) | 0x8E << 40)


def with_user_pages(memory: PhysicalMemory) -> None:
    memory.write_u64(leaf(RSP0), memory.read_u64(leaf(RSP0)) | 1)


FLAWS: list[tuple[str, Callable[[PhysicalMemory], None], dict[int, int], str]] = [
    ("the IST is ignored", without_ist, gate(6, ist=1), "registers"),
    ("RSP0 is ignored", without_rsp0, {}, "registers"),
    ("an absent gate is entered", without_present, gate(6, kind=0x0E), "events"),
    (
        "the stack's page is taken for present",
        with_user_pages,
        {leaf(RSP0): RSP0 & ~0xFFF | 0x62},
        "outcome",
    ),
]


@pytest.mark.parametrize(
    ("flaw", "memory", "field"), [row[1:] for row in FLAWS], ids=[row[0] for row in FLAWS]
)
def test_a_flaw_is_found(
    flaw: Callable[[PhysicalMemory], None], memory: dict[int, int], field: str
) -> None:
    agreed(memory)

    answer = deliver(memory, flaw)

    assert (answer.judgement, answer.decisive.fields[0]) == (Judgement.DIVERGE, field)
    assert answer.sentence.startswith("delivery of #UD at CPL 3")


def test_random_deliveries_agree_with_unicorn() -> None:
    memory = PhysicalMemory(deliveries.RAM)
    second = doubles = shutdowns = 0
    with open_engine("unicorn", memory) as engine:
        for number in range(800):
            answer = Bench.over(engine).ask(deliveries.generate(3, number)).engines[0]
            assert answer.judgement in PERMITTED, (number, answer.sentence)
            result = answer.decisive.result
            second += len(result.events) > 1
            doubles += any(event.vector == 8 for event in result.events[1:])
            shutdowns += result.seen.outcome is Outcome.SHUTDOWN
    assert min(second, doubles, shutdowns) > 15, (second, doubles, shutdowns)
    assert not memory.buffer.any()


def test_random_deliveries_find_a_flaw() -> None:
    found = 0

    class NoIst(UnicornEngine):
        name = "flawed"

        def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
            kept = [
                dataclasses.replace(step, tss=(step.tss[0], 30))
                if isinstance(step, DeliverStep)
                else step
                for step in steps
            ]
            return super().play(cpu, kept)

    with NoIst(PhysicalMemory(deliveries.RAM)) as engine:
        for number in range(200):
            answer = Bench.over(engine).ask(deliveries.generate(3, number)).engines[0]
            found += answer.judgement is Judgement.DIVERGE
    assert found > 20
