"""Blocks: many cases that differ only in the entries that one access walks.

A :class:`Block` is one CPU state, one access of one virtual address, and columns of entries: case i
walks ``entries[0, i]``, ``entries[1, i]``, ... from the root down. All cases share the same tables
and the same frames, so that an engine can ask them in a loop that edits entries and invalidates
(:meth:`Engine.probe_entries <harness.engine.base.Engine>`), about a million a second.

The walker is asked the same in one call of :func:`~harness.walker.bulk`: a :class:`Ledger` lays
each case out as an address space of its own. :class:`BlockBench` does both and compares every
outcome, error code, CR2, physical address and A and D bit of every entry::

    with BlockBench() as bench:
        tally = bench.ask(block)

What differs is sorted by how it differs; one case of each sort is judged in full
(:func:`~harness.check.registered.access.judge`) and becomes a finding. It raises
:class:`~harness.errors.EngineError` when the engine is missing or breaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.check.bench import Bench, EngineSource, judged
from harness.check.findings.finding import Finding, finding_of
from harness.check.findings.tally import Cell, Tally
from harness.check.judge.compare import Field, Judgement
from harness.check.question import Question
from harness.cpu import CpuState
from harness.engine.steps import AccessStep, StepResult
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory, Region
from harness.outcome import (
    UNKNOWN_PA,
    Access,
    AccessKind,
    EntryObservations,
    Observation,
    Outcome,
)
from harness.walker import RULES, bulk

__all__ = [
    "FRAME_1G",
    "FRAME_2M",
    "FRAME_4K",
    "RAM",
    "ROWS",
    "TABLES",
    "VA4",
    "VA5",
    "Block",
    "BlockBench",
    "Ledger",
    "Prediction",
]

TABLES: Final = (0x1000, 0x2000, 0x3000, 0x4000, 0x5000)
"""The tables that a walk of a block reads, the root's first; four levels use the first four."""

FRAME_4K: Final = 0x7000
FRAME_2M: Final = 0x20_0000
FRAME_1G: Final = 0x4000_0000
RAM: Final = (Region(0, 0x40_0000), Region(FRAME_1G, 0x40_0000))

VA4: Final = 4 << 39 | 3 << 30 | 1 << 21 | 2 << 12 | 8
"""The address of every access with 4 levels: another index at every level."""
VA5: Final = 5 << 48 | VA4
"""The address of every access with 5 levels."""

ROWS: Final = 0x2000
"""Cases that are predicted and compared at once: their columns stay in a core's cache."""

_FRAMES: Final = {1: FRAME_4K, 2: FRAME_2M, 3: FRAME_1G}
_U64 = np.uint64
_P, _A, _D, _PS = (
    _U64(int(flag))
    for flag in (
        PageTableFlags.PRESENT,
        PageTableFlags.ACCESSED,
        PageTableFlags.DIRTY,
        PageTableFlags.HUGE_PAGE,
    )
)
_ADDRESS = _U64(0x000F_FFFF_FFFF_F000)
_MAPPED, _PAGE_FAULT = Outcome.MAPPED.code, Outcome.PAGE_FAULT.code
_UNSUPPORTED = Outcome.UNSUPPORTED.code
_NO_MEMORY = Outcome.NO_MEMORY.code

_DIFFERS = (Judgement.DIVERGE, Judgement.KNOWN, Judgement.OPEN)

