"""Random scenarios: instructions that touch memory twice or many times, and fault half way.

:func:`generate` makes the scenario of a number in the sequence that a seed names, the same one
every time, on RAM of :data:`RAM`::

    answer = ask(engine, generate(seed=1, number=0))

String instructions run over the ends of pages, read-modify-write instructions meet pages that may
be read and not written, and the stack's instructions have an operand and a stack of their own. Of
the pages around them a few are missing, read-only, a supervisor's, reserved, or keyed.
"""

from __future__ import annotations

from random import Random
from typing import Final

from harness.check.question import Question
from harness.cpu import RFLAGS
from harness.engine.steps import ExecuteStep
from harness.fuzz.generator import generator
from harness.fuzz.scenario_cpu import scenario_cpu

__all__ = ["RAM", "generate"]

RAM: Final = ((0, 0x4_0000),)
"""Of every scenario made here."""

_ROOT, _TABLES = 0x1000, (0x2000, 0x3000, 0x4000, 0x5000)
_FRAMES = tuple(range(0x1_0000, 0x4_0000, 0x1000))
_P, _RW, _US, _A, _D, _PS, _G, _XD = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 63))
_AC, _DF, _CF = (int(bit) for bit in (RFLAGS.AC, RFLAGS.DF, RFLAGS.CF))
_MASK = (1 << 64) - 1
_TARGET = 0x3F << 39
"""In a top-level slot that maps nothing: where a call goes."""

_BY_SIZE = {1: ("byte", "bl"), 2: ("word", "bx"), 4: ("dword", "ebx"), 8: ("qword", "rbx")}
_STRINGS = ("movs", "stos", "lods", "cmps", "scas")
_TWO = ("add", "or", "adc", "sbb", "and", "sub", "xor", "xchg", "xadd", "cmpxchg")
_BITS = ("bts", "btr", "btc")
_ONE = ("inc", "dec", "not", "neg")
_STACK = (
    *("push rax", "pop rax", "push qword ptr [rsi]", "pop qword ptr [rdi]"),
    *("call qword ptr [rsi]", "leave"),
)


