"""Values that a CPU refuses to load into its control registers, MSRs and segment bases.

Unicorn 2.1.4 takes all of them. Where a value is refused the instruction raises #GP(0) and changes
nothing; where this engine lacks what the value asks for, the run ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from harness.engine.unicorn.accesses import Raised
from harness.engine.unicorn.capabilities import PHYSICAL_BITS
from harness.engine.unicorn.preflight.guest import GP, LMA, PG, Go, Guest, Unable
from harness.engine.unicorn.state import EFER
from harness.registers import CR0, CR4

__all__ = ["descriptor_table_register", "move_to_control", "read_msr", "segment_base", "write_msr"]

_PE, _NW, _CD, _ET, _WP = int(CR0.PE), int(CR0.NW), int(CR0.CD), int(CR0.ET), int(CR0.WP)
_PAE, _LA57, _PCIDE, _CET = int(CR4.PAE), int(CR4.LA57), int(CR4.PCIDE), int(CR4.CET)
_KL, _LASS, _FRED = 1 << 19, 1 << 27, 1 << 32
_CR4_KNOWN = CR4.mask() | _KL | _LASS | _FRED
_CR4_MISSING: Final = {
    "VMXE": int(CR4.VMXE),
    "SMXE": int(CR4.SMXE),
    "PCIDE": _PCIDE,
    "KL": _KL,
    "CET": _CET,
    "PKS": int(CR4.PKS),
    "UINTR": int(CR4.UINTR),
    "LASS": _LASS,
    "LAM_SUP": int(CR4.LAM_SUP),
    "FRED": _FRED,
}
"""Bits of CR4 whose feature this engine does not have."""
_LME, _EFER_KNOWN = 1 << 8, 0xD01
_STAR, _LSTAR, _CSTAR, _FMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
_FS_BASE, _GS_BASE, _KERNEL_GS_BASE, _TSC_AUX = (0xC000_0100 + number for number in range(4))
_SYSENTER_CS, _SYSENTER_ESP, _SYSENTER_EIP = 0x174, 0x175, 0x176
_PAT, _MISC_ENABLE, _APIC_BASE = 0x277, 0x1A0, 0x1B
_PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})
_CANONICAL: Final = frozenset(
    {_LSTAR, _CSTAR, _FS_BASE, _GS_BASE, _KERNEL_GS_BASE, _SYSENTER_ESP, _SYSENTER_EIP}
)
_MTRRS: Final = frozenset({*range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF})
_WRITABLE: Final = (
    _CANONICAL
    | _MTRRS
    | {EFER, _STAR, _FMASK, _TSC_AUX, _SYSENTER_CS, _PAT, _MISC_ENABLE, _APIC_BASE}
)
_MTRR_CAP = 0xFE
_READABLE: Final = _WRITABLE | {_MTRR_CAP}


def _refuse(why: str) -> Raised:
    return Raised(GP, 0, why)


def move_to_control(guest: Guest) -> Go:
    """``mov crN, reg`` and ``mov drN, reg`` (SDM 2B, MOV to and from control registers)."""
    if guest.cpl:
        return Go()  # #GP(0), as Unicorn has it
    target, source = guest.instruction.registers()[:2]
    name = source if guest.instruction.long else f"r{source[1:]}"
    value = guest.get(name)
    if not guest.instruction.long:
        value &= 0xFFFF_FFFF
    check = _CONTROLS.get(target)
    if check is None:
        if target[0] == "d" and target in ("dr6", "dr7") and value >> 32:
            raise _refuse(f"bits 63:32 of {target.upper()} must be 0")
        return Go()
    taken = check(guest, value)
    return Go() if taken == value else Go(registers={name: taken})


def _cr0(guest: Guest, value: int) -> int:
    if value >> 32:
        raise _refuse("bits 63:32 of CR0 must be 0")
    if value & _NW and not value & _CD:
        raise _refuse("CR0.NW needs CR0.CD")
    if value & PG and not value & _PE:
        raise _refuse("CR0.PG needs CR0.PE")
    if not value & PG and guest.cr0 & PG and guest.instruction.long:
        raise _refuse("CR0.PG must stay 1 in 64-bit mode")
    if value & PG and not guest.cr0 & PG and guest.efer & _LME and not guest.cr4 & _PAE:
        raise _refuse("CR0.PG with EFER.LME needs CR4.PAE")
    if guest.cr4 & _CET and not value & _WP:
        raise _refuse("CR0.WP must stay 1 with CR4.CET")
    # Bits that do not exist stay 0, and ET stays 1.
    return value & CR0.mask() | _ET


def _cr3(guest: Guest, value: int) -> int:
    if guest.efer & LMA and value >> PHYSICAL_BITS:
        raise _refuse(f"bits 63:{PHYSICAL_BITS} of CR3 must be 0: MAXPHYADDR is {PHYSICAL_BITS}")
    return value


def _cr4(guest: Guest, value: int) -> int:
    if value & ~_CR4_KNOWN:
        raise _refuse(f"the bits {value & ~_CR4_KNOWN:#x} of CR4 are reserved")
    if guest.efer & LMA and not value & _PAE:
        raise _refuse("CR4.PAE must stay 1 in long mode")
    if guest.efer & LMA and (value ^ guest.cr4) & _LA57:
        raise _refuse("CR4.LA57 must stay as it is in long mode")
    if value & ~guest.cr4 & _PCIDE:
        if not guest.efer & LMA:
            raise _refuse("CR4.PCIDE needs long mode")
        if guest.get("cr3") & 0xFFF:
            raise _refuse("CR4.PCIDE needs CR3[11:0] = 0")
    if value & _CET and not guest.cr0 & _WP:
        raise _refuse("CR4.CET needs CR0.WP")
    for name, bit in _CR4_MISSING.items():
        if value & ~guest.cr4 & bit:
            raise Unable(f"it turned on CR4.{name}, which Unicorn does not implement")
    return value


def _cr8(_: Guest, value: int) -> int:
    if value >> 4:
        raise _refuse("bits 63:4 of CR8 must be 0")
    return value


_CONTROLS: Final[Mapping[str, Callable[[Guest, int], int]]] = MappingProxyType(
    {"cr0": _cr0, "cr3": _cr3, "cr4": _cr4, "cr8": _cr8}
)


def write_msr(guest: Guest) -> Go:
    """``wrmsr`` (SDM 2D)."""
    if guest.cpl:
        return Go()
    msr = guest.get("rcx") & 0xFFFF_FFFF
    value = (guest.get("rdx") & 0xFFFF_FFFF) << 32 | guest.get("rax") & 0xFFFF_FFFF
    if msr not in _WRITABLE:
        raise Unable(f"Unicorn does not implement MSR {msr:#x}")
    if msr in _CANONICAL and not guest.canonical(value):
        raise _refuse(f"MSR {msr:#x} takes canonical addresses, not {value:#x}")
    if msr == EFER:
        if value & ~_EFER_KNOWN:
            raise _refuse(f"the bits {value & ~_EFER_KNOWN:#x} of EFER are reserved")
        if (value ^ guest.efer) & _LME and guest.cr0 & PG:
            raise _refuse("EFER.LME must stay as it is while CR0.PG is 1")
    if msr == _PAT and not set(value.to_bytes(8, "little")) <= _PAT_TYPES:
        raise _refuse(f"IA32_PAT takes the types 0, 1, 4, 5, 6 and 7, not {value:#018x}")
    if msr == _FMASK and value >> 32:
        raise _refuse("bits 63:32 of IA32_FMASK must be 0")
    return Go()


def read_msr(guest: Guest) -> Go:
    """``rdmsr``: Unicorn gives 0 for what it does not know."""
    msr = guest.get("rcx") & 0xFFFF_FFFF
    if not guest.cpl and msr not in _READABLE:
        raise Unable(f"Unicorn does not implement MSR {msr:#x}")
    return Go()


def segment_base(guest: Guest) -> Go:
    """``wrfsbase`` and ``wrgsbase`` (SDM 2D)."""
    if guest.cr4 & int(CR4.FSGSBASE) and guest.instruction.operand_size == 8:
        value = guest.get(guest.instruction.registers()[0])
        if not guest.canonical(value):
            raise _refuse(f"a segment base must be canonical, not {value:#x}")
    return Go()


def descriptor_table_register(guest: Guest) -> Go:
    """``lgdt``, ``lidt``, ``lldt`` and ``ltr``: the base must be canonical (SDM 2A, LGDT)."""
    if guest.cpl:
        return Go()
    if guest.instruction.name in ("lgdt", "lidt"):
        data = guest.operand(10) if guest.instruction.long else None
        if data is not None and not guest.canonical(int.from_bytes(data[2:], "little")):
            raise _refuse("the base of a descriptor table must be canonical")
        return Go()
    selector = guest.word_of_operand(2)
    if selector is None or selector & 4:
        return Go()
    found = guest.descriptor(selector, 16 if guest.efer & LMA else 8)
    if found is not None and len(found.raw) == 16:
        low, middle, high = found.raw[2:5], found.raw[7:8], found.raw[8:12]
        base = int.from_bytes(low + middle + high, "little")
        if found.access & 0x80 and not guest.canonical(base):
            raise Raised(GP, selector & 0xFFFC, f"the base {base:#x} is not canonical")
    return Go()
