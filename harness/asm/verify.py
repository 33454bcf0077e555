"""The second opinion: do the bytes mean what the source says?

:func:`verify` disassembles with Capstone and compares prefixes, mnemonic and every operand with
the source's own reading (:mod:`harness.asm.instruction`). Nothing is taken on trust: an operand
that Capstone shows in another number, order or width than the source is an error, and so is a
mnemonic that is not the same word (or a listed synonym). Memory operands agree when they are the
same *address*: a RIP-relative one is resolved to where it points.

It fails (:class:`~harness.asm.refusal.Refusal`) with the disassembly in ``made``::

    >>> from harness.asm.expression import Constants
    >>> from harness.asm.instruction import parse
    >>> insn = parse("push 0x11225566", Constants({}))
    >>> verify(insn, bytes.fromhex("6866552211"), 64, 0)
    >>> verify(insn, bytes.fromhex("66686655"), 64, 0)
    Traceback (most recent call last):
    harness.asm.refusal.Refusal: the immediate must be 0x11225566, which this instruction cannot \
hold: load it in a register first
"""

from __future__ import annotations

import functools
from typing import Any

from harness.asm.instruction import (
    FarPointer,
    Immediate,
    Instruction,
    Memory,
    Operand,
    Register,
)
from harness.asm.refusal import Refusal
from harness.errors import EngineMissing

