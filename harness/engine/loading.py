"""Engines by name: one of ours, or whatever a dotted path opens.

>>> opener("unicorn")(PhysicalMemory(0x20_0000)).name
'unicorn'

``package.module:function`` names a function that takes a memory and returns an
:class:`~harness.engine.protocol.Engine`, so that an engine of one's own can be judged, and a test
can plant one that is wrong. It goes by pickle and by journal, as text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

from harness.engine import ENGINES, open_engine
from harness.engine.protocol import Engine
from harness.errors import InputError
from harness.memory import PhysicalMemory

__all__ = ["opener"]


def opener(name: str) -> Callable[[PhysicalMemory], Engine]:
    """Return what opens the engine of a name over a memory.

    :param name: one of :data:`~harness.engine.ENGINES`, or ``package.module:function``.
    :raises InputError: when it is neither.
    """
    module, colon, function = name.partition(":")
    if not colon:
        if name not in ENGINES:
            raise InputError(
                f"the engine must be one of {', '.join(ENGINES)}, or package.module:function, "
                f"not {name!r}"
            )
        return partial(_open, name)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the engine {name} must be there to be opened: {error}") from None
    if not callable(found):
        raise InputError(f"the engine {name} must be a function of a memory, not {found!r}")
    opened: Callable[[PhysicalMemory], Engine] = found
    return opened


def _open(name: str, memory: PhysicalMemory) -> Engine:
    return open_engine(memory, name)
