"""Where a running Unicorn keeps its CPU's registers, beside the copies that its API makes.

An exception hook may read and change the CPU by a saved context, which copies 5.6 KB each way
(docs/quirks.md, Unicorn 3). The same words can be changed in place once it is known where they are.
They are looked for as :mod:`.calibrate` looks for offsets: registers get values that occur nowhere
else, and memory that Unicorn's handle leads to is searched for them; a place counts only if what
the API changes is seen there. Reading goes through ``/proc/self/mem``, which answers an address
that is not there with an error.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from unicorn import x86_const as x86

from harness.engine.unicorn.core import Core

__all__ = ["live_state"]

_HANDLE_BYTES = 0x2000
_STATE_BYTES = 0x2_0000
_MARKS = tuple(0x5EED_0F0F_7A11_C000 + i * 0x0101_0000_0301 for i in range(8))
_REGISTERS = tuple(range(x86.UC_X86_REG_R8, x86.UC_X86_REG_R15 + 1))
_FIRST = 8
"""R8's place among the registers, in the order of the saved context."""


def live_state(core: Core) -> int | None:
    """Return the address that a saved context's first byte would have in the running CPU.

    :returns: None where it cannot be found; then contexts must be copied.
    """
    core.power_on()
    for register, mark in zip(_REGISTERS, _MARKS, strict=True):
        core.uc.reg_write(register, mark)
    image = struct.pack(f"<{len(_MARKS)}Q", *_MARKS)
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            return _search(core, memory.fileno(), image)
    except OSError:
        return None
    finally:
        core.power_on()


def _search(core: Core, memory: int, image: bytes) -> int | None:
    seen: set[int] = set()
    handle = _read(memory, core.handle.value, _HANDLE_BYTES)
    for (pointer,) in struct.iter_unpack("<Q", handle[: len(handle) & ~7]):
        if pointer in seen or pointer & 7 or pointer >> 47 or pointer < 0x1000:
            continue
        seen.add(pointer)
        for at in _places(image, _read(memory, pointer, _STATE_BYTES)):
            if _is_live(core, memory, pointer + at):
                found: int = pointer + at - core.at.registers - 8 * _FIRST
                return found
    return None


def _places(image: bytes, within: bytes) -> Iterator[int]:
    """Give every place of it: what was read before may lie about in memory as well."""
    at = within.find(image)
    while at >= 0:
        yield at
        at = within.find(image, at + 1)


def _is_live(core: Core, memory: int, registers: int) -> bool:
    """Say whether what the API writes is read there; leave the mark as it was."""
    seen = []
    for value in (0x1357_9BDF_0246_8ACE, _MARKS[0]):
        core.uc.reg_write(_REGISTERS[0], value)
        seen.append(_read(memory, registers, 8) == struct.pack("<Q", value))
    return all(seen)


def _read(memory: int, address: int, size: int) -> bytes:
    """Read what there is: pages behind the end of a mapping are left out."""
    found = b""
    while size:
        step = min(size, 0x1000 - (address & 0xFFF))
        try:
            part = os.pread(memory, step, address)
        except (OSError, OverflowError):
            break
        found += part
        if len(part) < step:
            break
        address, size = address + step, size - step
    return found
