"""Take an exception to the guest's own handler, as the CPU would.

Unicorn 2.1.4 never delivers an exception to the guest's IDT (docs/quirks.md, Unicorn 1): this does,
in 64-bit mode (SDM 3A 6.14). Gate, descriptor and TSS are read, and the frame is written, through
the guest's page tables as implicit supervisor accesses, each translated by Unicorn's own MMU; when
one of them faults, that is a second exception, and SDM 3A table 6-5 says what becomes of the two.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.run import PAGE_FAULT, Event, vector_name
from harness.engine.unicorn.accesses import Accesses, Raised
from harness.engine.unicorn.core import Core

__all__ = ["WITH_ERROR_CODE", "Pending", "deliver", "descriptor_table", "port_fault"]

_DOUBLE_FAULT, _INVALID_TSS, _NOT_PRESENT, _STACK, _PROTECTION = 8, 10, 11, 12, 13
_CONTRIBUTORY = frozenset({0, _INVALID_TSS, _NOT_PRESENT, _STACK, _PROTECTION})
WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
_TF, _IF, _NT, _RF, _VM, _AC = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17, 1 << 18
_LMA_CS64 = 1 << 14 | 1 << 15
"""unicorn 2.1.4: hflags bits of long mode and of a 64-bit code segment."""
_MASK = (1 << 64) - 1
_IDT = 2
_IO_MAP_BASE = 0x66
_LA57 = 1 << 12


@dataclass(frozen=True, slots=True)
class Pending:
    """An exception that waits to be delivered.

    ``software`` is an ``int n``: its gate must allow the CPL, and it is never part of a double
    fault. ``origin`` is the address of that instruction, which a second exception returns to.
    ``trap`` is an exception that comes after its instruction, which needs no RF to go on.
    ``implicit`` is one that an access of the CPU's own has raised.
    """

    vector: int
    error_code: int | None = None
    software: bool = False
    trap: bool = False
    origin: int | None = None
    implicit: bool = False


def deliver(core: Core, first: Pending) -> tuple[list[Event], bool]:
    """Deliver an exception, or what comes of it.

    :returns: the events, oldest first, and whether a handler runs; False is a shutdown.
    :raises NoMemory: when a descriptor table or the stack lies outside RAM.
    """
    core.save()
    cpl = core.d[core.at.hflags // 4] & 3
    rip = core.q[core.at.rip // 8]
    pending = first
    events = []
    while True:
        event = Event(
            pending.vector,
            pending.error_code,
            _cr2(core) if pending.vector == PAGE_FAULT else None,
            rip,
            cpl,
            implicit=pending.implicit,
        )
        try:
            handler = _enter(core, pending, cpl, rip)
        except Raised as second:
            events.append(replace(event, note=second.why))
            if pending.vector == _DOUBLE_FAULT:
                return events, False
            if pending.origin is not None:
                rip = pending.origin
            pending = _after(pending, second)
            continue
        events.append(replace(event, handler=handler))
        return events, True


def _cr2(core: Core) -> int:
    return int(core.uc.reg_read(x86.UC_X86_REG_CR2))


def _after(first: Pending, second: Raised) -> Pending:
    """SDM 3A table 6-5: what two exceptions make."""
    serious = second.vector in _CONTRIBUTORY
    if not first.software and (
        (first.vector in _CONTRIBUTORY and serious)
        or (first.vector == PAGE_FAULT and (serious or second.vector == PAGE_FAULT))
    ):
        return Pending(_DOUBLE_FAULT, 0)
    return Pending(second.vector, second.error_code, implicit=second.implicit)


def _enter(core: Core, pending: Pending, cpl: int, rip: int) -> int:
    """Put the CPU at the first instruction of the handler.

    :raises Raised: when that raises an exception; the CPU is then as it was, but for CR2.
    """
    with Accesses(core, implicit=True) as supervisor:
        gate = _gate(core, supervisor, pending, cpl)
        external = _external(pending)
        target, conforming = _code_segment(core, supervisor, gate.selector, cpl, external)
        new_cpl = cpl if conforming else target
        rsp = core.q[core.at.registers // 8 + 4]
        if gate.ist or new_cpl < cpl:
            rsp = _tss_stack(core, supervisor, gate.ist, new_cpl, external)
        flags = int(core.uc.reg_read(x86.UC_X86_REG_EFLAGS)) & ~_AC | supervisor.flags & _AC
        # A double fault is an abort, no fault (SDM 3A table 6-1): RF is pushed as it was.
        is_fault = not (pending.software or pending.trap or pending.vector == _DOUBLE_FAULT)
        frame = [
            int(core.uc.reg_read(x86.UC_X86_REG_SS)),
            core.q[core.at.registers // 8 + 4],
            flags | (_RF if is_fault else 0),
            int(core.uc.reg_read(x86.UC_X86_REG_CS)) & ~3 | cpl,
            rip,
        ]
        if pending.error_code is not None:
            frame.append(pending.error_code)
        rsp = (rsp & ~15) - 8 * len(frame) & _MASK
        data = struct.pack(f"<{len(frame)}Q", *reversed(frame))
        try:
            supervisor.write(rsp, data, "the stack")
        except Raised as second:
            if second.vector == _PROTECTION:
                raise Raised(_STACK, external, second.why) from None
            raise
        levels = 5 if core.uc.reg_read(x86.UC_X86_REG_CR4) & _LA57 else 4
        if not is_canonical(gate.offset, levels):
            raise Raised(
                _PROTECTION, external, f"the gate's handler {gate.offset:#x} is not canonical"
            )
    if new_cpl != cpl:
        core.uc.reg_write(x86.UC_X86_REG_SS, new_cpl)
    core.uc.reg_write(x86.UC_X86_REG_CS, gate.selector & ~3 | new_cpl)
    clear = _TF | _NT | _RF | _VM | (_IF if gate.interrupt else 0)
    core.uc.reg_write(x86.UC_X86_REG_EFLAGS, flags & ~clear)
    core.save()
    at = core.at
    core.q[at.registers // 8 + 4] = rsp
    core.q[at.rip // 8] = gate.offset
    core.d[at.hflags // 4] = core.d[at.hflags // 4] & ~3 | new_cpl | _LMA_CS64
    core.d[at.previous // 4] = 0xFFFF_FFFF
    core.restore()
    return gate.offset


def _external(pending: Pending) -> int:
    """Give EXT of an error code: delivery failed, and no instruction had asked for it."""
    return 0 if pending.software else 1


@dataclass(frozen=True, slots=True)
class _Gate:
    offset: int
    selector: int
    ist: int
    interrupt: bool


def _gate(core: Core, supervisor: Accesses, pending: Pending, cpl: int) -> _Gate:
    """Read and judge the IDT's gate (SDM 3A 6.14.1)."""
    name = vector_name(pending.vector)
    code = pending.vector << 3 | _IDT | _external(pending)
    _, base, limit, _ = core.uc.reg_read(x86.UC_X86_REG_IDTR)
    if pending.vector * 16 + 15 > limit:
        raise Raised(_PROTECTION, code, f"the IDT, limit {limit:#x}, has no gate for {name}")
    raw = supervisor.read(base + 16 * pending.vector, 16, f"the IDT's gate for {name}")
    low, selector, ist, kind, middle, high = struct.unpack("<HHBBHI4x", raw)
    if kind & 0x1F not in (0xE, 0xF):
        raise Raised(
            _PROTECTION,
            code,
            f"the IDT's gate for {name} has type {kind & 0x1F:#x}, not 0xe or 0xf",
        )
    if pending.software and kind >> 5 & 3 < cpl:
        raise Raised(_PROTECTION, code, f"the IDT's gate for {name} is not open to CPL {cpl}")
    if not kind & 0x80:
        raise Raised(_NOT_PRESENT, code, f"the IDT's gate for {name} is not present")
    return _Gate(high << 32 | middle << 16 | low, selector, ist & 7, kind & 0xF == 0xE)


