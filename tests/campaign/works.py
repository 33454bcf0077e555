"""Works for the tests: cases that are numbers, and some that kill whoever asks them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.check.findings.finding import Finding
from harness.check.findings.tally import Cell, Tally
from harness.check.question import Question
from harness.check.work import Shard
from harness.cpu import CpuState
from harness.errors import EngineBroken, EngineMissing, InputError
from harness.isolate import doing

ENGINE = "harness.planted.engines:NX_2"
"""An engine on which the questions of these works differ."""

_TABLES = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 1 << 63 | 0x4007, 0x4000: 0x5007}


def numbered(case: int) -> Question:
    """Return the question of a number."""
    return Question.of_access(CpuState(cr3=0x1000), 0x1_0000, _TABLES, case & 0x7FF, "fetch")


def small(key: str) -> Question:
    """Return the smallest question of a finding."""
    return numbered(sum(key.encode()))


@dataclass(frozen=True)
class Numbers:
    """Cases 0 to ``count - 1``, in shards of ``size``; a multiple of 10 diverges.

    :ivar deadly: what happens at which case.
    :ivar once: a file; what is deadly is so only until the file exists.
    :ivar pause: seconds that each shard takes.
    :ivar shrinking: what happens when a finding is made small.
    """

    count: int = 100
    size: int = 10
    deadly: dict[int, str] = field(default_factory=dict)
    once: str = ""
    pause: float = 0.0
    shrinking: str = ""
    log: str = ""

    name = "numbers"

    @property
    def cases(self) -> int | None:
        return self.count

    def identity(self) -> dict[str, Any]:
        return {"count": self.count, "size": self.size}

    def plan(self, round: int, so_far: Tally) -> list[Shard]:
        if round:
            return []
        starts = range(0, self.count, self.size)
        return [
            Shard(0, number, first, min(self.size, self.count - first), {"a": [number]})
            for number, first in enumerate(starts)
        ]

    def run(self, shard: Shard) -> Tally:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{shard.round}/{shard.number}\n")
        time.sleep(self.pause)
        tally = Tally()
        for done, case in enumerate(range(shard.first, shard.first + shard.count)):
            doing(f"asking case {case}", done, shard.count)
            if case in self.deadly and not (self.once and Path(self.once).exists()):
                if self.once:
                    Path(self.once).touch()
                happen(self.deadly[case])
            ask(case, tally)
        return tally

    def describe(self, shard: Shard, why: str) -> Finding:
        assert shard.count == 1
        return Finding(
            key=f"broke {shard.first}",
            judgement="broke",
            rule="-",
            sentence=why,
            first=shard.first,
            question=numbered(shard.first),
        )

    def shrunk(self, finding: Finding) -> Finding:
        if self.shrinking:
            happen(self.shrinking)
        return dataclasses.replace(finding, question=small(finding.key))


@dataclass(frozen=True)
class Steered(Numbers):
    """Three rounds; what each one asks depends on the sum of those before it."""

    name = "steered"

    @property
    def cases(self) -> int | None:
        return None

    def plan(self, round: int, so_far: Tally) -> list[Shard]:
        if round == 3:
            return []
        start = 7 * so_far.cases + so_far.coverage[Cell("P", 1, "read", "user4")]
        return [
            Shard(round, number, start + number * self.size, self.size + round)
            for number in range(self.count // self.size)
        ]


def ask(case: int, tally: Tally) -> None:
    tally.cases += 1
    tally.judgements["agree" if case % 10 else "diverge"] += 1
    tally.coverage[Cell("P", 1 + case % 3, "read", "user4")] += 1
    tally.outcomes["mapped" if case % 2 else "page-fault 0x0"] += 1
    if case % 10 == 0:
        tally.add(
            Finding(
                key=f"ten {case // 10 % 3}",
                judgement="diverge",
                rule="P",
                sentence=f"{case} is a multiple of ten",
                first=case,
                question=numbered(case),
                why=f"of the pair {case}, 10",
            )
        )


def die(*_: object) -> None:
    """End the process, whatever it is asked."""
    os.abort()


def happen(what: str) -> None:
    """Let something terrible happen."""
    if what == "abort":
        os.abort()
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(3600)
    elif what == "broken":
        raise EngineBroken("the engine did not put the memory back", engine="fake")
    elif what == "missing":
        raise EngineMissing("there must be an engine", engine="fake")
    elif what == "input":
        raise InputError("the number must be better")
    else:
        raise ZeroDivisionError(what)


def expected(count: int, broke: tuple[int, ...] = ()) -> Tally:
    """Return what a campaign over ``count`` numbers counts, but for the findings."""
    tally = Tally()
    for case in range(count):
        if case in broke:
            tally.cases += 1
            tally.judgements["broke"] += 1
        else:
            ask(case, tally)
    return tally


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int | None = None) -> set[int]:
    """Return the processes below one, this one unless told otherwise."""
    below: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                below.setdefault(int(parent), set()).add(int(path.parent.name))
    found, waiting = set(), [os.getpid() if pid is None else pid]
    while waiting:
        more = below.get(waiting.pop(), set())
        found |= more
        waiting += more
    return found
