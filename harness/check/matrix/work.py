"""The matrix as work: every combination of a space, or a spread-out sample of it, in shards.

A :class:`MatrixWork` numbers the cases of its spaces (one for each number of levels) one after
another; a case keeps its number whatever is sampled. A shard asks a run of them, block by block
(:class:`~harness.check.matrix.blocks.BlockBench`). Where ``sample`` is n, one case of every n
consecutive ones is asked, at a place that looks random and is always the same, so that a sample
meets every CPU state and every bit::

    work = MatrixWork("classic", levels=(4, 5), sample=1009)
    tally = sum((work.run(shard) for shard in work.plan(0, Tally())), Tally())

The space's scenarios (several accesses that must not be seen one by one) follow in a round of
their own; ``Tally.scenarios`` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.check.bench import Bench
from harness.check.findings.finding import Finding, broken, finding_of
from harness.check.findings.tally import Tally
from harness.check.judge.compare import Judgement
from harness.check.matrix.block import Block
from harness.check.matrix.blocks import BlockBench
from harness.check.matrix.spaces import SPACES, Space, scenarios
from harness.check.shrink.finding import shrink_finding, with_witnesses
from harness.check.work import Shard
from harness.engine.open import engine_identity
from harness.errors import InputError
from harness.isolate import doing

__all__ = ["MatrixWork"]

_SHARD: Final = 1 << 18
_U64 = np.uint64
_GOLDEN = _U64(0x9E37_79B9_7F4A_7C15)


@dataclass(frozen=True, slots=True)
class MatrixWork:
    """Every combination of a matrix.

    :param matrix: a key of :data:`~harness.check.matrix.spaces.SPACES`: ``classic`` or ``full``.
    :param levels: 4, 5, or both.
    :param engine: the spec of who is asked.
    :param witnesses: specs of engines that are asked about each finding.
    :param sample: ask one case of every so many.
    :param first: the number of the first case to ask.
    :param count: how many numbers from there on; None for all.
    :raises InputError: for another matrix, a number of levels that there is not, or no cases.
    """

    matrix: str
    levels: tuple[int, ...] = (4, 5)
    engine: str = "unicorn"
    witnesses: tuple[str, ...] = ()
    sample: int = 1
    first: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.matrix not in SPACES:
            raise InputError(f"the matrix must be one of {', '.join(SPACES)}, not {self.matrix!r}")
        if not self.levels or set(self.levels) - {4, 5} or len(set(self.levels)) < len(self.levels):
            raise InputError(f"the levels must be 4, 5 or both, not {self.levels!r}")
        if self.sample < 1:
            raise InputError(f"one case of every 1 or more must be asked, not of {self.sample}")
        total = self.total
        if not 0 <= self.first < total:
            raise InputError(f"the first case must be 0 to {total - 1:,}, not {self.first:,}")
        if self.count is not None and self.count < 1:
            raise InputError(f"1 case or more must be asked, not {self.count}")

    @property
    def name(self) -> str:
        """Name it for people."""
        return f"matrix {self.matrix}"

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Give the spaces, in the order in which their cases are numbered."""
        return tuple(_space(self.matrix, levels) for levels in self.levels)

    @property
    def total(self) -> int:
        """Give the number of all cases of the matrix, asked or not."""
        return sum(len(space) for space in self.spaces)

    @property
    def cases(self) -> int:
        """Give the number of cases that are asked."""
        return -(-(self._end - self.first) // self.sample)

    @property
    def _end(self) -> int:
        total = self.total
        return total if self.count is None else min(total, self.first + self.count)

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that the results depend on."""
        return {
            "work": self.name,
            "harness": version("harness"),
            "spaces": [space.identity() for space in self.spaces],
            "engine": engine_identity(self.engine),
            "sample": self.sample,
            "first": self.first,
            "count": self.count,
        }

    def plan(self, round: int, so_far: Tally) -> list[Shard]:
        """Return the shards: the cases first, then the scenarios."""
        if round == 0:
            starts = range(0, self.cases, _SHARD)
            return [
                Shard(0, number, start, min(_SHARD, self.cases - start))
                for number, start in enumerate(starts)
            ]
        if round == 1 and self.first == 0 and self.count is None:
            return [Shard(1, 0, self.total, 1)]
        return []

    def run(self, shard: Shard) -> Tally:
        """Ask the cases of a shard."""
        if shard.round == 1:
            return self._run_scenarios()
        bench = _bench(self.engine)
        tally = Tally()
        for numbers, block in self._blocks(shard.first, shard.count):
            doing(f"asking {self.name}", tally.cases, shard.count)
            tally += bench.ask(block, numbers)
        return tally

    def _run_scenarios(self) -> Tally:
        tally = Tally()
        for levels in self.levels:
            for name, scenario in scenarios(levels).items():
                doing(f"playing the scenario {name} with {levels} levels")
                with Bench(scenario.ram, self.engine) as bench:
                    answer = bench.ask(scenario).engines[0]
                judgement = answer.judgement
                tally.scenarios[f"{name} ({levels} levels)"] = str(judgement)
                if judgement in (Judgement.DIVERGE, Judgement.KNOWN, Judgement.OPEN):
                    tally.add(finding_of(scenario, answer))
        return tally

    def describe(self, shard: Shard, why: str) -> Finding:
        """Return the finding that the engine died or hung on the one case of a shard."""
        if shard.round == 1:
            sentence = f"the engine broke on one of the scenarios of {self.name}: {why}"
            return broken(None, shard.first, sentence, why, self.engine)
        [(numbers, block)] = self._blocks(shard.first, 1)
        number = int(numbers[0])
        sentence = f"the engine broke on case {number}, {' '.join(self.bits(number))}: {why}"
        return broken(block.question(0), number, sentence, why, self.engine)

    def shrunk(self, finding: Finding) -> Finding:
        """Return a finding with the smallest case that shows it."""
        return with_witnesses(shrink_finding(finding, self.engine), self.witnesses)

    def bits(self, number: int) -> tuple[str, ...]:
        """Name the bits that are set in a case.

        :raises InputError: when there is no case of that number.
        """
        space, within = self._place(number)
        return space.bits(within)

    def block(self, number: int) -> Block:
        """Return one case, as a block of its own.

        :raises InputError: when there is no case of that number.
        """
        space, within = self._place(number)
        [(_, block)] = space.blocks(within, 1)
        return block

    def _place(self, number: int) -> tuple[Space, int]:
        within = number
        for space in self.spaces:
            if 0 <= within < len(space):
                return space, within
            within -= len(space)
        raise InputError(f"a case's number must be 0 to {self.total - 1:,}, not {number:,}")

    def _blocks(self, first: int, count: int) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Return asked cases number ``first`` and on, in blocks, with the cases' own numbers."""
        if self.sample == 1:
            for at, block in self._runs(self.first + first, count):
                yield np.arange(at, at + len(block)), block
            return
        # Enough of them at once to fill the engine's loop.
        numbers = self._sampled(np.arange(first, first + count))
        waiting: list[tuple[NDArray[np.int64], Block]] = []
        start, end = self.first + first * self.sample, self.first + (first + count) * self.sample
        for at, block in self._runs(start, min(end, self._end) - start):
            left, right = np.searchsorted(numbers, (at, at + len(block)))
            if left == right:
                continue
            some = numbers[left:right]
            chosen = Block(
                block.cpu,
                block.access,
                block.va,
                block.entries[:, some - at],
                block.supervisor_reads_first,
            )
            if waiting and not _join(waiting[0][1], chosen):
                yield _joined(waiting)
                waiting = []
            waiting.append((some, chosen))
        if waiting:
            yield _joined(waiting)

    def _sampled(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the case numbers of asked cases: one in each run of ``sample`` numbers."""
        mixed = (indices.astype(_U64) * _GOLDEN) >> _U64(32)
        room = np.minimum(self.sample, self._end - self.first - indices * self.sample)
        offset = (mixed % room.astype(_U64)).astype(np.int64)
        return np.asarray(self.first + indices * self.sample + offset, np.int64)

    def _runs(self, first: int, count: int) -> Iterator[tuple[int, Block]]:
        """Return all cases of a run of numbers, in blocks, each with its first case's number."""
        before = 0
        for space in self.spaces:
            start = max(first - before, 0)
            end = min(first + count - before, len(space))
            if start < end:
                for at, block in space.blocks(start, end - start):
                    yield before + at, block
            before += len(space)


def _join(one: Block, other: Block) -> bool:
    """Say whether two blocks ask the same thing of the same CPU state."""
    return (
        one.cpu == other.cpu
        and one.access == other.access
        and one.supervisor_reads_first == other.supervisor_reads_first
        and one.va == other.va
    )


def _joined(
    parts: list[tuple[NDArray[np.int64], Block]],
) -> tuple[NDArray[np.int64], Block]:
    numbers = np.concatenate([numbers for numbers, _ in parts])
    block = parts[0][1]
    entries = np.concatenate([part.entries for _, part in parts], axis=1)
    return numbers, Block(block.cpu, block.access, block.va, entries, block.supervisor_reads_first)


@cache
def _space(matrix: str, levels: int) -> Space:
    return SPACES[matrix](levels)


@cache
def _bench(engine: str) -> BlockBench:
    # One for each process and engine: opening an engine takes longer than many a shard.
    return BlockBench(engine)
