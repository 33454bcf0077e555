"""The words that the walker, the engines and the check share: what was asked, what happened.

An *access* is asked of a virtual address: :class:`Access` says how. Its :class:`Outcome` is one
word. What one engine saw of one access is an :class:`Observation`; what it saw of a batch is an
:class:`Observations`, the same in columns. A malformed access is refused::

    >>> Access.of("write")
    Access(AccessKind.WRITE)
    >>> Access.of("write", size=8).is_write
    True
    >>> Outcome.from_code(1)
    <Outcome.PAGE_FAULT: 'page-fault'>
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError

__all__ = [
    "MAX_ACCESS",
    "UNKNOWN_PA",
    "Access",
    "AccessKind",
    "AccessLike",
    "EntryObservations",
    "Observation",
    "Observations",
    "Outcome",
]

MAX_ACCESS = 64
"""The widest access of one x86-64 instruction, in bytes (AVX-512)."""

UNKNOWN_PA = (1 << 64) - 1
"""In a ``pa`` column: this engine did not learn the physical address."""


class AccessKind(enum.StrEnum):
    """What an access does."""

    READ = "read"
    WRITE = "write"
    FETCH = "fetch"

    def __repr__(self) -> str:
        return f"AccessKind.{self.name}"


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """How memory is accessed; the CPL is part of the CPU's state.

    :param kind: read, write or fetch.
    :param size: bytes, 1 to 64.
    :param implicit: made by the CPU itself (GDT, IDT, TSS): a supervisor's, whatever the CPL.
    :param stack: through SS, so that a non-canonical address raises #SS and not #GP.
    :raises InputError: for any other kind or size, or a fetch that is implicit or through SS.
    """

    kind: AccessKind = AccessKind.READ
    size: int = 1
    implicit: bool = False
    stack: bool = False
    is_write: bool = field(init=False, compare=False)
    is_fetch: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        try:
            kind = AccessKind(self.kind)
        except ValueError:
            raise InputError(
                f"an access must be a read, a write or a fetch, not {self.kind!r}"
            ) from None
        if type(self.size) is not int or not 1 <= self.size <= MAX_ACCESS:
            raise InputError(
                f"the size of an access must be 1 to {MAX_ACCESS} bytes, not {self.size!r}"
            )
        if kind is AccessKind.FETCH and (self.implicit or self.stack):
            how = "implicit" if self.implicit else "through SS"
            raise InputError(f"a fetch must be explicit and through CS, not {how}")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "is_write", kind is AccessKind.WRITE)
        object.__setattr__(self, "is_fetch", kind is AccessKind.FETCH)

    @classmethod
    def of(cls, access: AccessLike, *, size: int = 1) -> Access:
        """Return the access that a word names, or the access itself.

        :param access: ``"read"``, ``"write"``, ``"fetch"``, an AccessKind, or an Access.
        :param size: bytes; only for a word.
        :raises InputError: for any other word.
        """
        if access.__class__ is Access:
            return access
        if size == 1:
            plain = _PLAIN.get(access)  # type: ignore[arg-type]
            if plain is not None:
                return plain
        return cls(access, size)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        parts = [repr(self.kind)]
        if self.size != 1:
            parts.append(f"size={self.size}")
        parts += [f"{name}=True" for name in ("implicit", "stack") if getattr(self, name)]
        return f"Access({', '.join(parts)})"


AccessLike: TypeAlias = Access | AccessKind | str

_PLAIN: dict[str, Access] = {kind: Access(kind) for kind in AccessKind}


class Outcome(enum.StrEnum):
    """What became of an access, in one word."""

    MAPPED = "mapped"
    PAGE_FAULT = "page-fault"
    GENERAL_PROTECTION = "general-protection"
    STACK_FAULT = "stack-fault"
    DOUBLE_FAULT = "double-fault"
    SHUTDOWN = "shutdown"
    NO_MEMORY = "no-memory"
    UNSUPPORTED = "unsupported"

    @property
    def code(self) -> int:
        """Give the small number that stands for it in a column."""
        return _CODES[self]

    @classmethod
    def from_code(cls, code: int) -> Outcome:
        """Return the outcome that a column's number stands for.

        :param code: 0 to 7.
        """
        return _OUTCOMES[code]

    @property
    def has_error_code(self) -> bool:
        """Say whether it is an exception that pushes an error code."""
        return self in _WITH_ERROR_CODE

    @property
    def has_pa(self) -> bool:
        """Say whether the translation gave a physical address."""
        return self in (Outcome.MAPPED, Outcome.NO_MEMORY)


_OUTCOMES = tuple(Outcome)
_CODES = {outcome: code for code, outcome in enumerate(_OUTCOMES)}
_WITH_ERROR_CODE = frozenset(
    {Outcome.PAGE_FAULT, Outcome.GENERAL_PROTECTION, Outcome.STACK_FAULT, Outcome.DOUBLE_FAULT}
)


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


@dataclass(frozen=True, slots=True)
class Observation:
    """What an engine saw of one access.

    :ivar outcome: what happened.
    :ivar error_code: the exception's error code, None when there was no such exception.
    :ivar cr2: the linear address of a page fault, else None.
    :ivar pa: the physical address, when there was one and the engine learnt it.
    :ivar value: what a read returned (little-endian), else None.
    :ivar changed: address of each entry that the access changed → the bits that changed.
    :ivar reason: why it is unsupported, or what else should be said.
    :ivar stored: bytes that a write left changed in memory although it faulted (rule ``SPLIT``).
    :ivar untold: fields that the answerer does not know, such as ``changed``: they are not
    compared.
    """

    outcome: Outcome
    error_code: int | None = None
    cr2: int | None = None
    pa: int | None = None
    value: int | None = None
    changed: dict[int, int] = field(default_factory=dict)
    reason: str | None = None
    stored: int = 0
    untold: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``harness probe`` prints: hex strings, one key for each field."""
        result: dict[str, Any] = {
            "outcome": str(self.outcome),
            "error_code": _hex(self.error_code),
            "cr2": _hex(self.cr2),
            "pa": _hex(self.pa),
            "changed": {f"{entry:#x}": f"{bits:#x}" for entry, bits in self.changed.items()},
        }
        if self.reason is not None:
            result["reason"] = self.reason
        if self.stored:
            result["stored"] = self.stored
        return result


