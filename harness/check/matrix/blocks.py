"""The bench for blocks: predict in columns, observe in the engine's loop, compare, and judge.

An engine can ask the cases of a :class:`~harness.check.matrix.block.Block` in a loop that edits
entries and invalidates (:meth:`Engine.probe_entries <harness.engine.base.Engine>`), about a million
a second. The walker is asked the same by a :class:`~harness.check.matrix.predict.BlockWalker`.
:class:`BlockBench` does both and compares every outcome, error code, CR2, physical address and A
and D bit of every entry::

    with BlockBench() as bench:
        tally = bench.ask(block)

What differs is sorted by how it differs; one case of each sort is judged in full
(:func:`~harness.check.bench.judged`) and becomes a finding. It raises
:class:`~harness.errors.EngineError` when the engine is missing or breaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.check.bench import Bench, EngineSource, judged
from harness.check.findings.finding import Finding, finding_of
from harness.check.findings.tally import Cell, Tally
from harness.check.judge.compare import Field, Judgement
from harness.check.matrix.block import FRAME_1G, FRAME_2M, FRAME_4K, RAM, Block
from harness.check.matrix.predict import ROWS, BlockWalker, Prediction
from harness.check.question import Question
from harness.engine.steps import StepResult
from harness.entry import PageTableFlags
from harness.outcome import (
    UNKNOWN_PA,
    EntryObservations,
    Observation,
    Outcome,
)
from harness.walker import RULES

__all__ = [
    "BlockBench",
]


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

_DIFFERS = (Judgement.DIVERGE, Judgement.KNOWN, Judgement.OPEN)

_Column = NDArray[np.uint64]
_Rows = NDArray[np.bool_]


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
        self.walker = BlockWalker()
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
            predicted = self.walker.predict(part)
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
            done = self.walker.predict(block.rows(slice(row, row + 1)))
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
