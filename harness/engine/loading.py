"""Engines by name: one of ours, or whatever a dotted path opens.

>>> opener("unicorn")(PhysicalMemory(0x20_0000)).name
'unicorn'

``package.module:function`` names a function that takes a memory and returns an
:class:`~harness.engine.protocol.Engine`, so that an engine of one's own can be judged, and a test
can plant one that is wrong. It goes by pickle and by journal, as text.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from harness.engine import ENGINES, open_engine
from harness.engine.of_walker import WalkerEngine
from harness.engine.protocol import Engine
from harness.errors import InputError
from harness.memory import PhysicalMemory

__all__ = ["opener"]


def opener(name: str) -> Callable[[PhysicalMemory], Engine]:
    """Return what opens the engine of a name over a memory.

    :param name: one of :data:`~harness.engine.ENGINES`, or ``package.module:function``.
    :raises InputError: when it is neither.
    """
    if name.startswith("walker:"):
        return partial(_walker, name.removeprefix("walker:"))
    module, colon, function = name.partition(":")
    if not colon:
        if name not in ENGINES:
            raise InputError(
                f"the engine must be one of {', '.join(ENGINES)}, or package.module:function, "
                f"not {name!r}"
            )
        return partial(_open, name)
    return _found("engine", "a memory", name, module, function)


def _found(what: str, of: str, name: str, module: str, function: str) -> Callable[..., Any]:
    """Return the function of a dotted path; the current directory is importable for it."""
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the {what} {name} must be there to be opened: {error}") from None
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise InputError(f"the {what} {name} must be a function of {of}, not {found!r}")
    return found  # type: ignore[no-any-return]


def _walker(name: str, memory: PhysicalMemory) -> Engine:
    module, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"a walker must be package.module:function, not {name!r}")
    found = _found("walker", "(memory, cpu, va, access)", name, module, function)
    return WalkerEngine(memory, found, name)


def _open(name: str, memory: PhysicalMemory) -> Engine:
    return open_engine(memory, name)
