"""Questions: the documented form in and out, and every way in which one can be malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.address import VirtAddr
from harness.check.codec import prediction_to_json
from harness.check.question import DEFAULT_RAM, Question, read_questions, write_questions
from harness.cpu import CR4, CpuFeatures, CpuState
from harness.errors import CaseError
from harness.memory import Region
from harness.outcome import Access, AccessKind, Observation, Outcome
from harness.walker import walk

# The form that is promised to users, letter by letter.
DESIGN = json.loads(
    """
{"cpu": {"cr0": "0x80050033", "cr3": "0x1000", "cr4": "0x20", "efer": "0xd00", "rflags": "0x2",
         "pkru": "0x0", "cpl": 3, "maxphyaddr": 40},
 "ram": "0x4000000",
 "memory": {"0x1000": "0x2007", "0x2000": "0x3007", "0x3000": "0x4007",
            "0x4020": "0x80000000000a5007"},
 "access": {"va": "0x4123", "kind": "fetch", "size": 1}}
"""
)
PREDICTED = json.loads(
    """
{"outcome": "page-fault", "error_code": "0x15", "cr2": "0x4123", "rule": "NX", "level": 1,
 "pa": null, "page_size": null, "sets": {},
 "may_set": {"0x1000": "0x20", "0x2000": "0x20", "0x3000": "0x20"}}
