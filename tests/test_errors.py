"""The exception tree: its shape, its messages, and that it crosses a process boundary."""

from __future__ import annotations

import pickle
import re

import pytest

from harness import errors
from harness.address import PhysAddr
from harness.errors import (
    AddressError,
    AddressNotAligned,
    AssemblyError,
    BootError,
    CaseError,
    CpuStateError,
    EngineBroken,
    EngineError,
    EngineMissing,
    HarnessError,
    InputError,
    MappingError,
    NoMemory,
    PhysAddrNotValid,
    SnapshotError,
    VirtAddrNotValid,
)

EXAMPLES: list[tuple[HarnessError, str]] = [
    (
        VirtAddrNotValid(0x8000_0000_0000),
        "bits 63:47 of a virtual address must be equal with 4 levels, not those of "
        "0x8000_0000_0000",
    ),
    (
        VirtAddrNotValid(1 << 56, 5),
        "bits 63:56 of a virtual address must be equal with 5 levels, not those of "
        "0x100_0000_0000_0000",
    ),
    (
        PhysAddrNotValid(1 << 52),
        "a physical address must be below 2**52, not 0x10_0000_0000_0000",
    ),
    (
        AddressNotAligned(PhysAddr(0x1234), 0x1000),
        "a start address must be a multiple of 0x1000, not PhysAddr(0x1234)",
    ),
    (CpuStateError("no", rule="MODE"), "no"),
    (AssemblyError("no"), "no"),
    (AssemblyError("no", line=3), "line 3: no"),
    (
        AssemblyError("no", file="a.asm", line=3, statement="push 1", made="push 2"),
        "a.asm:3: no",
    ),
    (SnapshotError("no", path="set"), "set: no"),
    (SnapshotError("no"), "no"),
    (CaseError("no", path="c.jsonl", line=2), "c.jsonl:2: no"),
    (BootError("no", path="kernel"), "kernel: no"),
    (NoMemory(0x10_0000), "a physical access must stay inside RAM, and 0x10_0000 is not RAM"),
    (EngineMissing("no", engine="kvm"), "no"),
    (EngineBroken("no"), "no"),
    (MappingError("no"), "no"),
]


@pytest.mark.parametrize(("error", "message"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_message_and_pickle(error: HarnessError, message: str) -> None:
    assert str(error) == message
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == message
    assert back.__dict__ == error.__dict__


def test_errors_carry_what_they_are_about() -> None:
    error = AssemblyError("no", file="a.asm", line=3, statement="push 1", made="push 2")
    assert (error.file, error.line, error.statement, error.made) == ("a.asm", 3, "push 1", "push 2")
    assert CpuStateError("no", rule="CR3").rule == "CR3"
    assert NoMemory(5).pa == 5
    assert EngineMissing("no", engine="kvm").engine == "kvm"
    assert (VirtAddrNotValid(7, 5).value, VirtAddrNotValid(7, 5).levels) == (7, 5)
    assert AddressNotAligned(PhysAddr(1), 0x1000).address == PhysAddr(1)


def test_a_case_error_learns_its_place() -> None:
    error = CaseError("cpl must be a number").at("cases.jsonl", 4)
    assert str(error) == "cases.jsonl:4: cpl must be a number"
    assert (error.message, error.path, error.line) == ("cpl must be a number", "cases.jsonl", 4)
    assert str(error.at(None)) == "cpl must be a number"


def test_an_address_error_is_a_value_error() -> None:
    assert issubclass(AddressError, ValueError)
    assert issubclass(VirtAddrNotValid, InputError)
    assert not issubclass(NoMemory, InputError)
    assert not issubclass(EngineError, InputError)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: list[tuple[str, str]] = []  # (child, parent)
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[│├└]\S*\s+|    )*)(\w+)\b", line)
        if match is None or not hasattr(errors, match.group(2)):
            continue
        depth = len(match.group(1)) // 4
        path[depth:] = [match.group(2)]
        if depth:
            drawn.append((path[-1], path[-2]))
    public = {name: getattr(errors, name) for name in errors.__all__}
    actual = {
        (name, next(base.__name__ for base in cls.__mro__[1:] if base.__name__ in public))
        for name, cls in public.items()
        if cls is not HarnessError
    }
    assert set(drawn) == actual
