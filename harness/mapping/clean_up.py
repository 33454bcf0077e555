"""The tables of an address space: to list them, and to free the empty ones.

A table is empty when all of its 512 entries are zero: an entry with P = 0 but other bits set holds
something that its owner put there, a place in a swap file say, and its table is kept. Freeing is
done in two passes. The first only reads, and finds the tables that are empty, or will be when the
empty ones below them are gone; the second unlinks and frees them, lowest first. So a table that
the mapper's trick cannot show stops :func:`clean_up` before it has changed anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from harness.address import PhysAddr, PhysFrame, VirtAddr, sign_extend
from harness.entry import ADDRESS_MASK
from harness.frames import FrameDeallocator
from harness.mapping.table_access import TableAccess

__all__ = ["TableAt", "clean_up", "tables"]


class TableAt(NamedTuple):
    """A page table and its place in the tree.

    :ivar level: 1 to 5.
    :ivar frame: the frame that it is in.
    :ivar first: the first address that it translates.
    """

    level: int
    frame: PhysFrame
    first: VirtAddr


class _Tree(Protocol):
    @property
    def root(self) -> PhysFrame: ...
    @property
    def levels(self) -> int: ...
    def is_table(self, raw: int, level: int) -> bool: ...


class _Link(NamedTuple):
    parent: PhysFrame
    slot: int
    level: int  # of the child
    child: PhysFrame
    base: int  # of the child, without its sign extension

    def __hash__(self) -> int:
        return hash((self.parent, self.slot))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Link) and (self.parent, self.slot) == (
            other.parent,
            other.slot,
        )


def tables(tree: _Tree, access: TableAccess) -> Iterator[TableAt]:
    """List the page tables of a tree, each after its parent.

    A table that two entries lead to is listed twice; an entry of the top-level table that leads
    back to it is not followed.
    """

    def visit(frame: PhysFrame, level: int, base: int) -> Iterator[TableAt]:
        first = sign_extend(base, tree.levels)
        yield TableAt(level, frame, VirtAddr(first, tree.levels))
        if level > 1:
            with access.open(frame, level, first) as table:
                words = table.load(0, 512)
            for index, child in _children(tree, frame, level, words):
                yield from visit(child, level - 1, base + index * _span(level - 1))

    return visit(tree.root, tree.levels, 0)


def clean_up(
    tree: _Tree, access: TableAccess, first: int, last: int, frames: FrameDeallocator
) -> None:
    """Unlink and free the empty tables that translate an address of a range.

    :param first: the first address, without its sign extension: 48 or 57 bits.
    :param last: the last address (inclusive), likewise.
    :param frames: takes the tables' frames back.
    """
    empty: list[_Link] = []

    def survey(frame: PhysFrame, level: int, base: int) -> bool:
        with access.open(frame, level, sign_extend(base, tree.levels)) as table:
            words = table.load(0, 512)
        for index, child in _children(tree, frame, level, words):
            start = base + index * _span(level - 1)
            end = start + _span(level - 1) - 1
            if start > last or end < first or access.owns(start, end):
                continue
            if survey(child, level - 1, start):
                empty.append(_Link(frame, index, level - 1, child, start))
                words[index] = 0
        return not words.any()

    survey(tree.root, tree.levels, 0)
    freed: set[PhysFrame] = set()
    # A table that two entries lead to was surveyed twice, and so were the tables below it.
    for link in dict.fromkeys(empty):
        va = sign_extend(link.base, tree.levels)
        with access.open(link.parent, link.level + 1, va) as table:
            table[link.slot] = 0
        access.retire(link.child, link.level, va)
        if link.child not in freed:
            freed.add(link.child)
            frames.deallocate_frame(link.child)


def _children(
    tree: _Tree, frame: PhysFrame, level: int, words: np.ndarray[tuple[int], np.dtype[np.uint64]]
) -> Iterator[tuple[int, PhysFrame]]:
    if level == 1:
        return
    for index in np.flatnonzero(words & np.uint64(1)).tolist():
        raw = int(words[index])
        if tree.is_table(raw, level):
            child = PhysFrame.from_start_address(PhysAddr(raw & ADDRESS_MASK))
            if child != tree.root:
                yield index, child


def _span(level: int) -> int:
    return 1 << (12 + 9 * level)
