"""Matrices: spaces of cases that can be counted, numbered, cut into blocks and named bit by bit.

A :class:`Group` is a CPU's part and the entries' part, each made of :class:`Field`\\ s. Every legal
CPU state and access meets every legal row of entries, so that a run of case numbers shares one CPU
state: that is what a :class:`~harness.check.matrix.blocks.Block` is. The rows of a group are all
the combinations of its fields that no :class:`Illegal` prunes, or, when the group has a *strength*,
a covering array of these. A :class:`Space` is some groups, one after another::

    >>> space = Classic(4)
    >>> first, block = next(space.blocks(1_000_000, 10))
    >>> first, block.entries.shape, space.bits(1_000_000)[:3]
    (1000000, (4, 10), ('pte.p', 'pte.rw', 'pte.us'))
    >>> space.number(space.bits(1_000_000))
    1000000

A space goes by pickle as its class and its number of levels. A number outside its cases
and bits that are none of its combinations are an :class:`~harness.errors.InputError`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.check.matrix.block import Block
from harness.check.matrix.spaces.bits import Field
from harness.check.matrix.spaces.group import Group, GroupInfo
from harness.errors import InputError

__all__ = ["Space"]


class Space(ABC):
    """A matrix.

    :ivar name: ``classic`` or ``full``.
    :ivar levels: 4 or 5.
    """

    name: str

    def __init__(self, levels: int) -> None:
        if levels not in (4, 5):
            raise InputError(f"a matrix must have 4 or 5 levels, not {levels!r}")
        self.levels = levels
        self._groups = self._made(levels)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(group) for group in self._groups)])

    @staticmethod
    @abstractmethod
    def _made(levels: int) -> tuple[Group, ...]:
        # The groups; the same objects each time, since their rows take a while to make.
        ...

    def __reduce__(self) -> tuple[type[Space], tuple[int]]:
        return type(self), (self.levels,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.levels})"

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def groups(self) -> tuple[GroupInfo, ...]:
        """Tell what the space is made of, in the order of its cases."""
        return tuple(group.info for group in self._groups)

    @property
    def fields(self) -> dict[str, tuple[Field, ...]]:
        """Give the choices of each group, by its name."""
        return {group.name: group.fields for group in self._groups}

    @property
    def total(self) -> int:
        """Give the number of combinations of all exhaustive groups: legal and pruned ones."""
        return sum(group.total for group in self._groups if group.strength is None)

    def group(self, number: int) -> str:
        """Name the group of a case.

        :raises InputError: when there is no such case.
        """
        return self._at(number)[0].name

    def blocks(self, first: int = 0, count: int | None = None) -> Iterator[tuple[int, Block]]:
        """Return a run of cases as blocks, each with its first case's number.

        :param first: the first case's number.
        :param count: how many; all that follow if None.
        :raises InputError: when there are not so many.
        """
        count = len(self) - first if count is None else count
        if first < 0 or count < 0 or first + count > len(self):
            raise InputError(
                f"cases must lie within the {len(self)} of {self!r}, not be {count} from {first} on"
            )
        return self._blocks(first, first + count)

    def _blocks(self, first: int, end: int) -> Iterator[tuple[int, Block]]:
        for group, start in zip(self._groups, self._starts.tolist(), strict=False):
            begin, stop = max(first, start), min(end, start + len(group))
            if begin < stop:
                for number, block in group.blocks(begin - start, stop - begin):
                    yield start + number, block

    def block(self, number: int) -> Block:
        """Return one case, as a block of one row.

        :raises InputError: when there is no such case.
        """
        return next(self.blocks(number, 1))[1]

    def bits(self, number: int) -> tuple[str, ...]:
        """Name the bits that are set in a case.

        :raises InputError: when there is no such case.
        """
        group, at = self._at(number)
        return group.bits(at)

    def number(self, bits: Iterable[str], *, group: str | None = None) -> int:
        """Return the number of the case with exactly these bits, the inverse of :meth:`bits`.

        :param bits: the names, in any order.
        :param group: which group's; the first one's that has such a case if None.
        :raises InputError: when no such case is legal.
        """
        names = tuple(bits)
        for candidate, start in zip(self._groups, self._starts.tolist(), strict=False):
            if group in (None, candidate.name):
                number = candidate.number(names)
                if number is not None:
                    return int(start + number)
        raise InputError(f"bits must make a legal case of {self!r}, not be {' '.join(names)!r}")

    def pruned(self) -> dict[str, int]:
        """Count the combinations of exhaustive groups that are left out, by the reason.

        Each counts under the first reason that applies to it.
        """
        result: Counter[str] = Counter()
        for group in self._groups:
            result.update(group.pruned())
        return dict(result)

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that its cases depend on: a journal holds to it."""
        described = json.dumps([group.described() for group in self._groups], sort_keys=True)
        return {
            "space": self.name,
            "levels": self.levels,
            "cases": len(self),
            "groups": {group.name: len(group) for group in self._groups},
            "digest": hashlib.sha256(described.encode()).hexdigest()[:16],
        }

    def _at(self, number: int) -> tuple[Group, int]:
        if not 0 <= number < len(self):
            raise InputError(f"a case of {self!r} must be 0 to {len(self) - 1}, not {number!r}")
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._groups[at], number - int(self._starts[at])
