"""Random scenarios: sequences of accesses and edits, with and without invalidation.

:func:`generate` makes the scenario of a number in the sequence that a seed names, the same one
every time, on RAM of :data:`RAM`::

    answer = ask(engine, generate(seed=1, number=0))

A handful of pages share tables, so that what is edited for one matters to another. Entries are
edited by the kernel's hand or by stores through a recursive slot; then the page is invalidated by
``invlpg`` or by a load of CR3, another part of it is, another page is, or nothing is; and then the
same pages are asked for again, from another ring or after a control bit has changed.
"""

from __future__ import annotations

from random import Random
from typing import Final

from harness.check.question import Question
from harness.cpu import CR0, CR4, EFER, RFLAGS
from harness.engine.steps import AccessStep, ControlStep, InvlpgStep, Step, WriteStep
from harness.fuzz.generator import generator
from harness.fuzz.scenario_cpu import scenario_cpu
from harness.outcome import Access, AccessKind

__all__ = ["RAM", "generate"]

RAM: Final = ((0, 0x4_0000),)
"""Of every scenario made here."""

_ROOTS = (0x1000, 0x2000)
_TABLES = tuple(range(0x3000, 0xC000, 0x1000))
_FRAMES = tuple(range(0x1_0000, 0x4_0000, 0x1000))
_P, _RW, _US, _A, _D, _PS, _G, _XD = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 63))
_FLIPPED = (_P, _P, _RW, _RW, _US, _US, _XD, _A, _D, _G, _PS, 1 << 45)
_PAGE = 0x000F_FFFF_FFFF_F000
_RECURSIVE = 0x155
_MASK = (1 << 64) - 1
_WP, _NXE, _AC = int(CR0.WP), int(EFER.NXE), int(RFLAGS.AC)
_PGE, _SMEP, _SMAP, _PKE = (int(bit) for bit in (CR4.PGE, CR4.SMEP, CR4.SMAP, CR4.PKE))


