"""Accesses that Unicorn 2.1.4 leaves out, and alignment that it does not check."""

from __future__ import annotations

from harness.engine.unicorn.accesses import Raised
from harness.engine.unicorn.preflight.guest import GP, SS, Go, Guest, Unable
from harness.registers import CR0, CR4

__all__ = ["aligned", "cache_line", "enter", "indirect_call", "monitor", "near_transfer", "ordered"]

_MASK = (1 << 64) - 1
_OFF = int(CR0.EM) | int(CR0.TS)
_SEGMENTS, _IGNORED = b"\x64\x65", b"\x26\x2e\x36\x3e"
_NULL = 0x3E


def cache_line(guest: Guest) -> Go:
    """``clflush``, ``clflushopt`` and ``clwb`` are loads of a byte (SDM 2A CLFLUSH)."""
    va = guest.instruction.address(guest.register)
    stack = guest.instruction.through_stack
    guest.touch(va, 1, "the cache line", write=False, stack=stack)
    return Go()


def monitor(guest: Guest) -> Go:
    """``monitor`` is a load of a byte at RAX (SDM 2B)."""
    if guest.cpl or guest.get("rcx") & 0xFFFF_FFFF:
        return Go()
    va = guest.get("rax")
    for prefix in guest.instruction.prefixes:
        if prefix in _SEGMENTS:
            va += guest.get("fs_base" if prefix == _SEGMENTS[0] else "gs_base")
    guest.touch(va & _MASK, 1, "the monitored line", write=False, stack=False)
    return Go()


def enter(guest: Guest) -> Go:
    """``enter``: a write at the last RSP must be possible (SDM 2A ENTER)."""
    code = guest.instruction.opcode
    allocated, nesting = int.from_bytes(code[1:3], "little"), code[3] & 31
    size = 2 if 0x66 in guest.instruction.prefixes else 8
    top = guest.get("rsp")
    try:
        guest.touch(top - size & _MASK, size, "the stack", write=True, stack=True)
    except Raised as error:
        if error.vector != SS:
            return Go()  # the first push faults, and will again
        raise
    last = top - size - size * nesting - allocated & _MASK
    guest.touch(last, size, "the new stack", write=True, stack=True)
    return Go()


def aligned(guest: Guest) -> Go:
    """An SSE operand of 16 bytes must be aligned (SDM 2A 2.4, exceptions type 1, 2 and 4)."""
    if guest.cr0 & _OFF or not guest.cr4 & int(CR4.OSFXSR):
        return Go()  # #UD or #NM comes first
    va = guest.instruction.address(guest.register)
    if va & 15 and guest.canonical(va):
        raise Raised(GP, 0, f"the operand at {va:#x} must be a multiple of 16")
    return Go()


def indirect_call(guest: Guest) -> Go:
    """A near ``call`` through a register or memory to what is not canonical (SDM 2A CALL)."""
    size = 2 if 0x66 in guest.instruction.prefixes else 8
    target = guest.word_of_operand(size)
    if target is not None and not guest.canonical(target):
        raise Raised(GP, 0, f"{target:#x} is not canonical")
    return Go()


def near_transfer(guest: Guest) -> Go:
    """A direct ``call`` or ``loop`` over the canonical edge."""
    if guest.instruction.name != "call":
        raise Unable(f"{guest.instruction.name} over the canonical edge is not executed")
    target = guest.instruction.immediate()
    assert target is not None
    raise Raised(GP, 0, f"{target:#x} is not canonical")


def ordered(guest: Guest) -> Go:
    """Put prefixes into an order in which Unicorn reads them as a CPU does.

    In 64-bit mode a CPU ignores CS, DS, ES and SS overrides, and a REX prefix that is not the last
    one (SDM 1, 3.3.7.1; 2A 2.2.1). Unicorn takes the last of several overrides, and any REX.
    """
    instruction = guest.instruction
    ignored, kept = [], []
    prefixes = instruction.prefixes
    for place, prefix in enumerate(prefixes):
        dead = prefix >> 4 == 4 and place < len(prefixes) - 1
        if dead or prefix in _IGNORED:
            ignored.append(_NULL)
        else:
            kept.append(prefix)
    return Go(code=bytes([*ignored, *kept]) + instruction.opcode)
