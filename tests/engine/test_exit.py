"""The words of a run's end: Exit, Event and the names of vectors."""

from typing import Any

import pytest

from harness.engine.run import REGISTERS, Ending, Event, vector_name

Guest = Any
"""conftest.Guest: test modules do not import one another."""


def test_the_exit_of_a_kernel_in_json(guest: Guest) -> None:
    ended = guest.run(
        "mov al, 'k'\nmov dx, 0x3f8\nout dx, al\nmov rax, [0x70000008]\nhandler: hlt",
        {14: "handler"},
    )
    given = ended.to_json()
    assert list(given) == [
        *("ending", "detail", "rip", "rflags", "cpl", "registers", "control", "events"),
        *("dropped_events", "serial", "debug", "exit_code", "instructions"),
    ]
    assert given["ending"] == "halt"
    assert given["rip"] == "0x100017"
    assert list(given["registers"]) == list(REGISTERS)
    assert given["registers"]["rdx"] == "0x3f8"
    assert given["control"] == {
        "cr0": "0x80050033",
        "cr2": "0x70000008",
        "cr3": "0x1000",
        "cr4": "0x20",
        "efer": "0xd00",
    }
    assert given["events"] == [
        {
            "exception": "#PF",
            "vector": 14,
            "error_code": "0x0",
            "cr2": "0x70000008",
            "rip": "0x10000e",
            "cpl": 0,
            "handler": "0x100016",
            "note": None,
            "implicit": False,
        }
    ]
    assert (given["serial"], given["debug"], given["exit_code"]) == ("k", "", None)


def test_the_fault_is_the_first_of_those_that_shut_the_machine_down(guest: Guest) -> None:
    ended = guest.run("int3\nmov rax, [0x70000000]\nhandler: iretq", {3: "handler"})
    assert ended.ending is Ending.SHUTDOWN
    assert [event.vector for event in ended.events] == [3, 14, 8]
    assert ended.fault is ended.events[1]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            Event(14, 0x6, 0xDEAD_BEEF, 0x10_0007, 3, handler=0x20_0000),
            "#PF at 0x10_0007 (CPL 3), CR2 = 0xdead_beef, error code 0x6 = W U → handler 0x20_0000",
        ),
        (
            Event(14, 0, 0, 0x1000, 0, note="the stack at 0x8 faults"),
            "#PF at 0x1000 (CPL 0), CR2 = 0x0, error code 0x0: the stack at 0x8 faults",
        ),
        (Event(13, 0x402, None, 0x1000, 3), "#GP at 0x1000 (CPL 3), error code 0x402"),
        (Event(6, None, None, 0x1000, 0), "#UD at 0x1000 (CPL 0)"),
        (Event(14, None, None, 0x1000, 0), "#PF at 0x1000 (CPL 0)"),
    ],
)
def test_an_event_in_words(event: Event, text: str) -> None:
    assert str(event) == text


def test_the_names_of_vectors() -> None:
    assert [vector_name(n) for n in (0, 3, 8, 14, 21, 22, 0x80)] == [
        *("#DE", "#BP", "#DF", "#PF", "#CP", "int 0x16", "int 0x80")
    ]
