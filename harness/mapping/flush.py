"""Receipts for changes that a TLB may not have seen yet.

A change to a present entry takes effect when the CPU next walks the tables; until the translation
is invalidated it may use the old one (rule ``STALE``). So an operation that changes a mapping
returns a receipt, to be used in one of two ways: ``flush()`` invalidates, ``ignore()`` says that
nothing can be cached (a page that was not mapped before, an address space that is not active). A
receipt that is dropped warns with :class:`FlushDropped`, as Rust's ``must_use`` does.

>>> mapper.map_to(page, frame, flags, frames).flush()  # doctest: +SKIP

Unlike the crate's, :meth:`MapperFlushAll.flush_all` reaches global pages too: the crate reloads
CR3, which keeps them.
"""

from __future__ import annotations

import warnings
from typing import Protocol

from harness.address import Page

__all__ = ["FlushDropped", "Invalidator", "MapperFlush", "MapperFlushAll"]


class Invalidator(Protocol):
    """Whatever can make a CPU forget translations: an address space, an engine's TLB."""

    def invlpg(self, va: int) -> None:
        """Forget the page that holds ``va``, of whatever size, global or not."""

    def flush_all(self) -> None:
        """Forget every translation, those of global pages too."""


class FlushDropped(UserWarning):
    """A receipt was neither flushed nor ignored: the CPU may go on using the old mapping."""


class _Receipt:
    __slots__ = ("_open", "_tlb")

    def __init__(self, tlb: Invalidator) -> None:
        self._tlb = tlb
        self._open = True

    def ignore(self) -> None:
        """Leave the TLB as it is: no stale translation can be in it, or none can hurt."""
        self._open = False

    def __del__(self) -> None:
        if self._open:
            warnings.warn(
                f"a receipt must be flushed or ignored, got {self!r} dropped",
                FlushDropped,
                stacklevel=2,
                source=self,
            )


class MapperFlush(_Receipt):
    """The mapping of one page has changed.

    :param page: the page.
    :param tlb: what to tell.
    """

    __slots__ = ("page",)

    def __init__(self, page: Page, tlb: Invalidator) -> None:
        self.page = page
        super().__init__(tlb)

    def __repr__(self) -> str:
        return f"MapperFlush({self.page!r})"

    def flush(self) -> None:
        """Invalidate the page, with ``invlpg``."""
        self._tlb.invlpg(int(self.page.start_address))
        self.ignore()


class MapperFlushAll(_Receipt):
    """The mappings of many pages have changed.

    :param tlb: what to tell.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "MapperFlushAll()"

    def flush_all(self) -> None:
        """Invalidate every translation, those of global pages too."""
        self._tlb.flush_all()
        self.ignore()
