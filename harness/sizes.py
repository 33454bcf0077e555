"""Sizes as people write them, in one way everywhere.

>>> parse_size("128M"), parse_size("64KiB"), parse_size("0x1000"), parse_size(512)
(134217728, 65536, 4096, 512)
"""

from __future__ import annotations

import re

from harness.errors import InputError

__all__ = ["parse_size"]

_SIZE = re.compile(r"(0x[0-9a-f_]{1,20}|[0-9_]{1,18})(?:([KMG])(?:i?B)?)?", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


def parse_size(text: str | int) -> int:
    """Read a size: a number of bytes, or of KiB, MiB or GiB with K, M or G.

    :raises InputError: when it is none.
    """
    if type(text) is int:
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if match is not None:
            return int(match[1], 0) << _SHIFTS[(match[2] or "").upper()]
    except ValueError:  # underscores in the wrong place, or a leading zero
        pass
    raise InputError(f"a size must be a number of bytes, or end in K, M or G, not {text!r}")
