"""The one way to open an engine: a spec, which stands in commands, findings and reproducers.

>>> from harness.memory import PhysicalMemory
>>> with open_engine("unicorn", PhysicalMemory(0x20_0000)) as engine:
...     engine.spec, engine.name
('unicorn', 'unicorn')

A spec is one of :data:`ENGINES`, or ``package.module:attribute``: a function of a memory that
returns an :class:`~harness.engine.base.Engine`, or the class itself. ``walker:package.module:
function`` asks a person's own walker like a CPU. The current directory is importable while a named
module is looked up, and only then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from harness.engine.base import Engine
from harness.engine.of_walker import WalkerEngine
from harness.errors import EngineBroken, EngineError, EngineMissing, HarnessError, InputError
from harness.memory import PhysicalMemory

__all__ = ["ENGINES", "WALKER", "engine_identity", "open_engine"]

ENGINES: Final = ("unicorn",)
"""The engines that this package brings."""

WALKER: Final = "walker:"
"""What the spec of a person's walker begins with."""

_LATER: Final = ("kvm", "qemu", "bochs")
_DUTIES: Final = ("capabilities", "play", "run", "close", "probe", "probe_many", "probe_entries")
_GUARDED: Final = ("play", "run", "probe", "probe_many", "probe_entries", "close")


def open_engine(spec: str, memory: PhysicalMemory) -> Engine:
    """Open a CPU over a memory.

    :param spec: what opens it.
    :param memory: the guest's RAM; the engine maps this very buffer.
    :raises InputError: for a spec that names nothing.
    :raises EngineMissing: when the engine is not installed.
    :raises EngineBroken: when it is, and its calibration fails.
    :raises EngineError: when an engine of one's own cannot be made, or is none.
    """
    if spec.startswith(WALKER):
        return _walker(spec.removeprefix(WALKER), memory)
    if ":" in spec:
        return _own(spec, memory)
    if spec in _LATER:
        raise EngineMissing(
            f"the engine {spec} is not offered yet: it must be one of {', '.join(ENGINES)}, or "
            "package.module:attribute",
            engine=spec,
        )
    if spec not in ENGINES:
        raise InputError(
            f"the engine must be one of {', '.join(ENGINES)}, or package.module:attribute, "
            f"not {spec!r}"
        )
    try:
        from harness.engine.unicorn import UnicornEngine
    except ImportError as error:
        raise EngineMissing(
            f"the engine unicorn must be installed (pip install unicorn): {error}", engine=spec
        ) from error
    engine = UnicornEngine(memory)
    engine.spec = spec
    return engine


def engine_identity(spec: str) -> dict[str, str]:
    """Return what the answers of an engine depend on, without opening it.

    :returns: its spec, the version of what is built in, and for an engine or a walker of one's own
        a digest of its source.
    """
    found = {"spec": spec}
    name = spec.removeprefix(WALKER)
    if ":" not in name:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found["version"] = importlib.metadata.version(name)
        return found
    source = _source(name.partition(":")[0])
    if source is not None:
        found["source"] = hashlib.sha256(source).hexdigest()[:16]
    return found


def _source(module: str) -> bytes | None:
    """Return the source of a module, all files of a package; None where there is none."""
    try:
        with _here_last():
            spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return None
        files = [Path(spec.origin)]
        if spec.submodule_search_locations:
            files = sorted(files[0].parent.rglob("*.py"))
        return b"".join(file.read_bytes() for file in files)
    except (ImportError, ValueError, OSError):
        return None


@contextlib.contextmanager
def _here_last() -> Iterator[None]:
    """Let modules be found in the current directory, after everywhere else.

    A ``random.py`` there must not stand in for the one that is meant.
    """
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def _own(spec: str, memory: PhysicalMemory) -> Engine:
    make = _found("engine", "a memory", spec)
    try:
        engine = make(memory)
    except HarnessError:
        raise
    except Exception as error:
        raise EngineError(
            f"the engine {spec} must open over a memory, and raised {_named(error)}", engine=spec
        ) from error
    if not isinstance(engine, Engine):
        lacking = [duty for duty in _DUTIES if not hasattr(engine, duty)]
        also = f", and lacks {', '.join(lacking)}" if lacking and engine is not None else ""
        raise EngineError(
            f"the engine {spec} must give a harness.engine.Engine, not {engine!r}{also}",
            engine=spec,
        )
    for word in ("name", "version"):
        if not isinstance(getattr(engine, word, None), str) or not getattr(engine, word):
            raise EngineError(f"the engine {spec} must have a {word}, in words", engine=spec)
    if getattr(engine, "memory", None) is not memory:
        raise EngineError(
            f"the engine {spec} must have the memory that it was opened over as its memory",
            engine=spec,
        )
    engine.spec = spec
    for name in _GUARDED:
        setattr(engine, name, _guarded(spec, name, getattr(engine, name)))
    return engine


def _guarded(spec: str, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method whose own mistakes are told as the engine's, by its spec."""

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except HarnessError:
            raise
        except Exception as error:
            raise EngineBroken(
                f"the engine {spec} raised {_named(error)}, in {name}", engine=spec
            ) from error

    return called


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _walker(name: str, memory: PhysicalMemory) -> Engine:
    if ":" not in name:
        raise InputError(f"a walker must be package.module:function, not {name!r}")
    return WalkerEngine(memory, _found("walker", "(memory, cpu, va, access)", name), name)


def _found(what: str, of: str, name: str) -> Callable[..., Any]:
    """Return what a dotted path names; the current directory is importable for it."""
    module, _, attribute = name.partition(":")
    try:
        with _here_last():
            found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the {what} {name} must be there to be opened: {error}") from None
    except Exception as error:
        raise EngineError(
            f"the {what} {name} must be importable, and raised {_named(error)}", engine=name
        ) from error
    if not callable(found):
        raise InputError(f"the {what} {name} must be a function of {of}, not {found!r}")
    return found  # type: ignore[no-any-return]