__all__ = [
    "CONDITIONS",
    "LEGACY_PREFIXES",
    "STRINGS",
    "disassemble",
    "immediate_range",
    "mnemonics",
    "verify",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONDITION_NAMES = (
    "o no b,c,nae ae,nb,nc e,z ne,nz be,na a,nbe s ns p,pe np,po l,nge ge,nl le,ng g,nle"
)
# condition name -> its number in the opcode (SDM volume 1, appendix B)
CONDITIONS = {
    name: number
    for number, names in enumerate(_CONDITION_NAMES.split())
    for name in names.split(",")
}

# Capstone's word for ours, where they differ and mean the same.
_SYNONYMS = {
    "movabs": "mov",
    "iretw": "iret",
    "retfd": "retf",
    "retfw": "retf",
    "pushfw": "pushf",
    "popfw": "popf",
    "sysretd": "sysret",
    "sysretl": "sysret",
    "sysexitd": "sysexit",
    "pushad": "pushal",
    "popad": "popal",
    "ljmp": "jmp",
    "lcall": "call",
    **{
        f"{stem}{name}": f"{stem}:{number}"
        for stem in ("j", "set", "cmov")
        for name, number in CONDITIONS.items()
    },
}
LEGACY_PREFIXES = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
_PREFIX_WORDS = {"rep": "rep", "repe": "rep", "repz": "rep", "repne": "repne", "repnz": "repne"}
_SEGMENT_BYTES = {"es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65}

_SAME_WIDTH = _words("add or adc sbb and sub xor cmp test mov imul movabs")
_UNSIGNED_16 = _words("ret retf retfq retfd")
STRINGS = frozenset(
    f"{stem}{letter}"
    for stem in ("movs", "cmps", "stos", "lods", "scas", "ins", "outs")
    for letter in "bwdq"
)
_PREFIXES = _words(
    "data16 data32 addr16 addr32 lock rep repe repz repne repnz rex rex64 xacquire xrelease bnd "
    "notrack cs ds es fs gs ss"
)
# Keystone 0.9.2 leaves out the F3 that is part of these (VIA PadLock); the rest are relics.
_WRONG = _words(
    "montmul xcryptcbc xcryptcfb xcryptctr xcryptecb xcryptofb xsha1 xsha256 xstore "
    "fsetpm fdisi8087_nop feni8087_nop salc"
)
_ONLY_64 = _words("swapgs rdfsbase rdgsbase wrfsbase wrgsbase cmpxchg16b")
_REPEATED = {
    "rep": STRINGS,
    "repne": frozenset(name for name in STRINGS if name.startswith(("cmps", "scas"))),
}
_LOCKED = _words(
    "add adc and btc btr bts cmpxchg cmpxchg8b cmpxchg16b dec inc neg not or sbb sub xadd xchg xor"
)
# The memory operand has no size of its own, or the mnemonic alone decides it.
_ANY_SIZE = _words(
    "lea lgdt lidt sgdt sidt invlpg invpcid fxsave fxsave64 fxrstor fxrstor64 xsave xsave64 xrstor "
    "xrstor64 xsaveopt xsaveopt64 xsavec xsavec64 xsaves xsaves64 xrstors xrstors64 clflush "
    "clflushopt clwb prefetcht0 prefetcht1 prefetcht2 prefetchnta prefetchw cmpxchg8b cmpxchg16b "
    "ltr lldt verr verw lmsw movsxd ldmxcsr "
    "stmxcsr lss lfs lgs les lds fnsave frstor fnstenv fldenv fnstcw fldcw fnstsw"
)
# These have a register that says nothing about the size of the memory beside it.
_NO_INFERENCE = _words("movzx movsx crc32 cvtsi2sd cvtsi2ss vcvtpd2dq vcvttpd2dq vcvtpd2ps")
_FAR_LOADS = _words("lds les lfs lgs lss")
_SHIFTS = _words("shl shr sar rol ror rcl rcr shld shrd")
_FULL_WIDTH = _words("push pop call jmp")
_SWAPPABLE = frozenset({"test", "xchg"})
# 66 is part of the opcode, or the word itself says 16 bits.
_OPERAND_SIZE_IN_WORD = _words(
    "cbw cwd insw outsw movsw cmpsw stosw lodsw scasw iretw retfw pushfw popfw clflushopt clwb "
    "invpcid invept invvpid adcx"
)


@functools.lru_cache(maxsize=2)
def _disassembler(bits: int) -> Any:
    try:
        import capstone
    except ImportError as error:
        raise EngineMissing(f"capstone must be importable: {error}", engine="capstone") from None
    engine = capstone.Cs(
        capstone.CS_ARCH_X86, capstone.CS_MODE_64 if bits == 64 else capstone.CS_MODE_32
    )
    engine.detail = True
    return engine


def disassemble(code: bytes, bits: int, address: int) -> str:
    """Return Capstone's text of the code, with ``; `` between instructions."""
    texts: list[str] = []
    covered = 0
    for insn in _disassembler(bits).disasm(code, address):
        # Capstone 5.0.9 shows 66 cf as iret, which hides the point.
        narrow = insn.prefix[2] and insn.mnemonic in ("iret", "pushf", "popf", "retf")
        texts.append(f"{insn.mnemonic}{'w' if narrow else ''} {insn.op_str}".strip())
        covered += insn.size
    if covered != len(code):
        texts.append(f"undecodable bytes {code[covered:].hex(' ')}")
    return "; ".join(texts)


@functools.lru_cache(maxsize=1)
def mnemonics() -> frozenset[str]:
    """Return the instruction names that Capstone knows, and our synonyms of them.

    Prefixes are not among them: on ``data16`` with operands Keystone 0.9.2 never returns.
    """
    engine = _disassembler(64)

    from capstone.x86_const import X86_INS_ENDING

    names = {engine.insn_name(number) for number in range(1, X86_INS_ENDING)}
    return (
        frozenset(name for name in names if name) - _PREFIXES - _WRONG | _SYNONYMS.keys() | STRINGS
    )


def immediate_range(insn: Instruction, position: int, bits: int) -> tuple[int, int]:
    """Return the lowest and highest number that the immediate operand may be.

    A signed and an unsigned reading are both allowed where the operation has a width; counts,
    ports, vectors and the like are unsigned.
    """
    first = insn.operands[0]
    if insn.mnemonic == "push":
        width = bits
    elif insn.mnemonic in _SAME_WIDTH and position > 0:
        width = _width(first, insn)
    elif insn.mnemonic in _UNSIGNED_16 or (insn.mnemonic == "enter" and position == 0):
        return 0, 0xFFFF
    else:
        return 0, 0xFF
    return -(1 << (width - 1)), (1 << width) - 1


# Opcodes, by map, whose operand is 64 bits wide by VEX.W = 1 alone, and 32 outside 64-bit mode.
_WIDE_BY_VEX = {1: b"\x2a\x2c\x2d\x6e\x7e", 2: b"\xf2\xf3\xf5\xf6\xf7", 3: b"\x16\x22\xf0"}


def _ignored_width(insn: Instruction, code: bytes, bits: int) -> str | None:
    """Refuse VEX.W in 32-bit code, where a CPU ignores it (SDM 2A 2.3.5.2)."""
    code = code.lstrip(bytes(LEGACY_PREFIXES))
    if bits == 64 or len(code) < 4 or code[0] != 0xC4 or not code[2] & 0x80:
        return None
    if code[3] in _WIDE_BY_VEX.get(code[1] & 0x1F, b""):
        return f"{insn.mnemonic} of 64 bits must stand in 64-bit code: elsewhere it is 32 bits wide"
    return None


def _width(operand: Operand, insn: Instruction) -> int:
    if isinstance(operand, Register):
        return operand.width
    if isinstance(operand, Memory) and operand.size is not None:
        return operand.size * 8
    raise Refusal(f"{insn.mnemonic} must say how wide its memory operand is, as in `dword ptr`")


def verify(insn: Instruction, code: bytes, bits: int, address: int) -> None:
    """Check that the bytes mean what the instruction says.

    :param address: where the bytes will stand.
    :raises Refusal: naming the first difference, with the disassembly.
    """
    decoded = list(_disassembler(bits).disasm(code, address, 2))
    if len(decoded) != 1 or decoded[0].size != len(code):
        raise Refusal(
            "the statement must be one instruction that a CPU decodes",
            disassemble(code, bits, address),
        )
    reason = _difference(insn, decoded[0], bits, address) or _ignored_width(insn, code, bits)
    if reason:
        raise Refusal(reason, disassemble(code, bits, address))


def _difference(insn: Instruction, decoded: Any, bits: int, address: int) -> str | None:
    *words, name = decoded.mnemonic.split()
    return (
        _name_difference(insn, decoded, name)
        or _operand_differences(insn, decoded, bits, address)
        or _prefix_difference(insn, decoded, words, bits)
        or _impossible(insn, bits)
    )


def _prefix_difference(insn: Instruction, decoded: Any, words: list[str], bits: int) -> str | None:
    found = sorted(_PREFIX_WORDS.get(word, word) for word in words)
    if found != sorted(insn.prefixes):
        wanted = " ".join(insn.prefixes) or "none"
        return f"the prefixes must be {wanted}, not {' '.join(found) or 'none'}"
    for prefix in insn.prefixes:
        if prefix in _REPEATED and insn.mnemonic not in _REPEATED[prefix]:
            which = "a string instruction" if prefix == "rep" else "cmps or scas"
            return f"{prefix} must stand before {which}, not {insn.mnemonic}"
        if prefix == "lock" and (
            insn.mnemonic not in _LOCKED
            or (
                not isinstance(insn.operands[0], Memory)
                and not (insn.mnemonic == "xchg" and isinstance(insn.operands[1], Memory))
            )
        ):
            return "lock must stand before an instruction that changes its first operand in memory"
    memory = [operand for operand in insn.operands if isinstance(operand, Memory)]
    segment = next((_SEGMENT_BYTES[m.segment] for m in memory if m.segment), 0)
    if decoded.prefix[1] != segment:
        return "the segment must be the one in the source"
    if decoded.prefix[2] and not _may_have_operand_size(insn, decoded):
        return "the operand size must not be overridden"
    narrow = any(m.register_width == 32 for m in memory)
    if insn.mnemonic.startswith("v") and _first_opcode_byte(decoded) == 0x62:
        return "the encoding must not be AVX-512's"
    if decoded.prefix[3] and not (bits == 64 and narrow) and insn.mnemonic not in ("jecxz", "jcxz"):
        return "the address size must not be overridden"
    return None


def _first_opcode_byte(decoded: Any) -> int:
    return next(byte for byte in bytes(decoded.bytes) if byte not in LEGACY_PREFIXES)


def _may_have_operand_size(insn: Instruction, decoded: Any) -> bool:
    return (
        insn.mnemonic in _OPERAND_SIZE_IN_WORD
        or any(
            isinstance(operand, Register)
            and (operand.kind == "vector" or (operand.kind == "general" and operand.width == 16))
            for operand in insn.operands
        )
        or any(_is_memory(operand) and operand.size == 2 for operand in decoded.operands)
    )


def _name_difference(insn: Instruction, decoded: Any, name: str) -> str | None:
    wanted = _SYNONYMS.get(insn.mnemonic, insn.mnemonic)
    # movsx with a 32-bit source is called movsxd.
    same = _SYNONYMS.get(name, name) == wanted or (insn.mnemonic, name) == ("movsx", "movsxd")
    if not same:
        return f"the instruction must be {insn.mnemonic}, not {name}"
    if bytes(decoded.opcode)[0] == 0xFF and wanted in ("jmp", "call"):
        # SDM volume 2, JMP and CALL: FF /3 and /5 are the far ones.
        far = ((decoded.modrm >> 3) & 7) in (3, 5)
        return None if far == insn.far else f"the {wanted} must be {'far' if insn.far else 'near'}"
    return None


def _operand_differences(insn: Instruction, decoded: Any, bits: int, address: int) -> str | None:
    if insn.mnemonic in STRINGS and not insn.operands:
        return None  # their operands are implied by the word
    wanted = insn.operands
    found = list(decoded.operands)
    if len(wanted) == 1 and isinstance(wanted[0], FarPointer):
        numbers = [operand.imm & 0xFFFF_FFFF for operand in found]
        if numbers != [wanted[0].selector, wanted[0].offset]:
            return f"the far target must be {wanted[0].selector:#x}:{wanted[0].offset:#x}"
        return None
    if len(wanted) != len(found):
        return f"the instruction must have {len(wanted)} operands, not {len(found)}"
    differences = []
    orders = [found, found[::-1]] if insn.mnemonic in _SWAPPABLE else [found]
    for order in orders:
        for position, (want, got) in enumerate(zip(wanted, order, strict=True)):
            difference = _operand_difference(insn, position, want, got, decoded, bits, address)
            if difference:
                differences.append(difference)
                break
        else:
            return None
    return differences[0]


def _operand_difference(
    insn: Instruction,
    position: int,
    want: Operand,
    got: Any,
    decoded: Any,
    bits: int,
    address: int,
) -> str | None:
    if isinstance(want, Register):
        found = decoded.reg_name(got.reg) if _is_register(got) else None
        return None if found == want.name else f"the operand must be {want.name}"
    if isinstance(want, Immediate):
        return _immediate_difference(insn, position, want, got, bits)
    if isinstance(want, Memory):
        if not _is_memory(got):
            return "the operand must be in memory"
        return _address_difference(want, got, decoded, bits, address) or _size_difference(
            insn, want, got, bits
        )
    return "selector:offset must be the only operand"


def _immediate_difference(
    insn: Instruction, position: int, want: Immediate, got: Any, bits: int
) -> str | None:
    if not _is_immediate(got):
        return "the operand must be an immediate"
    if insn.mnemonic in ("jmp", "call") or insn.mnemonic.startswith(("j", "loop")):
        same = (got.imm - want.value) % (1 << bits) == 0
        return None if same else f"the target must be {want.value:#_x}"
    low, high = immediate_range(insn, position, bits)
    if not low <= want.value <= high:
        return f"the immediate must be between {low:#x} and {high:#x}, not {want.value:#x}"
    if (got.imm - want.value) % (high + 1):
        return (
            f"the immediate must be {want.value:#x}, which this instruction cannot hold: "
            "load it in a register first"
        )
    if insn.mnemonic == "push" and got.size * 8 != bits:
        return f"push of a number must push {bits // 8} bytes, not {got.size}"
    return None


def _address_difference(
    want: Memory, got: Any, decoded: Any, bits: int, address: int
) -> str | None:
    def name(register: int) -> str | None:
        return decoded.reg_name(register) if register else None

    memory = got.mem
    base, index = name(memory.base), name(memory.index)
    width = min(bits, want.register_width or bits)
    if not -(1 << (width - 1)) <= want.disp < 1 << width:
        return f"the displacement must fit {width} bits, not be {want.disp:#x}"
    if base == "rip" and want.is_bare:
        pointed = (address + decoded.size + memory.disp) % (1 << 64)
        if pointed != want.disp % (1 << 64):
            return f"the address must be {want.disp:#_x}, not {pointed:#_x}"
        return None
    if (base, index) != (want.base, want.index) or (index and memory.scale != want.scale):
        return f"the address must be made of {_registers(want)}"
    if (memory.disp - want.disp) % (1 << width):
        return (
            f"the displacement must be {want.disp:#x}, which does not fit 32 bits with a sign: "
            "load it in a register first"
        )
    return None


def _registers(memory: Memory) -> str:
    terms = [memory.base] if memory.base else []
    if memory.index:
        terms.append(f"{memory.index}*{memory.scale}")
    return " + ".join(terms) or "no register"


def _size_difference(insn: Instruction, want: Memory, got: Any, bits: int) -> str | None:
    size = got.size
    if insn.far:
        return None  # Capstone 5.0.9 gives 8 bytes for m16:32; _name_difference has looked
    if want.size is not None:
        if insn.mnemonic in _TABLE_REGISTERS and want.size in ((6, 10) if bits == 64 else (6,)):
            return None
        if insn.mnemonic == "lea":
            return None
        if insn.mnemonic in _FAR_LOADS:  # Capstone 5.0.9 shows the register's size
            return f"the far pointer of {insn.mnemonic} must be written without a size"
        if size != want.size:
            return f"the memory operand must be {want.size} bytes, not {size}"
        return None
    if insn.mnemonic in _ANY_SIZE or insn.mnemonic.startswith("set"):
        return None
    if insn.mnemonic in _FULL_WIDTH:
        return None if size == bits // 8 else f"the memory operand must be {bits // 8} bytes"
    if insn.mnemonic not in _NO_INFERENCE:
        others = [operand for operand in insn.operands if isinstance(operand, Register)]
        if insn.mnemonic in _SHIFTS and others and others[-1].name == "cl":
            others.pop()
        if any(other.kind == "vector" or other.width == size * 8 for other in others):
            return None
    return "the size of the memory operand must be written, as in `dword ptr`"


_TABLE_REGISTERS = frozenset({"lgdt", "lidt", "sgdt", "sidt"})
_CONTROL = frozenset({"cr0", "cr2", "cr3", "cr4", "cr8"})


def _impossible(insn: Instruction, bits: int) -> str | None:
    if bits == 32 and insn.mnemonic in _ONLY_64:
        return f"{insn.mnemonic} must stand in 64-bit code"
    for operand in insn.operands:
        if not isinstance(operand, Register):
            continue
        if operand.kind == "control" and operand.name not in _CONTROL:
            return f"a control register must be one of {', '.join(sorted(_CONTROL))}"
        if operand.kind == "debug" and int(operand.name[2:]) > 7:
            return "a debug register must be one of dr0 to dr7"
    if insn.mnemonic == "mov" and insn.operands[0] == Register("cs"):
        return "cs must be loaded by a far jump, call or return, not by mov"
    return None


def _is_register(operand: Any) -> bool:
    return bool(operand.type == 1)  # CS_OP_REG


def _is_immediate(operand: Any) -> bool:
    return bool(operand.type == 2)  # CS_OP_IMM


def _is_memory(operand: Any) -> bool:
    return bool(operand.type == 3)  # CS_OP_MEM
