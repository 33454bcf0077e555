"""Real x86-64 page tables in guest memory, judged by an emulated CPU's own MMU.

Build page tables, say what the CPU's registers hold, and ask about an address: the software walker
*predicts*, the engine *observes*, and a check compares::

    >>> from harness import Machine
    >>> with Machine(0x40_0000) as machine:
    ...     machine.map(0x80_0000, 0x20_0000, 0x1000, "")
    ...     predicted = machine.walk(0x80_0123, "write")
    ...     observed = machine.probe(0x80_0123, "write")
    >>> predicted.rule, str(observed.outcome), observed.error_code == predicted.error_code
    ('WP', 'page-fault', True)

Everything public can be imported from here. What needs an engine, an assembler or a file format is
loaded when it is first used, so that ``import harness`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harness.address import (
    ENTRIES_PER_TABLE,
    LEVEL_NAMES,
    Page,
    PageRange,
    PageSize,
    PhysAddr,
    PhysFrame,
    VirtAddr,
    align_down,
    align_up,
    entry_name,
    format_address,
    is_canonical,
    sign_extend,
    table_name,
)
from harness.cpu import CR0, CR3, CR4, EFER, RFLAGS, CpuFeatures, CpuState, ErrorCode
from harness.entry import ADDRESS_MASK, PageTableEntry, PageTableFlags
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
from harness.frames import (
    BitmapFrameAllocator,
    BootInfoFrameAllocator,
    EmptyFrameAllocator,
    FrameAllocator,
    FrameDeallocator,
    FrameNotAllocated,
    MemoryMapRegion,
    usable_ranges,
)
from harness.memory import PhysicalMemory, Region
from harness.outcome import (
    UNKNOWN_PA,
    Access,
    AccessKind,
    AccessLike,
    EntryObservations,
    Observation,
    Observations,
    Outcome,
)
from harness.walker import (
    RULE_TEXT,
    RULES,
    BulkWalk,
    GeneralProtection,
    Leaf,
    Leaves,
    Mapped,
    OutsideRam,
    PageFault,
    Range,
    RangeKind,
    Rights,
    StackFault,
    Step,
    Verdict,
    Walk,
    bulk,
    leaves,
    ranges,
    walk,
)

if TYPE_CHECKING:
    from harness.asm import Labels, Program, Statement, UnknownLabel, assemble, assemble_file
    from harness.boot import (
        Area,
        BootConfig,
        BootedState,
        BootInfo,
        BootloaderFrames,
        Firmware,
        FrameRange,
        KernelImage,
        Level4Slot,
        MemoryRegion,
        MemoryRegionType,
        PrintoutFrames,
        Segment,
        TableBuilder,
        TlsTemplate,
        VirtualLayout,
        assembly_kernel,
        elf_kernel,
        flat_kernel,
        level_4_listing,
        parse_boot_info,
        parse_cargo_toml,
        read_cargo_toml,
    )
    from harness.campaign import CampaignProgress, CampaignResult
    from harness.check.bench import Bench
    from harness.check.findings.database import Database
    from harness.check.findings.finding import Finding
    from harness.check.findings.reproducer import Reproduction, reproduce, write_reproducers
    from harness.check.findings.tally import Tally
    from harness.check.judge.compare import (
        Agreement,
        Difference,
        Field,
        Judgement,
        compare,
        excess,
        permitted,
    )
    from harness.check.matrix.work import MatrixWork
    from harness.check.question import DEFAULT_RAM, Question, read_questions, write_questions
    from harness.check.work import Shard, Work
    from harness.engine import ENGINES, Engine, open_engine
    from harness.engine.run import REGISTERS, Budget, Ending, Event, Exit, Start, vector_name
    from harness.engine.steps import (
        AccessStep,
        ControlStep,
        DeliverStep,
        ExecuteStep,
        InvlpgStep,
        StepResult,
        WriteStep,
    )
    from harness.fuzz.work import FuzzWork
    from harness.kernels import Kernel, KernelResult, read_kernel
    from harness.machine import KERNEL_BASE, TABLES_BASE, TABLES_END, Machine
    from harness.mapping import (
        AccessFault,
        AddressSpace,
        AddressTaken,
        AtEntry,
        BootPageTable,
        FixedOffsetPageTable,
        FlagUpdateError,
        FlushDropped,
        FrameAllocationFailed,
        IdentityPageTable,
        Invalidator,
        InvalidFrameAddress,
        InvalidPageTable,
        InvalidRequest,
        MappedPageTable,
        Mapper,
        MapperFlush,
        MapperFlushAll,
        MapToError,
        NoFreeSlot,
        OffsetPageTable,
        OutsideWindow,
        PageAlreadyMapped,
        PageNotMapped,
        PageTableFrameMapping,
        ParentEntryHugePage,
        PhysOffset,
        RecursivePageTable,
        Shown,
        TableAt,
        TableNotVisible,
        TemporaryMapping,
        TemporaryPageTable,
        Translate,
        TranslateError,
        TranslateResult,
        UnmapError,
        active_level_4_table,
        entry_address,
        find_free_region,
        frames_ruled_out,
        make_recursive,
        make_temporary_table,
        make_window,
        map_physical_memory,
        octal,
        recursive_region,
        shown_by,
        table_address,
    )
    from harness.resources import asm_dir, fixtures_dir, page_table_sets
    from harness.sizes import parse_size
    from harness.snapshot import (
        FLAG_BITS,
        KINDS,
        SIZES,
        SOURCES,
        PageTableSet,
        Snapshot,
        Truth,
        TruthRow,
        Unmapped,
        UnmappedRow,
        load_core,
        load_raw,
        load_set,
        open_snapshot,
    )

_LAZY = {
    "harness.asm": """
        Labels Program Statement UnknownLabel assemble assemble_file
    """,
    "harness.boot": """
        Area BootConfig BootInfo BootedState BootloaderFrames Firmware FrameRange
        KernelImage Level4Slot MemoryRegion MemoryRegionType PrintoutFrames Segment
        TableBuilder TlsTemplate VirtualLayout assembly_kernel elf_kernel flat_kernel
        level_4_listing parse_boot_info parse_cargo_toml read_cargo_toml
    """,
    "harness.campaign": """
        CampaignProgress CampaignResult
    """,
    "harness.check.question": """
        DEFAULT_RAM Question read_questions write_questions
    """,
    "harness.check.bench": """
        Bench
    """,
    "harness.check.judge.compare": """
        Agreement Difference Field Judgement compare excess permitted
    """,
    "harness.check.findings.database": """
        Database
    """,
    "harness.check.findings.finding": """
        Finding
    """,
    "harness.check.matrix.work": """
        MatrixWork
    """,
    "harness.check.findings.reproducer": """
        Reproduction reproduce write_reproducers
    """,
    "harness.check.findings.tally": """
        Tally
    """,
    "harness.check.work": """
        Shard Work
    """,
    "harness.engine": """
        ENGINES Engine open_engine
    """,
    "harness.engine.run": """
        Budget Ending Event Exit REGISTERS Start vector_name
    """,
    "harness.engine.steps": """
        AccessStep ControlStep DeliverStep ExecuteStep InvlpgStep StepResult WriteStep
    """,
    "harness.fuzz.work": """
        FuzzWork
    """,
    "harness.kernels": """
        Kernel KernelResult read_kernel
    """,
    "harness.machine": """
        KERNEL_BASE Machine TABLES_BASE TABLES_END
    """,
    "harness.mapping": """
        AccessFault AddressSpace AddressTaken AtEntry BootPageTable FixedOffsetPageTable
        FlagUpdateError FlushDropped FrameAllocationFailed IdentityPageTable
        InvalidFrameAddress InvalidPageTable InvalidRequest Invalidator MapToError
        MappedPageTable Mapper MapperFlush MapperFlushAll NoFreeSlot OffsetPageTable
        OutsideWindow PageAlreadyMapped PageNotMapped PageTableFrameMapping
        ParentEntryHugePage PhysOffset RecursivePageTable Shown TableAt TableNotVisible
        TemporaryMapping TemporaryPageTable Translate TranslateError TranslateResult
        UnmapError active_level_4_table entry_address find_free_region frames_ruled_out
        make_recursive make_temporary_table make_window map_physical_memory octal
        recursive_region shown_by table_address
    """,
    "harness.resources": """
        asm_dir fixtures_dir page_table_sets
    """,
    "harness.sizes": """
        parse_size
    """,
    "harness.snapshot": """
        FLAG_BITS KINDS PageTableSet SIZES SOURCES Snapshot Truth TruthRow Unmapped
        UnmappedRow load_core load_raw load_set open_snapshot
    """,
}
_HOME = {name: module for module, names in _LAZY.items() for name in names.split()}

__all__ = [
    "ADDRESS_MASK",
    "Access",
    "AccessFault",
    "AccessKind",
    "AccessLike",
    "AccessStep",
    "AddressError",
    "AddressNotAligned",
    "AddressSpace",
    "AddressTaken",
    "Agreement",
    "Area",
    "AssemblyError",
    "AtEntry",
    "Bench",
    "BitmapFrameAllocator",
    "BootConfig",
    "BootError",
    "BootInfo",
    "BootInfoFrameAllocator",
    "BootPageTable",
    "BootedState",
    "BootloaderFrames",
    "Budget",
    "BulkWalk",
    "CR0",
    "CR3",
    "CR4",
    "CampaignProgress",
    "CampaignResult",
    "CaseError",
    "ControlStep",
    "CpuFeatures",
    "CpuState",
    "CpuStateError",
    "DEFAULT_RAM",
    "Database",
    "DeliverStep",
    "Difference",
    "EFER",
    "ENGINES",
    "ENTRIES_PER_TABLE",
    "EmptyFrameAllocator",
    "Ending",
    "Engine",
    "EngineBroken",
    "EngineError",
    "EngineMissing",
    "EntryObservations",
    "ErrorCode",
    "Event",
    "ExecuteStep",
    "Exit",
    "FLAG_BITS",
    "Field",
    "Finding",
    "Firmware",
    "FixedOffsetPageTable",
    "FlagUpdateError",
    "FlushDropped",
    "FrameAllocationFailed",
    "FrameAllocator",
    "FrameDeallocator",
    "FrameNotAllocated",
    "FrameRange",
    "FuzzWork",
    "GeneralProtection",
    "HarnessError",
    "IdentityPageTable",
    "InputError",
    "InvalidFrameAddress",
    "InvalidPageTable",
    "InvalidRequest",
    "Invalidator",
    "InvlpgStep",
    "Judgement",
    "KERNEL_BASE",
    "KINDS",
    "Kernel",
    "KernelImage",
    "KernelResult",
    "LEVEL_NAMES",
    "Labels",
    "Leaf",
    "Leaves",
    "Level4Slot",
    "Machine",
    "MapToError",
    "Mapped",
    "MappedPageTable",
    "Mapper",
    "MapperFlush",
    "MapperFlushAll",
    "MappingError",
    "MatrixWork",
    "MemoryMapRegion",
    "MemoryRegion",
    "MemoryRegionType",
    "NoFreeSlot",
    "NoMemory",
    "Observation",
    "Observations",
    "OffsetPageTable",
    "Outcome",
    "OutsideRam",
    "OutsideWindow",
    "Page",
    "PageAlreadyMapped",
    "PageFault",
    "PageNotMapped",
    "PageRange",
    "PageSize",
    "PageTableEntry",
    "PageTableFlags",
    "PageTableFrameMapping",
    "PageTableSet",
    "ParentEntryHugePage",
    "PhysAddr",
    "PhysAddrNotValid",
    "PhysFrame",
    "PhysOffset",
    "PhysicalMemory",
    "PrintoutFrames",
    "Program",
    "Question",
    "REGISTERS",
    "RFLAGS",
    "RULES",
    "RULE_TEXT",
    "Range",
    "RangeKind",
    "RecursivePageTable",
    "Region",
    "Reproduction",
    "Rights",
    "SIZES",
    "SOURCES",
    "Segment",
    "Shard",
    "Shown",
    "Snapshot",
    "SnapshotError",
    "StackFault",
    "Start",
    "Statement",
    "Step",
    "StepResult",
    "TABLES_BASE",
    "TABLES_END",
    "TableAt",
    "TableBuilder",
    "TableNotVisible",
    "Tally",
    "TemporaryMapping",
    "TemporaryPageTable",
    "TlsTemplate",
    "Translate",
    "TranslateError",
    "TranslateResult",
    "Truth",
    "TruthRow",
    "UNKNOWN_PA",
    "UnknownLabel",
    "UnmapError",
    "Unmapped",
    "UnmappedRow",
    "Verdict",
    "VirtAddr",
    "VirtAddrNotValid",
    "VirtualLayout",
    "Walk",
    "Work",
    "WriteStep",
    "active_level_4_table",
    "align_down",
    "align_up",
    "asm_dir",
    "assemble",
    "assemble_file",
    "assembly_kernel",
    "bulk",
    "compare",
    "elf_kernel",
    "entry_address",
    "entry_name",
    "excess",
    "find_free_region",
    "fixtures_dir",
    "flat_kernel",
    "format_address",
    "frames_ruled_out",
    "is_canonical",
    "leaves",
    "level_4_listing",
    "load_core",
    "load_raw",
    "load_set",
    "make_recursive",
    "make_temporary_table",
    "make_window",
    "map_physical_memory",
    "octal",
    "open_engine",
    "open_snapshot",
    "page_table_sets",
    "parse_boot_info",
    "parse_cargo_toml",
    "parse_size",
    "permitted",
    "ranges",
    "read_cargo_toml",
    "read_kernel",
    "read_questions",
    "recursive_region",
    "reproduce",
    "shown_by",
    "sign_extend",
    "table_address",
    "table_name",
    "usable_ranges",
    "vector_name",
    "walk",
    "write_questions",
    "write_reproducers",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
