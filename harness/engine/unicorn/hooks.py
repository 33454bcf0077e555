"""The hooks of a batch, written once and run in two ways.

Each is a plain function over one array of 64-bit words, so that it runs as Python where only numpy
is installed and is compiled by numba where that is (the ``fast`` extra), some thirty times faster.
Nothing here decides anything: a hook writes down what the CPU did, and where an exception would
stop the CPU it sends it on to the next probe.

The array begins with the header named below; behind it lie the saved context and then the columns,
:data:`BATCH` words each.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.engine.unicorn.library import LIB

__all__ = [
    "BATCH",
    "COLUMNS",
    "HEADER",
    "NOTHING",
    "address",
    "compiled",
    "interpreted",
    "on_fault",
    "on_hole",
    "on_next",
    "on_read",
    "on_write",
    "pointer",
    "restore",
    "save",
]

BATCH = 0x1_0000
"""Probes in one go."""

NOTHING = (1 << 64) - 1
"""In a column: the hook was not called for this probe."""

# The header. CONTEXT and the columns hold indices into the array, the three *_AT words indices of
# the words of the context that hold the error code, the previous exception, and so on.
NOW, FIRST, END, RESUME, HANDLE, SELF, CONTEXT = range(7)
ERROR_AT, ERROR_SHIFT, PREVIOUS_AT, PREVIOUS_MASK, CR2_AT, RIP_AT = range(7, 13)
VECTOR, ERROR, CR2, PA, HOLE, VALUE = range(13, 19)
LENT_HOST, LENT_SIZE, LENT_BYTES = 19, 20, 21  # what a store overwrites, at most 8 bytes
NEXT_AT, ARRAY, LOST = 22, 23, 24  # RDI, the array's virtual address, whether a read went unseen
REGIONS, REGION = 25, 26  # how many; then first address, end and host address of each
MAX_REGIONS = 32
HEADER = REGION + 3 * MAX_REGIONS
COLUMNS = (VECTOR, ERROR, CR2, PA, HOLE, VALUE)

# Functions of C libraries with every pointer as a plain number, as numba takes them.
_WORD = ctypes.c_size_t
save = ctypes.CFUNCTYPE(ctypes.c_int, _WORD, _WORD)(("uc_context_save", LIB))
restore = ctypes.CFUNCTYPE(ctypes.c_int, _WORD, _WORD)(("uc_context_restore", LIB))
_copy = ctypes.CFUNCTYPE(_WORD, _WORD, _WORD, _WORD)(("memmove", ctypes.CDLL(None)))

_Array = NDArray[np.uint64]


def on_read(s: _Array, pa: int, value: int) -> None:
    """Note where a probe's read went, and what it read; probes come in order."""
    now = s[NOW]
    if now < BATCH:
        s[s[PA] + now] = pa
        s[s[VALUE] + now] = value
    s[NOW] = now + 1


def on_next(s: _Array, pa: int) -> None:
    """Note which write is next, and put back what the last one overwrote."""
    if s[LENT_SIZE]:
        _copy(s[LENT_HOST], s[SELF] + 8 * LENT_BYTES, s[LENT_SIZE])
        s[LENT_SIZE] = 0
    s[NOW] = (pa - s[FIRST]) >> 3


def on_write(s: _Array, pa: int, size: int) -> None:
    """Note where a probe's write goes, and keep what it is about to overwrite."""
    s[s[PA] + s[NOW]] = pa
    for region in range(s[REGIONS]):
        at = REGION + 3 * region
        if s[at] <= pa < s[at + 1]:
            s[LENT_HOST] = s[at + 2] + (pa - s[at])
            s[LENT_SIZE] = size
            _copy(s[SELF] + 8 * LENT_BYTES, s[LENT_HOST], s[LENT_SIZE])


def on_fault(s: _Array, vector: int) -> None:
    """Note an exception, and let the CPU go on with the next probe.

    unicorn 2.1.4: the next exception is lost unless the previous one is forgotten (docs/quirks.md,
    Unicorn 2).
    """
    context = s[CONTEXT]
    save(s[HANDLE], s[SELF] + 8 * context)
    now = ((s[context + s[NEXT_AT]] - s[ARRAY]) >> 3) - 1
    if s[NOW] != now:
        s[LOST] = 1
    s[NOW] = now + 1
    s[s[VECTOR] + now] = vector
    s[s[ERROR] + now] = s[context + s[ERROR_AT]] >> s[ERROR_SHIFT] & 0xFFFF_FFFF
    s[s[CR2] + now] = s[context + s[CR2_AT]]
    s[context + s[PREVIOUS_AT]] = s[context + s[PREVIOUS_AT]] | s[PREVIOUS_MASK]
    s[context + s[RIP_AT]] = s[RESUME]
    restore(s[HANDLE], s[SELF] + 8 * context)


def on_hole(s: _Array, pa: int) -> None:
    """Note a read of physical memory that is not there, made by the walk itself."""
    row = s[HOLE] + s[NOW]
    if s[row] == NOTHING:
        s[row] = pa