@dataclass(slots=True, eq=False)
class Observations:
    """What an engine saw of a batch of accesses, in columns of equal length.

    :ivar outcome: :attr:`Outcome.code`.
    :ivar error_code: meaningful where the outcome has an error code.
    :ivar cr2: meaningful where the outcome is a page fault.
    :ivar pa: meaningful where the outcome has one; :data:`UNKNOWN_PA` where it was not learnt.
    :ivar value: what a read returned, meaningful where the outcome is mapped.
    :ivar reason: why the unsupported ones are.
    """

    outcome: NDArray[np.uint8]
    error_code: NDArray[np.uint32]
    cr2: NDArray[np.uint64]
    pa: NDArray[np.uint64]
    value: NDArray[np.uint64]
    reason: str | None = None

    def __post_init__(self) -> None:
        columns = (self.outcome, self.error_code, self.cr2, self.pa, self.value)
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise ValueError(f"columns must have one length, not {lengths}")

    @classmethod
    def blank(
        cls, count: int, outcome: Outcome = Outcome.MAPPED, *, reason: str | None = None
    ) -> Observations:
        """Return columns for ``count`` accesses, for an engine to fill in.

        :param count: how many rows.
        :param outcome: what every row says at first.
        """
        return cls(
            np.full(count, outcome.code, np.uint8),
            np.zeros(count, np.uint32),
            np.zeros(count, np.uint64),
            np.full(count, UNKNOWN_PA, np.uint64),
            np.zeros(count, np.uint64),
            reason,
        )

    def __len__(self) -> int:
        return len(self.outcome)

    def set_row(self, row: int, seen: Observation) -> None:
        """Fill one row with what was seen of one access."""
        self.outcome[row] = seen.outcome.code
        self.error_code[row] = seen.error_code or 0
        self.cr2[row] = seen.cr2 or 0
        self.pa[row] = UNKNOWN_PA if seen.pa is None else seen.pa
        self.value[row] = (seen.value or 0) & (1 << 64) - 1
        if seen.reason is not None:
            self.reason = seen.reason

    def __iter__(self) -> Iterator[Observation]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> Observation:
        outcome = Outcome.from_code(int(self.outcome[row]))
        fault = outcome is Outcome.PAGE_FAULT
        pa = int(self.pa[row])
        return Observation(
            outcome,
            error_code=int(self.error_code[row]) if outcome.has_error_code else None,
            cr2=int(self.cr2[row]) if fault else None,
            pa=pa if outcome.has_pa and pa != UNKNOWN_PA else None,
            value=int(self.value[row]) if outcome is Outcome.MAPPED else None,
            reason=self.reason if outcome is Outcome.UNSUPPORTED else None,
        )


@dataclass(slots=True, eq=False)
class EntryObservations:
    """What an engine saw of one access under many versions of the entries it walks, in columns.

    :ivar outcome: :attr:`Outcome.code`.
    :ivar error_code: meaningful where the outcome has an error code.
    :ivar cr2: meaningful where the outcome is a page fault.
    :ivar pa: meaningful where the outcome has one; :data:`UNKNOWN_PA` where it was not learnt.
    :ivar after: for each edited entry a row: what the access left of it.
    :ivar reason: why the unsupported ones are.
    :ivar untold: columns that the answerer does not know, such as ``after``.
    """

    outcome: NDArray[np.uint8]
    error_code: NDArray[np.uint32]
    cr2: NDArray[np.uint64]
    pa: NDArray[np.uint64]
    after: NDArray[np.uint64]
    reason: str | None = None
    untold: frozenset[str] = frozenset()

    @classmethod
    def blank(
        cls,
        words: int,
        count: int,
        outcome: Outcome = Outcome.MAPPED,
        *,
        reason: str | None = None,
    ) -> EntryObservations:
        """Return columns for an engine to fill in.

        :param words: how many entries are edited.
        :param count: how many versions of them.
        :param outcome: what every row says at first.
        """
        return cls(
            np.full(count, outcome.code, np.uint8),
            np.zeros(count, np.uint32),
            np.zeros(count, np.uint64),
            np.full(count, UNKNOWN_PA, np.uint64),
            np.zeros((words, count), np.uint64),
            reason,
        )

    def __len__(self) -> int:
        return len(self.outcome)

    def put(self, rows: NDArray[np.intp], some: EntryObservations) -> None:
        """Fill some rows with another's."""
        for name in ("outcome", "error_code", "cr2", "pa", "after"):
            getattr(self, name)[..., rows] = getattr(some, name)
        self.reason = some.reason or self.reason
        self.untold |= some.untold

    def rows(self, where: slice) -> EntryObservations:
        """Return some of the rows, which are views."""
        return EntryObservations(
            self.outcome[where],
            self.error_code[where],
            self.cr2[where],
            self.pa[where],
            self.after[:, where],
            self.reason,
            self.untold,
        )