def _code_segment(
    core: Core, supervisor: Accesses, selector: int, cpl: int, external: int
) -> tuple[int, bool]:
    """Read and judge the handler's code segment; return its DPL and whether it conforms."""
    code = selector & ~3 | external
    if not selector & ~3:
        raise Raised(_PROTECTION, external, "the gate's code selector is null")
    name, base, limit = descriptor_table(core, selector)
    if (selector | 7) > limit:
        raise Raised(_PROTECTION, code, f"the {name} has no descriptor for selector {selector:#x}")
    at = base + (selector & ~7)
    raw = supervisor.read(at, 8, f"the {name}'s code descriptor")
    access, flags = raw[5], raw[6]
    dpl = access >> 5 & 3
    if access & 0x18 != 0x18 or dpl > cpl or flags & 0x60 != 0x20:
        raise Raised(_PROTECTION, code, f"selector {selector:#x} is not 64-bit code for CPL {cpl}")
    if not access & 0x80:
        raise Raised(_NOT_PRESENT, code, f"the code segment {selector:#x} is not present")
    if not access & 1:
        supervisor.write(at + 5, bytes([access | 1]), f"the {name}'s code descriptor")
    return dpl, bool(access & 4)


def descriptor_table(core: Core, selector: int) -> tuple[str, int, int]:
    """Return the name, base and limit of the table that a selector's TI bit chooses.

    Without an LDT its limit is -1.
    """
    if not selector & 4:
        _, base, limit, _ = core.uc.reg_read(x86.UC_X86_REG_GDTR)
        return "GDT", base, limit
    chosen, base, limit, _ = core.uc.reg_read(x86.UC_X86_REG_LDTR)
    return "LDT", base, limit if chosen & ~3 else -1


def _tss_stack(core: Core, supervisor: Accesses, ist: int, cpl: int, external: int) -> int:
    """Read a stack pointer from the TSS (SDM 3A 8.7)."""
    selector, base, limit, _ = core.uc.reg_read(x86.UC_X86_REG_TR)
    at = 36 + 8 * (ist - 1) if ist else 4 + 8 * cpl
    name = f"IST{ist}" if ist else f"RSP{cpl}"
    if at + 7 > limit:
        raise Raised(
            _INVALID_TSS,
            selector & ~3 | external,
            f"the TSS, limit {limit:#x}, does not hold {name}",
        )
    return int.from_bytes(supervisor.read(base + at, 8, f"the TSS's {name}"), "little")


def port_fault(core: Core, port: int, size: int) -> Pending | None:
    """Give what a port raises at a CPL above IOPL, None where the TSS's I/O map opens it.

    SDM 1, 19.5.2.

    :param size: bytes.
    :raises NoMemory: when the TSS lies outside RAM.
    """
    _, base, limit, _ = core.uc.reg_read(x86.UC_X86_REG_TR)
    refused = Pending(_PROTECTION, 0)
    if limit < _IO_MAP_BASE + 1:
        return refused
    name = "the TSS's I/O map"
    try:
        with Accesses(core, implicit=True) as supervisor:
            at = int.from_bytes(supervisor.read(base + _IO_MAP_BASE, 2, name), "little")
            first = at + (port >> 3)
            if first + 1 > limit:
                return refused
            bits = int.from_bytes(supervisor.read(base + first, 2, name), "little")
    except Raised as second:
        return Pending(second.vector, second.error_code, implicit=True)
    return refused if bits >> (port & 7) & (1 << size) - 1 else None
