"""What a statement says: the source's own reading of an instruction, before anyone assembles it.

:func:`parse` reads prefixes, mnemonic and operands of Intel syntax into plain data with every
expression evaluated, so that the checker has something to hold Keystone's bytes against::

    >>> from harness.asm.expression import Constants
    >>> insn = parse("mov rax, [rbx + rcx*8 - 16]", Constants({}))
    >>> insn.mnemonic, insn.operands[0]
    ('mov', Register(name='rax'))
    >>> insn.operands[1].base, insn.operands[1].index, insn.operands[1].scale, insn.operands[1].disp
    ('rbx', 'rcx', 8, -16)

What this parser does not understand is refused: it cannot be checked, so it is not assembled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.asm.expression import Scope, Tokens, Value, evaluate, tokens
from harness.asm.refusal import Refusal
from harness.asm.source import split_arguments

__all__ = [
    "SIZES",
    "FarPointer",
    "Immediate",
    "Instruction",
    "Memory",
    "Operand",
    "Register",
    "is_register",
    "parse",
]

SIZES = {
    "byte": 1,
    "word": 2,
    "dword": 4,
    "fword": 6,
    "qword": 8,
    "tbyte": 10,
    "xmmword": 16,
    "oword": 16,
    "ymmword": 32,
}

_LEGACY = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
_NEW = [f"r{n}" for n in range(8, 16)]

# name -> (kind, width in bits)
_REGISTERS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"), ("general", 8)),
    **{f"{name}b": ("general", 8) for name in _NEW},
    **dict.fromkeys(("ah", "ch", "dh", "bh"), ("high", 8)),
    **dict.fromkeys((*_LEGACY, *(f"{name}w" for name in _NEW)), ("general", 16)),
    **{f"e{name}": ("general", 32) for name in _LEGACY},
    **{f"{name}d": ("general", 32) for name in _NEW},
    **dict.fromkeys((*(f"r{name}" for name in _LEGACY), *_NEW), ("general", 64)),
    **dict.fromkeys(("es", "cs", "ss", "ds", "fs", "gs"), ("segment", 16)),
    **{f"cr{n}": ("control", 64) for n in range(16)},
    **{f"dr{n}": ("debug", 64) for n in range(16)},
    **{f"mm{n}": ("vector", 64) for n in range(8)},
    **{f"xmm{n}": ("vector", 128) for n in range(16)},
    **{f"ymm{n}": ("vector", 256) for n in range(16)},
    **{f"st({n})": ("x87", 80) for n in range(8)},
    "rip": ("pointer", 64),
    "eip": ("pointer", 32),
}

_PREFIXES = {
    "lock": "lock",
    **dict.fromkeys(("rep", "repe", "repz"), "rep"),
    **dict.fromkeys(("repne", "repnz"), "repne"),
}

_SAME = {
    "sal": "shl",
    "retn": "ret",
    "lret": "retf",
    "lretq": "retfq",
    "xlat": "xlatb",
    "loopz": "loope",
    "loopnz": "loopne",
    "icebp": "int1",
    "fwait": "wait",
}
_SHIFTS = frozenset({"shl", "shr", "sar", "rol", "ror", "rcl", "rcr"})
# These bind less than the + between the parts of an address.
_LOOSE = frozenset(("<<", ">>", "&", "|", "^", "&&", "||", "==", "!=", "<", "<=", ">", ">="))


@dataclass(frozen=True, slots=True)
class Register:
    """A register operand, by its lower-case name."""

    name: str

    @property
    def kind(self) -> str:
        """One of general, high, segment, control, debug, vector, x87, pointer."""
        return _REGISTERS[self.name][0]

    @property
    def width(self) -> int:
        """The register's width in bits."""
        return _REGISTERS[self.name][1]


