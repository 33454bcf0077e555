"""From an instruction to bytes: Keystone for most, our own bytes where Keystone is wrong.

Every encoding, ours too, goes through :func:`harness.asm.verify.verify` before anyone sees it.

What is done here and not by Keystone 0.9.2, each because of something seen:

- jumps, calls and loops to an address (Keystone wraps targets at 2 GiB, and has no ``short``);
- ``push`` of a number (it truncates to 16 bits, and pushes -1 for 65535);
- far jumps and calls, ``sel:offset`` in 32-bit code (it truncates the offset to 16 bits) and
  through memory (it rejects ``jmp far [rax]``);
- instructions whose width hangs on a suffix (it makes ``iret`` and ``pushf`` 16 bits wide): the
  plain word is refused, the words with a suffix have their bytes in a table;
- string instructions (it rejects ``movsd``) and what it does not know (``endbr64``, ``sysretq``);
- addresses without a register in 64-bit code: absolute, relative to RIP or, for the accumulator,
  64 bits wide, whichever can express the address (it truncates);
- the operand-size prefix that it adds to ``lgdt`` and ``push ds`` in 32-bit code, which then do
  half of what they say.

Keystone ends the whole process when ``ah`` and its kin meet a REX prefix, and never returns from
``data16`` with operands, so it is not asked.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

from harness.asm.immediate import (
    check_immediate,
    is_wide_move,
    needs_movabs,
    signed,
    wrapped,
)
from harness.asm.instruction import (
    SIZES,
    FarPointer,
    Immediate,
    Instruction,
    Memory,
    Operand,
    Register,
)
from harness.asm.refusal import Refusal
from harness.asm.verify import (
    CONDITIONS,
    LEGACY_PREFIXES,
    STRINGS,
    disassemble,
    immediate_range,
    mnemonics,
    verify,
)
from harness.errors import EngineMissing

__all__ = ["Encoding", "encode"]

_SIZE_WORDS = {size: word for word, size in SIZES.items() if word != "oword"}
_PREFIX_BYTES = {"lock": b"\xf0", "rep": b"\xf3", "repne": b"\xf2"}

_LOOPS = {"loopne": 0xE0, "loope": 0xE1, "loop": 0xE2, "jcxz": 0xE3, "jecxz": 0xE3, "jrcxz": 0xE3}
_LOOP_WIDTH = {"jcxz": 16, "jecxz": 32, "jrcxz": 64}
_JUMPS = {f"j{name}": code for name, code in CONDITIONS.items()}

_STRINGS = {"movs": 0xA4, "cmps": 0xA6, "stos": 0xAA, "lods": 0xAC, "scas": 0xAE}
_PORT_STRINGS = {"ins": 0x6C, "outs": 0x6E}
_UNSIZED_STRINGS = frozenset({*_STRINGS, *_PORT_STRINGS, "xlat", "xlatb"})
_STRING_WIDTHS = {"b": (b"", 0), "w": (b"\x66", 1), "d": (b"", 1), "q": (b"\x48", 1)}


def _strings(widths: str) -> dict[str, bytes]:
    table = {}
    for letter in widths:
        prefix, bit = _STRING_WIDTHS[letter]
        for name, code in (*_STRINGS.items(), *_PORT_STRINGS.items()):
            if letter != "q" or name in _STRINGS:
                table[name + letter] = prefix + bytes([code | bit])
    return table


def _table(pairs: str) -> dict[str, bytes]:
    words = pairs.split()
    return {name: bytes.fromhex(code) for name, code in zip(words[::2], words[1::2], strict=True)}


# Instructions without operands whose bytes Keystone 0.9.2 does not know or gets wrong.
_FIXED = {
    32: _strings("bwd")
    | _table(
        "iretd cf iretw 66cf retf cb retfd cb retfw 66cb pushfd 9c pushfw 669c popfd 9d popfw 669d "
        "pushad 60 popad 61 endbr32 f30f1efb sysexit 0f35 rdpkru 0f01ee wrpkru 0f01ef"
    ),
    64: _strings("bwdq")
    | _table(
        "iretq 48cf iretd cf iretw 66cf retfq 48cb retfd cb retfw 66cb pushfq 9c pushfw 669c "
        "popfq 9d popfw 669d sysretq 480f07 sysretd 0f07 sysretl 0f07 sysexitq 480f35 "
        "sysexitd 0f35 endbr64 f30f1efa endbr32 f30f1efb"
    ),
}

# Words that do not say how wide they are: Keystone makes the first three 16 bits wide in both
# modes, and `sysret` 64; gas 2.40 calls them ambiguous.
_AMBIGUOUS = {
    32: {
        "iret": "iretd",
        "pushf": "pushfd",
        "popf": "popfd",
        "pusha": "pushad",
        "popa": "popad",
    },
    64: {
        "iret": "iretq",
        "pushf": "pushfq",
        "popf": "popfq",
        "retf": "retfq (two 8-byte words) or retfd (two 4-byte words)",
        "sysret": "sysretq (to 64-bit code) or sysretd (to 32-bit code)",
        "sysexit": "sysexitq (to 64-bit code) or sysexitd (to 32-bit code)",
    },
}

_TABLE_REGISTERS = frozenset({"lgdt", "lidt", "sgdt", "sidt"})


class Encoding(NamedTuple):
    """The bytes of one instruction.

    :ivar relative: they depend on the address they stand at.
    :ivar wide: the long form was needed, and later passes keep it.
    """

    code: bytes
    relative: bool = False
    wide: bool = False


def encode(insn: Instruction, bits: int, address: int, *, wide: bool = False) -> Encoding:
    """Return the checked bytes of an instruction.

    :param bits: 32 or 64.
    :param address: where the first byte will stand.
    :param wide: use the long form even where the short one reaches, so that passes settle.
    :raises Refusal: with what Keystone makes of the statement, when the source's meaning has no
        encoding or Keystone misses it.
    """
    try:
        if not _is_direct_branch(insn):
            insn = wrapped(insn, bits)
        if _depends_on_place(insn, bits):
            encoding = _encode(insn, bits, address, wide)
            verify(insn, encoding.code, bits, address)
            return encoding
        return _encode_anywhere(insn, bits, wide)
    except Refusal as refusal:
        made = refusal.made or _reading(insn, bits, address)
        raise Refusal(refusal.reason, made) from None


@functools.lru_cache(maxsize=8192)
def _encode_anywhere(insn: Instruction, bits: int, wide: bool) -> Encoding:
    encoding = _encode(insn, bits, 0, wide)
    verify(insn, encoding.code, bits, 0)
    return encoding


def _depends_on_place(insn: Instruction, bits: int) -> bool:
    return _is_direct_branch(insn) or (
        bits == 64 and any(isinstance(o, Memory) and o.is_bare for o in insn.operands)
    )


def _has_implied_memory(insn: Instruction) -> bool:
    """Whether memory operands only repeat what a string instruction does anyway.

    Keystone 0.9.2 corrupts its own memory with the warning that it gives for such an operand.
    """
    if insn.mnemonic not in STRINGS | _UNSIZED_STRINGS:
        return False
    vector = any(isinstance(o, Register) and o.kind == "vector" for o in insn.operands)
    return not vector and any(isinstance(o, Memory) for o in insn.operands)


def _is_direct_branch(insn: Instruction) -> bool:
    name = insn.mnemonic
    return (
        (name in ("jmp", "call") or name in _JUMPS or name in _LOOPS)
        and len(insn.operands) == 1
        and isinstance(insn.operands[0], Immediate)
    )


def _encode(insn: Instruction, bits: int, address: int, wide: bool) -> Encoding:
    spelled = _AMBIGUOUS[bits].get(insn.mnemonic)
    if spelled:
        raise Refusal(f"the operand size must be spelled out: write {spelled}")
    for operand in insn.operands:
        if isinstance(operand, Memory) and not operand.has_ptr:
            assert operand.size is not None
            word = _SIZE_WORDS[operand.size]
            raise Refusal(f"a size must be written `{word} ptr [...]`, not `{word} [...]`")
    prefix = b"".join(_PREFIX_BYTES[name] for name in insn.prefixes)
    if _is_direct_branch(insn):
        return _branch(insn, prefix, bits, address, wide)
    if not insn.operands and insn.mnemonic in _FIXED[bits]:
        return Encoding(prefix + _FIXED[bits][insn.mnemonic])
    if insn.mnemonic == "push" and len(insn.operands) == 1:
        number = insn.operands[0]
        if isinstance(number, Immediate):
            return Encoding(prefix + _push(number.value, bits))
    if insn.operands and isinstance(insn.operands[0], FarPointer):
        return Encoding(prefix + _far_pointer(insn, insn.operands[0], bits))
    if insn.mnemonic not in mnemonics():
        raise Refusal(f"a statement must begin with an instruction, not {insn.mnemonic}")
    if _has_implied_memory(insn):
        raise Refusal(f"{insn.mnemonic} must have no operands: it always uses rsi, rdi and dx")
    check_immediate(insn)
    if bits == 64:
        for position, operand in enumerate(insn.operands):
            if isinstance(operand, Memory) and operand.is_bare:
                return _bare(insn, position, operand, prefix, address)
    is_wide = wide or needs_movabs(insn)
    if is_wide and is_wide_move(insn):
        insn = replace(insn, mnemonic="movabs")
    return Encoding(prefix + _assemble(insn, bits), wide=is_wide)


# --- jumps and calls ---------------------------------------------------------------------------


def _branch(insn: Instruction, prefix: bytes, bits: int, address: int, wide: bool) -> Encoding:
    (target,) = insn.operands
    assert isinstance(target, Immediate)
    if insn.far:
        raise Refusal("a far jump or call must have a selector:offset or a memory operand")
    if not 0 <= target.value < 1 << bits:
        raise Refusal(f"a jump target must be a {bits}-bit address, not {target.value:#x}")
    name = insn.mnemonic
    short: bytes | None
    near: bytes | None
    if name in _LOOPS:
        width = _LOOP_WIDTH.get(name, bits)
        if (width, bits) in ((16, 64), (64, 32)):
            raise Refusal(f"{name} must not stand in {bits}-bit code")
        short, near = (b"" if width == bits else b"\x67") + bytes([_LOOPS[name]]), None
    elif name == "call":
        short, near = None, b"\xe8"
    elif name == "jmp":
        short, near = b"\xeb", b"\xe9"
    else:
        short, near = bytes([0x70 | _JUMPS[name]]), bytes([0x0F, 0x80 | _JUMPS[name]])
    if insn.distance == "near" or (wide and insn.distance != "short"):
        short = None if near else short
    elif insn.distance == "short" and short is not None:
        near = None
    for opcode, size in ((short, 1), (near, 4)):
        if opcode is None:
            continue
        distance = signed(target.value - address - len(prefix + opcode) - size, bits)
        if -(1 << (8 * size - 1)) <= distance < 1 << (8 * size - 1):
            code = prefix + opcode + distance.to_bytes(size, "little", signed=True)
            return Encoding(code, relative=True, wide=size == 4)
    reach = "2 GiB" if near else "128 bytes"
    raise Refusal(
        f"{name} must reach its target within {reach}, not go from {address:#_x} to "
        f"{target.value:#_x}" + ("; load the address in a register and jump there" if near else "")
    )


def _far_pointer(insn: Instruction, pointer: FarPointer, bits: int) -> bytes:
    if insn.mnemonic not in ("jmp", "call") or len(insn.operands) != 1:
        raise Refusal("selector:offset must be the target of a jmp or call")
    if bits == 64:
        raise Refusal(
            "selector:offset must not stand in 64-bit code (SDM volume 2, JMP): push the selector "
            "and the address and retfq, or jump through memory with `jmp far [...]`"
        )
    if not (0 <= pointer.selector <= 0xFFFF and 0 <= pointer.offset <= 0xFFFF_FFFF):
        raise Refusal(
            "a far target must be a 16-bit selector and a 32-bit offset, not "
            f"{pointer.selector:#x}:{pointer.offset:#x}"
        )
    opcode = b"\xea" if insn.mnemonic == "jmp" else b"\x9a"
    return opcode + pointer.offset.to_bytes(4, "little") + pointer.selector.to_bytes(2, "little")


def _push(value: int, bits: int) -> bytes:
    """Encode push of a number: Keystone 0.9.2 makes -1 of 65535 and 16 bits of 0x80000000."""
    number = signed(value, bits)
    if -(1 << (bits - 1)) <= value < 1 << bits:
        if -0x80 <= number < 0x80:
            return b"\x6a" + number.to_bytes(1, "little", signed=True)
        if -(1 << 31) <= number < 1 << 31:
            return b"\x68" + number.to_bytes(4, "little", signed=True)
    raise Refusal(
        f"push must have a number of 32 bits with a sign, not {value:#x}: "
        "load it in a register first"
    )


# --- addresses without a register, 64-bit code -------------------------------------------------


def _bare(
    insn: Instruction, position: int, memory: Memory, prefix: bytes, address: int
) -> Encoding:
    def with_form(base: str, disp: int) -> bytes:
        form = replace(memory, base=base, disp=disp)
        operands = (*insn.operands[:position], form, *insn.operands[position + 1 :])
        return prefix + _assemble(replace(insn, operands=operands), 64)

    if not -(1 << 63) <= memory.disp < 1 << 64:
        raise Refusal(f"an address must fit 64 bits, not be {memory.disp:#x}")
    forms = ["rip", "absolute"] if memory.is_address else ["absolute", "rip"]
    if memory.segment in ("fs", "gs"):
        forms = ["absolute"]  # the segment's base is added: RIP has no part in it
    if insn.mnemonic == "movabs":
        forms = []
    for form in forms:
        if form == "rip":
            length = len(with_form("rip", 0))
            disp = signed(memory.disp - address - length, 64)
        else:
            disp = signed(memory.disp, 64)
        if -(1 << 31) <= disp < 1 << 31:
            code = with_form("rip" if form == "rip" else "riz*1", disp)
            return Encoding(code, relative=form == "rip")
    accumulator = any(
        isinstance(o, Register) and o.name in ("al", "ax", "eax", "rax") for o in insn.operands
    )
    if insn.mnemonic in ("mov", "movabs") and len(insn.operands) == 2 and accumulator:
        wide = replace(insn, mnemonic="movabs")
        operands = [replace(o, disp=o.disp % 2**64) if o is memory else o for o in wide.operands]
        return Encoding(prefix + _assemble(replace(wide, operands=tuple(operands)), 64))
    if insn.mnemonic == "movabs":
        raise Refusal("movabs must have al, ax, eax or rax beside an address")
    near = "address 0" if forms == ["absolute"] else "address 0 or of the instruction"
    raise Refusal(
        f"an address without a register must be within 2 GiB of {near}, "
        f"not {memory.disp:#_x}: load it in a register first"
    )


# --- Keystone ----------------------------------------------------------------------------------


def _assemble(insn: Instruction, bits: int) -> bytes:
    if _would_abort(insn):
        raise Refusal("ah, bh, ch and dh must not meet a register that needs a REX prefix")
    if insn.far:
        return _far_memory(insn, bits)
    code = _keystone(_render(insn, bits), bits)
    return _without_operand_size(code) if _has_stray_66(insn, bits) else code


def _has_stray_66(insn: Instruction, bits: int) -> bool:
    """Whether Keystone 0.9.2 puts a 66 before an instruction that changes what it does.

    In 32-bit code lgdt would load 24 bits of the base, and push ds would push 2 bytes.
    """
    if bits == 64:
        return False
    segment = any(isinstance(o, Register) and o.kind == "segment" for o in insn.operands)
    return insn.mnemonic in _TABLE_REGISTERS or (segment and insn.mnemonic in ("push", "pop"))


def _without_operand_size(code: bytes) -> bytes:
    position = 0
    while code[position] in LEGACY_PREFIXES:
        if code[position] == 0x66:
            return code[:position] + code[position + 1 :]
        position += 1
    return code


def _far_memory(insn: Instruction, bits: int) -> bytes:
    """Assemble the near jump through the same memory, and make it the far one.

    FF /4 and /2 are near, FF /5 and /3 far (SDM volume 2, JMP and CALL).
    """
    if len(insn.operands) != 1 or not isinstance(insn.operands[0], Memory):
        raise Refusal("a far jump or call must have a selector:offset or a memory operand")
    memory = insn.operands[0]
    if memory.size not in (None, 6, 10) or (memory.size == 10 and bits == 32):
        raise Refusal("a far target in memory must be `fword ptr` (16:32) or `tbyte ptr` (16:64)")
    near = replace(insn, operands=(replace(memory, size=bits // 8),), far=False)
    code = bytearray(_keystone(_render(near, bits), bits))
    opcode = code.index(0xFF)
    code[opcode + 1] |= 0x08
    if memory.size == 10:
        if opcode and code[opcode - 1] & 0xF0 == 0x40:
            code[opcode - 1] |= 0x08
        else:
            code.insert(opcode, 0x48)
    return bytes(code)


def _would_abort(insn: Instruction) -> bool:
    """Whether Keystone would end the process (0.9.2: LLVM ERROR, cannot encode high byte)."""
    names = [o for o in insn.operands if isinstance(o, Register)]
    if not any(register.kind == "high" for register in names):
        return False
    addresses = [o for o in insn.operands if isinstance(o, Memory)]
    extended = [
        name for m in addresses for name in (m.base, m.index) if name and name[1:2].isdigit()
    ]
    return bool(extended) or any(
        register.width == 64 or register.name[1:2].isdigit() or register.name[2:] == "l"
        for register in names
    )


def _render(insn: Instruction, bits: int, *, as_written: bool = False) -> str:
    parts = []
    for position, operand in enumerate(insn.operands):
        text = _render_operand(operand)
        if isinstance(operand, Immediate) and not as_written:
            low, high = immediate_range(insn, position, bits)
            # Keystone takes -0x1 where it rejects 0xffffffffffffffff. It must not be -1: keystone
            # 0.9.2 has been seen to read 4608 as 0x4608 late in the life of a process.
            if low < 0 and operand.value > high >> 1 and operand.value <= high:
                text = f"{operand.value - high - 1:#x}"
        unsized = isinstance(operand, Memory) and operand.size is None and not as_written
        if unsized and insn.mnemonic in ("push", "pop", "jmp", "call") and not insn.far:
            text = f"{_SIZE_WORDS[bits // 8]} ptr {text}"
        parts.append(text)
    return f"{insn.mnemonic} {', '.join(parts)}".strip()


def _render_operand(operand: Operand) -> str:
    if isinstance(operand, Register):
        return operand.name
    if isinstance(operand, Immediate):
        return f"{operand.value:#x}"
    if isinstance(operand, FarPointer):
        return f"{operand.selector:#x}:{operand.offset:#x}"
    terms = [operand.base] if operand.base else []
    if operand.index:
        terms.append(f"{operand.index}*{operand.scale}")
    address = " + ".join(terms)
    if operand.disp or not terms:
        sign = "-" if operand.disp < 0 else "+"
        address = f"{address} {sign} {abs(operand.disp):#x}" if terms else f"{operand.disp:#x}"
    text = f"[{address}]"
    if operand.segment:
        text = f"{operand.segment}:{text}"
    if operand.size is not None:
        text = f"{_SIZE_WORDS[operand.size]}{' ptr' if operand.has_ptr else ''} {text}"
    return text


@functools.lru_cache(maxsize=2)
def _assembler(bits: int) -> Any:
    try:
        import keystone
    except ImportError as error:
        raise EngineMissing(
            f"keystone-engine 0.9.2 must be importable: {error}", engine="keystone"
        ) from None
    mode = keystone.KS_MODE_64 if bits == 64 else keystone.KS_MODE_32
    return keystone.Ks(keystone.KS_ARCH_X86, mode)


def _keystone(text: str, bits: int, address: int = 0) -> bytes:
    import keystone

    try:
        made, _ = _assembler(bits).asm(text, address)
    except keystone.KsError as error:
        says = str(error).split(" (")[0].lower()
        raise Refusal(f"Keystone must accept the statement, and says: {says}") from None
    if not made:
        raise Refusal("Keystone must make bytes of the statement, and made none without an error")
    return bytes(made)


def _reading(insn: Instruction, bits: int, address: int) -> str | None:
    """Disassemble what Keystone makes of the statement as written, for the error message."""
    if _would_abort(insn) or insn.mnemonic not in mnemonics() or _has_implied_memory(insn):
        return None
    name = f"l{insn.mnemonic}" if insn.far else insn.mnemonic
    text = _render(replace(insn, mnemonic=name), bits, as_written=True)
    try:
        return disassemble(
            _keystone(" ".join([*insn.prefixes, text]), bits, address), bits, address
        )
    except Refusal:
        return None