_Column = NDArray[np.uint64]
_Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Cases that differ only in the entries that one access walks.

    :ivar cpu: the CPU state; CR3 is ``TABLES[0]``.
    :ivar access: within one aligned word.
    :ivar va: the virtual address, :data:`VA4` or :data:`VA5`.
    :ivar entries: u64, shape (levels, cases), the root's entry first. An entry leads to the next of
        :data:`TABLES`, or maps one of the three frames.
    :ivar supervisor_reads_first: a supervisor reads the same address first, and nothing is
        invalidated in between; what becomes of that read does not matter.
    """

    cpu: CpuState
    access: Access
    va: int
    entries: NDArray[np.uint64]
    supervisor_reads_first: bool = False

    def __len__(self) -> int:
        return int(self.entries.shape[1])

    @property
    def at(self) -> tuple[int, ...]:
        """Give the physical address of each level's entry, the root's first."""
        levels = self.cpu.levels
        return tuple(
            TABLES[depth] | self.va >> 9 * (levels - depth) & 0xFF8 for depth in range(levels)
        )

    def rows(self, where: slice) -> Block:
        """Return some of the cases."""
        return dataclasses.replace(self, entries=self.entries[:, where])

    def question(self, row: int) -> Question:
        """Return the question of one case: of two steps where there is a first access."""
        words = dict(zip(self.at, self.entries[:, row].tolist(), strict=True))
        steps = [AccessStep(self.va, self.access)]
        if self.supervisor_reads_first:
            read = Access(AccessKind.READ, self.access.size)
            steps.insert(0, AccessStep(self.va, read, cpl=0))
        return Question(self.cpu, RAM, words, steps)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the walker says of a block, in columns.

    :ivar outcome: :attr:`Outcome.code <harness.outcome.Outcome.code>`.
    :ivar rule: the index in ``RULES`` of the rule that decided.
    :ivar level: the level of the entry that decided.
    :ivar error_code: of a page fault.
    :ivar cr2: of a page fault.
    :ivar pa: the physical address reached.
    :ivar must: shape (levels, cases): the bits of each entry that the access must set.
    :ivar may: the bits that it may set besides.
    """

    outcome: NDArray[np.uint8]
    rule: NDArray[np.uint8]
    level: NDArray[np.uint8]
    error_code: NDArray[np.uint32]
    cr2: _Column
    pa: _Column
    must: _Column
    may: _Column


class Ledger:
    """The walker's memory: each case of a block laid out as an address space of its own.

    Case i has index i mod 512 in every table, and shares its tables with the 511 around it. So
    each level's entries lie one after another, and only the addresses in them are other than in the
    block; what a walk says of them is the same.
    """

    _BASE: Final = 0x1_0000_0000

    def __init__(self) -> None:
        size = 8 * ROWS
        self.memory = PhysicalMemory([*RAM, (self._BASE, len(TABLES) * size)])
        first = self.memory.offset(self._BASE) >> 3
        self._words = self.memory.words[first:].reshape(len(TABLES), ROWS)
        case = np.arange(ROWS, dtype=_U64)
        group = case >> _U64(9) << _U64(12)
        self._tables = [group + _U64(self._BASE + depth * size) for depth in range(len(TABLES))]
        self._indices = case & _U64(511)

    def predict(self, block: Block) -> Prediction:
        """Ask ``bulk`` of up to :data:`ROWS` cases."""
        self._lay_out(block)
        last = self._walk(block, block.cpu, block.access)
        if block.supervisor_reads_first:
            supervisor = block.cpu.replace(cpl=0)
            read = Access(AccessKind.READ, block.access.size)
            first = self._walk(block, supervisor, read)
            np.bitwise_or(last.must, first.must, out=last.must)
            np.bitwise_or(last.may, first.may, out=last.may)
            last.may[:] &= ~last.must
        return last

    def _lay_out(self, block: Block) -> None:
        count = len(block)
        for depth, column in enumerate(block.entries):
            words = self._words[depth, :count]
            words[:] = column
            if depth + 1 < block.cpu.levels:
                # Bits above and below the table's number are the entry's own.
                leads_on = column & _U64(0xFF_FFFF_F000) == _U64(TABLES[depth + 1])
                moved = self._tables[depth + 1][:count] - _U64(TABLES[depth + 1])
                np.add(words, moved, out=words, where=leads_on)

    def _walk(self, block: Block, cpu: CpuState, access: Access) -> Prediction:
        count, levels = len(block), cpu.levels
        index = self._indices[:count]
        vas = np.full(count, block.va & 0xFFF, _U64)
        for level in range(levels):
            vas |= index << _U64(12 + 9 * level)
        top = _U64(12 + 9 * levels - 1)
        vas |= np.where(vas >> top & _U64(1), ~_U64(0) << top, _U64(0))
        found = bulk(self.memory, cpu, vas, access, roots=self._tables[0][:count])
        inside = np.maximum(found.page_size, _U64(1)) - _U64(1)
        must, may = self._updates(block, found.level, found.completed, access)
        pa = found.pa & ~inside | _U64(block.va) & inside
        landed = np.where(self.memory.offsets(pa) < 0, _NO_MEMORY, _MAPPED).astype(np.uint8)
        return Prediction(
            np.where(found.completed, landed, found.outcome),  # the ledger's own address may miss
            found.rule,
            found.level,
            found.error_code,
            np.where(found.outcome == _PAGE_FAULT, _U64(block.va), _U64(0)),
            pa,
            must,
            may,
        )

    @staticmethod
    def _updates(
        block: Block, level: NDArray[np.uint8], completed: _Rows, access: Access
    ) -> tuple[_Column, _Column]:
        """Say which bits must be set (rules A and D), and which may be (A_ON_FAULT)."""
        levels = block.cpu.levels
        must, may = np.zeros_like(block.entries), np.zeros_like(block.entries)
        for depth in range(levels):
            here = levels - depth
            lacking = ~block.entries[depth] & _A
            must[depth] = np.where(completed & (level <= here), lacking, 0)
            may[depth] = np.where(~completed & (level < here), lacking, 0)
            if access.is_write:
                leaf = completed & (level == here)
                must[depth] |= np.where(leaf, ~block.entries[depth] & _D, 0)
        return must, may