"""
)


def predict(case: Question) -> dict[str, Any]:
    return prediction_to_json(walk(case.build(), case.cpu, case.va, case.access))


def test_the_case_of_the_design_is_read_and_predicted_as_it_says() -> None:
    case = Question.from_json(DESIGN)

    assert case.cpu == CpuState(cr3=0x1000, cpl=3)
    assert case.ram == (Region(0, 0x400_0000),)
    assert (case.va, case.access) == (0x4123, Access(AccessKind.FETCH))
    assert case.build().read_u64(0x4020) == 0x8000_0000_000A_5007
    assert predict(case) == PREDICTED
    assert list(predict(case)) == list(PREDICTED)


def test_a_mapped_prediction_has_every_number_in_hex() -> None:
    case = Question.from_json(DESIGN | {"access": {"va": "0x4123", "kind": "write"}})

    assert predict(case) == {
        "outcome": "mapped",
        "error_code": None,
        "cr2": None,
        "rule": "COMBINE",
        "level": 1,
        "pa": "0xa5123",
        "page_size": "0x1000",
        "sets": {"0x1000": "0x20", "0x2000": "0x20", "0x3000": "0x20", "0x4020": "0x60"},
        "may_set": {},
    }


def test_an_observation_has_the_keys_of_the_design() -> None:
    seen = Observation(Outcome.PAGE_FAULT, 0x15, 0x4123, changed={0x1000: 0x20})

    assert json.dumps(seen.to_json()) == (
        '{"outcome": "page-fault", "error_code": "0x15", "cr2": "0x4123", "pa": null, '
        '"changed": {"0x1000": "0x20"}}'
    )


def test_what_is_left_out_has_the_default() -> None:
    case = Question.from_json({"access": {"va": 0}})

    assert case == Question.of_access(CpuState(), DEFAULT_RAM, {}, 0, Access())
    default = CpuState(features=CpuFeatures(maxphyaddr=48))
    assert Question.from_json({"access": {"va": 0}}, default=default).cpu == default


def test_ram_may_have_regions_and_the_cpu_features() -> None:
    case = Question.from_json(
        {
            "cpu": {"features": {"pdpe1gb": False}},
            "ram": [["0x100000", 4096], [0, "0x1000"]],
            "memory": {"0x100ff8": 1},
            "access": {"va": "0xffff_8000_0000_0000", "implicit": True, "stack": False},
        }
    )

    assert case.ram == (Region(0, 0x1000), Region(0x10_0000, 0x1000))
    assert case.cpu.features == CpuFeatures(pdpe1gb=False)
    assert case.access == Access(implicit=True)
    assert case.va == 0xFFFF_8000_0000_0000


words = st.integers(0, (1 << 64) - 1)
cpus = st.builds(
    CpuState,
    cr3=st.integers(0, (1 << 40) - 1),
    cr4=st.sets(st.sampled_from([CR4.SMEP, CR4.SMAP, CR4.PKE, CR4.PKS, CR4.LA57])).map(
        lambda bits: sum(map(int, bits), 0x20)
    ),
    efer=st.sampled_from([0x500, 0xD01]),
    rflags=st.sampled_from([2, 0x4_0202]),
    pkru=st.integers(0, (1 << 32) - 1),
    pkrs=st.integers(0, (1 << 32) - 1),
    cpl=st.integers(0, 3),
    features=st.builds(
        CpuFeatures, maxphyaddr=st.integers(40, 52), pdpe1gb=st.booleans(), umip=st.booleans()
    ),
)
accesses = st.one_of(
    st.builds(Access, st.just(AccessKind.FETCH), st.integers(1, 64)),
    st.builds(
        Access,
        st.sampled_from([AccessKind.READ, AccessKind.WRITE]),
        st.integers(1, 64),
        implicit=st.booleans(),
        stack=st.booleans(),
    ),
)
cases = st.builds(
    Question.of_access,
    cpus,
    st.sampled_from(
        [0x1_0000, [(0, 0x1_0000), (1 << 39, 0x1000)], [(0, 0x8000), (0x8000, 0x8000)]]
    ),
    st.dictionaries(st.integers(0, 0x1FFF).map(lambda n: n * 8), words, max_size=8),
    words,
    accesses,
)


@given(cases)
def test_a_case_survives_the_trip_through_json(case: Question) -> None:
    again = Question.from_json(json.loads(case.line()))

    assert again == case
    assert again.line() == case.line()
    assert (again.build().words == case.build().words).all()


@given(st.lists(cases, min_size=1, max_size=5))
def test_a_case_file_survives_the_trip(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Question]
) -> None:
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"

    write_questions(path, wanted)

    assert list(read_questions(path)) == wanted


BAD: list[tuple[dict[str, Any], str]] = [
    ({"cpus": {}}, "a key of a question must be one of access, cpu, ram, memory, not 'cpus'"),
    ({"access": None}, "access must be an object, not None"),
    ({"access": {}}, "access must have the key 'va', and lacks it"),
    (
        {"access": {"va": 0, "kinds": "read"}},
        "a key of access must be one of va, kind, size, implicit, stack, value, not 'kinds'",
    ),
    (
        {"access": {"va": 0, "kind": "exec"}},
        "an access must be a read, a write or a fetch, not 'exec'",
    ),
    ({"access": {"va": 0, "kind": 1}}, "kind must be a string, not 1"),
    ({"access": {"va": 0, "size": 0}}, "the size of an access must be 1 to 64 bytes, not 0"),
    ({"access": {"va": 0, "size": 65}}, "the size of an access must be 1 to 64 bytes, not 65"),
    ({"access": {"va": 0, "stack": 1}}, "stack must be true or false, not 1"),
    (
        {"access": {"va": 0, "kind": "fetch", "stack": True}},
        "a fetch must be explicit and through CS, not through SS",
    ),
    (
        {"access": {"va": 1 << 64}},
        "va must be 0 or more and fit in 64 bits, not 18446744073709551616",
    ),
    ({"access": {"va": -1}}, "va must be 0 or more and fit in 64 bits, not -1"),
    (
        {"access": {"va": "4123"}},
        "va must be an integer or a hex string such as '0x1000', not '4123'",
    ),
    ({"access": {"va": 1.0}}, "va must be an integer or a hex string such as '0x1000', not 1.0"),
    ({"access": {"va": True}}, "va must be an integer or a hex string such as '0x1000', not True"),
    ({"memory": []}, "memory must be an object, not []"),
    ({"memory": {"0x1004": 0}}, "a word's address must be a multiple of 8, not 0x1004"),
    ({"memory": {"0x4000000": 0}}, "a word must lie in RAM, and 0x400_0000 is not RAM"),
    (
        {"memory": {"0x1000": "word"}},
        "the word at 0x1000 must be an integer or a hex string such as '0x1000', not 'word'",
    ),
    (
        {"memory": {"here": 0}},
        "an address in memory must be an integer or a hex string such as '0x1000', not 'here'",
    ),
    (
        {"memory": {"0x8": 0, "0x08": 1}},
        "an address must occur once in memory, and one occurs twice",
    ),
    ({"ram": "lots"}, "ram must be an integer or a hex string such as '0x1000', not 'lots'"),
    ({"ram": 0}, "a region of RAM must not be empty, as Region(0x0, 0x0) is"),
    (
        {"ram": 0x1001},
        "a region of RAM must be made of whole 4 KiB frames, not be Region(0x0, 0x1001)",
    ),
    ({"ram": []}, "RAM must have at least one region, not none"),
    ({"ram": [[0, 4096, 1]]}, "a region of ram must be [base, size], not [0, 4096, 1]"),
    (
        {"ram": [[0, 8192], [4096, 4096]]},
        "regions of RAM must not overlap, as Region(0x0, 0x2000) and Region(0x1000, 0x1000) do",
    ),
    (
        {"ram": "0x1000000000000000"},
        "ram must be at most 0x100_0000_0000 bytes (1 TiB), not 0x1000_0000_0000_0000",
    ),
]


def test_access_and_steps_exclude_each_other() -> None:
    with pytest.raises(CaseError, match="must have access or steps, not both"):
        Question.from_json(DESIGN | {"steps": [{"invlpg": 0}]})


def test_only_a_question_of_one_access_has_one() -> None:
    several = Question.from_json(DESIGN)
    several = Question(several.cpu, several.ram, several.memory, [*several.steps, *several.steps])

    assert several.single is None
    with pytest.raises(ValueError, match="of one access is meant, not of 2 steps"):
        _ = several.va


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_a_malformed_case_is_refused_in_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CaseError) as caught:
        Question.from_json(DESIGN | change)

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "cpu",
    [
        [],
        {"cr9": 0},
        {"cr3": "x"},
        {"cr3": 1 << 40},
        {"cr0": 1},
        {"cpl": 4},
        {"features": {"sse": True}},
        {"features": {"la57": 1}},
        {"maxphyaddr": 53},
        {"pkru": "0x" + "f" * 100_000},
        {"cr3": "9" * 5000},
    ],
)
def test_a_cpu_that_cannot_be_is_a_case_error_too(cpu: object) -> None:
    with pytest.raises(CaseError) as caught:
        Question.from_json(DESIGN | {"cpu": cpu})

    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_case_is_checked_when_it_is_built_in_python_too() -> None:
    with pytest.raises(CaseError, match="a multiple of 8"):
        Question.of_access(CpuState(), 0x1000, {4: 0}, 0, Access())
    with pytest.raises(CaseError, match="the word at 0x8 must be"):
        Question.of_access(CpuState(), 0x1000, {8: 1 << 64}, 0, Access())
    with pytest.raises(CaseError, match="whole 4 KiB frames"):
        Question.of_access(CpuState(), 1, {}, 0, Access())
    assert Question.of_access(CpuState(), 0x1000, {}, VirtAddr(0x4123), Access()).va == 0x4123


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    good = json.dumps(DESIGN)
    path.write_text(f"{good}\n\n  \n{good}\r\n{{}}\n{good}\n")

    cases = read_questions(path)

    assert [next(cases), next(cases)] == [Question.from_json(DESIGN)] * 2
    with pytest.raises(CaseError) as caught:
        next(cases)
    assert str(caught.value) == f"{path}:5: a question must have the key 'access', and lacks it"
    assert (caught.value.path, caught.value.line) == (path, 5)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "the text must be JSON: Expecting property name enclosed in double quotes"),
        (b"\xff", "the text must be UTF-8, and byte 0 is not"),
        (b"\xef\xbb\xbf{}", "the text must be JSON: Unexpected UTF-8 BOM"),
        (b"[]", "a question must be an object, not []"),
        (b'{"access": {"va": NaN}}', "a number must be finite, not NaN"),
        (b'{"ram": 1, "ram": 2}', "a key must occur once in an object, and 'ram' occurs twice"),
        (b"[" * 33 + b"]" * 33, "the JSON must be nested at most 32 deep"),
        (b"[" * 950 + b"]" * 950, "the JSON must be nested at most 32 deep"),
        (b"[" * 32 + b"]" * 32, "a question must be an object, not [[["),
        (b"[" * 200_000, "the JSON must be nested at most 32 deep"),
        (b"1" * 5000, "an integer must fit in 64 bits, not have 5000 digits"),
        (b'"' + b"x" * (9 << 20) + b'"', "a question must be at most 8388608 bytes long"),
    ],
)
def test_a_line_that_is_no_strict_json_is_refused(
    tmp_path: Path, line: bytes, sentence: str
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_bytes(line + b"\n")

    with pytest.raises(CaseError) as caught:
        list(read_questions(path))

    assert str(caught.value).startswith(f"{path}:1: {sentence}")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_cases_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_bytes(content)

    with pytest.raises(CaseError) as caught:
        list(read_questions(path))

    assert (
        str(caught.value) == f"{path}: a file of questions must hold at least one, and holds none"
    )


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "no", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(CaseError) as caught:
            list(read_questions(path))
        assert str(caught.value) == f"{path}: the file must be readable: {reason}"