class _Maker:
    """Makes one scenario, and follows what its edits do to memory."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._cpu = scenario_cpu(
            rng,
            _ROOTS[0],
            wp=0.6,
            guards=0.2,
            flags=((_AC, 0.3),),
            pkru=(0, 0, 0xC, None),
            pge=0.6,
        )
        self._levels = self._cpu.levels
        self._words: dict[int, int] = {}
        self._steps: list[Step] = []
        self._generous = rng.random() < 0.6

    def scenario(self) -> Question:
        """Make it."""
        rng = self._rng
        indices = [rng.randrange(1, 250) for _ in range(2)]
        self._places = [self._place(indices) for _ in range(rng.choice((1, 2, 2, 3)))]
        for root in _ROOTS[: 2 if rng.random() < 0.3 else 1]:
            for place in self._places:
                self._map(root, place)
            self._words[root + 8 * _RECURSIVE] = root | _P | _RW | _A | _D
        memory = dict(self._words)
        wanted = rng.randrange(2, 9)
        self._access()
        while len(self._steps) < wanted:
            what = rng.random()
            if what < 0.45:
                self._access()
            elif what < 0.8:
                self._edit()
            elif what < 0.92:
                self._invalidate(rng.choice(self._places))
            else:
                self._control()
        return Question(self._cpu, RAM, memory, self._steps)

    def _place(self, indices: list[int]) -> int:
        """Choose a page of which the higher indices are those of its neighbours."""
        rng = self._rng
        va = 0
        for level in range(self._levels, 0, -1):
            va = va << 9 | (rng.choice(indices) if level < 3 else indices[0])
        return va << 12

    def _map(self, root: int, place: int) -> None:
        table = root
        for level in range(self._levels, 0, -1):
            at = table | place >> 9 * level & 0xFF8
            if at not in self._words:
                self._words[at] = self._entry(level)
            entry = self._words[at]
            if level == 1 or entry & _PS:
                break
            table = entry & _PAGE
            if not any(region <= table < region + size for region, size in RAM):
                break

    def _entry(self, level: int) -> int:
        rng = self._rng
        chance = rng.random
        bits = _P | _RW | _US if self._generous or chance() < 0.6 else 0
        if not bits:
            bits = sum(
                bit for bit, share in ((_P, 0.85), (_RW, 0.7), (_US, 0.7)) if chance() < share
            )
        for bit, share in ((_A, 0.3), (_D, 0.3), (_G, 0.3), (_XD, 0.08)):
            if chance() < share:
                bits |= bit
        if chance() < 0.2:
            bits |= rng.choice((1, 1, 3)) << 59
        if level == 1:
            return bits | rng.choice(_FRAMES)
        if level in (2, 3) and chance() < 0.2:
            return bits | _PS  # over the first frames, and beyond RAM
        # A table for each level, mostly; one that serves two is a chance of its own.
        if chance() < 0.9:
            return bits | _TABLES[(5 - level) * 2 + rng.randrange(2)]
        return bits | rng.choice(_TABLES)

    def _access(self) -> None:
        rng = self._rng
        kind = rng.choice(("read", "read", "write", "write", "fetch"))
        va = rng.choice(self._places) | rng.randrange(0, 0xFE0, 8)
        size = 1 if kind == "fetch" else rng.choice((1, 2, 4, 8))
        if kind == "read" and rng.random() < 0.05:
            va |= 0xFFF
        if rng.random() < 0.1:  # another part of the page, if it is a big one
            va ^= rng.choice((1 << 12, 1 << 13, 1 << 21))
        cpl = rng.choice((None, None, None, 0, 3))
        self._steps.append(AccessStep(self._canonical(va), Access(AccessKind(kind), size), cpl))

    def _edit(self) -> None:
        rng = self._rng
        place = rng.choice(self._places)
        level, at = rng.choice(self._chain(place))
        old = self._words.get(at, 0)
        how = rng.random()
        if how < 0.55:
            new = old ^ rng.choice(_FLIPPED)
        elif how < 0.85:
            frames = _FRAMES if level == 1 else _TABLES
            new = old & ~_PAGE | rng.choice(frames)
        elif how < 0.93:
            new = self._entry(level)
        else:
            new = 0
        self._words[at] = new
        if rng.random() < 0.25:
            self._steps.append(
                AccessStep(
                    self._canonical(self._alias(place, level)),
                    Access(AccessKind.WRITE, 8),
                    0,
                    new,
                )
            )
        else:
            self._steps.append(WriteStep({at: new}))
        if rng.random() < 0.5:
            self._invalidate(place)
        if rng.random() < 0.6:
            self._access()

    def _invalidate(self, place: int) -> None:
        rng = self._rng
        how = rng.random()
        if how < 0.5:
            self._steps.append(InvlpgStep(self._canonical(place | rng.randrange(0x1000))))
        elif how < 0.65:
            other = place ^ rng.choice((1 << 12, 1 << 20, 1 << 21, 1 << 30))
            self._steps.append(InvlpgStep(self._canonical(other)))
        elif how < 0.9:
            roots = [root for root in _ROOTS if root + 8 * _RECURSIVE in self._words]
            self._steps.append(ControlStep("cr3", rng.choice((_ROOTS[0], *roots))))
        else:
            self._set("cr4", self._cpu_now("cr4") ^ _PGE)

    def _control(self) -> None:
        rng = self._rng
        register, bit = rng.choice(
            (
                ("cr0", _WP),
                ("cr4", _SMEP),
                ("cr4", _SMAP),
                ("cr4", _PGE),
                ("cr4", _PKE),
                ("efer", _NXE),
                ("rflags", _AC),
                ("pkru", 0xC),
            )
        )
        self._set(register, self._cpu_now(register) ^ bit)

    def _set(self, register: str, value: int) -> None:
        self._steps.append(ControlStep(register, value))

    def _cpu_now(self, register: str) -> int:
        for step in reversed(self._steps):
            if isinstance(step, ControlStep) and step.register == register:
                return step.value
        return int(getattr(self._cpu, register))

    def _chain(self, place: int) -> list[tuple[int, int]]:
        """List level and address of each entry that the page's walk reads now."""
        table = self._cpu_now("cr3") & _PAGE
        found = []
        for level in range(self._levels, 0, -1):
            at = table | place >> 9 * level & 0xFF8
            if at >= RAM[0][1]:
                break
            found.append((level, at))
            entry = self._words.get(at, 0)
            if entry & _PS and level > 1:
                break
            table = entry & _PAGE
        return found

    def _alias(self, place: int, level: int) -> int:
        """Return where the recursive slot shows the entry of a level."""
        parts = [place >> 12 + 9 * (n - 1) & 511 for n in range(self._levels, level, -1)]
        slots = [_RECURSIVE] * (self._levels - len(parts)) + parts
        va = 0
        for slot in slots:
            va = va << 9 | slot
        return va << 12 | place >> 9 * level & 0xFF8

    def _canonical(self, va: int) -> int:
        bits = 9 * self._levels + 12
        va &= (1 << bits) - 1
        return va | (-1 << bits & _MASK if va >> bits - 1 else 0)


generate = generator(lambda rng: _Maker(rng).scenario())
"""Makes one random scenario of a seed and a number."""
