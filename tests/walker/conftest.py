"""What the tests of the walkers share: the hand-made cases, the real sets, and random tables.

``cases.jsonl`` is the outside fact: each line is a case in the form of ``harness probe`` with what
must come of it under ``expect``, derived by hand from the manual and from docs/rules.md. Nothing in
it was computed by this package.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cpu import CpuFeatures, CpuState
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind
from harness.snapshot.sets import PageTableSet, load_set
from harness.walker import Walk

HERE = Path(__file__).parent
SETS = HERE.parent.parent / "fixtures" / "page-tables"


class Case:
    """One line of ``cases.jsonl``."""

    def __init__(self, line: str) -> None:
        data = json.loads(line)
        self.expect: dict[str, Any] = data["expect"]
        self.about: str = self.expect.pop("about")
        self.why: str = self.expect.pop("why")
        self._cpu = data["cpu"]
        self.levels = 5 if "0x6000" in data["memory"] else 4  # the cases' PML5 lies there
        self.memory = PhysicalMemory(int(data["ram"], 16))
        for address, word in data["memory"].items():
            self.memory.write_u64(int(address, 16), int(word, 16))
        access = dict(data["access"])
        self.va = int(access.pop("va"), 16)
        self.access = Access(AccessKind(access.pop("kind")), **access)

    @property
    def cpu(self) -> CpuState:
        return CpuState.from_json(self._cpu)

    def predict(self, walk: Callable[..., Walk]) -> dict[str, Any]:
        """Put a walker's answer into the words of ``expect``."""
        answer = walk(self.memory, self.cpu, self.va, self.access)
        return {
            "outcome": str(answer.outcome),
            "error_code": _hex(answer.error_code),
            "cr2": _hex(answer.cr2),
            "rule": answer.rule,
            "level": answer.level,
            "pa": _hex(answer.pa),
            "page_size": answer.page_size and answer.page_size.letter,
            "sets": _hex_pairs(answer.sets),
            "may_set": _hex_pairs(answer.may_set),
        }


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _hex_pairs(bits: dict[int, int]) -> dict[str, str]:
    return {hex(address): hex(value) for address, value in bits.items()}


@cache
def _cases() -> tuple[Case, ...]:
    return tuple(Case(line) for line in (HERE / "cases.jsonl").read_text().splitlines())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = _cases()
        ids = [f"{case.about}: {case.why}" for case in cases]
        metafunc.parametrize("case", cases, ids=ids)
    if "real" in metafunc.fixturenames:
        names = sorted(path.name for path in SETS.iterdir() if path.is_dir())
        metafunc.parametrize("real", names, indirect=True)


@pytest.fixture(scope="session")
def cases() -> tuple[Case, ...]:
    """Give all cases of ``cases.jsonl``."""
    return _cases()


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> PageTableSet:
    """Give one of the real page-table sets."""
    return load_set(SETS / request.param)


FRAMES = 16
HIGH = 0x8000_0000


def _random_memory(rng: np.random.Generator) -> PhysicalMemory:
    # Two runs of RAM, every frame of them a table whose entries lead to any of them or nowhere:
    # a walk may go in circles, and every bit occurs, the harmful ones seldom enough that most
    # walks go deep.
    memory = PhysicalMemory([(0, FRAMES // 2 * 0x1000), (HIGH, FRAMES // 2 * 0x1000)])
    count = len(memory.words)
    frame = rng.integers(0, FRAMES, count, dtype=np.uint64)
    low, high = frame << np.uint64(12), (frame << np.uint64(12)) + np.uint64(HIGH - 0x8000)
    raw = np.where(frame < FRAMES // 2, low, high)
    chances = {0: 0.97, 1: 0.85, 2: 0.85, 5: 0.5, 6: 0.5, 7: 0.12, 8: 0.3, 63: 0.04}
    chances |= dict.fromkeys(range(52, 59), 0.3) | dict.fromkeys(range(59, 63), 0.4)
    chances |= {3: 0.3, 4: 0.3, 9: 0.3, 10: 0.3, 11: 0.3}
    chances |= dict.fromkeys((36, 40, 46, 51), 0.004)
    for bit, chance in chances.items():
        raw |= (rng.random(count) < chance).astype(np.uint64) << np.uint64(bit)
    # Big pages mostly well-formed, with their PAT bit either way.
    formed = (raw & np.uint64(0x80) != 0) & (rng.random(count) < 0.8)
    raw[formed] &= ~np.uint64(0x3FFF_E000)
    memory.words[:] = raw
    return memory


def _random_cpu(rng: np.random.Generator) -> CpuState:
    def maybe(bits: int) -> int:
        return bits if rng.random() < 0.5 else 0

    features = CpuFeatures(
        maxphyaddr=int(rng.choice([36, 40, 46, 52])), pdpe1gb=bool(rng.random() < 0.7)
    )
    cr4 = 0x20 | sum(maybe(1 << bit) for bit in (12, 20, 21, 22, 24))
    root = int(rng.integers(0, FRAMES // 2)) * 0x1000
    return CpuState(
        cr0=0x8004_0033 | maybe(1 << 16),
        cr3=root | maybe(0x18),
        cr4=cr4,
        efer=0x500 | (0x800 if rng.random() < 0.8 else 0),
        rflags=2 | maybe(1 << 18),
        pkru=int(rng.integers(0, 1 << 32)) & int(rng.integers(0, 1 << 32)),
        pkrs=int(rng.integers(0, 1 << 32)) & int(rng.integers(0, 1 << 32)),
        cpl=int(rng.choice([0, 0, 1, 2, 3, 3, 3])),
        features=features,
    )


def _random_addresses(rng: np.random.Generator, cpu: CpuState, count: int) -> Any:
    unused = 16 if cpu.levels == 4 else 7
    vas = rng.integers(-(1 << 63), 1 << 63, count, dtype=np.int64) << unused >> unused
    result = vas.view(np.uint64)
    near = rng.random(count) < 0.3  # close to the end of a page, so that wide accesses span two
    result[near] |= np.uint64(0xFC0)
    odd = rng.random(count)
    result[odd < 0.02] ^= np.uint64(1 << 63)
    edges = np.array([0, (1 << 64) - 1, (1 << 47) - 1, 1 << 47, (1 << 56) - 1, 1 << 56], np.uint64)
    result[odd > 0.98] = rng.choice(edges, int((odd > 0.98).sum()))
    return result


def _random_access(rng: np.random.Generator) -> Access:
    kind = rng.choice(["read", "write", "fetch"])
    size = int(rng.choice([1, 1, 2, 8, 64]))
    if kind == "fetch":
        return Access(AccessKind.FETCH, min(size, 15))
    return Access(
        AccessKind(str(kind)), size, implicit=rng.random() < 0.2, stack=rng.random() < 0.2
    )


class Random:
    """Random page tables, a CPU, an access and addresses, all from one seed."""

    def __init__(self, seed: int, count: int) -> None:
        rng = np.random.default_rng(seed)
        self.memory = _random_memory(rng)
        self.cpu = _random_cpu(rng)
        self.access = _random_access(rng)
        self.vas = _random_addresses(rng, self.cpu, count)


@pytest.fixture(scope="session")
def randomly() -> Callable[[int, int], Random]:
    """Make random questions from a seed and a number of addresses."""
    return Random
