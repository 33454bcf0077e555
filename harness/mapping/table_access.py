"""The one thing in which the lecture's tricks differ: how a page table comes into view.

A mapper knows a page table by the frame that its parent's entry names, and by the addresses that
it translates. It cannot dereference the frame. A :class:`TableAccess` is the trick that turns this
knowledge into a :class:`TableView`, through which the 512 entries are read and written, always by
virtual address:

>>> with access.open(frame, level, va) as table:  # doctest: +SKIP
...     raw = table[511]

Everything else (walking down, creating tables, mapping, unmapping) is the same for all tricks and
is in :class:`harness.mapping.mapper.Mapper`. When the trick fails, opening or using the view
raises :class:`TableNotVisible` with the walk that faulted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.address import PhysFrame
from harness.cpu import CpuState
from harness.mapping.errors import AccessFault, TableNotVisible
from harness.mapping.flush import Invalidator
from harness.mapping.space import AddressSpace

__all__ = ["TableAccess", "TableView", "VirtualTable"]


class TableView(Protocol):
    """The 512 entries of one page table."""

    def __getitem__(self, index: int) -> int:
        """Read one entry."""

    def __setitem__(self, index: int, raw: int) -> None:
        """Write one entry."""

    def load(self, first: int, count: int) -> NDArray[np.uint64]:
        """Read ``count`` entries, from index ``first`` on; a copy."""

    def store(self, first: int, words: NDArray[np.uint64]) -> None:
        """Write entries, from index ``first`` on."""


class VirtualTable:
    """A page table that appears as a virtual page.

    It is its own context manager; there is nothing to give back at the end.

    :param space: the address space in which it appears.
    :param page: the first address of the virtual page.
    :param frame: the frame that the table is in; for the error only.
    :param level: its level; for the error only.
    """

    __slots__ = ("_frame", "_level", "_page", "_space")

    def __init__(self, space: AddressSpace, page: int, frame: PhysFrame, level: int) -> None:
        self._space = space
        self._page = page
        self._frame = frame
        self._level = level

    def __enter__(self) -> VirtualTable:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __getitem__(self, index: int) -> int:
        try:
            return self._space.read_u64(self._page + 8 * index)
        except AccessFault as fault:
            raise self._not_visible(fault) from fault

    def __setitem__(self, index: int, raw: int) -> None:
        try:
            self._space.write_u64(self._page + 8 * index, raw)
        except AccessFault as fault:
            raise self._not_visible(fault) from fault

    def load(self, first: int, count: int) -> NDArray[np.uint64]:
        """Read ``count`` entries, from index ``first`` on; a copy."""
        try:
            return self._space.read_words(self._page + 8 * first, count)
        except AccessFault as fault:
            raise self._not_visible(fault) from fault

    def store(self, first: int, words: NDArray[np.uint64]) -> None:
        """Write entries, from index ``first`` on."""
        try:
            self._space.write_words(self._page + 8 * first, words)
        except AccessFault as fault:
            raise self._not_visible(fault) from fault

    def _not_visible(self, fault: AccessFault) -> TableNotVisible:
        return TableNotVisible(fault.walk, self._level, self._frame)


class TableAccess(ABC):
    """A way to reach page tables."""

    #: Whether a table can be seen only once an entry leads to it, as through a recursive slot.
    #: Otherwise a new table is cleared before it is linked, and the CPU never sees what was in it.
    visible_when_linked = False

    @property
    @abstractmethod
    def cpu(self) -> CpuState:
        """The CPU that the tables are for."""

    @property
    @abstractmethod
    def tlb(self) -> Invalidator:
        """What is told of invalidations."""

    @abstractmethod
    def open(self, frame: PhysFrame, level: int, va: int) -> AbstractContextManager[TableView]:
        """Bring a table into view.

        :param frame: the frame that it is in.
        :param level: its level, 1 to 5.
        :param va: any address that it translates.
        """

    def admit(self, frame: PhysFrame) -> None:
        """Prepare for a frame that is about to become a page table."""
        return

    def retire(self, frame: PhysFrame, level: int, va: int) -> None:
        """Forget a table that has just been unlinked; parameters as for :meth:`open`."""
        return

    def owns(self, first: int, last: int) -> bool:
        """Say whether the trick needs the tables of an address range, so that none is freed."""
        return False
