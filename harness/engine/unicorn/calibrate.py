"""Find where Unicorn keeps the parts of its CPU that the API does not show.

Unicorn never delivers an exception to the guest, does not pass the error code of a fault, and
loses every exception after the first (unicorn 2.1.4, docs/quirks.md, Unicorn 1 and 2). All of it
can be cured in the saved context, a copy of the whole CPU state, once it is known *where* in those
bytes the error code, the CPL and the rest are. That differs from build to build, so
:func:`calibrate` provokes events whose outcome is known and looks for the bytes that tell them
apart. Each offset must be found exactly once and then be seen to work; an engine on which that
fails is refused with :class:`~harness.errors.EngineBroken` rather than trusted.

>>> from harness.engine.unicorn.calibrate import calibrate
>>> calibrate().error_code % 4
0
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from dataclasses import dataclass

import numpy as np
from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_64, UC_PROT_ALL, Uc
from unicorn import x86_const as x86

from harness.engine.unicorn.library import FLUSH_TLB, LIB, VERSION
from harness.errors import EngineBroken

__all__ = ["Offsets", "calibrate"]

_SIZE = 0x20_000
_PML4, _PDPT, _PD, _PT = 0x1000, 0x2000, 0x3000, 0x4000
_CODE, _GDT, _FRAME = 0x6000, 0x7000, 0x8000
# Virtual pages with a known answer, all below 2 MiB.
_USER_READ_ONLY, _MISSING, _ALIAS = 0x5000, 0x9000, 0xA000
_ALIASED = 0xB000
_REGISTERS = (
    x86.UC_X86_REG_RAX,
    x86.UC_X86_REG_RCX,
    x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_RBX,
    x86.UC_X86_REG_RSP,
    x86.UC_X86_REG_RBP,
    x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDI,
    *range(x86.UC_X86_REG_R8, x86.UC_X86_REG_R15 + 1),
)
_READ = bytes.fromhex("488b06")  # mov rax, [rsi]
_WRITE = bytes.fromhex("488906")  # mov [rsi], rax
_IRETQ = bytes.fromhex("48cf")
_NOP = b"\x90"
_WRPKRU = bytes.fromhex("0f01ef")
_MOV_SS = bytes.fromhex("8ed0")  # mov ss, eax
_STACK_DESCRIPTOR = 0x00CF_9300  # as the GDT's, marked as accessed
_INT_42 = bytes.fromhex("cd42")


@dataclass(frozen=True, slots=True)
class Offsets:
    """Byte offsets inside a saved context.

    ``registers`` is RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15, eight bytes each.
    ``rip`` is also where execution goes on after an exception hook that restored the context,
    ``previous`` the exception that Unicorn believes is still being delivered (-1 for none),
    ``software`` is 1 after an ``int n``, ``hflags`` has the CPL in its low two bits,
    ``stack_flags`` is the second half of the descriptor that SS was loaded from.
    """

    size: int
    registers: int
    rip: int
    error_code: int
    software: int
    previous: int
    cr2: int
    hflags: int
    pkru: int
    stack_flags: int


class _Bench:
    """A CPU with 128 KiB and a handful of pages, on which the known events are provoked."""

    def __init__(self) -> None:
        self._ram = mmap.mmap(-1, _SIZE)
        self.bytes = np.frombuffer(self._ram, np.uint8)
        words = self.bytes.view(np.uint64)
        words[_PML4 // 8], words[_PDPT // 8], words[_PD // 8] = _PDPT | 7, _PD | 7, _PT | 7
        words[_PT // 8 : _PT // 8 + 32] = np.arange(32, dtype=np.uint64) * 4096 | 3
        words[_PT // 8 + _USER_READ_ONLY // 4096] = _USER_READ_ONLY | 5
        words[_PT // 8 + _MISSING // 4096] = 0
        words[_PT // 8 + _ALIAS // 4096] = _ALIASED | 3
        words[_GDT // 8 : _GDT // 8 + 5] = (
            0,
            0x0020_9A00_0000_0000,
            0x00CF_9200_0000_FFFF,
            0x00CF_F200_0000_FFFF,
            0x0020_FA00_0000_0000,
        )
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64, x86.UC_CPU_X86_ICELAKE_SERVER)
        self.handle = self.uc._uch
        self.uc.mem_map_ptr(0, _SIZE, UC_PROT_ALL, self.bytes.ctypes.data)
        self.size = int(LIB.uc_context_size(self.handle))
        context = ctypes.c_void_p()
        LIB.uc_context_alloc(self.handle, ctypes.byref(context))
        self.context = context
        address = context.value
        assert address is not None
        self.view = memoryview((ctypes.c_uint8 * self.size).from_address(address)).cast("B")
        self.uc.reg_write(x86.UC_X86_REG_CR4, 0x400020)
        self.uc.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, 0xD01))
        self.uc.reg_write(x86.UC_X86_REG_CR3, _PML4)
        self.uc.reg_write(x86.UC_X86_REG_CR0, 0x8001_0033)
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, _GDT, 5 * 8 - 1, 0))
        self.pristine = self.save()
        self.faulted: list[tuple[int, bytes]] = []
        self.uc.hook_add(UC_HOOK_INTR, self._on_exception)

    def _on_exception(self, uc: Uc, vector: int, _data: object) -> None:
        self.faulted.append((vector, self.save()))
        uc.emu_stop()

    def save(self) -> bytes:
        LIB.uc_context_save(self.handle, self.context)
        return bytes(self.view)

    def restore(self, state: bytes) -> None:
        self.view[:] = state
        LIB.uc_context_restore(self.handle, self.context)
        LIB.uc_ctl(self.handle, FLUSH_TLB)

    def run(
        self,
        code: bytes,
        state: bytes | None = None,
        *,
        rsi: int = 0,
        at: int = _CODE,
        **registers: int,
    ) -> bytes:
        """Run `code` once from a state, the pristine one by default; return the state after it."""
        self.restore(self.pristine if state is None else state)
        self.bytes[at : at + len(code) + 1] = np.frombuffer(code + _NOP, np.uint8)
        self.uc.ctl_remove_cache(at, at + 64)
        self.uc.reg_write(x86.UC_X86_REG_RSI, rsi)
        for name, value in registers.items():
            self.uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
        self.faulted.clear()
        self.uc.emu_start(at, at + len(code))
        return self.save()

    def fault(self, code: bytes, *, rsi: int = 0, at: int = _CODE) -> bytes:
        self.run(code, rsi=rsi, at=at)
        if len(self.faulted) != 1:
            raise _broken(f"a provoked exception was reported {len(self.faulted)} times")
        return self.faulted[0][1]

    def close(self) -> None:
        LIB.uc_context_free(self.context)


def _broken(why: str) -> EngineBroken:
    return EngineBroken(
        f"calibration of unicorn {VERSION} must find its exception state, but {why}; "
        "this build of Unicorn cannot be trusted with paging"
    )


def _same(states: list[bytes], values: list[int], fmt: str) -> set[int]:
    """Offsets at which each state holds its value."""
    dtype = np.dtype(f"<{fmt}")
    found: set[int] | None = None
    for state, value in zip(states, values, strict=True):
        column = np.frombuffer(state, dtype, count=len(state) // dtype.itemsize)
        here = {int(i) * dtype.itemsize for i in np.nonzero(column == dtype.type(value))[0]}
        found = here if found is None else found & here
    return found or set()


def _only(what: str, found: set[int]) -> int:
    if len(found) != 1:
        raise _broken(f"{what} was found at offsets {sorted(found)}, not at exactly one")
    return found.pop()


@functools.cache
def calibrate() -> Offsets:
    """Locate the exception state of the Unicorn that is installed; once per process.

    :raises EngineBroken: if any part is not found exactly once, or is found and does not work
    """
    bench = _Bench()
    try:
        offsets = _locate(bench)
        _prove(bench, offsets)
        return offsets
    finally:
        bench.close()


def _locate(bench: _Bench) -> Offsets:
    marks = [0x1111_0000_2222_0000 + i for i in range(len(_REGISTERS))]
    bench.restore(bench.pristine)
    for register, mark in zip(_REGISTERS, marks, strict=True):
        bench.uc.reg_write(register, mark)
    image = struct.pack(f"<{len(marks)}Q", *marks)
    marked = bench.save()
    if marked.count(image) != 1:
        raise _broken(f"the general registers were found {marked.count(image)} times")
    registers = marked.index(image)
    inside = set(range(registers, registers + len(image)))

    faults = [
        bench.fault(_READ, rsi=_MISSING + 8),
        bench.fault(_WRITE, rsi=_MISSING + 16),
        bench.fault(_WRITE, rsi=_USER_READ_ONLY, at=_CODE + 0x100),
    ]
    error_code = _only("the error code", _same(faults, [0, 2, 3], "i4"))
    cr2 = _only("CR2", _same(faults, [_MISSING + 8, _MISSING + 16, _USER_READ_ONLY], "u8") - inside)
    rips = _same(faults, [_CODE, _CODE, _CODE + 0x100], "u8")
    rip = registers + len(image)
    if rip not in rips:
        raise _broken(f"RIP was found at {sorted(rips)}, not behind the general registers")
    calm = _same([bench.pristine], [-1], "i4")
    previous = _only("the previous exception", _same(faults, [14, 14, 14], "i4") & calm)
    interrupt = bench.fault(_INT_42)
    software = _only(
        "the software-interrupt mark",
        _same([*faults, interrupt], [0, 0, 0, 1], "i4") & {error_code - 4, error_code + 4},
    )

    ring3 = _enter_ring3(bench)
    before = np.frombuffer(bench.pristine, np.uint32, count=bench.size // 4)
    after = np.frombuffer(ring3, np.uint32, count=bench.size // 4)
    moved = {int(i) * 4 for i in np.nonzero((before & 3 == 0) & (after == before | 3))[0]}
    hflags = _only("the CPL", {i for i in moved if _faults_as_user(bench, i)})

    keyed = [bench.run(_WRPKRU, rax=value, rcx=0, rdx=0) for value in (0x1234_5678, 0x0FED_CBA8)]
    pkru = _only("PKRU", _same(keyed, [0x1234_5678, 0x0FED_CBA8], "u4") - inside)
    stacked = bench.run(_MOV_SS, rax=0x10)
    stack_flags = _only("SS's descriptor", _same([stacked], [_STACK_DESCRIPTOR], "u4"))
    return Offsets(
        size=bench.size,
        registers=registers,
        rip=rip,
        error_code=error_code,
        software=software,
        previous=previous,
        cr2=cr2,
        hflags=hflags,
        pkru=pkru,
        stack_flags=stack_flags,
    )


def _enter_ring3(bench: _Bench) -> bytes:
    frame = struct.pack("<5Q", _USER_READ_ONLY, 0x23, 0x2, _FRAME + 0x800, 0x1B)
    bench.bytes[_FRAME : _FRAME + len(frame)] = np.frombuffer(frame, np.uint8)
    bench.bytes[_USER_READ_ONLY : _USER_READ_ONLY + 2] = np.frombuffer(_NOP * 2, np.uint8)
    bench.restore(bench.pristine)
    bench.bytes[_CODE : _CODE + 2] = np.frombuffer(_IRETQ, np.uint8)
    bench.uc.ctl_remove_cache(_CODE, _CODE + 64)
    bench.uc.reg_write(x86.UC_X86_REG_RSP, _FRAME)
    bench.faulted.clear()
    bench.uc.emu_start(_CODE, _USER_READ_ONLY + 1)
    return bench.save()


def _faults_as_user(bench: _Bench, offset: int) -> bool:
    """Whether setting the low bits at `offset` makes a read of a supervisor page fault."""
    state = bytearray(bench.pristine)
    state[offset] |= 3
    code = _READ
    bench.bytes[_USER_READ_ONLY : _USER_READ_ONLY + 4] = np.frombuffer(code + _NOP, np.uint8)
    bench.restore(bytes(state))
    bench.uc.ctl_remove_cache(_USER_READ_ONLY, _USER_READ_ONLY + 64)
    bench.uc.reg_write(x86.UC_X86_REG_RSI, _FRAME)
    bench.faulted.clear()
    bench.uc.emu_start(_USER_READ_ONLY, _USER_READ_ONLY + len(code))
    return [vector for vector, _ in bench.faulted] == [14]


def _prove(bench: _Bench, at: Offsets) -> None:
    """See the offsets work: translation is on, and fault after fault arrives as itself."""
    bench.bytes[_ALIASED : _ALIASED + 8] = np.frombuffer(b"physical", np.uint8)
    after = bench.run(_READ, rsi=_ALIAS)
    if after[at.registers : at.registers + 8] != b"physical":
        raise _broken("a read through a page whose frame lies elsewhere did not reach that frame")
    state = bytearray(bench.pristine)
    for _ in range(3):
        bench.run(_READ, bytes(state), rsi=_MISSING)
        if [vector for vector, _ in bench.faulted] != [14]:
            raise _broken(f"a repeated page fault arrived as {[v for v, _ in bench.faulted]}")
        state = bytearray(bench.faulted[0][1])
        state[at.previous : at.previous + 4] = b"\xff" * 4
