"""Check a real page-table set: CPU, walker and QEMU's own answers, held against one another.

:func:`check_set` loads a set's tables into RAM, stamps what they map, and asks the CPU

* a read of every address of ``truth.csv``, as a supervisor that may read everything: the outcome,
  the physical address and the value read must be what QEMU said, and the walker's page size and
  flags too;
* the six questions of every leaf, in the state that the machine was stopped in: read, write and
  fetch, at CPL 0 and at CPL 3;
* a read of every address of ``unmapped.csv``, which must fault;
* some of the six questions once more, one by one, with all the accessed and dirty bits.

Every answer is compared with the walker's, all of them in columns; only what differs is looked at
one by one. Unless ``every`` is asked for, a sample is taken, always the same one, with all kinds of
leaves in it. Addresses outside RAM are asked about like all others: their translation counts.

    report = check_set("fixtures/page-tables/linux-max")
    print(report.probes, report.diverge)

A damaged set raises :class:`~harness.errors.SnapshotError`, an engine that is missing or breaks
:class:`~harness.errors.EngineError`. A difference is not an error: it is in the report.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.address import PageSize, format_address
from harness.check.bench import EngineId, judged
from harness.check.findings.finding import Finding, finding_of
from harness.check.findings.roots import root_causes
from harness.check.judge.access import verdict_of_access
from harness.check.judge.compare import Judgement
from harness.check.question import question_of
from harness.check.set_report import SetReport, SetTally
from harness.cpu import RFLAGS, CpuState
from harness.engine import Engine, open_engine
from harness.engine.steps import StepResult
from harness.isolate import doing
from harness.outcome import (
    UNKNOWN_PA,
    Access,
    AccessKind,
    Observation,
    Observations,
    Outcome,
)
from harness.snapshot import PageTableSet, load_set
from harness.walker import RULES, BulkWalk, Leaves, Walk, bulk, leaves, walk

__all__ = ["check_set"]

_U64 = np.uint64
_LEAVES_SAMPLED: Final = 1500
_TRUTH_SAMPLED: Final = 6000
_SINGLES: Final = 40
_SHOWN: Final = 20
_EXPLAINED: Final = 500
"""Divergences of a set whose cause is looked for; all are counted."""
# Rows that differ are judged one by one, up to so many of a question.
_JUDGED: Final = 2000
_CHUNK: Final = {AccessKind.READ: 1 << 16, AccessKind.WRITE: 1 << 16, AccessKind.FETCH: 1 << 12}
_MAPPED, _NO_MEMORY = Outcome.MAPPED.code, Outcome.NO_MEMORY.code
_PAGE_FAULT, _GENERAL_PROTECTION = Outcome.PAGE_FAULT.code, Outcome.GENERAL_PROTECTION.code
_UNSUPPORTED = Outcome.UNSUPPORTED.code
_A_AND_D = 0x60
_HLT = 0xF4

_Rows = NDArray[np.bool_]
_Column = NDArray[np.uint64]


def check_set(
    path: str | os.PathLike[str], *, every: bool = False, engine: str = "unicorn"
) -> SetReport:
    """Check one page-table set.

    :param path: the folder.
    :param every: ask about every leaf and every row, not about a sample.
    :param engine: who judges.
    :raises SnapshotError: when the set is damaged.
    :raises EngineError: when the engine is missing or breaks.
    """
    started = time.perf_counter()
    name = os.path.basename(os.path.normpath(path))
    doing(f"loading {name}")
    tables = load_set(path)
    pages = leaves(tables.memory, tables.cpu)
    report = SetReport(name, tables.cpu.levels, len(pages))
    _compare_lists(tables, pages, report)
    with open_engine(engine, tables.memory) as cpu_engine:
        identity = EngineId.of(cpu_engine)
        _Check(tables, pages, report, cpu_engine, identity, every=every).run()
    report.seconds = time.perf_counter() - started
    return report


def _compare_lists(tables: PageTableSet, pages: Leaves, report: SetReport) -> None:
    """Hold the walker's list of all leaves against QEMU's ``info tlb``."""
    truth = tables.truth
    rows = truth.is_leaf
    theirs = (truth.va[rows], truth.pa[rows], truth.page_size[rows], truth.flags[rows])
    flags = pages.raw & _U64(truth.FLAG_MASK)
    # QEMU clears bit 7 of a PTE before it prints the letters.
    flags[pages.size == PageSize.Size4KiB] &= ~_U64(0x80)
    order = np.argsort(theirs[0], kind="stable")
    names = ("virtual address", "physical address", "size", "flags")
    ours = (pages.va, pages.pa, pages.size, flags)
    if len(pages) != len(order):
        report.wrong += 1
        sentence = f"the tables map {len(pages)} pages, and truth.csv lists {len(order)}"
        report.faults.append(sentence)
        return
    for word, our, their in zip(names, ours, theirs, strict=True):
        differ = our != their[order]
        if differ.any():
            row = int(differ.argmax())
            report.wrong += int(differ.sum())
            report.faults.append(
                f"the {word} of the page at {format_address(int(pages.va[row]))} must be "
                f"{int(their[order][row]):#x} as truth.csv says, and the walker lists "
                f"{int(our[row]):#x}"
            )


@dataclass(slots=True)
class _Expected:
    """What QEMU said of the rows of a question, where it said something."""

    pa: _Column
    size: _Column | None = None
    flags: _Column | None = None


class _Check:
    """The questions to one set."""

    def __init__(
        self,
        tables: PageTableSet,
        pages: Leaves,
        report: SetReport,
        engine: Engine,
        identity: EngineId,
        *,
        every: bool,
    ) -> None:
        self.tables = tables
        self.memory = tables.memory
        self.report = report
        self.engine = engine
        self.identity = identity
        self.found: dict[str, Finding] = {}
        self.explained = 0
        truth = tables.truth
        # Whoever may read everything: a supervisor with SMAP lifted and no keys in the way.
        cpu = tables.cpu
        self.reader = cpu.replace(cpl=0, rflags=cpu.rflags | int(RFLAGS.AC), pkru=0, pkrs=0)
        self.truth_rows = (
            np.arange(len(truth))
            if every
            else _sample(_TRUTH_SAMPLED, truth.flags, truth.level, truth.source)
        )
        rights = pages.user * 4 + pages.writable * 2 + pages.executable
        inside = self.memory.offsets(pages.pa) >= 0
        self.page_rows = (
            np.arange(len(pages))
            if every
            else _sample(_LEAVES_SAMPLED, pages.raw & _U64(0xFFF), rights, pages.size, inside)
        )
        self.page_va = pages.va[self.page_rows]
        self.page_pa = pages.pa[self.page_rows]

    def run(self) -> None:
        tables = self.tables
        truth, unmapped = tables.truth, tables.unmapped
        self._stamp(np.concatenate([truth.pa[self.truth_rows], self.page_pa]))
        frames = (self.memory.offsets(tables.frames) >> 12).astype(np.intp)
        by_frame = self.memory.words.reshape(-1, 512)
        before = by_frame[frames]

        rows = self.truth_rows
        expected = _Expected(truth.pa[rows], truth.page_size[rows], truth.flags[rows])
        tally = self._tally("read, as truth.csv")
        va = truth.va[rows]
        # Eight bytes tell more than one, but must not reach into the next page.
        wide = (va & _U64(0xFFF)) <= _U64(0xFF8)
        for size, part in ((8, wide), (1, ~wide)):
            some = _Expected(
                expected.pa[part], _part(expected.size, part), _part(expected.flags, part)
            )
            self._ask(tally, self.reader, va[part], Access(AccessKind.READ, size), some)
        for cpl in (0, 3):
            cpu = tables.cpu.replace(cpl=cpl)
            for kind in AccessKind:
                access = Access(kind) if kind is AccessKind.FETCH else Access(kind, 8)
                tally = self._tally(f"{kind} at CPL {cpl}")
                self._ask(tally, cpu, self.page_va, access, _Expected(self.page_pa))
        tally = self._tally("read, as unmapped.csv")
        self._ask(tally, self.reader, unmapped.va, Access(AccessKind.READ), None)
        self._ask_singly()
        self.report.findings = root_causes(self.found.values())

        if not np.array_equal(by_frame[frames], before):
            self.report.wrong += 1
            self.report.faults.append(
                "the probes must leave the tables as they were, and some entries changed"
            )

    def _tally(self, question: str) -> SetTally:
        tally = SetTally(question)
        self.report.tallies.append(tally)
        return tally

    def _stamp(self, pas: _Column) -> None:
        """Write into each probed word of RAM, table frames apart, what identifies it."""
        offsets = self.memory.offsets(pas & ~_U64(7))
        free = offsets >= 0
        free &= ~np.isin(pas & ~_U64(0xFFF), self.tables.frames)
        # Its own address, behind an instruction that ends a block of code: what a fetch lands on
        # is translated up to the next such instruction before the fetch can be stopped.
        self.memory.words[offsets[free] >> 3] = (pas[free] & ~_U64(7)) << _U64(8) | _U64(_HLT)

    def _ask(
        self,
        tally: SetTally,
        cpu: CpuState,
        vas: _Column,
        access: Access,
        expected: _Expected | None,
    ) -> None:
        """Ask one question of many addresses, in columns."""
        asked, doubtful = self._stand_in(cpu, vas, access)
        if asked is None:
            tally.count(Judgement.UNSUPPORTED, len(vas))
            return
        what = f"asking {self.report.name}: {tally.question}"
        for rows in _chunks(len(vas), _CHUNK[access.kind]):
            doing(what, rows.start, len(vas))
            part = vas[rows]
            seen = self.engine.probe_many(asked, part, access)
            predicted = bulk(self.memory, cpu, part, access)
            unsupported = (seen.outcome == _UNSUPPORTED) | doubtful[rows]
            wrong = _differ(predicted, seen)
            if expected is None:
                wrong |= ~_unmapped(predicted, seen)
            else:
                told = _Expected(
                    expected.pa[rows], _part(expected.size, rows), _part(expected.flags, rows)
                )
                wrong |= self._contradict(told, predicted, seen, access)
            wrong &= ~unsupported
            tally.count(Judgement.UNSUPPORTED, int(unsupported.sum()))
            tally.count(Judgement.AGREE, int((~unsupported & ~wrong).sum()))
            self._look_at(tally, cpu, asked, part[wrong], access)
        doing(what, len(vas), len(vas))

    def _stand_in(
        self, cpu: CpuState, vas: _Column, access: Access
    ) -> tuple[CpuState | None, _Rows]:
        """Return a CPU state that the engine can have, and for which rows it is no stand-in.

        Unicorn always offers 1 GiB pages. To ask it on behalf of a CPU that does not is fair
        where the walker's answers are the same for both, as they are unless a PDPTE has bit 7 set.
        """
        nobody = np.zeros(len(vas), np.bool_)
        if self.engine.unsupported(cpu, access) is None:
            return cpu, nobody
        other = cpu.replace(features=cpu.features.replace(pdpe1gb=True))
        reason = self.engine.unsupported(other, access)
        if reason is not None:
            if reason not in self.report.notes:
                self.report.notes.append(reason)
            return None, nobody
        note = (
            f"{self.engine.name} always has 1 GiB pages and this machine had none: it is asked "
            "where the walker's answer is the same with and without"
        )
        if note not in self.report.notes:
            self.report.notes.append(note)
        ours, others = (bulk(self.memory, each, vas, access) for each in (cpu, other))
        columns = ("outcome", "rule", "error_code", "pa", "raw")
        for column in columns:
            nobody |= getattr(ours, column) != getattr(others, column)
        return other, nobody

    def _contradict(
        self, expected: _Expected, predicted: BulkWalk, seen: Observations, access: Access
    ) -> _Rows:
        """Say which rows are not as QEMU had them."""
        # A right may forbid the access; but what was reached must be what QEMU reached.
        reached = (seen.outcome == _MAPPED) | (seen.outcome == _NO_MEMORY)
        wrong = reached & (seen.pa != expected.pa)
        wrong |= reached & (predicted.pa != expected.pa)
        wrong |= ~reached & ((seen.outcome != _PAGE_FAULT) | (seen.error_code & 1 == 0))
        if expected.size is not None and expected.flags is not None:  # truth.csv: all may be read
            flags = predicted.raw & _U64(self.tables.truth.FLAG_MASK)
            flags[expected.size == PageSize.Size4KiB] &= ~_U64(0x80)
            wrong |= ~reached
            wrong |= (predicted.page_size != expected.size) | (flags != expected.flags)
        if access.kind is AccessKind.READ:
            wrong |= (seen.outcome == _MAPPED) & ~self._value_is_there(expected.pa, seen, access)
        return np.asarray(wrong, np.bool_)

    def _value_is_there(self, pas: _Column, seen: Observations, access: Access) -> _Rows:
        """Say which values that were read are what RAM holds at these addresses."""
        width = np.arange(access.size)
        offsets = self.memory.offsets(pas)
        inside = offsets >= 0
        at = np.where(inside, offsets, 0)[:, None] + width
        there = self.memory.buffer[np.minimum(at, self.memory.size - 1)]
        read = seen.value.view(np.uint8).reshape(-1, 8)[:, : access.size]
        # Walks may have set A and D in the entries that were read, until they were put back.
        in_tables = np.isin(pas & ~_U64(0xFFF), self.tables.frames)
        low_bytes = (pas[:, None] + width.astype(_U64)) % _U64(8) == 0
        ignored = np.where(in_tables[:, None] & low_bytes, np.uint8(_A_AND_D), np.uint8(0))
        same = ((there ^ read) & ~ignored == 0).all(axis=1)
        return np.asarray(inside & same, np.bool_)

    def _look_at(
        self, tally: SetTally, cpu: CpuState, asked: CpuState, vas: _Column, access: Access
    ) -> None:
        """Judge rows that differ, one by one."""
        for va in vas[:_JUDGED].tolist():
            self._judge(tally, cpu, asked, va, access, differed=True)
        if len(vas) > _JUDGED:
            tally.count(Judgement.DIVERGE, len(vas) - _JUDGED)

    def _judge(
        self,
        tally: SetTally,
        cpu: CpuState,
        asked: CpuState,
        va: int,
        access: Access,
        *,
        differed: bool = False,
    ) -> None:
        prediction = walk(self.memory, cpu, va, access)
        seen = self.engine.probe(asked, va, access)
        verdict = verdict_of_access(self.engine, self.memory, prediction, seen)
        judgement = verdict.judgement
        if judgement is Judgement.DIVERGE:
            self._found(prediction, seen)
        elif differed and judgement is Judgement.AGREE:
            judgement = Judgement.DIVERGE
            if len(self.report.faults) < _SHOWN:
                self.report.faults.append(
                    f"{tally.question}: a {access.kind} of {format_address(va)} at CPL {cpu.cpl} "
                    "agrees with the walker when it is asked alone, and with something else in a "
                    "batch or in QEMU"
                )
        tally.count(judgement)

    def _found(self, prediction: Walk, seen: Observation) -> None:
        """Take in a divergence, under its cause."""
        if self.explained >= _EXPLAINED:
            return
        question = question_of(self.memory, prediction)
        answer = judged(self.identity, self.memory, question, [StepResult(seen)])
        finding = finding_of(question, answer, self.explained)
        self.explained += 1
        old = self.found.get(finding.key)
        self.found[finding.key] = finding if old is None else old.merged(finding)

    def _ask_singly(self) -> None:
        """Ask some of the six questions with every accessed and dirty bit."""
        tally = self._tally("one by one, with A and D")
        some = self.page_va[:: max(1, len(self.page_va) // _SINGLES)]
        for cpl in (0, 3):
            cpu = self.tables.cpu.replace(cpl=cpl)
            for kind in AccessKind:
                access = Access(kind)
                asked, doubtful = self._stand_in(cpu, some, access)
                if asked is None:
                    tally.count(Judgement.UNSUPPORTED, len(some))
                    continue
                tally.count(Judgement.UNSUPPORTED, int(doubtful.sum()))
                for va in some[~doubtful].tolist():
                    self._judge(tally, cpu, asked, va, access)


def _differ(predicted: BulkWalk, seen: Observations) -> _Rows:
    """Say on which rows the CPU did something else than the walker said."""
    wrong = predicted.outcome != seen.outcome
    fault = predicted.outcome == _PAGE_FAULT
    wrong |= fault & (predicted.error_code != seen.error_code)
    wrong |= fault & (predicted.cr2 != seen.cr2)
    reached = (predicted.outcome == _MAPPED) | (predicted.outcome == _NO_MEMORY)
    wrong |= reached & (seen.pa != _U64(UNKNOWN_PA)) & (predicted.pa != seen.pa)
    return np.asarray(wrong, np.bool_)


def _unmapped(predicted: BulkWalk, seen: Observations) -> _Rows:
    """Say on which rows the walker and the CPU both found nothing."""
    absent = (seen.outcome == _PAGE_FAULT) & (seen.error_code & 1 == 0)
    absent &= predicted.rule == RULES.index("PRESENT")
    astray = seen.outcome == _GENERAL_PROTECTION
    astray &= predicted.rule == RULES.index("CANONICAL")
    return np.asarray(absent | astray, np.bool_)


def _sample(limit: int, *columns: NDArray[Any]) -> NDArray[np.intp]:
    """Choose rows, the same ones each time: of each kind its first, its last, and some between.

    :param limit: about how many.
    :param columns: rows are of one kind where they agree in all of these.
    """
    count = len(columns[0])
    if count <= limit:
        return np.arange(count)
    kinds = np.zeros(count, np.intp)
    for column in columns:
        _, inverse = np.unique(column, return_inverse=True)
        kinds = kinds * (int(inverse.max()) + 1) + inverse
    chosen = []
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        wanted = min(len(rows), max(8, limit * len(rows) // count))
        chosen.append(rows[np.linspace(0, len(rows) - 1, wanted).astype(np.intp)])
    return np.unique(np.concatenate(chosen))


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _part(column: _Column | None, rows: slice | _Rows) -> _Column | None:
    return None if column is None else column[rows]