class _Maker:
    """Makes one scenario."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._cpu = scenario_cpu(
            rng,
            _ROOT,
            wp=0.7,
            guards=0.2,
            flags=((_AC, 0.3), (_DF, 0.3), (_CF, 0.3)),
            pkru=(0, 0, 0xC, 0x8),
        )
        self._levels = self._cpu.levels
        self._memory: dict[int, int] = {}

    def scenario(self) -> Question:
        """Make it."""
        rng = self._rng
        self._tables()
        size = rng.choice((1, 2, 4, 8))
        what = rng.random()
        lock = "lock " if rng.random() < 0.3 else ""
        word, register = _BY_SIZE[size]
        if what < 0.5:
            name = rng.choice(_STRINGS)
            prefix = rng.choice(("", "rep ", "rep "))
            if name in ("cmps", "scas") and prefix:
                prefix = rng.choice(("repe ", "repne "))
            text = f"{prefix}{name}{'bwdq'[size.bit_length() - 1]}"
        elif what < 0.66:
            name = rng.choice(_TWO)
            lock = "" if name == "xchg" else lock
            text = f"{lock}{name} {word} ptr [rdi], {register}"
        elif what < 0.74:
            size = rng.choice((2, 4, 8))
            text = f"{lock}{rng.choice(_BITS)} [rdi], {_BY_SIZE[size][1]}"
        elif what < 0.8:
            text = f"{lock}{rng.choice(_ONE)} {word} ptr [rdi]"
        elif what < 0.85:
            text = f"{lock}cmpxchg16b xmmword ptr [rdi]"
        else:
            text = rng.choice(_STACK)
        registers = self._registers(size)
        if text.startswith("rep") and rng.random() < 0.7:
            self._run_into_a_flaw(text, registers, size)
        if text.startswith("call"):
            self._put_target(registers["rsi"])
        if "cmpxchg16b" in text and rng.random() < 0.8:
            registers["rdi"] &= ~15
        step = ExecuteStep(text, registers, rng.choice((None, None, 0, 3)))
        return Question(self._cpu, RAM, self._memory, [step])

    def _tables(self) -> None:
        rng = self._rng
        index = rng.randrange(1, 0x3E)
        self._base = 0
        table = _ROOT
        generous = rng.random() < 0.8
        for level in range(self._levels, 1, -1):
            self._base |= index << 9 * level + 3
            below = _TABLES[level - 2]
            bits = _P | _RW | _US if generous or rng.random() < 0.9 else rng.choice((0, 1, 3, 5))
            self._memory[table | index << 3] = below | bits | self._a_and_d()
            table = below
        # Pages in a row, the middle of what the registers reach.
        self._first = rng.randrange(8, 480)
        frames = rng.sample(_FRAMES, 6)
        flaws = rng.choice((0, 1, 1, 2, 3))
        self._flawed = flawed = set(rng.sample(range(6), flaws))
        for place, frame in enumerate(frames):
            bits = _P | _RW | _US
            if place in flawed:
                bits = rng.choice(
                    (0, 0, _P, _P | _US, _P | _RW, _P | _RW | _US | 1 << 59, bits | 1 << 50)
                )
            self._memory[table | (self._first + place) << 3] = frame | bits | self._a_and_d()
            if rng.random() < 0.3:  # what repe and repne end at
                self._memory[frame + 8 * rng.randrange(512)] = rng.getrandbits(64)

    def _a_and_d(self) -> int:
        return self._rng.choice((0, _A, _A | _D, _D))

    def _place(self, size: int) -> int:
        rng = self._rng
        page = self._base | (self._first + rng.randrange(1, 5)) << 12
        how = rng.random()
        if how < 0.5:  # near an end of the page
            offset = rng.choice((-1, 1)) * rng.randrange(0, 10 * size) - rng.choice((0, size))
        elif how < 0.6:
            offset = -rng.randrange(1, size + 1)
        else:
            offset = rng.randrange(0x1000)
        return page + offset & _MASK

    def _registers(self, size: int) -> dict[str, int]:
        rng = self._rng
        registers = {
            "rsi": self._place(size),
            "rdi": self._place(size),
            "rsp": self._place(8),
            "rbp": self._place(8),
            "rcx": rng.choice((0, 1, 2, rng.randrange(40))),
            "rax": rng.choice((0, 0, rng.getrandbits(8 * size))),
            "rbx": rng.getrandbits(8 * size) if size < 8 else rng.randrange(-600, 600) & _MASK,
            "rdx": 0,
        }
        if rng.random() < 0.02:
            registers[rng.choice(("rsi", "rdi", "rsp"))] ^= 1 << 62
        return registers

    def _run_into_a_flaw(self, text: str, registers: dict[str, int], size: int) -> None:
        """Start a few elements before a page that has a flaw, if there is one."""
        rng = self._rng
        down = bool(self._cpu.rflags & _DF)
        way = -1 if down else 1
        starts = [n for n in range(6) if n not in self._flawed and n + way in self._flawed]
        if not starts:
            return
        page = self._base | self._first + rng.choice(starts) << 12
        elements = rng.randrange(1, 7)
        late = rng.choice((0, 0, rng.randrange(size)))  # the last one may lie on both pages
        offset = (elements - 1) * size + late if down else 0x1000 - elements * size + late
        for register in ("rsi", "rdi"):
            registers[register] = page + 0x400 + 8 * rng.randrange(64)
        ways = {"lods": ("rsi",), "stos": ("rdi",), "scas": ("rdi",)}
        name = text.split()[1][:4]
        registers[rng.choice(ways.get(name, ("rsi", "rdi")))] = page + offset
        registers["rcx"] = elements + rng.randrange(1, 6)

    def _put_target(self, va: int) -> None:
        """Have a call's operand lead where nothing is mapped, whatever its alignment."""
        table = _TABLES[0]
        target = _TARGET.to_bytes(8, "little")
        for place, byte in enumerate(target):
            at = va + place
            entry = self._memory.get(table | at >> 9 & 0xFF8, 0)
            pa = (entry & 0x3_F000) | at & 0xFFF
            if not entry:
                continue
            shift = 8 * (pa & 7)
            word = self._memory.get(pa & ~7, 0)
            self._memory[pa & ~7] = word & ~(0xFF << shift) | byte << shift


generate = generator(lambda rng: _Maker(rng).scenario())
"""Makes one random scenario of a seed and a number."""