class BlockBench:
    """A walker and an engine for any number of blocks.

    :param engine: the engine's name, or what opens one over a memory.
    :param singly: ask single probes instead of the engine's loop: the plain way.
    :raises EngineError: when it is missing or broken.
    """

    def __init__(
        self,
        engine: EngineSource = "unicorn",
        *,
        singly: bool = False,
    ) -> None:
        self.ledger = Ledger()
        self.bench = Bench(RAM, engine)
        self.memory, self.engine = self.bench.memory, self.bench.engine
        self._singly = singly

    def close(self) -> None:
        """Give back the engine."""
        self.bench.close()

    def __enter__(self) -> BlockBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, block: Block, numbers: NDArray[np.int64] | None = None) -> Tally:
        """Predict, observe and compare every case of a block.

        :param numbers: what the cases are called; 0, 1, 2, ... if None.
        """
        tally = Tally()
        names = np.arange(len(block)) if numbers is None else numbers
        for start in range(0, len(block), ROWS):
            rows = slice(start, start + ROWS)
            part = block.rows(rows)
            predicted = self.ledger.predict(part)
            seen = self.observe(part)
            self._count(tally, part, predicted, seen, names[rows])
        return tally

    def observe(self, block: Block) -> EntryObservations:
        """Ask the engine; ``after`` has a row for every level."""
        entries, at = block.entries, block.at
        edited = _edited(block)
        seen = self._probe(block, edited)
        fixed = [depth for depth in range(len(at)) if depth not in edited]
        if any(self.memory.read_u64(at[depth]) != int(entries[depth, 0]) for depth in fixed):
            # Some case changed an entry that nobody would: find out which.
            edited = list(range(len(at)))
            seen = self._probe(block, edited)
        after = entries.copy()
        after[edited] = seen.after
        return dataclasses.replace(seen, after=after)

    def _probe(self, block: Block, edited: list[int]) -> EntryObservations:
        for depth, pa in enumerate(block.at):
            self.memory.write_u64(pa, int(block.entries[depth, 0]))
        at = [block.at[depth] for depth in edited]
        more: dict[str, Any] = {"singly": True} if self._singly else {}
        return self.engine.probe_entries(
            block.cpu,
            block.va,
            block.access,
            at,
            block.entries[edited],
            landing_words=_landing_words(block),
            supervisor_reads_first=block.supervisor_reads_first,
            **more,
        )

    def _count(
        self,
        tally: Tally,
        block: Block,
        predicted: Prediction,
        seen: EntryObservations,
        names: NDArray[np.int64],
    ) -> None:
        count = len(block)
        unsupported = seen.outcome == _UNSUPPORTED
        differs = _differ(predicted, seen, block.entries) & ~unsupported
        lacking, differing = int(unsupported.sum()), int(differs.sum())
        tally.cases += count
        agreed = count - lacking - differing
        if agreed:
            tally.judgements[Judgement.AGREE.value] += agreed
        if lacking:
            tally.judgements[Judgement.UNSUPPORTED.value] += lacking
            tally.unsupported[seen.reason or "the engine gave no reason"] += lacking
        _count_outcomes(tally, predicted)
        _count_coverage(tally, block, predicted)
        for rows in _sorts(predicted, seen, block.entries, np.flatnonzero(differs)):
            finding = self._finding(block, predicted, seen, rows, int(names[rows[0]]))
            tally.judgements[finding.judgement] += len(rows)
            tally.known.update(dict.fromkeys(finding.known, len(rows)))
            if finding.answer is not None:
                tally.open.update(dict.fromkeys(finding.answer.open, len(rows)))
            tally.add(finding)

    def _finding(
        self,
        block: Block,
        predicted: Prediction,
        seen: EntryObservations,
        rows: NDArray[np.intp],
        first: int,
    ) -> Finding:
        """Judge one case of several that differ in the same way."""
        row = int(rows[0])
        question = block.question(row)
        if block.supervisor_reads_first:
            answer = self.bench.ask(question).engines[0]
            if answer.judgement in _DIFFERS:
                return dataclasses.replace(finding_of(question, answer, first), count=len(rows))
        # What an engine does wrong with any access needs no first one: what that one did to the
        # entries is taken for granted.
        words = dict(zip(block.at, self._before(block, predicted, seen, row), strict=True))
        question = Question.of_access(block.cpu, RAM, words, block.va, block.access)
        result = StepResult(_observation(block, seen, row, words))
        with self.bench.holding(words):
            answer = judged(self.bench.engine_id, self.memory, question, [result])
        if answer.judgement not in _DIFFERS:
            return self._only_together(question, rows, first)
        return dataclasses.replace(finding_of(question, answer, first), count=len(rows))

    def _before(
        self, block: Block, predicted: Prediction, seen: EntryObservations, row: int
    ) -> list[int]:
        """Return the entries of a case as its last access found them."""
        entries = block.entries[:, row]
        if block.supervisor_reads_first:
            free = predicted.may[:, row] & seen.after[:, row]
            done = self.ledger.predict(block.rows(slice(row, row + 1)))
            entries = entries | free | done.must[:, 0] & _A & seen.after[:, row]
        found: list[int] = entries.tolist()
        return found

    @staticmethod
    def _only_together(question: Question, rows: NDArray[np.intp], first: int) -> Finding:
        """Report what differs in columns and agrees when it is looked at alone: a flaw of ours."""
        return Finding(
            key="only-in-a-block",
            judgement=Judgement.DIVERGE.value,
            rule="",
            sentence=f"case {first} differs in its block and agrees alone",
            count=len(rows),
            first=first,
            question=question,
        )


