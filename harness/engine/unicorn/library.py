"""Unicorn's C library, called without the Python binding where a probe's microseconds count."""

from __future__ import annotations

import ctypes
from typing import Any

import unicorn
from unicorn import unicorn_const as const
from unicorn.unicorn_py3.unicorn import uclib

__all__ = ["FLUSH_TLB", "LIB", "VERSION"]

VERSION: str = unicorn.__version__

LIB: Any = uclib
# unicorn 2.1.4: the binding has no method for uc_vmem_translate.
LIB.uc_vmem_translate.argtypes = (
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_uint64),
)
LIB.uc_vmem_translate.restype = ctypes.c_int

# UC_CTL_WRITE(UC_CTL_TLB_FLUSH, 0) of unicorn.h, as one number for uc_ctl.
FLUSH_TLB: int = const.UC_CTL_IO_WRITE << 30 | const.UC_CTL_TLB_FLUSH
