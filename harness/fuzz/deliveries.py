"""Random scenarios: exceptions delivered through a broken IDT, GDT, TSS or stack.

:func:`generate` makes the scenario of a number in the sequence that a seed names, the same one
every time, on RAM of :data:`RAM`::

    answer = ask(engine, generate(seed=1, number=0))

Each has an IDT, a GDT, a TSS and stacks on pages of their own. One or two pieces are then broken: a
gate, a descriptor, a limit, a selector, a stack pointer, or the page that one of them lies on; half
of the gates use stacks of the TSS, some of whose pages are missing as well.
"""

from __future__ import annotations

from random import Random
from typing import Final

from harness.check.question import Question
from harness.cpu import RFLAGS
from harness.engine.steps import DeliverStep
from harness.fuzz.generator import generator
from harness.fuzz.scenario_cpu import scenario_cpu

__all__ = ["RAM", "generate"]

RAM: Final = ((0, 0x4_0000),)
"""Of every scenario made here."""

_ROOT, _TABLES = 0x1000, (0x2000, 0x3000, 0x4000, 0x5000)
_P, _RW, _US, _A, _D, _XD = (1 << bit for bit in (0, 1, 2, 5, 6, 63))
_AC, _IF = int(RFLAGS.AC), int(RFLAGS.IF)
_MASK = (1 << 64) - 1
_FAULTS = (0, 5, 6, 7, 8, 10, 11, 12, 13, 14, 17)
_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})

# Pages from the base on, each with a frame of its own.
_IDT, _GDT, _TSS, _STACK, _RSP0, _IST1, _IST2 = 0, 2, 4, 6, 9, 12, 15
_PAGES = 18
_FRAMES = 0x1_0000
_CODE, _DATA = 0x08, 0x10


