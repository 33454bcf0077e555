"""Every exception that this package raises, in one tree.

::

    HarnessError
    ├── InputError                  what a user gave is wrong (the command exits with 2)
    │   ├── AddressError            also a ValueError
    │   │   ├── VirtAddrNotValid    not canonical
    │   │   ├── PhysAddrNotValid    wider than 52 bits
    │   │   └── AddressNotAligned   not the start of a page or frame
    │   ├── CpuStateError           a state that no CPU can be in; names the rule
    │   ├── AssemblyError           a statement that Keystone refused or got wrong
    │   ├── SnapshotError           a page-table set, a dump or a core
    │   ├── CaseError               a line of a case file
    │   └── BootError               a kernel, a BootInfo, a Cargo.toml
    ├── NoMemory                    a physical access outside RAM
    ├── EngineError                 (the command exits with 3)
    │   ├── EngineMissing           not installed here
    │   └── EngineBroken            failed its calibration, or died
    └── MappingError                the root of ``harness.mapping``'s errors

A fault of the *guest* is not an exception here: it is a result (``Walk``, ``Observation``).

Each message is one sentence: what must hold, then what was given. Each exception carries what it
is about, and survives a trip through ``pickle`` (a worker process sends it home)::

    try:
        VirtAddr(0x8000_0000_0000)
    except VirtAddrNotValid as error:
        error.value  # 0x8000_0000_0000
"""

from __future__ import annotations

from typing import Any, Self

__all__ = [
    "AddressError",
    "AddressNotAligned",
    "AssemblyError",
    "BootError",
    "CaseError",
    "CpuStateError",
    "EngineBroken",
    "EngineError",
    "EngineMissing",
    "HarnessError",
    "InputError",
    "MappingError",
    "NoMemory",
    "PhysAddrNotValid",
    "SnapshotError",
    "VirtAddrNotValid",
]


class HarnessError(Exception):
    """The root of every exception of this package."""

    # BaseException pickles itself as ``cls(*args)``, which does not fit constructors that take
    # the object an error is about and compose the message from it.
    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.args, self.__dict__)


def _revive(
    cls: type[HarnessError], args: tuple[object, ...], state: dict[str, object]
) -> HarnessError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def _located(message: str, path: object | None, line: int | None = None) -> str:
    where = [str(part) for part in (path, line) if part is not None]
    if path is None and line is not None:
        where = [f"line {line}"]
    return ": ".join([":".join(where), message]) if where else message


class InputError(HarnessError):
    """What a user gave cannot be used; the message is one sentence that says why."""


class AddressError(InputError, ValueError):
    """A number that cannot be the address it was meant to be."""


class VirtAddrNotValid(AddressError):
    """The bits above the address width are not copies of its top bit.

    :ivar value: the number that is no canonical address.
    :ivar levels: 4 (48-bit addresses) or 5 (57-bit addresses).
    """

    def __init__(self, value: int, levels: int = 4) -> None:
        self.value = value
        self.levels = levels
        low = 47 if levels == 4 else 56
        super().__init__(
            f"bits 63:{low} of a virtual address must be equal with {levels} levels, "
            f"not those of {value:#_x}"
        )


class PhysAddrNotValid(AddressError):
    """A bit above bit 51 is set.

    :ivar value: the number that is no physical address.
    """

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(f"a physical address must be below 2**52, not {value:#_x}")


class AddressNotAligned(AddressError):
    """The address is not the start of a page or frame of that size.

    :ivar address: the address as it was given.
    :ivar size: the page size in bytes.
    """

    def __init__(self, address: object, size: int) -> None:
        self.address = address
        self.size = int(size)
        super().__init__(f"a start address must be a multiple of {self.size:#_x}, not {address!r}")


class CpuStateError(InputError):
    """A combination of control bits that the CPU refuses or that is not modelled.

    :ivar rule: the rule of docs/rules.md that it breaks, ``MODE`` or ``CR3``.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        self.rule = rule
        super().__init__(message)


class AssemblyError(InputError):
    """A statement could not be assembled, or was assembled into something else.

    :ivar file: the source file's name, when there is one.
    :ivar line: the line number, from 1.
    :ivar statement: the statement as written.
    :ivar made: what the assembler made of it, disassembled; None when it made nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        statement: str | None = None,
        made: str | None = None,
    ) -> None:
        self.file = file
        self.line = line
        self.statement = statement
        self.made = made
        super().__init__(_located(message, file, line))


class _FileError(InputError):
    def __init__(self, message: str, *, path: object | None = None) -> None:
        self.path = path
        super().__init__(_located(message, path))


class SnapshotError(_FileError):
    """A page-table set, a raw dump or a core dump cannot be read.

    :ivar path: the file or folder.
    """


class CaseError(InputError):
    """A case (one question to the MMU) is malformed.

    :ivar message: the sentence without its place.
    :ivar path: the case file, when there is one.
    :ivar line: the line in it, from 1.
    """

    def __init__(
        self, message: str, *, path: object | None = None, line: int | None = None
    ) -> None:
        self.message = message
        self.path = path
        self.line = line
        super().__init__(_located(message, path, line))

    def at(self, path: object | None, line: int | None = None) -> Self:
        """Return the same error with its place in a file.

        :param path: the case file.
        :param line: the line in it, from 1.
        """
        return type(self)(self.message, path=path, line=line)


class BootError(_FileError):
    """A kernel, its BootInfo or its Cargo.toml cannot be used.

    :ivar path: the file, when there is one.
    """


class NoMemory(HarnessError):
    """A physical address lies outside RAM.

    :ivar pa: the first physical address that is not RAM.
    """

    def __init__(self, pa: int) -> None:
        self.pa = pa
        super().__init__(f"a physical access must stay inside RAM, and {pa:#_x} is not RAM")


class EngineError(HarnessError):
    """An engine cannot do its work.

    :ivar engine: the engine's name.
    """

    def __init__(self, message: str, *, engine: str | None = None) -> None:
        self.engine = engine
        super().__init__(message)


class EngineMissing(EngineError):
    """The engine is not installed, or this machine cannot run it."""


class EngineBroken(EngineError):
    """The engine failed its calibration, or died."""


class MappingError(HarnessError):
    """A page-table operation failed; the root of ``harness.mapping``'s errors."""
