"""Real x86-64 page tables in guest memory, judged by an emulated CPU's own MMU.

Build page tables, say what the CPU's registers hold, and ask about an address: the software walker
*predicts*, the engine *observes*, and a bench compares::

    >>> from harness import Machine
    >>> with Machine(0x40_0000) as machine:
    ...     machine.map(0x80_0000, 0x20_0000, 0x1000, "")
    ...     predicted = machine.walk(0x80_0123, "write")
    ...     observed = machine.probe(0x80_0123, "write")
    >>> predicted.rule, str(observed.outcome), observed.error_code == predicted.error_code
    ('WP', 'page-fault', True)

Here are the names of the first hour. All else is public under its package: :mod:`harness.walker`,
:mod:`harness.engine`, :mod:`harness.mapping`, :mod:`harness.frames`, :mod:`harness.asm`,
:mod:`harness.kernels`, :mod:`harness.boot`, :mod:`harness.snapshot`, :mod:`harness.check`,
:mod:`harness.fuzz`, :mod:`harness.campaign`. A name is loaded when it is first used, so that
``import harness`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
    from harness.asm import assemble
    from harness.check.bench import Bench
    from harness.check.question import Question
    from harness.cpu import CpuFeatures, CpuState
    from harness.engine import Engine, open_engine
    from harness.entry import PageTableEntry, PageTableFlags
    from harness.errors import EngineError, HarnessError, InputError, MappingError
    from harness.frames import BitmapFrameAllocator
    from harness.kernels import read_kernel
    from harness.machine import Machine
    from harness.mapping import (
        FixedOffsetPageTable,
        IdentityPageTable,
        MappedPageTable,
        OffsetPageTable,
        RecursivePageTable,
        TemporaryPageTable,
    )
    from harness.memory import PhysicalMemory
    from harness.outcome import Access, AccessKind, Observation, Outcome
    from harness.snapshot import open_snapshot
    from harness.walker import Walk, walk

_HOME: Final = {
    # Ask.
    "harness.machine": ("Machine",),
    "harness.walker": ("Walk", "walk"),
    "harness.engine": ("Engine", "open_engine"),
    "harness.check.question": ("Question",),
    "harness.check.bench": ("Bench",),
    # What is asked about, and what comes of it.
    "harness.memory": ("PhysicalMemory",),
    "harness.cpu": ("CpuFeatures", "CpuState"),
    "harness.outcome": ("Access", "AccessKind", "Observation", "Outcome"),
    "harness.address": ("Page", "PageSize", "PhysAddr", "PhysFrame", "VirtAddr"),
    "harness.entry": ("PageTableEntry", "PageTableFlags"),
    # Map.
    "harness.mapping": (
        *("FixedOffsetPageTable", "IdentityPageTable", "MappedPageTable", "OffsetPageTable"),
        *("RecursivePageTable", "TemporaryPageTable"),
    ),
    "harness.frames": ("BitmapFrameAllocator",),
    # Bring something along.
    "harness.asm": ("assemble",),
    "harness.kernels": ("read_kernel",),
    "harness.snapshot": ("open_snapshot",),
    # What goes wrong.
    "harness.errors": ("EngineError", "HarnessError", "InputError", "MappingError"),
}
_MODULE_OF: Final = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Access",
    "AccessKind",
    "Bench",
    "BitmapFrameAllocator",
    "CpuFeatures",
    "CpuState",
    "Engine",
    "EngineError",
    "FixedOffsetPageTable",
    "HarnessError",
    "IdentityPageTable",
    "InputError",
    "Machine",
    "MappedPageTable",
    "MappingError",
    "Observation",
    "OffsetPageTable",
    "Outcome",
    "Page",
    "PageSize",
    "PageTableEntry",
    "PageTableFlags",
    "PhysAddr",
    "PhysFrame",
    "PhysicalMemory",
    "Question",
    "RecursivePageTable",
    "TemporaryPageTable",
    "VirtAddr",
    "Walk",
    "__version__",
    "assemble",
    "open_engine",
    "open_snapshot",
    "read_kernel",
    "walk",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("harness")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__: str
