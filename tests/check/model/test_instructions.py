"""Instructions that fault half way: what the manual says is left, and engines that leave more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.check.bench import Bench
from harness.check.judge.compare import Judgement
from harness.check.model.instructions import understood
from harness.check.question import Question
from harness.cpu import CpuState
from harness.engine import Engine, open_engine
from harness.engine.steps import ExecuteStep, Step, StepResult
from harness.engine.unicorn import UnicornEngine
from harness.fuzz import instructions
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome

PERMITTED = (Judgement.AGREE, Judgement.OPEN, Judgement.KNOWN)

CPU = CpuState(cr3=0x1000)
TABLES = {0x1000: 0x2027, 0x2000: 0x3027, 0x3000: 0x4027}
# Pages 4 and 5 may be written, 6 may be read, 7 is missing, 8 may be written.
LEAVES = {0x4020: 0x8007, 0x4028: 0x9007, 0x4030: 0xA005, 0x4040: 0xB007}
DATA = {0x8000 + 8 * n: 0x1111_1111_1111_1111 * (n % 15 + 1) for n in range(512)}
A, D = 0x20, 0x40
DF = 0x402

Change = Callable[[StepResult], StepResult]


class Flawed(UnicornEngine):
    """Unicorn, with what it says of an instruction changed."""

    name = "flawed"

    def __init__(self, memory: PhysicalMemory, change: Change) -> None:
        super().__init__(memory)
        self._change = change

    def play(self, cpu: CpuState, steps: Sequence[Step]) -> list[StepResult]:
        return [self._change(result) for result in super().play(cpu, steps)]


def run(
    instruction: str, change: Change | None = None, cpu: CpuState = CPU, **registers: Any
) -> Any:
    step = ExecuteStep(instruction, registers)
    scenario = Question(cpu, 0x1_0000, TABLES | LEAVES | DATA, [step])
    memory = PhysicalMemory(0x1_0000)
    engine: Engine = open_engine("unicorn", memory) if change is None else Flawed(memory, change)
    try:
        return Bench.over(engine).ask(scenario).engines[0]
    finally:
        engine.close()


def agreed(instruction: str, cpu: CpuState = CPU, **registers: Any) -> StepResult:
    answer = run(instruction, None, cpu, **registers)
    assert answer.judgement is Judgement.AGREE, answer.sentence
    assert answer.decisive.predicted
    result = answer.decisive.result
    assert isinstance(result, StepResult)
    return result


def test_a_string_instruction_stops_at_the_element_that_faults() -> None:
    result = agreed("rep movsq", rsi=0x4000, rdi=0x5FF0, rcx=5)
    assert (result.seen.outcome, result.seen.error_code) == (Outcome.PAGE_FAULT, 3)
    assert result.seen.cr2 == 0x6000
    registers = result.registers
    assert (registers["rcx"], registers["rsi"], registers["rdi"]) == (3, 0x4010, 0x6000)
    assert registers["rip"] == result.start
    assert result.seen.changed[0x9FF0] == DATA[0x8000]
    assert result.seen.changed[0x4028] == A | D


def test_it_goes_down_with_df_set() -> None:
    result = agreed("rep stosb", CPU.replace(rflags=DF), rdi=0x8002, rcx=9, rax=0xAB)
    assert (result.registers["rcx"], result.registers["rdi"]) == (6, 0x7FFF)
    assert result.seen.cr2 == 0x7FFF
    assert result.seen.changed[0xB000] == 0xAB_ABAB


def test_repe_ends_at_a_difference_and_repne_at_what_is_equal() -> None:
    result = agreed("repe cmpsq", rsi=0x4000, rdi=0x4078, rcx=40)
    assert result.seen.outcome is Outcome.MAPPED
    assert result.registers["rcx"] == 0, "the pattern comes again after fifteen words"
    result = agreed("repe cmpsb", rsi=0x4000, rdi=0x4008, rcx=40)
    assert result.registers["rcx"] == 39
    result = agreed("repne scasq", rdi=0x4000, rcx=40, rax=0x3333_3333_3333_3333)
    assert (result.registers["rcx"], result.registers["rdi"]) == (37, 0x4018)


def test_nothing_is_touched_when_rcx_is_0() -> None:
    result = agreed("rep movsb", rsi=0x7000, rdi=0x7000)
    assert (result.seen.outcome, result.seen.changed) == (Outcome.MAPPED, {})


@pytest.mark.parametrize(
    ("instruction", "value"),
    [
        ("add qword ptr [rdi], rbx", 0x1111_1111_1111_1116),
        ("lock xadd [rdi], rbx", 0x1111_1111_1111_1116),
        ("not qword ptr [rdi]", 0xEEEE_EEEE_EEEE_EEEE),
        ("lock dec qword ptr [rdi]", 0x1111_1111_1111_1110),
        ("btc [rdi], rbx", 0x1111_1111_1111_1131),
        ("xchg [rdi], rbx", 5),
        ("cmpxchg [rdi], rbx", 0x1111_1111_1111_1111),
        ("neg byte ptr [rdi]", 0x1111_1111_1111_11EF),
        ("sub dword ptr [rdi], ebx", 0x1111_1111_1111_110C),
    ],
)
def test_read_modify_write(instruction: str, value: int) -> None:
    result = agreed(instruction, rdi=0x4000, rbx=5)
    assert DATA[0x8000] ^ result.seen.changed.get(0x8000, 0) == value
    assert result.seen.changed[0x4020] == A | D, "written, be it what was there"
    result = agreed(instruction, rdi=0x6000, rbx=5)
    assert (result.seen.outcome, result.seen.error_code) == (Outcome.PAGE_FAULT, 3)
    assert not result.seen.changed.get(0x4030, 0) & D
    assert agreed(instruction, rdi=0x7000, rbx=5).seen.cr2 == 0x7000


def test_a_bit_string_reaches_beyond_its_operand() -> None:
    result = agreed("bts [rdi], rbx", rdi=0x5008, rbx=(1 << 64) - 65)
    assert result.seen.changed[0x8FF8] == 1 << 63 & ~DATA[0x8FF8] or result.seen.changed[0x4020]
    assert agreed("bts dword ptr [rdi], ebx", rdi=0x6FFC, rbx=32).seen.cr2 == 0x7000


def test_cmpxchg16b_compares_and_must_be_aligned() -> None:
    one, two = DATA[0x8000], DATA[0x8008]
    result = agreed("cmpxchg16b [rdi]", rdi=0x4000, rax=one, rdx=two, rbx=7, rcx=8)
    assert (result.seen.changed[0x8000], result.seen.changed[0x8008]) == (one ^ 7, two ^ 8)
    result = agreed("lock cmpxchg16b [rdi]", rdi=0x4000, rax=one + 1, rdx=two)
    assert (result.registers["rax"], result.registers["rdx"]) == (one, two)
    result = agreed("cmpxchg16b [rdi]", rdi=0x4008)
    assert result.seen.outcome is Outcome.GENERAL_PROTECTION


def test_the_stack_s_instructions_change_rsp_when_all_is_done() -> None:
    result = agreed("push qword ptr [rsi]", rsi=0x4000, rsp=0x5008)
    assert (result.registers["rsp"], result.seen.changed[0x9000]) == (0x5000, DATA[0x8000])
    cases: list[tuple[str, dict[str, Any]]] = [
        ("push qword ptr [rsi]", {"rsi": 0x4000, "rsp": 0x7008}),
        ("push qword ptr [rsi]", {"rsi": 0x7000, "rsp": 0x5008}),
        ("push rax", {"rsp": 0x7004}),
        ("pop qword ptr [rdi]", {"rdi": 0x6000, "rsp": 0x4000}),
        ("pop qword ptr [rdi]", {"rdi": 0x4000, "rsp": 0x7000}),
        ("pop rbx", {"rsp": 0x6FFC}),
        ("call qword ptr [rsi]", {"rsi": 0x4000, "rsp": 0x6008}),
    ]
    for instruction, registers in cases:
        result = agreed(instruction, **registers)
        assert result.seen.outcome is Outcome.PAGE_FAULT, instruction
        assert result.registers["rsp"] == registers["rsp"]
        assert 0x9000 not in result.seen.changed
    result = agreed("pop rbx", rsp=0x4008)
    assert (result.registers["rbx"], result.registers["rsp"]) == (DATA[0x8008], 0x4010)
    result = agreed("leave", rbp=0x4008, rsp=1)
    assert (result.registers["rbp"], result.registers["rsp"]) == (DATA[0x8008], 0x4010)


def test_pop_to_what_rsp_points_at_uses_the_incremented_one() -> None:
    result = agreed("pop qword ptr [rsp]", rsp=0x4000)
    assert result.seen.changed[0x8008] == DATA[0x8000] ^ DATA[0x8008]


def test_what_has_no_model_is_not_judged() -> None:
    assert not understood("fxsave [rdi]")
    assert not understood("add word ptr [rdi], rbx")
    answer = run("mov [rdi], rax", rdi=0x4000)
    assert (answer.judgement, answer.sentence) == (
        Judgement.UNSUPPORTED,
        "mov [rdi], rax: there is no model of 'mov [rdi], rax'",
    )
    answer = run("inc qword ptr [rdi]", cpu=CPU, rdi=0x8000)
    assert answer.judgement is Judgement.AGREE
    over = Question(
        CPU,
        0x1_0000,
        TABLES | {0x4020: 0x4007},
        [ExecuteStep("inc qword ptr [rdi]", {"rdi": 0x4020})],
    )
    with open_engine("unicorn", PhysicalMemory(0x1_0000)) as engine:
        assert (
            "stores over an entry that it used" in Bench.over(engine).ask(over).engines[0].sentence
        )


# Planted flaws.


def registers(**changes: Callable[[int], int]) -> Change:
    def change(result: StepResult) -> StepResult:
        now = dict(result.registers)
        for name, to in changes.items():
            now[name] = to(now[name])
        return dataclasses.replace(result, registers=now)

    return change


def seen(to: Callable[[Observation], Observation]) -> Change:
    return lambda result: dataclasses.replace(result, seen=to(result.seen))


def with_word(pa: int, bits: int) -> Change:
    return seen(lambda s: dataclasses.replace(s, changed=s.changed | {pa: bits}))


FLAWS: list[tuple[str, str, dict[str, int], Change, str, str]] = [
    (
        *("progress in RCX is lost", "rep movsq", {"rsi": 0x4000, "rdi": 0x5FF0, "rcx": 5}),
        *(registers(rcx=lambda rcx: 5), "registers", "WP"),
    ),
    (
        *("RDI is one on", "rep stosb", {"rdi": 0x6FF0, "rcx": 5}),
        *(registers(rdi=lambda rdi: rdi + 1), "registers", "WP"),
    ),
    (
        *("RMW writes before it faults", "inc qword ptr [rdi]", {"rdi": 0x6000}),
        *(with_word(0xA000, 1), "changed", "SPLIT"),
    ),
    (
        *("RMW sets D of what it may not write", "inc qword ptr [rdi]", {"rdi": 0x6000}),
        *(with_word(0x4030, A | D), "changed", "A_ON_FAULT"),
    ),
    (
        *("push moves RSP", "push qword ptr [rsi]", {"rsi": 0x4000, "rsp": 0x7008}),
        *(registers(rsp=lambda rsp: rsp - 8), "registers", "PRESENT"),
    ),
    (
        *("a fault has another error code", "lock inc byte ptr [rdi]", {"rdi": 0x7000}),
        *(seen(lambda s: dataclasses.replace(s, error_code=4)), "error_code", "ERR"),
    ),
    (
        *("CR2 is the start", "rep stosq", {"rdi": 0x6FFC, "rcx": 1}),
        *(seen(lambda s: dataclasses.replace(s, cr2=0x6FF0)), "cr2", "ERR"),
    ),
    (
        *("a fault is lost", "rep lodsb", {"rsi": 0x7000, "rcx": 1}),
        *(seen(lambda s: Observation(Outcome.MAPPED, changed=s.changed)), "outcome", "PRESENT"),
    ),
    (
        *("what is stored is wrong", "add byte ptr [rdi], bl", {"rdi": 0x4000, "rbx": 1}),
        *(with_word(0x8000, 0xFF), "changed", "SPLIT"),
    ),
    (
        *("D is forgotten", "cmpxchg [rdi], rbx", {"rdi": 0x4000}),
        *(with_word(0x4020, A), "changed", "A"),
    ),
]


@pytest.mark.parametrize(
    ("instruction", "given", "change", "field", "rule"),
    [flaw[1:] for flaw in FLAWS],
    ids=[flaw[0] for flaw in FLAWS],
)
def test_a_flaw_is_found(
    instruction: str, given: dict[str, Any], change: Change, field: str, rule: str
) -> None:
    agreed(instruction, **given)

    answer = run(instruction, change, **given)

    assert (answer.judgement, answer.decisive.fields[0], answer.rule) == (
        Judgement.DIVERGE,
        field,
        rule,
    ), answer.sentence
    assert answer.sentence.startswith(f"{instruction} at CPL 0")


def test_random_instructions_agree_with_unicorn() -> None:
    memory = PhysicalMemory(instructions.RAM)
    faults = half_way = 0
    with open_engine("unicorn", memory) as engine:
        for number in range(1500):
            answer = Bench.over(engine).ask(instructions.generate(3, number)).engines[0]
            assert answer.judgement in PERMITTED, (number, answer.sentence)
            verdict = answer.decisive
            if verdict.result.seen.outcome is Outcome.PAGE_FAULT:
                faults += 1
                assert isinstance(verdict.step, ExecuteStep)
                given = verdict.step.registers["rcx"]
                half_way += verdict.result.registers["rcx"] < given
    assert faults > 300
    assert half_way > 100
    assert not memory.buffer.any()


def test_random_instructions_find_a_flaw() -> None:
    found = 0
    for_good = registers(rcx=lambda rcx: rcx & ~1)
    with Flawed(PhysicalMemory(instructions.RAM), for_good) as engine:
        for number in range(200):
            answer = Bench.over(engine).ask(instructions.generate(3, number)).engines[0]
            found += answer.judgement is Judgement.DIVERGE
    assert found > 30
