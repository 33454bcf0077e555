"""The CPUs that judge.

>>> from harness.memory import PhysicalMemory
>>> from harness.cpu import CpuState
>>> memory = PhysicalMemory(0x20_0000)
>>> with open_engine(memory) as engine:
...     engine.probe(CpuState(cr3=0x1000), 0x4000).error_code
0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.engine.protocol import Engine
from harness.errors import EngineMissing, InputError
from harness.memory import PhysicalMemory

if TYPE_CHECKING:
    from harness.engine.unicorn import UnicornEngine

__all__ = ["ENGINES", "Engine", "open_engine"]

ENGINES = ("unicorn",)
"""The words that :func:`open_engine` takes."""


def open_engine(memory: PhysicalMemory, name: str = "unicorn") -> UnicornEngine:
    """Open a CPU over a memory.

    :param memory: the guest's RAM; the engine maps this very buffer.
    :param name: one of :data:`ENGINES`.
    :raises InputError: for another name.
    :raises EngineMissing: when the engine is not installed.
    :raises EngineBroken: when it is, and its calibration fails.
    """
    if name not in ENGINES:
        raise InputError(f"the engine must be one of {', '.join(ENGINES)}, not {name!r}")
    try:
        from harness.engine.unicorn import UnicornEngine
    except ImportError as error:
        raise EngineMissing(
            f"the engine unicorn must be installed (pip install unicorn): {error}", engine=name
        ) from error
    return UnicornEngine(memory)