_MEMORY = ctypes.CFUNCTYPE(
    *(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64),
    *(ctypes.c_int, ctypes.c_int64, ctypes.c_void_p),
)
_INTERRUPT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_HOLE_READ = ctypes.CFUNCTYPE(
    ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p
)
_HOLE_WRITE = ctypes.CFUNCTYPE(
    *(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p)
)


def interpreted(s: _Array, failures: list[BaseException]) -> dict[str, Any]:
    """Make callbacks that run the hooks as Python; what they raise stops the CPU.

    :param failures: what was raised is put here.
    :returns: ctypes callbacks by name; the caller keeps them alive
    """

    def guarded(hook: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: int) -> None:
            if failures:
                return
            try:
                hook(s, *arguments)
            except BaseException as error:  # it would be lost on its way through C
                failures.append(error)
                LIB.uc_emu_stop(ctypes.c_void_p(int(s[HANDLE])))

        return call

    read, next_ = guarded(lambda *a: on_read(*a)), guarded(lambda *a: on_next(*a))
    write, fault = guarded(lambda *a: on_write(*a)), guarded(lambda *a: on_fault(*a))
    hole = guarded(lambda *a: on_hole(*a))

    def hole_read(_uc: int, offset: int, _size: int, data: int) -> int:
        hole(ctypes.c_uint64.from_address(data).value + offset)
        return 0

    return {
        "read": _MEMORY(lambda _uc, _k, pa, _size, value, _d: read(pa, value & NOTHING)),
        "next": _MEMORY(lambda _uc, _k, pa, _size, _value, _d: next_(pa)),
        "write": _MEMORY(lambda _uc, _k, pa, size, _value, _d: write(pa, size)),
        "fault": _INTERRUPT(lambda _uc, vector, _d: fault(vector)),
        "hole_read": _HOLE_READ(hole_read),
        "hole_write": _HOLE_WRITE(lambda *_: None),
    }


def address(hook: Any) -> int:
    """Give the address of a callback, compiled or interpreted."""
    if hasattr(hook, "address"):
        return int(hook.address)
    return int(ctypes.cast(hook, ctypes.c_void_p).value or 0)


@functools.cache
def pointer() -> Any:
    """Make what turns a number into a pointer inside a function that numba compiles."""
    from numba import types
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def to_pointer(_typing: Any, address: Any) -> Any:
        def generate(_context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], _context.get_value_type(signature.return_type))

        return types.voidptr(address), generate

    return to_pointer


@functools.cache
def compiled() -> dict[str, Any] | None:
    """Compile the hooks with numba, once per process; None where numba is not installed.

    :returns: numba cfuncs by name; the caller keeps them alive
    """
    try:
        import numba
    except ImportError:
        return None
    from numba import types

    to_pointer = pointer()

    def jit(function: Callable[..., None]) -> Any:
        return numba.njit(function)

    jit_read, jit_next, jit_write, jit_fault, jit_hole = (
        jit(hook) for hook in (on_read, on_next, on_write, on_fault, on_hole)
    )
    size = HEADER + 0x400 + BATCH * len(COLUMNS)
    carray = numba.carray
    u64, word = types.uint64, np.uint64
    mem_hook = types.void(types.voidptr, types.int32, u64, types.int32, types.int64, types.voidptr)

    @numba.cfunc(mem_hook)  # type: ignore[untyped-decorator]
    def read(_uc: Any, _kind: Any, pa: Any, _size: Any, value: Any, data: Any) -> None:
        jit_read(carray(data, (size,), word), pa, word(value))

    @numba.cfunc(mem_hook)  # type: ignore[untyped-decorator]
    def next_(_uc: Any, _kind: Any, pa: Any, _size: Any, _value: Any, data: Any) -> None:
        jit_next(carray(data, (size,), word), pa)

    @numba.cfunc(mem_hook)  # type: ignore[untyped-decorator]
    def write(_uc: Any, _kind: Any, pa: Any, width: Any, _value: Any, data: Any) -> None:
        jit_write(carray(data, (size,), word), pa, word(width))

    @numba.cfunc(types.void(types.voidptr, types.uint32, types.voidptr))  # type: ignore[untyped-decorator]
    def fault(_uc: Any, vector: Any, data: Any) -> None:
        jit_fault(carray(data, (size,), word), word(vector))

    # A hole's data is two words: its first address, and where the array is.
    @numba.cfunc(u64(types.voidptr, u64, types.uint32, types.voidptr))  # type: ignore[untyped-decorator]
    def hole_read(_uc: Any, offset: Any, _size: Any, data: Any) -> int:
        hole = carray(data, (2,), word)
        jit_hole(carray(to_pointer(hole[1]), (size,), word), hole[0] + offset)
        return 0

    @numba.cfunc(types.void(types.voidptr, u64, types.uint32, u64, types.voidptr))  # type: ignore[untyped-decorator]
    def hole_write(_uc: Any, _offset: Any, _size: Any, _value: Any, _data: Any) -> None:
        pass

    return {
        "read": read,
        "next": next_,
        "write": write,
        "fault": fault,
        "hole_read": hole_read,
        "hole_write": hole_write,
    }
