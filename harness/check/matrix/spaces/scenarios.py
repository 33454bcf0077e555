"""What kvm-unit-tests' ``access`` does besides its matrix: several accesses, one after another.

:func:`scenarios` gives them by name, as JSON that
:meth:`Question.from_json <harness.check.question.Question.from_json>` reads. Each is a few steps on
one CPU whose TLB lives on between them; what may come of every step is for the rules to say, so
that nothing is expected here::

    >>> sorted(scenarios(4))[:2]
    ['alias-2m-read-only', 'dirty-of-each-alias-2m']

The tables lie where a matrix has them (:mod:`harness.check.matrix.blocks`). A number of levels
other than 4 and 5 is an :class:`~harness.errors.InputError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.check.matrix.block import FRAME_2M, FRAME_4K, RAM, TABLES
from harness.check.matrix.spaces.group import PLAIN_CPU
from harness.check.question import Question
from harness.cpu import CR0, CR4, EFER, CpuState
from harness.entry import PageTableFlags
from harness.errors import InputError

__all__ = ["scenarios"]

_P, _RW, _US, _D, _PS = (
    int(flag)
    for flag in (
        PageTableFlags.PRESENT,
        PageTableFlags.WRITABLE,
        PageTableFlags.USER_ACCESSIBLE,
        PageTableFlags.DIRTY,
        PageTableFlags.HUGE_PAGE,
    )
)
_BIT_51 = 1 << 51
_ALL = _P | _RW | _US
_USER = 3
_WP, _SMEP, _NXE = int(CR0.WP), int(CR4.SMEP), int(EFER.NXE)

_Words = dict[int, int]
_Steps = list[dict[str, Any]]

# The indices that all addresses have at levels 5 and 4, and at 3, 2 and 1 if nothing else is said.
_TOP = {5: 5, 4: 4, 3: 3, 2: 1, 1: 2}


def _va(**indices: int) -> int:
    chosen = _TOP | {int(level.removeprefix("p")): index for level, index in indices.items()}
    return sum(index << 9 * level + 3 for level, index in chosen.items()) | 0x08


class _Paging:
    # The tables of one scenario: one of each level, all rights above what is told.
    def __init__(self, levels: int) -> None:
        self._levels = levels
        self.words: _Words = {}
        for level in range(levels, 1, -1):
            self.put(level, self._table(level) | _ALL)

    def _table(self, level: int) -> int:
        return TABLES[self._levels - level + 1]

    def at(self, level: int, index: int | None = None) -> int:
        """Return where an entry lies."""
        return TABLES[self._levels - level] + 8 * (_TOP[level] if index is None else index)

    def put(self, level: int, entry: int, index: int | None = None) -> int:
        """Set an entry, and return where it lies."""
        self.words[self.at(level, index)] = entry
        return self.at(level, index)

    def lead_on(self, level: int, flags: int, index: int) -> None:
        """Set an entry that leads to the one table below."""
        self.put(level, self._table(level) | flags, index)

    def va(self, **indices: int) -> int:
        """Return the address with these indices (``p1`` to ``p5``), others as usual."""
        return _va(**indices) & (1 << 9 * self._levels + 12) - 1

    def scenario(self, steps: Iterable[dict[str, Any]], cpu: CpuState) -> dict[str, Any]:
        """Return it all as JSON."""
        return {
            "cpu": cpu.to_json(),
            "ram": [[f"{base:#x}", f"{size:#x}"] for base, size in RAM],
            "memory": {f"{pa:#x}": f"{word:#x}" for pa, word in sorted(self.words.items())},
            "steps": list(steps),
        }


def _access(va: int, kind: str = "read", *, user: bool = False) -> dict[str, Any]:
    return {"access": {"va": f"{va:#x}", "kind": kind}, "cpl": _USER if user else 0}


def _cr0(cpu: CpuState, *, wp: bool) -> dict[str, Any]:
    return {"cr0": f"{cpu.cr0 & ~_WP | (_WP if wp else 0):#x}"}


def _aliases(levels: int) -> tuple[_Paging, int, int]:
    # Two PDEs map one 2 MiB frame; the second one is read-only.
    paging = _Paging(levels)
    paging.put(2, FRAME_2M | _ALL | _PS, 1)
    paging.put(2, FRAME_2M | _P | _US | _PS, 2)
    return paging, paging.va(p2=1), paging.va(p2=2)


def _alias_read_only(levels: int, cpu: CpuState) -> dict[str, Any]:
    paging, writable, read_only = _aliases(levels)
    steps: _Steps = []
    for user in (False, True):
        for kind in ("read", "write"):
            steps += [_access(va, kind, user=user) for va in (writable, read_only, writable)]
    return paging.scenario(steps, cpu)


def _dirty_of_each_alias(levels: int, cpu: CpuState) -> dict[str, Any]:
    paging, writable, read_only = _aliases(levels)
    cpu = cpu.replace(cr0=cpu.cr0 & ~_WP)
    steps = [_access(va) for va in (writable, read_only)]
    steps += [_access(va, "write") for va in (writable, read_only)]
    return paging.scenario(steps, cpu)


def _dirty_of_each_alias_4k(levels: int, cpu: CpuState) -> dict[str, Any]:
    paging = _Paging(levels)
    paging.put(1, FRAME_4K | _ALL, 2)
    paging.put(1, FRAME_4K | _P | _US, 3)
    cpu = cpu.replace(cr0=cpu.cr0 & ~_WP)
    vas = paging.va(p1=3), paging.va(p1=2)
    steps = [_access(va) for va in vas] + [_access(va, "write") for va in vas]
    return paging.scenario(steps, cpu)


def _reserved_neighbour(levels: int, cpu: CpuState) -> dict[str, Any]:
    # A CPU that fetches entries in advance must not let the neighbour's fault show.
    paging = _Paging(levels)
    absent = paging.put(1, FRAME_4K | _RW | _US, 2)
    paging.put(1, FRAME_4K | _ALL | _BIT_51, 3)
    va, neighbour = paging.va(p1=2), paging.va(p1=3)
    steps: _Steps = [_access(va, user=True), _access(neighbour, user=True)]
    steps += [{"write": {f"{absent:#x}": f"{FRAME_4K | _ALL:#x}"}}, {"invlpg": f"{va:#x}"}]
    steps += [_access(va, "write", user=True), _access(neighbour, "write", user=True)]
    return paging.scenario(steps, cpu)


def _write_then_fetch(levels: int, cpu: CpuState) -> dict[str, Any]:
    paging = _Paging(levels)
    paging.put(1, FRAME_4K | _ALL)
    cpu = cpu.replace(cr4=cpu.cr4 | _SMEP)
    va = paging.va()
    steps = [_access(va, "write"), _access(va, "fetch"), _access(va, "fetch", user=True)]
    return paging.scenario([*steps, _access(va, "fetch")], cpu)


def _wp_flipped(levels: int, cpu: CpuState) -> dict[str, Any]:
    paging = _Paging(levels)
    paging.put(1, FRAME_4K | _P | _US)
    va = paging.va()
    steps = [_access(va), _access(va, "write"), _cr0(cpu, wp=False), _access(va, "write")]
    steps += [_access(va, "write", user=True), _cr0(cpu, wp=True), _access(va, "write")]
    return paging.scenario(steps, cpu)


def _wp_flipped_dirty(levels: int, cpu: CpuState) -> dict[str, Any]:
    # The same with D set from the start: no walk is needed to set it.
    paging = _Paging(levels)
    paging.put(1, FRAME_4K | _P | _US | _D)
    va = paging.va()
    steps = [_cr0(cpu, wp=False), _access(va, "write"), _cr0(cpu, wp=True), _access(va, "write")]
    return paging.scenario(steps, cpu)


def _two_directory_pointers(levels: int, cpu: CpuState) -> dict[str, Any]:
    # Four PDPTEs with other rights each lead to the same page directory.
    paging = _Paging(levels)
    paging.put(1, FRAME_4K | _ALL)
    rights = (_ALL, _P | _US, _P | _RW, _P)
    vas = []
    for index, flags in enumerate(rights, 3):
        paging.lead_on(3, flags, index)
        vas.append(paging.va(p3=index))
    steps = [
        _access(va, kind, user=user)
        for user in (True, False)
        for kind in ("read", "write")
        for va in (*vas, *reversed(vas))
    ]
    return paging.scenario(steps, cpu)


_SCENARIOS = {
    "alias-2m-read-only": _alias_read_only,
    "dirty-of-each-alias-2m": _dirty_of_each_alias,
    "dirty-of-each-alias-4k": _dirty_of_each_alias_4k,
    "reserved-neighbour": _reserved_neighbour,
    "two-directory-pointers": _two_directory_pointers,
    "wp-flipped": _wp_flipped,
    "wp-flipped-dirty": _wp_flipped_dirty,
    "write-then-smep-fetch": _write_then_fetch,
}


def scenarios(levels: int) -> dict[str, Question]:
    """Return the scenarios by name, each a question of several steps.

    :param levels: 4 or 5.
    :raises InputError: for any other number.
    """
    if levels not in (4, 5):
        raise InputError(f"scenarios must have 4 or 5 levels, not {levels!r}")
    cpu = CpuState(
        cr0=PLAIN_CPU["cr0"] | _WP,
        cr3=PLAIN_CPU["cr3"],
        cr4=PLAIN_CPU["cr4"] | (int(CR4.LA57) if levels == 5 else 0),
        efer=PLAIN_CPU["efer"] | _NXE,
    )
    return {name: Question.from_json(make(levels, cpu)) for name, make in _SCENARIOS.items()}
