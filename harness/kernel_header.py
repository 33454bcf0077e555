"""The header of a kernel file: what it may say, and the sentence for what it may not.

:mod:`harness.kernels` describes the format. Here every value is judged before a machine is built,
so that a kernel either runs as its header says or is refused by an
:class:`~harness.errors.InputError` that says what to write instead::

    >>> check_header({"machine": {"mode": "real"}})
    Traceback (most recent call last):
    harness.errors.InputError: [machine] mode must be "long" or "protected", not 'real'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.address import PageSize
from harness.engine.run import REGISTERS, Ending
from harness.errors import InputError
from harness.sizes import parse_size

__all__ = ["check_header", "page_of"]

_TABLES_OWN = ("identity", "levels", "recursive", "map")
_MODES = ("long", "protected")
_WORD = 1 << 64


def page_of(letter: str) -> PageSize:
    """Return the page size that a letter names.

    :raises InputError: when it names none.
    """
    for size in PageSize:
        if size.letter == letter:
            return size
    raise InputError(f'page must be "4K", "2M" or "1G", not {letter!r}')


def check_header(header: Mapping[str, Any]) -> None:
    """Judge all that a header says; what is left out is well.

    :param header: the tables ``machine``, ``in`` and ``out``.
    :raises InputError: for the first thing that cannot be
    """
    unknown = sorted(set(header) - set(_KEYS))
    if unknown:
        raise InputError(f"the header's tables must be machine, in and out, not {unknown[0]!r}")
    for table, keys in _KEYS.items():
        given = header.get(table, {})
        if not isinstance(given, Mapping):
            raise InputError(f"[{table}] must be one table, not {given!r}")
        _only(f"[{table}]", given, keys)
        for key, value in given.items():
            keys[key](f"[{table}] {key}", value)
    machine = header.get("machine", {})
    if machine.get("mode") == "protected":
        for key in _TABLES_OWN:
            if key in machine:
                raise InputError(
                    f"[machine] {key} must be left out in protected mode, where the kernel makes "
                    "its page tables itself"
                )


_Check = Callable[[str, Any], None]


def _only(name: str, given: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(keys))
    if unknown:
        raise InputError(f"{name} must hold only {', '.join(sorted(keys))}, not {unknown[0]!r}")


def _is_number(value: object) -> bool:
    return type(value) is int


def _one_of(*words: Any) -> _Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not type(words[0]) or value not in words:
            quoted = [f'"{word}"' if isinstance(word, str) else str(word) for word in words]
            listed = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
            raise InputError(f"{name} must be {listed}, not {value!r}")

    return check


def _size(name: str, value: Any) -> None:
    try:
        size = parse_size(value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if size < 0:
        raise InputError(f"{name} must not be negative, as {value!r} is")


def _slot(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < 512:
        raise InputError(f"{name} must be a slot from 0 to 511, not {value!r}")


def _address(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < _WORD:
        raise InputError(f"{name} must be an address, a number from 0 to 2**64 - 1, not {value!r}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text in quotes, not {value!r}")


def _number(name: str, value: Any) -> None:
    if not _is_number(value):
        raise InputError(f"{name} must be a number, not {value!r}")


def _word(name: str, value: Any) -> None:
    if isinstance(value, str) and value:
        return
    if not _is_number(value) or not -(_WORD >> 1) <= value < _WORD:
        raise InputError(
            f"{name} must be a number that fits in 64 bits, or the name of a label or constant, "
            f"not {value!r}"
        )


def _page(name: str, value: Any) -> None:
    try:
        page_of(value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _maps(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list of tables, not {value!r}")
    for number, entry in enumerate(value, 1):
        one = f"{name} number {number}"
        if not isinstance(entry, Mapping):
            raise InputError(f"{one} must be a table, not {entry!r}")
        _only(one, entry, _MAP)
        for key in ("va", "pa", "size"):
            if key not in entry:
                raise InputError(f"{one} must have a key {key!r}")
        for key, part in entry.items():
            _MAP[key](f"{one}: {key}", part)


def _events(name: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(event, str) for event in value):
        raise InputError(f'{name} must be a list such as ["#PF", "#BP"], not {value!r}')


def _memory(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a table of words by physical address, not {value!r}")
    for address, word in value.items():
        try:
            at = int(address, 0)
        except ValueError:
            at = -1
        if not 0 <= at < 1 << 52:
            raise InputError(f"{name} must have physical addresses as its keys, not {address!r}")
        _word(f"{name} {address}", word)


_MAP: dict[str, _Check] = {
    "va": _address,
    "pa": _address,
    "size": _size,
    "flags": _text,
    "page": _page,
}
_REGISTERS: dict[str, _Check] = dict.fromkeys(REGISTERS, _word)
_KEYS: dict[str, dict[str, _Check]] = {
    "machine": {
        "mode": _one_of(*_MODES),
        "ram": _size,
        "identity": _size,
        "levels": _one_of(4, 5),
        "recursive": _slot,
        "map": _maps,
    },
    "in": _REGISTERS,
    "out": {
        **_REGISTERS,
        "ending": _one_of(*(str(ending) for ending in Ending)),
        "exit": _number,
        "serial": _text,
        "debug": _text,
        "screen": _text,
        "events": _events,
        "memory": _memory,
    },
}
