"""Random address spaces: page tables that no kernel would make, grown along the paths asked for.

A :class:`Space` begins as an empty root. :meth:`Space.reach` follows a virtual address down, as a
CPU would, and invents each entry that it comes to first. Since tables and indices are few, paths
meet: tables are shared, an entry of one path is an entry of another at another level, and an entry
that points to its own table, or to one above, is used several times by one walk (rule ``SELF``).
Leaves map frames, tables (which so become data), the ends of RAM, and what is not RAM.

How often each of these happens is the knobs' (:mod:`.steer`); which of them happened is told by
``features``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from harness.fuzz.dice import Dice
from harness.memory import Region

__all__ = ["RAM", "Space"]

RAM: Final = (Region(0, 0x40_0000), Region(0x1_0000_0000, 0x10_0000))
"""The RAM of every generated case: two regions, so that addresses and offsets differ."""

_PHYSICAL_BITS = 40
_P, _RW, _US, _A, _D, _PS, _G, _PAT, _XD = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 12, 63))
_ADDRESS = 0x000F_FFFF_FFFF_F000
_ENDS: Final = (
    *(region.base for region in RAM if region.base),
    *(region.end - 0x1000 for region in RAM),
)
_BIG = {2: (0, 0x20_0000, RAM[1].base), 3: (0, RAM[1].base)}
"""Frames of big pages that lie over RAM: those at 0 lie over the tables, too."""
_SPECIAL_INDICES = (0, 255, 256, 511)


class Space:
    """Page tables under construction.

    :param dice: what decides.
    :param knobs: how often each feature occurs.

    ``words`` are its entries by address, ``root`` its top table, ``indices`` the few indices that
    its addresses are made of, ``features`` the knobs that had a part in it.
    """

    def __init__(self, dice: Dice, knobs: Mapping[str, float]) -> None:
        self._dice = dice
        self._knobs = knobs
        self.features: set[str] = set()
        self.levels = 4
        if dice.chance(knobs["la57"]):
            self.levels = 5
            self.features.add("la57")
        self.words: dict[int, int] = {}
        # Without generous spaces few walks would reach a leaf.
        self._plain = dice.chance(knobs["plain"])
        if self._plain:
            self.features.add("plain")
        self.root = self._new_table(in_ram=True)
        self.tables = [self.root]
        self.indices = [dice.below(512) for _ in range(1 + dice.below(3))]
        self.indices += [dice.pick(_SPECIAL_INDICES) for _ in range(1 + dice.below(2))]

    def reach(self, va: int) -> tuple[int, int] | None:
        """Follow an address down to its leaf, making the entries that are not there yet.

        :returns: the leaf's level and value, or None when the path ends before.
        """
        words = self.words
        table = self.root
        path: list[int] = []
        for level in range(self.levels, 0, -1):
            at = table | va >> 9 * level & 0xFF8
            path.append(table)
            raw = words.get(at)
            if raw is None:
                if not _in_ram(at):
                    return None
                raw = words[at] = self._entry(level, path)
            if level == 1 or raw & _PS:
                return level, raw
            table = raw & _ADDRESS
        return None

    def _entry(self, level: int, path: list[int]) -> int:
        dice, knobs = self._dice, self._knobs
        if dice.chance(knobs["random-entry"]):
            self.features.add("random-entry")
            return dice.bits(64)
        bits = self._flags()
        if level == 1:
            if dice.chance(0.2):
                bits |= _PS  # in a PTE this is PAT
            return bits | self._page()
        name = "huge" if level < 4 else "huge-above"
        if dice.chance(knobs[name]):
            self.features.add(name)
            return bits | _PS | self._big_page(level)
        return bits | self._below(path)

    def _flags(self) -> int:
        roll, knobs = self._dice.roll, self._knobs
        bits = _P | _RW | _US
        if not self._plain:
            for name, bit in (("not-present", _P), ("read-only", _RW), ("supervisor", _US)):
                if roll() < knobs[name]:
                    bits ^= bit
                    self.features.add(name)
            if roll() < knobs["no-execute"]:
                bits |= _XD
                self.features.add("no-execute")
        for bit in (_A, _D, _G):
            if roll() < 0.4:
                bits |= bit
        if roll() < knobs["key"]:
            bits |= int(roll() * 16) << 59
            self.features.add("key")
        if roll() < knobs["reserved"]:
            bits |= 1 << _PHYSICAL_BITS + int(roll() * (52 - _PHYSICAL_BITS))
            self.features.add("reserved")
        if roll() < 0.05:  # ignored everywhere: bits 11:9 and 58:52, and PWT and PCD
            bits |= int(roll() * 8) << 9 | int(roll() * 128) << 52 | int(roll() * 4) << 3
        return bits

    def _below(self, path: list[int]) -> int:
        """Choose the table that an entry points to."""
        dice, knobs = self._dice, self._knobs
        if dice.chance(knobs["recursive"]):
            self.features.add("recursive")
            return path[-1] if dice.chance(0.5) else dice.pick(path)
        if len(self.tables) > 1 and dice.chance(knobs["shared"]):
            self.features.add("shared")
            return dice.pick(self.tables)
        table = self._new_table()
        self.tables.append(table)
        return table

    def _new_table(self, *, in_ram: bool = False) -> int:
        dice, knobs = self._dice, self._knobs
        if not in_ram and dice.chance(knobs["hole"]):
            self.features.add("hole")
            return dice.bits(_PHYSICAL_BITS) & ~0xFFF
        return self._frame()

    def _frame(self) -> int:
        dice = self._dice
        if dice.chance(self._knobs["edge"]):
            self.features.add("edge")
            return dice.pick(_ENDS)
        if dice.chance(0.7):
            return dice.below(RAM[0].size >> 12) << 12
        return RAM[1].base + (dice.below(RAM[1].size >> 12) << 12)

    def _page(self) -> int:
        """Choose the frame that a PTE maps."""
        dice, knobs = self._dice, self._knobs
        if dice.chance(knobs["table-page"]):
            self.features.add("table-page")
            return dice.pick(self.tables)
        if dice.chance(knobs["hole"]):
            self.features.add("hole")
            return dice.bits(_PHYSICAL_BITS) & ~0xFFF
        return self._frame()

    def _big_page(self, level: int) -> int:
        dice, knobs = self._dice, self._knobs
        if level > 3 or dice.chance(knobs["misaligned"]):
            if level <= 3:
                self.features.add("misaligned")
            return self._frame()
        if dice.chance(knobs["hole"]):
            self.features.add("hole")
            frame = dice.bits(_PHYSICAL_BITS) & -1 << 3 + 9 * level
        else:
            frame = dice.pick(_BIG[level])
        return frame | (_PAT if dice.chance(0.3) else 0)


def _in_ram(pa: int) -> bool:
    return any(region.base <= pa < region.end for region in RAM)
