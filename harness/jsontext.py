"""Read the JSON that people and other programs give us, strictly.

Python's ``json`` takes more than our formats mean: ``NaN``, two values for one key, integers of
any size. It also fails in its own ways (``RecursionError`` on a thousand brackets). :func:`loads`
accepts none of that and fails in one way, :class:`~harness.errors.InputError` with one sentence;
the caller adds which file it was. :func:`number`, :func:`flag` and :func:`ram` check the values
that several formats share::

    >>> number("cr3", loads('{"cr3": "0x1000"}')["cr3"])
    4096
    >>> number("cr3", "1000h")
    Traceback (most recent call last):
    harness.errors.InputError: cr3 must be an integer or a hex string such as '0x1000', not '1000h'
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

from harness.errors import InputError

__all__ = ["MAX_RAM", "flag", "loads", "number", "obj", "ram", "shown"]

MAX_RAM: Final = 1 << 40
"""The most RAM that a file may ask for, in bytes (1 TiB): it is reserved, not committed, but a
damaged size should be called that, and not end as a failure of ``mmap``."""

_HEX = re.compile(r"0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*", re.ASCII)
# Longer than any u64 in decimal: spares us Python's own limit on the length of integers.
_MAX_DIGITS = 20
_MAX_DEPTH = 32


def loads(text: str | bytes) -> Any:
    """Return what a JSON text holds.

    :param text: a str, or bytes in UTF-8.
    :raises InputError: when it is not JSON, or is more than our formats mean.
    """
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_unique,
            parse_int=_short_int,
            parse_constant=_no_constant,
        )
    except UnicodeDecodeError as error:
        raise InputError(f"the text must be UTF-8, and byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"the text must be JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        deep = True
    else:
        deep = _is_deep(value)
    if deep:
        raise InputError(f"the JSON must be nested at most {_MAX_DEPTH} deep")
    return value


# What nests almost as deeply as Python recurses would be read, and then fail in `repr`.
def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    return any(isinstance(value, (dict, list)) for value in level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError(f"a key must occur once in an object, and {shown(key)} occurs twice")
        result[key] = value
    return result


def _short_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise InputError(f"an integer must fit in 64 bits, not have {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise InputError(f"a number must be finite, not {name}")


def shown(value: object) -> str:
    """Return a ``repr`` that is short enough for an error message.

    :param value: anything that came out of JSON.
    """
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def obj(
    name: str,
    value: object,
    *,
    required: Collection[str] = (),
    optional: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return a JSON object, checked to be one and to have the right keys.

    :param name: what an error calls it.
    :param required: the keys that it must have.
    :param optional: the only other keys that it may have; None allows any.
    :raises InputError: when it is no object, lacks a key, or has an unknown one.
    """
    if not isinstance(value, dict):
        raise InputError(f"{name} must be an object, not {shown(value)}")
    for key in required:
        if key not in value:
            raise InputError(f"{name} must have the key {key!r}, and lacks it")
    if optional is not None:
        for key in value:
            if key not in required and key not in optional:
                known = ", ".join([*required, *optional])
                raise InputError(f"a key of {name} must be one of {known}, not {shown(key)}")
    return value


def number(name: str, value: object, bits: int = 64) -> int:
    """Return the number that a JSON value stands for: an integer, or a string like ``"0x1f"``.

    :param name: what an error calls it.
    :param bits: how many bits it must fit in.
    :raises InputError: for anything else.
    """
    result = int(value, 16) if isinstance(value, str) and _HEX.fullmatch(value) else value
    if type(result) is not int:
        raise InputError(
            f"{name} must be an integer or a hex string such as '0x1000', not {shown(value)}"
        )
    if not 0 <= result < 1 << bits:
        raise InputError(f"{name} must be 0 or more and fit in {bits} bits, not {shown(value)}")
    return result


def flag(name: str, value: object) -> bool:
    """Return a JSON ``true`` or ``false``.

    :param name: what an error calls it.
    :raises InputError: for anything else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, not {shown(value)}")
    return value


def ram(value: object) -> list[tuple[int, int]]:
    """Return regions of RAM as ``(base, size)``: from a size, or a list of ``[base, size]``.

    What a region may be is :class:`~harness.memory.PhysicalMemory`'s to say; here the form is
    checked, and the sum of the sizes.

    :raises InputError: for another form, or for more than :data:`MAX_RAM` together.
    """
    if isinstance(value, list):
        regions = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:
                raise InputError(f"a region of ram must be [base, size], not {shown(pair)}")
            regions.append((number("a base in ram", pair[0]), number("a size in ram", pair[1])))
    else:
        regions = [(0, number("ram", value))]
    total = sum(size for _, size in regions)
    if total > MAX_RAM:
        raise InputError(f"ram must be at most {MAX_RAM:#_x} bytes (1 TiB), not {total:#_x}")
    return regions