def _edited(block: Block) -> list[int]:
    """Return the depths whose entries a loop must write anew for every case.

    The others are the same for all cases, and no access has reason to change them.
    """
    entries, levels = block.entries, block.cpu.levels
    edited = []
    for depth in range(levels):
        word = entries[depth, 0]
        leaf = depth == levels - 1 or bool(word & _PS)
        if leaf or not word & _A or (entries[depth] != word).any():
            edited.append(depth)
    return edited


def _landing_words(block: Block) -> list[int]:
    """Return the words where the access may land: one in each frame that the entries name."""
    found = []
    for level, frame in _FRAMES.items():
        inside = (8 << 9 * level) - 1
        named = block.entries[block.cpu.levels - level] & _U64(0xFF_FFFF_FFFF & ~inside)
        if (named == frame).any():
            found.append((frame | block.va & inside) & ~7)
    return found


def _differ(predicted: Prediction, seen: EntryObservations, entries: _Column) -> _Rows:
    """Say which cases differ in anything that the rules decide."""
    differs = predicted.outcome != seen.outcome
    fault = predicted.outcome == _PAGE_FAULT
    if Field.ERROR_CODE not in seen.untold:
        differs |= fault & (predicted.error_code != seen.error_code)
    differs |= fault & (predicted.cr2 != seen.cr2)
    mapped = predicted.outcome == _MAPPED
    differs |= mapped & (predicted.pa != seen.pa)
    if Field.CHANGED in seen.untold:
        return np.asarray(differs, np.bool_)
    for depth, column in enumerate(entries):
        changed = seen.after[depth] ^ (column | predicted.must[depth])
        differs |= (changed & ~predicted.may[depth]) != 0
    return np.asarray(differs, np.bool_)