class _Maker:
    """Makes one scenario."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._cpu = scenario_cpu(
            rng,
            _ROOT,
            wp=0.7,
            guards=0.25,
            flags=((_AC, 0.3), (_IF, 0.5)),
            pkru=(0, 0, 0xC, 0x5555_5554),
            cpls=(0, 3, 3),
        )
        self._levels = self._cpu.levels
        self._memory: dict[int, int] = {}

    def scenario(self) -> Question:
        """Make it."""
        rng = self._rng
        self._tables()
        self._idt, self._gdt = self._page(_IDT), self._page(_GDT)
        self._tss = self._page(_TSS)
        if rng.random() < 0.3:  # one that reaches over the end of its page
            self._idt += 0x1000 - 16 * rng.randrange(1, 16) - rng.choice((0, 8))
            self._gdt += 0x1000 - 8 * rng.randrange(1, 4) - rng.choice((0, 4))
            self._tss += 0x1000 - rng.randrange(8, 64)
        software = rng.random() < 0.35
        vector = rng.choice((3, 0x80, 14, 6)) if software else rng.choice(_FAULTS)
        self._fill(vector)
        rsp = self._stack_pointer(_STACK)
        limits = {"idt": 0xFFF, "gdt": 0x3F, "tss": 0x67}
        self._break(limits, vector)
        if rng.random() < 0.4:
            self._break(limits, vector)
        ring3 = self._cpu.cpl == 3
        step = DeliverStep(
            vector,
            error_code=rng.randrange(16)
            if vector in _WITH_ERROR_CODE and not software and vector != 8
            else 0
            if vector == 8
            else None,
            software=software,
            idt=(self._idt, limits["idt"]),
            gdt=(self._gdt, limits["gdt"]),
            tss=(self._tss, limits["tss"]),
            rip=self._page(0) + rng.randrange(0x1000),
            rsp=rsp,
            cs=0x23 if ring3 else _CODE,
            ss=0x1B if ring3 else _DATA,
            cr2=rng.getrandbits(40),
        )
        return Question(self._cpu, RAM, self._memory, [step])

    def _tables(self) -> None:
        rng = self._rng
        index = rng.randrange(1, 256)
        base = 0
        table = _ROOT
        user = _US if rng.random() < 0.3 else 0
        for level in range(self._levels, 1, -1):
            base |= index << 9 * level + 3
            below = _TABLES[level - 2]
            self._put(table | index << 3, below | _P | _RW | user | rng.choice((0, _A)))
            table = below
        self._first = rng.randrange(1, 480)
        bits = 9 * self._levels + 12
        if base >> bits - 1:
            base |= -1 << bits & _MASK
        self._base = base
        self._leaves = table
        for number in range(_PAGES):
            flags = _P | _RW | rng.choice((user, user, 0)) | rng.choice((0, _A, _A | _D))
            if rng.random() < 0.1:
                flags |= 1 << 59
            self._put(self._leaf(number), _FRAMES + 0x1000 * number | flags)

    def _put(self, pa: int, word: int) -> None:
        self._memory[pa] = word

    def _leaf(self, number: int) -> int:
        return self._leaves | self._first + number << 3

    def _page(self, number: int) -> int:
        return self._base | self._first + number << 12

    def _store(self, va: int, data: bytes) -> None:
        """Write bytes of the pages, whose frames lie in a row as they do."""
        for place, byte in enumerate(data):
            pa = _FRAMES + va + place - self._page(0)
            shift = 8 * (pa & 7)
            word = self._memory.get(pa & ~7, 0)
            self._memory[pa & ~7] = word & ~(0xFF << shift) | byte << shift

    def _stack_pointer(self, page: int) -> int:
        """Choose a stack pointer, some of them where a frame takes two pages."""
        rng = self._rng
        offset = rng.choice((0x1000 + rng.randrange(1, 48), 0x1000 + rng.randrange(0x1000), 0x1800))
        return self._page(page) + offset & _MASK

    def _fill(self, vector: int) -> None:
        rng = self._rng
        for number in {vector, 8, 10, 11, 12, 13, 14}:
            self._gate(number)
        for selector, descriptor in (
            (0x08, 0x0020_9B00_0000_0000),
            (0x10, 0x0000_9300_0000_0000),
            (0x18, 0x0000_F300_0000_0000),
            (0x20, 0x0020_FB00_0000_0000),
            (0x28, 0x0020_9F00_0000_0000),  # conforming
            (0x30, 0x00CF_9B00_0000_FFFF),  # not 64-bit
            (0x38, 0x0020_1B00_0000_0000),  # not present
        ):
            self._store(self._gdt + selector, descriptor.to_bytes(8, "little"))
        for place, page in ((4, _RSP0), (36, _IST1), (44, _IST2)):
            pointer = self._stack_pointer(page)
            self._store(self._tss + place, pointer.to_bytes(8, "little"))
        rng.random()

    def _gate(
        self, number: int, selector: int = _CODE, kind: int | None = None, top: int = 0
    ) -> None:
        rng = self._rng
        if kind is None:
            kind = 0x80 | rng.choice((0xE, 0xF)) | rng.choice((0, 3, 3)) << 5
        offset = self._page(1) + 16 * number ^ top << 48
        ist = rng.choice((0, 0, 0, 1, 2))
        self._store(
            self._idt + 16 * number,
            b"".join(
                value.to_bytes(size, "little")
                for value, size in (
                    (offset & 0xFFFF, 2),
                    (selector, 2),
                    (ist, 1),
                    (kind, 1),
                    (offset >> 16 & 0xFFFF, 2),
                    (offset >> 32 & 0xFFFF_FFFF, 4),
                    (0, 4),
                )
            ),
        )

    def _break(self, limits: dict[str, int], vector: int) -> None:
        rng = self._rng
        victim = rng.choice((vector, vector, 8, 13, 14))
        what = rng.randrange(9)
        if what == 0:
            self._gate(victim, kind=rng.choice((0xE, 0x8C, 0x85, 0x8E, 0)))
        elif what == 1:
            self._gate(
                victim, selector=rng.choice((0, 3, 0x10, 0x20, 0x28, 0x30, 0x38, 0x0C, 0x40))
            )
        elif what == 2:
            self._gate(victim, top=0x4000)
        elif what == 3:
            table = rng.choice(tuple(limits))
            limits[table] = rng.randrange(limits[table] + 1)
        elif what == 4:
            place = rng.choice((4, 36, 44))
            pointer = rng.choice((0, 0x8, 1 << 63, self._page(30) + 0x800))
            self._store(self._tss + place, pointer.to_bytes(8, "little"))
        else:
            number = rng.randrange(_PAGES)
            entry = _FRAMES + 0x1000 * number
            flags = rng.choice((0, 0, _P, _P | _US | _RW, _P | _RW | 1 << 50, _P | _RW | _XD))
            self._put(self._leaf(number), entry | flags)


generate = generator(lambda rng: _Maker(rng).scenario())
"""Makes one random scenario of a seed and a number."""
