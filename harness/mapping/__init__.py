"""Every way to reach a page table: mappers with the ``x86_64`` crate's vocabulary.

A kernel cannot dereference physical addresses, so how does it reach its own page tables? Each of
the lecture's answers is a class here, and all are one :class:`Mapper`:

===========================  =====================================================================
:class:`IdentityPageTable`    each table appears at its own physical address
:class:`FixedOffsetPageTable` each table, and nothing else, appears at an offset
:class:`OffsetPageTable`      all of physical memory appears at an offset
:class:`TemporaryPageTable`   a table appears for as long as it is looked at
:class:`RecursivePageTable`   the top-level table leads to itself
:class:`MappedPageTable`      a function of the frame says where a table appears
===========================  =====================================================================

All loads and stores of a mapper go through an :class:`AddressSpace`, at virtual addresses that the
page tables translate, so that a trick that is set up wrongly fails as it would in a kernel. The
start that each trick needs is made by :mod:`harness.mapping.bootstrap`.
"""

from harness.mapping.bootstrap import (
    BootPageTable,
    make_recursive,
    make_temporary_table,
    make_window,
    map_physical_memory,
)
from harness.mapping.clean_up import TableAt
from harness.mapping.errors import (
    AccessFault,
    AddressTaken,
    AtEntry,
    FlagUpdateError,
    FrameAllocationFailed,
    InvalidFrameAddress,
    InvalidPageTable,
    InvalidRequest,
    MapToError,
    NoFreeSlot,
    OutsideWindow,
    PageAlreadyMapped,
    PageNotMapped,
    ParentEntryHugePage,
    TableNotVisible,
    TranslateError,
    UnmapError,
)
from harness.mapping.fixed_offset import FixedOffsetPageTable
from harness.mapping.flush import FlushDropped, Invalidator, MapperFlush, MapperFlushAll
from harness.mapping.identity import IdentityPageTable, find_free_region, frames_ruled_out
from harness.mapping.mapped import MappedPageTable, PageTableFrameMapping
from harness.mapping.mapper import Mapper
from harness.mapping.offset import OffsetPageTable, PhysOffset, active_level_4_table
from harness.mapping.recursive import RecursivePageTable
from harness.mapping.recursive_address import (
    Shown,
    entry_address,
    octal,
    recursive_region,
    shown_by,
    table_address,
)
from harness.mapping.space import AddressSpace
from harness.mapping.temporary import TemporaryMapping, TemporaryPageTable
from harness.mapping.translate import Translate, TranslateResult

__all__ = [
    "AccessFault",
    "AddressSpace",
    "AddressTaken",
    "AtEntry",
    "BootPageTable",
    "FixedOffsetPageTable",
    "FlagUpdateError",
    "FlushDropped",
    "FrameAllocationFailed",
    "IdentityPageTable",
    "InvalidFrameAddress",
    "InvalidPageTable",
    "InvalidRequest",
    "Invalidator",
    "MapToError",
    "MappedPageTable",
    "Mapper",
    "MapperFlush",
    "MapperFlushAll",
    "NoFreeSlot",
    "OffsetPageTable",
    "OutsideWindow",
    "PageAlreadyMapped",
    "PageNotMapped",
    "PageTableFrameMapping",
    "ParentEntryHugePage",
    "PhysOffset",
    "RecursivePageTable",
    "Shown",
    "TableAt",
    "TableNotVisible",
    "TemporaryMapping",
    "TemporaryPageTable",
    "Translate",
    "TranslateError",
    "TranslateResult",
    "UnmapError",
    "active_level_4_table",
    "entry_address",
    "find_free_region",
    "frames_ruled_out",
    "make_recursive",
    "make_temporary_table",
    "make_window",
    "map_physical_memory",
    "octal",
    "recursive_region",
    "shown_by",
    "table_address",
]
