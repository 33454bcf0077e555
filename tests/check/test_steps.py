"""Questions of several steps: their JSON, every way to get it wrong, what is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.check.bench import Bench
from harness.check.judge.compare import Judgement
from harness.check.question import Question, read_questions, states
from harness.check.registered.model import KnownSequence
from harness.check.registered.registry import REGISTRY
from harness.cli import cli
from harness.cpu import CpuState
from harness.engine.steps import AccessStep, ControlStep, InvlpgStep, Step, WriteStep
from harness.errors import CaseError
from harness.fuzz import deliveries, instructions, sequences
from harness.outcome import Access, AccessKind

KNOWN_STEPS = tuple(known for known in REGISTRY if isinstance(known, KnownSequence))
TABLES = {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007", "0x4020": "0x5005"}
# kvm-unit-tests' "twice": a supervisor's read comes before a user's write of the same address.
TWICE: dict[str, Any] = {
    "cpu": {"cr3": "0x1000"},
    "ram": "0x10000",
    "memory": TABLES,
    "steps": [
        {"access": {"va": "0x4123"}, "cpl": 0},
        {"access": {"va": "0x4123", "kind": "write"}, "cpl": 3},
    ],
}
EVERY_STEP: list[dict[str, Any]] = [
    {"access": {"va": "0x4123", "kind": "write", "size": 4, "value": "0x1"}, "cpl": 3},
    {"write": {"0x4020": "0x0"}},
    {"invlpg": "0x4000"},
    {"cr0": "0x80050033"},
    {"cr3": "0x1000"},
    {"cr4": "0xa0"},
    {"efer": "0x500"},
    {"pkru": "0x4"},
    {"rflags": "0x40002"},
    {"execute": "rep movsb", "registers": {"rcx": "0x10"}, "cpl": 0},
    {"deliver": {"vector": 14, "error_code": "0x7", "idt": ["0x5000", "0xfff"]}},
]


def scenario(**changes: Any) -> Question:
    return Question.from_json(TWICE | changes)


def answered(data: dict[str, Any]) -> Any:
    asked = Question.from_json(data)
    with Bench(asked.ram, "unicorn") as bench:
        answer = bench.ask(asked)
        assert not bench.memory.buffer.any(), "everything is put back"
    assert answer.judgement is answer.engines[0].judgement
    return answer


def test_every_kind_of_step_survives_the_trip_through_json() -> None:
    asked = scenario(steps=EVERY_STEP)

    again = Question.from_json(json.loads(asked.line()))

    assert again == asked
    assert again.line() == asked.line()
    assert len(asked.steps) == len(EVERY_STEP)


@pytest.mark.parametrize("kind", [sequences, instructions, deliveries])
def test_random_scenarios_survive_the_trip(kind: Any) -> None:
    for number in range(200):
        asked = kind.generate(7, number)
        assert Question.from_json(json.loads(asked.line())) == asked


def test_one_access_is_written_in_short() -> None:
    access = Access(AccessKind.WRITE, 2)
    one = Question.of_access(CpuState(cr3=0x1000), 0x10000, {0x1000: 7}, 0x4123, access)

    assert one.single == AccessStep(0x4123, access)
    assert "access" in one.to_json()
    assert Question.from_json(one.to_json() | {"access": {"va": 0}}) != one
    steps = {key: value for key, value in one.to_json().items() if key != "access"}
    assert Question.from_json(steps | {"steps": [{"access": one.to_json()["access"]}]}) == one
    at_another_cpl = Question(one.cpu, one.ram, one.memory, [AccessStep(1, Access(), cpl=3)])
    assert at_another_cpl.single is None
    assert "steps" in at_another_cpl.to_json()
    assert scenario().single is None


BAD: list[tuple[Any, str]] = [
    ({}, "step 1 must have one key of access, write, invlpg, cr0, cr3, cr4, efer, pkru, rflags,"),
    ({"acces": {"va": 0}}, "step 1 must have one key of access,"),
    ({"invlpg": 0, "cr3": 0}, "step 1 must have one key of access,"),
    ({"invlpg": 0, "cpl": 0}, "a key of step 1 must be one of invlpg, not 'cpl'"),
    ({"access": {"va": 0, "to": 1}}, "a key of access must be one of va, kind, size, implicit,"),
    ({"access": {"va": 0, "value": 1}}, "an access with a value must be a write, not a read"),
    ({"access": {"va": 0}, "cpl": 4}, "cpl must be 0 or more and fit in 2 bits, not 4"),
    ({"write": {"0x1004": 0}}, "a word's address must be a multiple of 8, not 0x1004"),
    ({"write": {"0x10000": 0}}, "a word must lie in RAM, and 0x1_0000 is not RAM"),
    ({"write": {"0x8": 0, "0x08": 0}}, "an address must occur once in write, and one occurs twice"),
    ({"cr0": "0x1"}, "CR0.PG must be 1 in long mode, not 0 as in cr0=0x1"),
    ({"cr4": "0x1020"}, "CR4.LA57 must not change while paging is on"),
    ({"pkru": 1 << 32}, "pkru must be 0 or more and fit in 32 bits, not 4294967296"),
    ({"execute": 5}, "execute must be a string, not 5"),
    ({"execute": "nop", "registers": {"eax": 0}}, "a key of registers must be one of rax,"),
    ({"deliver": {}}, "deliver must have the key 'vector', and lacks it"),
    ({"deliver": {"vector": 256}}, "vector must be 0 or more and fit in 8 bits, not 256"),
    ({"deliver": {"vector": 3, "idt": 0}}, "idt must be [base, limit], not 0"),
]


@pytest.mark.parametrize(("step", "sentence"), BAD)
def test_a_malformed_step_is_refused_in_a_sentence(step: Any, sentence: str) -> None:
    with pytest.raises(CaseError) as caught:
        scenario(steps=[step])

    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_steps_must_be_a_list_that_is_not_empty() -> None:
    with pytest.raises(CaseError, match="steps must be a list, not 3"):
        scenario(steps=3)
    with pytest.raises(CaseError, match="must have 1 to 1000 steps, not 0"):
        scenario(steps=[])


def test_a_file_holds_cases_and_scenarios_and_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    case = {"access": {"va": "0x4123"}}
    path.write_text(f"{json.dumps(case)}\n\n{json.dumps(TWICE)}\n{{}}\n")

    questions = read_questions(path)

    assert [next(questions), next(questions)] == [Question.from_json(case), scenario()]
    with pytest.raises(CaseError) as caught:
        next(questions)
    assert str(caught.value) == f"{path}:4: a question must have the key 'access', and lacks it"


def test_states_follow_the_registers_and_each_step_s_level() -> None:
    cpu = CpuState(cr3=0x1000)
    steps: list[Step] = [
        AccessStep(0, Access(), cpl=3),
        ControlStep("cr3", 0x2000),
        AccessStep(0, Access()),
    ]

    assert list(states(cpu, steps)) == [cpu.replace(cpl=3), cpu, cpu.replace(cr3=0x2000)]


def test_twice_is_judged_step_by_step() -> None:
    answer = answered(TWICE)

    assert answer.judgement is Judgement.AGREE
    assert [verdict.rule for verdict in answer.engines[0].verdicts] == ["COMBINE", "USER_RW"]
    assert answer.engines[0].verdicts[1].result.seen.error_code == 7
    line = answer.to_json()
    assert line["agree"] is True
    assert [step["observed"]["unicorn"]["outcome"] for step in line["steps"]] == [
        "mapped",
        "page-fault",
    ]
    assert line["steps"][1]["predicted"][0]["rule"] == "USER_RW"


def test_what_cannot_be_run_is_said_and_ends_the_answer() -> None:
    answer = answered(TWICE | {"steps": [{"cr4": "0x1000020"}, *TWICE["steps"]]})

    assert answer.judgement is Judgement.UNSUPPORTED
    assert len(answer.engines[0].verdicts) == 1
    assert "does not implement PKS" in answer.sentence
    assert answer.to_json()["agree"] is None


def test_what_is_known_has_its_name() -> None:
    for known in KNOWN_STEPS:
        answer = answered(known.example)
        [found] = answer.engines
        assert (found.judgement, found.known) == (Judgement.KNOWN, (known,))
        assert (found.rule, answer.to_json()["agree"]) == (known.rule, False)


def test_an_instruction_after_an_edit_is_not_judged() -> None:
    edit = {"write": {"0x4020": "0x5007"}}
    execute = {"execute": "inc byte ptr [rdi]", "registers": {"rdi": "0x4000"}}

    assert answered(TWICE | {"steps": [execute]}).judgement is Judgement.AGREE
    answer = answered(TWICE | {"steps": [edit, execute]})
    assert answer.judgement is Judgement.UNSUPPORTED
    assert "while no entry can be stale" in answer.sentence
    reload = {"cr3": "0x1000"}
    assert answered(TWICE | {"steps": [edit, reload, execute]}).judgement is Judgement.AGREE


def test_a_scenario_is_checked_when_it_is_built_in_python_too() -> None:
    with pytest.raises(CaseError, match="a multiple of 8"):
        Question(CpuState(), 0x1000, {}, [WriteStep({4: 0})])
    assert Question(CpuState(), 0x1000, {}, [InvlpgStep(0)]).build().size == 0x1000


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "fuzz.md").read_text()
    section = text.partition("\n## Scenarios\n")[2]
    example = section.partition("```json\n")[2].partition("```")[0]

    answer = answered(json.loads(example))

    assert answer.judgement is Judgement.AGREE
    third, fifth = answer.engines[0].verdicts[2], answer.engines[0].verdicts[4]
    assert {one["pa"] for one in third.permitted} == {"0x5123", "0x6123"}
    assert [one["error_code"] for one in fifth.permitted] == ["0x7"]


def test_probe_answers_scenarios_and_cases(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    case = {key: TWICE[key] for key in ("cpu", "ram", "memory")} | {"access": {"va": "0x4123"}}
    path.write_text(
        f"{json.dumps(TWICE)}\n{json.dumps(case)}\n{json.dumps(KNOWN_STEPS[0].example)}\n"
    )

    result = CliRunner().invoke(cli, ["probe", str(path), "--json"])
    twice, single, known = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert (twice["agree"], single["agree"], known["agree"]) == (True, True, False)
    assert [step["judgement"] for step in twice["steps"]] == ["agree", "agree"]
    assert known["known"] == {"unicorn": ["fault-keeps-tlb"]}

    shown = CliRunner().invoke(cli, ["probe", str(path)]).stdout
    assert "1.2" in shown
    assert "access 0x4123 write 1  3    #PF 0x7" in shown
    assert "known as fault-keeps-tlb: QEMU's TCG leaves the TLB alone" in shown
    nobody = CliRunner().invoke(cli, ["probe", str(path), "--json", "--engine", "none"])
    assert json.loads(nobody.stdout.splitlines()[0]) == {"steps": [], "agree": None}