@dataclass(frozen=True, slots=True)
class Immediate:
    """A number, or the address that a label stands for.

    :ivar wraps: a complement or negation, which wraps to the operand's width.
    """

    value: int
    is_address: bool = False
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory operand: base + index * scale + disp.

    :ivar size: bytes, or None when the source leaves it to the other operand.
    :ivar disp: the displacement; without base and index, the address itself.
    :ivar is_address: the displacement comes from a label.
    :ivar has_ptr: False when the size was written without ``ptr``.
    """

    size: int | None = None
    segment: str | None = None
    base: str | None = None
    index: str | None = None
    scale: int = 1
    disp: int = 0
    is_address: bool = False
    has_ptr: bool = True

    @property
    def is_bare(self) -> bool:
        """Whether the address is a number and no register takes part."""
        return self.base is None and self.index is None

    @property
    def register_width(self) -> int | None:
        """The width in bits of the registers in the address, or None without any."""
        name = self.base or self.index
        return _REGISTERS[name][1] if name else None


@dataclass(frozen=True, slots=True)
class FarPointer:
    """A ``selector:offset`` operand."""

    selector: int
    offset: int


Operand = Register | Immediate | Memory | FarPointer


@dataclass(frozen=True, slots=True)
class Instruction:
    """A statement as the source means it.

    :ivar prefixes: of ``lock``, ``rep``, ``repne``.
    :ivar far: the jump or call changes CS.
    :ivar distance: ``short`` or ``near`` when the source insists.
    """

    mnemonic: str
    operands: tuple[Operand, ...] = ()
    prefixes: tuple[str, ...] = ()
    far: bool = False
    distance: str | None = None


def is_register(name: str) -> bool:
    """Return whether the name is a register's, in any case."""
    return name.lower() in _REGISTERS


def parse(text: str, scope: Scope) -> Instruction:
    """Read one instruction.

    :raises Refusal: when the text is no instruction of the accepted language.
    """
    prefixes: list[str] = []
    rest = text.strip()
    while True:
        match = re.match(r"([A-Za-z][A-Za-z0-9_]*)\s*(.*)", rest, re.DOTALL)
        if match is None:
            raise Refusal("a statement must begin with a mnemonic, a label or a directive")
        word, rest = match[1].lower(), match[2]
        if word not in _PREFIXES:
            break
        if not rest:
            raise Refusal(f"{word} must stand before an instruction")
        if len(prefixes) == 2:
            raise Refusal("an instruction must have at most two prefixes")
        prefixes.append(_PREFIXES[word])
    mnemonic = _SAME.get(word, word)
    far = mnemonic in ("ljmp", "lcall")
    if far:
        mnemonic = mnemonic[1:]
    distance: str | None = None
    if mnemonic in ("jmp", "call") or mnemonic.startswith("j"):
        match = re.match(r"(short|near|far)\b\s*(?:ptr\b\s*)?(?=\S)(.*)", rest, re.DOTALL | re.I)
        if match:
            word, rest = match[1].lower(), match[2]
            far, distance = far or word == "far", word if word != "far" else None
    operands = tuple(_operand(part, scope) for part in split_arguments(rest))
    return _normal(Instruction(mnemonic, operands, tuple(prefixes), far, distance))


def _normal(insn: Instruction) -> Instruction:
    operands = insn.operands
    if insn.mnemonic == "imul" and len(operands) == 2 and isinstance(operands[1], Immediate):
        operands = (operands[0], *operands)
    elif insn.mnemonic in _SHIFTS and len(operands) == 1:
        operands = (*operands, Immediate(1))
    far = insn.far
    if insn.mnemonic in ("jmp", "call") and len(operands) == 1:
        target = operands[0]
        far = far or isinstance(target, FarPointer)
        far = far or (isinstance(target, Memory) and target.size in (6, 10))
    return Instruction(insn.mnemonic, operands, insn.prefixes, far, insn.distance)


def _operand(text: str, scope: Scope) -> Operand:
    parts = tokens(text)
    if not parts:
        raise Refusal("an operand must stand between the commas")
    words = [token.lower() if kind == "name" else token for kind, token in parts]
    if words[0] in SIZES:
        return _sized(parts, words, scope)
    if words[0] == "offset" and len(words) > 1:
        return Immediate(*evaluate(parts[1:], scope))
    if len(words) == 1 and words[0] in _REGISTERS:
        return Register(words[0])
    if words[0] == "st":
        name = "".join(words) if len(words) > 1 else "st(0)"
        if name in _REGISTERS:
            return Register(name)
    if "[" in words:
        return _memory(parts, words, scope)
    if ":" in words:
        return _far_pointer(parts, words, scope)
    return Immediate(*evaluate(parts, scope))


def _sized(parts: Tokens, words: list[str], scope: Scope) -> Memory:
    has_ptr = len(words) > 1 and words[1] == "ptr"
    start = 2 if has_ptr else 1
    if "[" not in words[start:]:
        raise Refusal(
            f"{words[0]} must be followed by a memory operand, as in `{words[0]} ptr [rax]`; "
            "an immediate takes its size from the other operand"
        )
    memory = _memory(parts[start:], words[start:], scope)
    return Memory(
        SIZES[words[0]],
        memory.segment,
        memory.base,
        memory.index,
        memory.scale,
        memory.disp,
        memory.is_address,
        has_ptr,
    )


