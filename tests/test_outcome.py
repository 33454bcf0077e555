"""Accesses, outcomes and observations."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import outcome as outcome_module
from harness.errors import InputError
from harness.outcome import (
    UNKNOWN_PA,
    Access,
    AccessKind,
    Observation,
    Observations,
    Outcome,
)


@pytest.mark.parametrize("kind", AccessKind)
def test_an_access_of_a_word(kind: AccessKind) -> None:
    access = Access.of(kind)
    assert access == Access.of(kind.value) == Access.of(access) == Access(kind)
    assert Access.of(access) is access
    assert (access.kind, access.size, access.implicit, access.stack) == (kind, 1, False, False)
    assert access.is_write is (kind == "write")
    assert access.is_fetch is (kind == "fetch")
    assert Access.of(kind, size=8).size == 8


@given(st.sampled_from(["read", "write"]), st.integers(1, 64), st.booleans(), st.booleans())
def test_an_access_is_a_value(kind: str, size: int, implicit: bool, stack: bool) -> None:
    access = Access(AccessKind(kind), size, implicit, stack)
    assert eval(repr(access), vars(outcome_module)) == access
    assert pickle.loads(pickle.dumps(access)) == access
    assert hash(access) == hash(Access(AccessKind(kind), size, implicit, stack))
    assert access != Access(AccessKind.FETCH, size)
    with pytest.raises(FrozenInstanceError):
        access.size = 2  # type: ignore[misc]


def test_an_access_prints_what_is_special() -> None:
    assert repr(Access()) == "Access(AccessKind.READ)"
    access = Access(AccessKind.WRITE, size=8, stack=True)
    assert repr(access) == "Access(AccessKind.WRITE, size=8, stack=True)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "jump"}, "an access must be a read, a write or a fetch, not 'jump'"),
        ({"kind": None}, "an access must be a read, a write or a fetch, not None"),
        ({"size": 0}, "the size of an access must be 1 to 64 bytes, not 0"),
        ({"size": 65}, "the size of an access must be 1 to 64 bytes, not 65"),
        ({"size": True}, "the size of an access must be 1 to 64 bytes, not True"),
        (
            {"kind": "fetch", "implicit": True},
            "a fetch must be explicit and through CS, not implicit",
        ),
        (
            {"kind": "fetch", "stack": True},
            "a fetch must be explicit and through CS, not through SS",
        ),
    ],
)
def test_malformed_accesses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Access(**arguments)
    assert str(caught.value) == message


def test_an_unknown_word_is_refused() -> None:
    for word in ("execute", 7, None):
        with pytest.raises(InputError, match=r"^an access must be a read, a write or a fetch, not"):
            Access.of(word)  # type: ignore[arg-type]


def test_outcomes_have_the_words_and_numbers_of_the_files() -> None:
    assert [outcome.value for outcome in Outcome] == [
        "mapped",
        "page-fault",
        "general-protection",
        "stack-fault",
        "double-fault",
        "shutdown",
        "no-memory",
        "unsupported",
    ]
    assert [outcome.code for outcome in Outcome] == list(range(8))
    assert [Outcome.from_code(code) for code in range(8)] == list(Outcome)
    assert f"{Outcome.PAGE_FAULT}" == "page-fault"


def test_an_observation_as_json() -> None:
    fault = Observation(
        Outcome.PAGE_FAULT, error_code=0x15, cr2=0x4123, changed={0x1000: 0x20, 0x2000: 0x20}
    )
    assert fault.to_json() == {
        "outcome": "page-fault",
        "error_code": "0x15",
        "cr2": "0x4123",
        "pa": None,
        "changed": {"0x1000": "0x20", "0x2000": "0x20"},
    }
    assert Observation(Outcome.UNSUPPORTED, reason="no PKS").to_json()["reason"] == "no PKS"


def test_a_row_of_a_batch_is_an_observation() -> None:
    batch = Observations.blank(len(Outcome), reason="no PKS")
    batch.outcome[:] = range(len(Outcome))
    batch.error_code[:] = 0x15
    batch.cr2[:] = 0x4123
    batch.pa[:] = 0x5000
    batch.value[:] = 42
    assert len(batch) == 8
    assert list(batch) == [
        Observation(Outcome.MAPPED, pa=0x5000, value=42),
        Observation(Outcome.PAGE_FAULT, error_code=0x15, cr2=0x4123),
        Observation(Outcome.GENERAL_PROTECTION, error_code=0x15),
        Observation(Outcome.STACK_FAULT, error_code=0x15),
        Observation(Outcome.DOUBLE_FAULT, error_code=0x15),
        Observation(Outcome.SHUTDOWN),
        Observation(Outcome.NO_MEMORY, pa=0x5000),
        Observation(Outcome.UNSUPPORTED, reason="no PKS"),
    ]
    assert all(type(value) is int for value in (batch[0].pa, batch[0].value, batch[1].cr2))
    batch.pa[0] = UNKNOWN_PA
    assert batch[0].pa is None
    with pytest.raises(IndexError):
        batch[8]


def test_a_blank_batch() -> None:
    batch = Observations.blank(2, Outcome.UNSUPPORTED)
    assert [observation.outcome for observation in batch] == [Outcome.UNSUPPORTED] * 2
    assert [column.dtype.name for column in (batch.outcome, batch.error_code)] == [
        "uint8",
        "uint32",
    ]
    assert {column.dtype for column in (batch.cr2, batch.pa, batch.value)} == {np.dtype(np.uint64)}
    assert batch.pa.tolist() == [UNKNOWN_PA] * 2
    assert len(Observations.blank(0)) == 0


def test_columns_have_one_length() -> None:
    blank = Observations.blank(2)
    with pytest.raises(ValueError, match=r"^columns must have one length, not 2, 2, 3, 2, 2$"):
        Observations(blank.outcome, blank.error_code, np.zeros(3, np.uint64), blank.pa, blank.value)
