"""Which instructions are looked at before they are executed, and by which check."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from unicorn import Uc
from unicorn import x86_const as x86

from harness.address import is_canonical
from harness.engine.unicorn.core import Core
from harness.engine.unicorn.decoded import Decoded, register_of
from harness.engine.unicorn.preflight import control, operands, transfers
from harness.engine.unicorn.preflight.guest import Go, Guest, Unable
from harness.registers import CR0, CR4

__all__ = ["NEEDS", "Go", "Unable", "harmless", "need_of", "preflight"]

NEEDS: Final[Mapping[str, Callable[[Guest], Go]]] = MappingProxyType(
    {
        "control": control.move_to_control,
        "wrmsr": control.write_msr,
        "rdmsr": control.read_msr,
        "base": control.segment_base,
        "table": control.descriptor_table_register,
        "far-return": transfers.far_return,
        "far": transfers.far_transfer,
        "system-return": transfers.system_return,
        "flags": transfers.flags_from_stack,
        "segment": transfers.load_segment,
        "cache-line": operands.cache_line,
        "monitor": operands.monitor,
        "enter": operands.enter,
        "aligned": operands.aligned,
        "call": operands.indirect_call,
        "edge": operands.near_transfer,
        "prefixes": operands.ordered,
    }
)
"""Every check by its name."""

_BY_NAME: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wrmsr": "wrmsr",
        "rdmsr": "rdmsr",
        **dict.fromkeys(("wrfsbase", "wrgsbase"), "base"),
        **dict.fromkeys(("lgdt", "lidt", "lldt", "ltr"), "table"),
        **dict.fromkeys(("iret", "iretq", "iretd", "iretw", "retf", "retfq"), "far-return"),
        **dict.fromkeys(("lcall", "ljmp"), "far"),
        **dict.fromkeys(("sysret", "sysretq", "sysexit", "sysexitq"), "system-return"),
        **dict.fromkeys(("popf", "popfd", "popfq"), "flags"),
        **dict.fromkeys(("lss", "lfs", "lgs", "lar", "lsl", "verr", "verw"), "segment"),
        **dict.fromkeys(("clflush", "clflushopt", "clwb"), "cache-line"),
        "monitor": "monitor",
        "enter": "enter",
    }
)
_SEGMENTS = ("ds,", "es,", "ss,", "fs,", "gs,")
_UNALIGNED = frozenset(
    {"movups", "movupd", "movdqu", "lddqu", "pcmpistri", "pcmpistrm", "pcmpestri", "pcmpestrm"}
)
_COUNTED = frozenset({"call", "loop", "loope", "loopne", "jrcxz", "jecxz"})
_PROTECTED_ONLY = frozenset({"control", "wrmsr", "rdmsr", "far-return", "far", "segment"})
"""What is looked at in 32-bit code, too."""


@functools.lru_cache(maxsize=4096)
def need_of(instruction: Decoded, levels: int) -> str | None:
    """Name the check that an instruction needs, None where Unicorn is right by itself.

    :param levels: 4 or 5, for what is canonical.
    """
    need = _BY_NAME.get(instruction.name) or _by_operands(instruction, levels)
    if not instruction.long and need not in _PROTECTED_ONLY:
        return None
    return need


def _by_operands(instruction: Decoded, levels: int) -> str | None:
    name, text = instruction.name, instruction.operands
    if name == "mov" and text[:2] in ("cr", "dr"):
        return "control"
    if name == "mov" and text.startswith(_SEGMENTS):
        return "segment"
    if name == "pop" and text in ("fs", "gs", "ds", "es", "ss"):
        return "segment"
    if instruction.opcode[:1] == b"\xff":
        kind = instruction.opcode[1] >> 3 & 7
        return {2: "call", 3: "far", 5: "far"}.get(kind)
    if instruction.long and _misread(instruction.prefixes):
        return "prefixes"
    if name in _COUNTED and text.startswith("0x"):
        return None if is_canonical(int(text, 16), levels) else "edge"
    if "xmmword ptr" in text and name not in _UNALIGNED and name != "nop":
        return "aligned"
    return None


def _misread(prefixes: bytes) -> bool:
    """Whether a segment override or a REX prefix is not where Unicorn reads it."""
    seen = False
    for place, prefix in enumerate(prefixes):
        if prefix >> 4 == 4 and place < len(prefixes) - 1:
            return True
        if prefix in b"\x26\x2e\x36\x3e" and seen:
            return True
        seen = seen or prefix in b"\x64\x65"
    return False


def harmless(uc: Uc, instruction: Decoded, need: str) -> bool:
    """Say at once whether an instruction that is executed often needs no look after all."""
    if need == "aligned":
        return not instruction.address(register_of(uc)) & 15
    if need == "call" and instruction.memory() is None:
        target = register_of(uc)(instruction.registers()[-1]) or 0
        return -(1 << 47) <= (target ^ 1 << 63) - (1 << 63) < 1 << 47
    if need == "segment":
        return not int(uc.reg_read(x86.UC_X86_REG_CR4)) & int(CR4.SMAP)
    if need == "flags":
        return not int(uc.reg_read(x86.UC_X86_REG_CR0)) & int(CR0.AM)
    return False


def preflight(core: Core, instruction: Decoded, need: str) -> Go:
    """Look at an instruction that the CPU stands before.

    :param need: from :func:`need_of`.
    :raises harness.engine.unicorn.accesses.Raised: what it raises.
    :raises Unable: where this engine cannot execute it.
    """
    return NEEDS[need](Guest(core, instruction))