def _far_pointer(parts: Tokens, words: list[str], scope: Scope) -> FarPointer:
    colon = words.index(":")
    if words[0] in _REGISTERS:
        raise Refusal(f"memory must be written with brackets, as in `{words[0]}:[0x10]`")
    return FarPointer(
        evaluate(parts[:colon], scope).number, evaluate(parts[colon + 1 :], scope).number
    )


def _memory(parts: Tokens, words: list[str], scope: Scope) -> Memory:
    segment: str | None = None
    if words[1:2] == [":"] and words[0] in _REGISTERS and Register(words[0]).kind == "segment":
        segment = words[0]
        parts, words = parts[2:], words[2:]
    if words[:1] != ["["] or words[-1] != "]" or words.count("[") != 1 or words.count("]") != 1:
        raise Refusal(
            "a memory operand must be one pair of brackets, as in `qword ptr fs:[rax + rcx*8 + 16]`"
        )
    parts, words = parts[1:-1], words[1:-1]
    if ":" in words:
        raise Refusal("a segment must stand before the bracket, as in `gs:[0x10]`")
    if not any(word in _REGISTERS for word in words):
        value = evaluate(parts, scope)
        return Memory(segment=segment, disp=value.number, is_address=value.is_address)
    return _address(parts, words, segment, scope)


def _address(parts: Tokens, words: list[str], segment: str | None, scope: Scope) -> Memory:
    registers: list[tuple[str, int | None]] = []
    rest: list[tuple[str, str]] = []
    for start, end in _terms(parts):
        named = [word for word in words[start:end] if word in _REGISTERS]
        if not named:
            rest += parts[start:end]
            continue
        if words[start] == "-":
            raise Refusal(f"a register must be added to an address, not subtracted: {named[0]}")
        first = start + 1 if words[start] == "+" else start
        registers.append(_scaled(parts[first:end], words[first:end], named, scope))
    value = _displacement(tuple(rest), scope)
    for name, scale in registers:
        if Register(name).kind == "pointer":
            if len(registers) > 1 or scale is not None or name == "eip":
                raise Refusal("an address relative to rip must be `[rip + label]` and no more")
            if value.is_address:
                return Memory(segment=segment, disp=value.number, is_address=True)
        elif Register(name).kind != "general" or Register(name).width < 32:
            raise Refusal(f"an address must be made of 32- or 64-bit registers, not {name}")
    base, index, factor = _base_and_index(registers)
    return Memory(None, segment, base, index, factor, value.number, value.is_address)


def _terms(parts: Tokens) -> list[tuple[int, int]]:
    """Split at the + and - outside parentheses that stand between two terms."""
    starts = [0]
    depth = 0
    for position, (kind, text) in enumerate(parts):
        depth += (text == "(") - (text == ")")
        if kind == "op" and text in "+-" and depth == 0 and position > 0:
            before_kind, before = parts[position - 1]
            if before_kind != "op" or before in (")", "$"):
                starts.append(position)
    return list(zip(starts, [*starts[1:], len(parts)], strict=True))


def _scaled(
    parts: Tokens, words: list[str], named: list[str], scope: Scope
) -> tuple[str, int | None]:
    if len(words) == 1:
        return named[0], None
    if len(named) == 1 and words[0] == named[0] and words[1] == "*":
        return named[0], evaluate(parts[2:], scope).number
    if len(named) == 1 and words[-1] == named[0] and words[-2] == "*":
        return named[0], evaluate(parts[:-2], scope).number
    raise Refusal(
        f"a register in an address must stand alone or times 1, 2, 4 or 8, not in {''.join(words)}"
    )


def _displacement(parts: Tokens, scope: Scope) -> Value:
    if not parts:
        return Value(0)
    depth = 0
    for kind, text in parts:
        depth += (text == "(") - (text == ")")
        if kind == "op" and depth == 0 and text in _LOOSE:
            raise Refusal(f"an expression with {text} beside a register must have parentheses")
    return evaluate(parts, scope)


def _base_and_index(
    registers: list[tuple[str, int | None]],
) -> tuple[str | None, str | None, int]:
    plain = [name for name, scale in registers if scale is None]
    scaled = [(name, scale) for name, scale in registers if scale is not None]
    if len(registers) > 2 or len(scaled) > 1:
        raise Refusal("an address must be at most one base and one scaled index register")
    if scaled:
        name, scale = scaled[0]
        return (plain[0] if plain else None), name, scale
    if len(plain) == 1:
        return plain[0], None, 1
    # rsp cannot be an index (SDM volume 2, table 2-3), and unscaled the two may change places.
    base, index = (plain[1], plain[0]) if plain[1] in ("rsp", "esp") else (plain[0], plain[1])
    return base, index, 1
