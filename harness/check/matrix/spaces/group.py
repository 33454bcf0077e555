"""A group of a matrix: a CPU's part and the entries' part, each made of fields.

Every legal CPU state and access meets every legal row of entries, so that a run of case numbers
shares one CPU state: that is what a :class:`~harness.check.matrix.block.Block` is. The rows of a
group are all the combinations of its fields that no :class:`Illegal` prunes, or, when the group has
a *strength*, a covering array of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.check.matrix.block import FRAME_1G, FRAME_2M, FRAME_4K, TABLES, VA4, VA5, Block
from harness.check.matrix.spaces.bits import LEAF, TABLES_ABOVE, Bit, Field, Illegal
from harness.check.matrix.spaces.cover import covering_array
from harness.cpu import CR0, CR4, EFER, CpuState
from harness.entry import PageTableFlags
from harness.outcome import Access, AccessKind

__all__ = ["Group", "GroupInfo", "MOST_ROWS", "PLAIN_CPU"]

_U64 = np.uint64
_PS = int(PageTableFlags.HUGE_PAGE)


MOST_ROWS: Final = 1 << 16
"""Rows that a block has at most."""


# Runs shorter than this are not worth a block of their own to spare the loop an entry.
_SHORT_RUN = 1 << 12


PLAIN_CPU: Final = {
    "cr0": int(CR0.PE | CR0.ET | CR0.NE | CR0.PG),
    "cr3": TABLES[0],
    "cr4": int(CR4.PAE),
    "efer": int(EFER.LME | EFER.LMA),
}
"""The registers of a CPU in long mode where nothing else is switched on."""


class GroupInfo(NamedTuple):
    """What people are told about a group.

    :ivar cases: how many it has.
    :ivar strength: ``exhaustive``, or ``3-wise`` and the like.
    :ivar sentence: what its cases are about.
    """

    name: str
    cases: int
    strength: str
    sentence: str


class _On(Mapping[str, NDArray[np.bool_]]):
    # For each bit's name, where it is set; worked out when it is asked for.
    def __init__(
        self,
        fields: tuple[Field, ...],
        columns: Mapping[int, NDArray[np.integer[Any]]] | _Columns,
        fixed: Mapping[str, bool],
    ) -> None:
        self._at = {bit.name: at for at, field in enumerate(fields) for bit in field.bits}
        self._fields = fields
        self._columns = columns
        self._fixed = fixed

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        if name in self._fixed:
            return np.asarray(self._fixed[name])
        at = self._at[name]
        options = self._fields[at].options
        table = np.array([any(bit.name == name for bit in option) for option in options])
        result: NDArray[np.bool_] = table[self._columns[at]]
        return result

    def __iter__(self) -> Iterator[str]:
        return iter((*self._fixed, *self._at))

    def __len__(self) -> int:
        return len(self._fixed) + len(self._at)


class _Columns:
    # The option of each field in every combination; the last field changes fastest.
    def __init__(self, fields: tuple[Field, ...], codes: NDArray[np.int64] | None = None) -> None:
        self.sizes = [len(field.options) for field in fields]
        self.codes = np.arange(prod(self.sizes)) if codes is None else codes

    def __getitem__(self, at: int) -> NDArray[np.int64]:
        return self.codes // prod(self.sizes[at + 1 :]) % self.sizes[at]

    def matrix(self) -> NDArray[np.uint16]:
        columns = [self[at].astype(np.uint16) for at in range(len(self.sizes))]
        return np.column_stack(columns) if columns else np.zeros((len(self.codes), 0), np.uint16)


def _combinations(
    fields: tuple[Field, ...], illegal: tuple[Illegal, ...], fixed: Mapping[str, bool]
) -> tuple[NDArray[np.uint16], Counter[str]]:
    # The option of each field in every legal combination, and how many were pruned, and why.
    columns = _Columns(fields)
    on = _On(fields, columns, fixed)
    legal = np.full(len(columns.codes), True)
    pruned: Counter[str] = Counter()
    for rule in illegal:
        first = legal & rule.where(on)
        pruned[rule.reason] += int(np.count_nonzero(first))
        legal &= ~first
    return _Columns(fields, columns.codes[legal]).matrix(), pruned


def _covering(
    fields: tuple[Field, ...],
    illegal: tuple[Illegal, ...],
    fixed: Mapping[str, bool],
    strength: int,
) -> NDArray[np.uint16]:
    # For each option of the first field, a covering array of the others. Options that are illegal
    # there are replaced by the first one, which leaves all tuples of legal options in their rows.
    array = covering_array([len(field.options) for field in fields[1:]], strength)
    parts = []
    for first in range(len(fields[0].options)):
        rows = np.column_stack([np.full(len(array), first, np.uint16), array])
        for at, field in enumerate(fields[1:], 1):
            alone = np.zeros((len(field.options), len(fields)), np.uint16)
            alone[:, 0], alone[:, at] = first, np.arange(len(field.options))
            wrong = _illegal(fields, illegal, fixed, alone)
            rows[:, at][wrong[rows[:, at]]] = 0
        parts.append(np.unique(rows, axis=0))
    result = np.vstack(parts)
    if _illegal(fields, illegal, fixed, result).any():
        raise ValueError(
            "what is illegal in a covered group must be so in one field, or in one and the first"
        )
    return result


def _illegal(
    fields: tuple[Field, ...],
    illegal: tuple[Illegal, ...],
    fixed: Mapping[str, bool],
    rows: NDArray[np.uint16],
) -> NDArray[np.bool_]:
    on = _On(fields, {at: rows[:, at] for at in range(len(fields))}, fixed)
    wrong = np.full(len(rows), False)
    for rule in illegal:
        wrong |= rule.where(on)
    return wrong


class _Rows:
    # The entries of a group under one kind of CPU state.
    def __init__(self, group: Group, fixed: Mapping[str, bool]) -> None:
        fields, illegal = group.entry_fields, group.illegal_entries
        self.pruned: Counter[str] = Counter()
        if group.strength is None:
            self.chosen, self.pruned = _combinations(fields, illegal, fixed)
        else:
            self.chosen = _covering(fields, illegal, fixed, group.strength)
        self._group = group

    def __len__(self) -> int:
        return len(self.chosen)

    @cached_property
    def entries(self) -> NDArray[np.uint64]:
        """All entries, shape (levels, rows), the root's first."""
        levels = self._group.levels
        entries = np.zeros((levels, len(self)), _U64)
        special = {LEAF: np.zeros(len(self), _U64), TABLES_ABOVE: np.zeros(len(self), _U64)}
        for at, field in enumerate(self._group.entry_fields):
            masks = np.zeros((7, len(field.options)), _U64)
            for option, bits in enumerate(field.options):
                for bit in bits:
                    assert bit.level is not None
                    masks[bit.level, option] |= _U64(bit.mask)
            column = self.chosen[:, at]
            for level in range(1, levels + 1):
                if masks[level].any():
                    entries[levels - level] |= masks[level][column]
            for level, into in special.items():
                into |= masks[level][column]
        leaf = np.full(len(self), 1)
        for level in (2, 3):
            leaf[entries[levels - level] & _PS != 0] = level
        for row in range(levels):
            level = levels - row
            is_leaf = leaf == level
            frame = {1: FRAME_4K, 2: FRAME_2M, 3: FRAME_1G}.get(level, 0)
            table = TABLES[row + 1] if level > 1 else 0
            entries[row] |= np.where(is_leaf, special[LEAF] | _U64(frame), _U64(table))
            above = special[TABLES_ABOVE] | _U64(self._group.tables[row])
            entries[row] |= np.where(leaf < level, above, _U64(0))
            if level == 1:
                entries[row] |= np.where(is_leaf, _U64(0), _U64(frame))
        entries.setflags(write=False)
        return entries

    @cached_property
    def cuts(self) -> NDArray[np.int64]:
        """Where blocks begin, and the end: so that upper entries are constant where that pays."""
        entries = self.entries
        count = len(self)
        starts = np.zeros(1, np.int64)
        for below in range(1, self._group.levels):  # as many of the lowest levels vary
            upper = entries[: self._group.levels - below]
            changes = np.flatnonzero((upper[:, 1:] != upper[:, :-1]).any(axis=0)) + 1
            if len(changes) * _SHORT_RUN <= count:
                starts = np.concatenate([starts, changes])
                break
        cuts = [starts]
        for start, end in zip(starts, [*starts[1:], count], strict=True):
            cuts.append(np.arange(start, end, MOST_ROWS))
        return np.unique(np.concatenate([*cuts, [count]]))

    def find(self, options: list[int]) -> int | None:
        """Return the row with these options."""
        rows = np.flatnonzero((self.chosen == np.array(options, np.uint16)).all(axis=1))
        return int(rows[0]) if len(rows) else None


