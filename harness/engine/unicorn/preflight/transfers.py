"""Far transfers and system returns, and loads of segment registers.

Unicorn 2.1.4 makes the stack accesses of ``iretq``, ``retfq`` and a far call with the kernel's
rights in every ring, does not set the A bit of a code descriptor, lets AC count for the accesses
to descriptor tables, and goes to addresses that are not canonical.
"""

from __future__ import annotations

from harness.engine.unicorn.accesses import Raised
from harness.engine.unicorn.preflight.guest import (
    AC,
    AM,
    GP,
    LMA,
    PG,
    SMAP,
    SS,
    Descriptor,
    Go,
    Guest,
    Unable,
)

__all__ = ["far_return", "far_transfer", "flags_from_stack", "load_segment", "system_return"]

_NT = 1 << 14
_MASK = (1 << 64) - 1
_SIZES = {"iretq": 8, "retfq": 8, "iretd": 4, "iretw": 2}
_LOADED_WITH = frozenset({"lss", "lfs", "lgs"})
_GATE = 0x0C


def far_return(guest: Guest) -> Go:
    """``iret`` and ``retf`` of every size (SDM 2A IRET, 2B RET)."""
    instruction = guest.instruction
    is_iret = instruction.name.startswith("iret")
    if is_iret and guest.flags & _NT:
        return Go()  # a task return: Unicorn raises #GP(0)
    if not is_iret and not guest.cr0 & 1:
        return Go()
    size = _SIZES.get(instruction.name, instruction.operand_size)
    words = _pop(guest, size, 0, 3 if is_iret else 2)
    selector = words[1] & 0xFFFF
    released = 0 if is_iret else instruction.immediate() or 0
    outer = (selector & 3) > guest.cpl
    if outer or (is_iret and instruction.long):
        words += _pop(guest, size, 3 * size if is_iret else 2 * size + released, 2)
    found = guest.descriptor(selector)
    rpl = selector & 3
    if found is None or not found.is_code or rpl < guest.cpl or not found.returns_to(rpl):
        return Go()  # Unicorn raises what that deserves
    stack = guest.descriptor(words[-1] & 0xFFFF) if outer else None
    if outer and not _is_stack(stack, rpl):
        return Go()
    _go_to(guest, found, words[0])
    if is_iret and rpl == 3 and words[2] & AC:
        _no_alignment_check(guest)
    guest.mark_accessed(found)
    if stack is not None:
        guest.mark_accessed(stack)
    return Go(without_smap=_kernel_rights(guest))


def far_transfer(guest: Guest) -> Go:
    """Far ``call`` and ``jmp`` (SDM 2A CALL, JMP)."""
    instruction = guest.instruction
    if not guest.cr0 & 1:
        return Go()
    size = instruction.operand_size
    if instruction.memory() is None:
        pointer: bytes | None = instruction.opcode[1:]
    else:
        pointer = guest.operand(size + 2)
    if pointer is None:
        return Go()  # its operand faults, and will again
    target = int.from_bytes(pointer[:size], "little")
    selector = int.from_bytes(pointer[size : size + 2], "little")
    found = guest.descriptor(selector)
    if found is None:
        return Go()
    if not found.access & 0x10:
        if found.access & 0x0F == _GATE:
            raise Unable("a call gate is not executed by this engine")
        return Go()
    allowed = (
        found.dpl <= guest.cpl
        if found.conforming
        else found.dpl == guest.cpl and (selector & 3) <= guest.cpl
    )
    if not found.is_code or not allowed:
        return Go()
    if instruction.name in ("lcall", "call"):
        stack = _top(guest) - 2 * size & _MASK
        guest.touch(stack, 2 * size, "the stack", write=True, stack=True)
    _go_to(guest, found, target)
    guest.mark_accessed(found)
    return Go(without_smap=_kernel_rights(guest))


def system_return(guest: Guest) -> Go:
    """``sysret`` and ``sysexit`` (SDM 2B)."""
    if guest.cpl:
        return Go()
    is_sysret = guest.instruction.name.startswith("sysret")
    if guest.instruction.operand_size == 8:
        for name in ("rcx",) if is_sysret else ("rdx", "rcx"):
            if not guest.canonical(guest.get(name)):
                raise Raised(GP, 0, f"{guest.get(name):#x} in {name.upper()} is not canonical")
    if is_sysret and guest.get("r11") & AC:
        _no_alignment_check(guest)
    return Go()


def flags_from_stack(guest: Guest) -> Go:
    """``popf`` of every size, which may set AC at CPL 3."""
    size = 8 if guest.instruction.long and 0x66 not in guest.instruction.prefixes else 4
    if guest.cpl == 3 and guest.cr0 & AM and size > 2:
        try:
            data = guest.read(_top(guest), size, "the stack")
        except Raised:
            return Go()
        if int.from_bytes(data, "little") & AC:
            _no_alignment_check(guest)
    return Go()


def load_segment(guest: Guest) -> Go:
    """Whatever reads a descriptor: segment loads, ``lar``, ``lsl``, ``verr`` and ``verw``.

    The descriptor is read without AC; what may not be read may not be marked as accessed either.
    """
    if guest.smap_bypassed and guest.cr0 & PG:
        selector = _selector(guest)
        if selector is not None:
            guest.descriptor(selector)
    return Go()


def _selector(guest: Guest) -> int | None:
    instruction = guest.instruction
    if instruction.name == "pop":
        try:
            return int.from_bytes(guest.read(_top(guest), 2, "the stack"), "little")
        except Raised:
            return None
    if instruction.name in _LOADED_WITH:
        size = instruction.operand_size
        data = guest.operand(size + 2)
        return None if data is None else int.from_bytes(data[size:], "little")
    return guest.word_of_operand(2)


def _is_stack(found: Descriptor | None, rpl: int) -> bool:
    """Whether SS may be loaded with it at a privilege level; null is allowed but at CPL 3."""
    if found is None:
        return rpl != 3
    return found.access & 0x9A == 0x92 and found.dpl == rpl


def _top(guest: Guest) -> int:
    top = guest.get("rsp")
    return top if guest.instruction.long else top & 0xFFFF_FFFF


def _pop(guest: Guest, size: int, at: int, count: int) -> list[int]:
    """Read words of the stack with the rights of the CPL."""
    top, found = _top(guest) + at, []
    for number in range(count):
        try:
            data = guest.read(top + number * size & _MASK, size, "the stack")
        except Raised as error:
            if error.vector == GP:
                raise Raised(SS, 0, error.why) from None
            raise
        found.append(int.from_bytes(data, "little"))
    return found


def _go_to(guest: Guest, code: Descriptor, target: int) -> None:
    if guest.efer & LMA and code.long and not guest.canonical(target):
        raise Raised(GP, 0, f"{target:#x} is not canonical")


def _kernel_rights(guest: Guest) -> bool:
    return guest.cpl == 3 and bool(guest.cr4 & SMAP)


def _no_alignment_check(guest: Guest) -> None:
    if guest.cr0 & AM:
        raise Unable("alignment checks at CPL 3 (CR0.AM and RFLAGS.AC) are not executed by Unicorn")