def _sorts(
    predicted: Prediction, seen: EntryObservations, entries: _Column, rows: NDArray[np.intp]
) -> Iterator[NDArray[np.intp]]:
    """Sort the differing cases by how they differ."""
    if not len(rows):
        return
    columns = [
        predicted.rule[rows],
        predicted.level[rows],
        predicted.outcome[rows],
        seen.outcome[rows],
        predicted.error_code[rows] ^ seen.error_code[rows],
        predicted.cr2[rows] != seen.cr2[rows],
        predicted.pa[rows] != seen.pa[rows],
    ]
    for depth, column in enumerate(entries[:, rows]):
        changed = seen.after[depth, rows] ^ (column | predicted.must[depth, rows])
        columns.append(changed & ~predicted.may[depth, rows])
        columns.append(column & (_P | _PS))
    table = np.stack([np.asarray(column, _U64) for column in columns], axis=1)
    _, first, sort = np.unique(table, axis=0, return_index=True, return_inverse=True)
    for number in np.argsort(first):
        yield rows[sort == number]


def _observation(
    block: Block, seen: EntryObservations, row: int, words: dict[int, int]
) -> Observation:
    """Return what the engine saw of one case, as a single probe would tell it."""
    outcome = Outcome.from_code(int(seen.outcome[row]))
    pa = int(seen.pa[row])
    changed = {
        at: word ^ int(seen.after[depth, row])
        for depth, (at, word) in enumerate(words.items())
        if word != int(seen.after[depth, row])
    }
    return Observation(
        outcome,
        error_code=int(seen.error_code[row]) if outcome.has_error_code else None,
        cr2=int(seen.cr2[row]) if outcome is Outcome.PAGE_FAULT else None,
        pa=pa if outcome.has_pa and pa != UNKNOWN_PA else None,
        changed=changed,
        untold=seen.untold,
    )


def _count_outcomes(tally: Tally, predicted: Prediction) -> None:
    codes = predicted.outcome.astype(np.intp) << 6 | predicted.error_code
    for code, count in enumerate(np.bincount(codes).tolist()):
        if count:
            outcome = Outcome.from_code(code >> 6)
            error = f" {code & 63:#x}" if outcome is Outcome.PAGE_FAULT else ""
            tally.outcomes[f"{outcome}{error}"] += count


def _count_coverage(tally: Tally, block: Block, predicted: Prediction) -> None:
    """Count the cells met: what decided, and the bits that were set or might have been."""
    levels = block.cpu.levels
    kind = "implicit" if block.access.implicit else str(block.access.kind)
    mode = f"{'user' if block.cpu.user else 'kernel'}{levels}"

    def note(rule: str, level: int, count: int) -> None:
        if count:
            tally.coverage[Cell(rule, level or None, kind, mode)] += count

    faulted = predicted.outcome == _PAGE_FAULT
    decided = predicted.rule.astype(np.intp) << 3 | predicted.level
    for code, count in enumerate(np.bincount(decided).tolist()):
        note(RULES[code >> 3], code & 7, count)
    for level, count in enumerate(np.bincount(predicted.level[faulted]).tolist()):
        note("ERR", level, count)
    for depth in range(levels):
        must, may = predicted.must[depth], predicted.may[depth]
        for rule, bits in (("A", must & _A), ("D", must & _D), ("A_ON_FAULT", may & _A)):
            note(rule, levels - depth, int(np.count_nonzero(bits)))