@dataclass(frozen=True, eq=False)
class Group:
    """Cases that vary the same things.

    :ivar name: a word.
    :ivar sentence: what its cases are about.
    :ivar levels: 4 or 5.
    :ivar cpu_fields: the choices about the CPU and the access, every legal combination of which
        occurs. The case numbers of one combination are a run.
    :ivar entry_fields: the choices about entries. The first changes slowest.
    :ivar illegal_cpu: what is pruned among the former.
    :ivar illegal_entries: what is pruned among the latter.
    :ivar depends: names of the CPU's bits that ``illegal_entries`` look at.
    :ivar strength: None for all legal combinations of ``entry_fields``; else, for each option of
        the first field, a covering array of the others of that strength.
    :ivar registers: what registers hold besides the bits that are chosen.
    :ivar tables: what each entry holds besides, the root's first, when it leads to a table.
    :raises ValueError: when one bit belongs to two fields.
    """

    name: str
    sentence: str
    levels: int
    cpu_fields: tuple[Field, ...]
    entry_fields: tuple[Field, ...]
    illegal_cpu: tuple[Illegal, ...] = ()
    illegal_entries: tuple[Illegal, ...] = ()
    depends: tuple[str, ...] = ()
    strength: int | None = None
    registers: Mapping[str, int] | None = None
    tables: tuple[int, ...] = (0, 0, 0, 0, 0)

    def __post_init__(self) -> None:
        names = Counter(bit.name for field in self.fields for bit in field.bits)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"a bit must belong to one field, and {twice} belong to more")

    @property
    def fields(self) -> tuple[Field, ...]:
        """Give all choices."""
        return self.entry_fields + self.cpu_fields

    @property
    def total(self) -> int:
        """Give the number of all combinations, legal or not."""
        return prod(len(field.options) for field in self.fields)

    @property
    def info(self) -> GroupInfo:
        """Give what people are told."""
        strength = "exhaustive" if self.strength is None else f"{self.strength}-wise"
        return GroupInfo(self.name, len(self), strength, self.sentence)

    @cached_property
    def _states(self) -> tuple[NDArray[np.uint16], Counter[str]]:
        return _combinations(self.cpu_fields, self.illegal_cpu, {})

    @cached_property
    def _rows(self) -> dict[tuple[bool, ...], _Rows]:
        return {
            key: _Rows(self, dict(zip(self.depends, key, strict=True)))
            for key in dict.fromkeys(self._keys)
        }

    @cached_property
    def _keys(self) -> list[tuple[bool, ...]]:
        states = self._states[0]
        on = _On(self.cpu_fields, {at: states[:, at] for at in range(len(self.cpu_fields))}, {})
        if not self.depends:
            return [()] * len(states)
        return list(zip(*(on[name].tolist() for name in self.depends), strict=True))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        # The number of each CPU state's first case, and the number of all cases.
        counts = {key: len(rows) for key, rows in self._rows.items()}
        return np.cumsum([0, *(counts[key] for key in self._keys)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pruned(self) -> Counter[str]:
        """Count the combinations left out, each under the first reason that applies.

        A covered group leaves out far more, for no other reason than their number; it counts 0.
        """
        result: Counter[str] = Counter()
        if self.strength is not None:
            return result
        each = prod(len(field.options) for field in self.entry_fields)
        for reason, count in self._states[1].items():
            result[reason] += count * each
        for key, count in Counter(self._keys).items():
            for reason, rows in self._rows[key].pruned.items():
                result[reason] += rows * count
        return result

    def _cpu_bits(self, state: int) -> list[Bit]:
        chosen = self._states[0][state]
        return [
            bit
            for field, option in zip(self.cpu_fields, chosen, strict=True)
            for bit in field.options[option]
        ]

    def blocks(self, first: int, count: int) -> Iterator[tuple[int, Block]]:
        """Return blocks as :meth:`Space.blocks` does, numbers counted within the group."""
        end = first + count
        va = VA5 if self.levels == 5 else VA4
        state = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < end:
            start = int(self._starts[state])
            rows = self._rows[self._keys[state]]
            cpu, access, supervisor_reads_first = self._question(state)
            last = min(end, int(self._starts[state + 1])) - start
            at = first - start
            piece = int(np.searchsorted(rows.cuts, at, side="right"))
            while at < last:
                stop = min(int(rows.cuts[piece]), last)
                yield (
                    start + at,
                    Block(cpu, access, va, rows.entries[:, at:stop], supervisor_reads_first),
                )
                at, piece = stop, piece + 1
            state += 1
            first = start + at

    def _question(self, state: int) -> tuple[CpuState, Access, bool]:
        registers: dict[str, Any] = {**PLAIN_CPU, **(self.registers or {})}
        if self.levels == 5:
            registers["cr4"] |= int(CR4.LA57)
        names = set()
        for bit in self._cpu_bits(state):
            if bit.register is None:
                names.add(bit.name)
            else:
                registers[bit.register] = registers.get(bit.register, 0) | bit.mask
        kind = AccessKind.READ
        if "write" in names:
            kind = AccessKind.WRITE
        if "fetch" in names:
            kind = AccessKind.FETCH
        size = next((size for size in (2, 4, 8) if f"size{size}" in names), 1)
        implicit = "implicit" in names
        access = Access(kind, 8 if implicit else size, implicit=implicit)
        return CpuState(**registers), access, "twice" in names

    def bits(self, number: int) -> tuple[str, ...]:
        """Name the bits that are set in a case, entries first, numbers counted within the group."""
        state = int(np.searchsorted(self._starts, number, side="right")) - 1
        rows = self._rows[self._keys[state]]
        chosen = rows.chosen[number - int(self._starts[state])]
        entries = [
            bit.name
            for field, option in zip(self.entry_fields, chosen, strict=True)
            for bit in field.options[option]
        ]
        return (*entries, *(bit.name for bit in self._cpu_bits(state)))

    def number(self, bits: Iterable[str]) -> int | None:
        """Return the number of the case with exactly these bits, within the group, or None."""
        names = set(bits)
        options = self._options(names)
        if options is None:
            return None
        wanted = np.array(options[len(self.entry_fields) :], np.uint16)
        states = np.flatnonzero((self._states[0] == wanted).all(axis=1))
        if not len(states):
            return None
        state = int(states[0])
        row = self._rows[self._keys[state]].find(options[: len(self.entry_fields)])
        return None if row is None else int(self._starts[state]) + row

    def _options(self, names: set[str]) -> list[int] | None:
        # The option of each field that sets just these bits.
        left = set(names)
        result = []
        for at in range(len(self.fields)):
            option = self._by_names[at].get(frozenset(names & self._names[at]))
            if option is None:
                return None
            left -= self._names[at]
            result.append(option)
        return None if left else result

    @cached_property
    def _names(self) -> list[frozenset[str]]:
        return [frozenset(bit.name for bit in field.bits) for field in self.fields]

    @cached_property
    def _by_names(self) -> list[dict[frozenset[str], int]]:
        return [
            {frozenset(bit.name for bit in bits): at for at, bits in enumerate(field.options)}
            for field in self.fields
        ]

    def described(self) -> list[Any]:
        """Return, as JSON values, all that the group's cases depend on but the code."""
        return [
            self.name,
            self.strength,
            [
                [[[bit.name, bit.level, bit.mask] for bit in bits] for bits in field.options]
                for field in self.fields
            ],
            dict(self.registers or {}),
            list(self.tables),
        ]
