"""The loop in the guest against single probes: the same answers, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.cpu import CR0, CR4, EFER, RFLAGS, CpuState
from harness.engine.unicorn import UnicornEngine, entries
from harness.engine.unicorn.entries import MOST_WORDS, ROWS, EntryLoop
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, EntryObservations, Outcome

RAM = ((0, 0x40_0000), (0x4000_0000, 0x40_0000))
VA = 4 << 39 | 3 << 30 | 1 << 21 | 2 << 12 | 8
VA5 = 5 << 48 | VA
AT = {4: (0x1020, 0x2018, 0x3008, 0x4010), 5: (0x1028, 0x2020, 0x3018, 0x4008, 0x5010)}
LANDINGS = (0x7008, 0x20_2008, 0x4020_2008)
P, RW, US, A, D, PS, XD, RSVD = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 63, 51))
KINDS = tuple(AccessKind)


@pytest.fixture(scope="module")
def engine() -> Iterator[UnicornEngine]:
    with UnicornEngine(PhysicalMemory(RAM)) as opened:
        yield opened


def columns(seed: int, levels: int, count: int) -> NDArray[np.uint64]:
    """Entries of every size of page and with every kind of flaw."""
    rng = np.random.default_rng(seed)
    found = np.zeros((levels, count), np.uint64)
    for bit, share in (
        (P, 0.93),
        (RW, 0.8),
        (US, 0.8),
        (A, 0.5),
        (D, 0.5),
        (XD, 0.1),
        (RSVD, 0.03),
    ):
        found |= np.where(rng.random(found.shape) < share, np.uint64(bit), np.uint64(0))
    for depth in range(levels):
        level = levels - depth
        frame = {1: 0x7000, 2: 0x20_0000, 3: 0x4000_0000}.get(level)
        big = np.full(count, level == 1)
        if level in (2, 3):
            big = rng.random(count) < 0.3
            found[depth] |= np.where(big, np.uint64(PS), np.uint64(0))
        found[depth] |= np.where(big, np.uint64(frame or 0), np.uint64(0x1000 * (depth + 2)))
    return found


def state(cpl: int, levels: int, choice: int) -> CpuState:
    cr4 = CR4.PAE | (CR4.LA57 if levels == 5 else 0)
    for bit, switch in enumerate((CR4.SMEP, CR4.SMAP, CR4.PKE)):
        cr4 |= switch if choice >> bit & 1 else 0
    return CpuState(
        cr0=int(CR0.PE | CR0.ET | CR0.NE | CR0.PG | (CR0.WP if choice >> 3 & 1 else 0)),
        cr3=0x1000,
        cr4=int(cr4),
        efer=int(EFER.LME | EFER.LMA | (EFER.NXE if choice >> 4 & 1 else 0)),
        rflags=int(RFLAGS.AC) if choice >> 5 & 1 else 0,
        pkru=0x5 if choice >> 6 & 1 else 0,
        cpl=cpl,
    )


def same(one: EntryObservations, other: EntryObservations) -> None:
    assert np.array_equal(one.outcome, other.outcome)
    told = np.isin(one.outcome, [o.code for o in Outcome if o.has_error_code])
    assert np.array_equal(one.error_code[told], other.error_code[told])
    assert np.array_equal(one.cr2, other.cr2)
    mapped = one.outcome == Outcome.MAPPED.code
    assert np.array_equal(one.pa[mapped], other.pa[mapped])
    assert np.array_equal(one.after, other.after)


def ask(
    engine: UnicornEngine, cpu: CpuState, access: Access, some: NDArray[np.uint64], **more: Any
) -> EntryObservations:
    va = VA5 if cpu.levels == 5 else VA
    at = AT[cpu.levels]
    return engine.probe_entries(cpu, va, access, at, some, landing_words=LANDINGS, **more)


@contextmanager
def loop_alone() -> Iterator[None]:
    """Let nothing be asked singly: the loop must come to its end by itself."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("the loop left rows to single probes")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnicornEngine, "probe_entries_singly", refuse)
        yield


@given(
    seed=st.integers(0, 1 << 32),
    cpl=st.sampled_from((0, 3)),
    levels=st.sampled_from((4, 5)),
    kind=st.sampled_from(KINDS),
    size=st.sampled_from((1, 2, 4, 8)),
    choice=st.integers(0, 127),
    supervisor_reads_first=st.booleans(),
)
def test_says_what_single_probes_say(
    engine: UnicornEngine,
    seed: int,
    cpl: int,
    levels: int,
    kind: AccessKind,
    size: int,
    choice: int,
    supervisor_reads_first: bool,
) -> None:
    cpu = state(cpl, levels, choice)
    access = Access(kind, 1 if kind is AccessKind.FETCH else size)
    some = columns(seed, levels, 60)
    before = engine.memory.buffer.copy()

    with loop_alone():
        looped = ask(engine, cpu, access, some, supervisor_reads_first=supervisor_reads_first)

    assert np.array_equal(engine.memory.buffer, before)
    same(
        looped,
        ask(engine, cpu, access, some, supervisor_reads_first=supervisor_reads_first, singly=True),
    )


def test_the_property_means_something(engine: UnicornEngine) -> None:
    """Its questions land in every frame, fault in every way, and set every A and D."""
    seen = ask(engine, state(3, 4, 0b0011000), Access(AccessKind.WRITE, 8), columns(1, 4, 4000))

    mapped = seen.outcome == Outcome.MAPPED.code
    assert {int(pa) for pa in seen.pa[mapped]} == set(LANDINGS)
    assert {int(code) for code in seen.error_code[~mapped]} == {0x6, 0x7, 0xF}
    changed = seen.after ^ columns(1, 4, 4000)
    assert np.bitwise_or.reduce(changed, axis=1).tolist() == [A, A | D, A | D, A | D]


@pytest.mark.parametrize(("cpl", "kind"), list(product((0, 3), KINDS)))
def test_takes_more_rows_than_the_loop_holds(
    engine: UnicornEngine, cpl: int, kind: AccessKind
) -> None:
    cpu, some = state(cpl, 4, 0b11000), columns(2, 4, ROWS + 500)

    with loop_alone():
        seen = ask(engine, cpu, Access(kind), some)

    tail = ask(engine, cpu, Access(kind), some[:, ROWS:], singly=True)
    same(seen.rows(slice(ROWS, None)), tail)


@pytest.mark.parametrize("way", ["interpreted", "copied", "interpreted and copied"])
def test_the_slower_hooks_say_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba the hook is Python; where the CPU is not found, contexts are copied."""
    if "interpreted" in way:
        monkeypatch.setattr(entries, "_compiled", lambda: None)
    if "copied" in way:
        monkeypatch.setattr(entries, "live_state", lambda _core: None)
    some = columns(3, 4, 300)
    with UnicornEngine(PhysicalMemory(RAM)) as slow:
        for cpl, kind in product((0, 3), KINDS):
            cpu = state(cpl, 4, 0b11000)
            with loop_alone():
                looped = ask(slow, cpu, Access(kind), some, supervisor_reads_first=True)
            same(
                looped, ask(slow, cpu, Access(kind), some, supervisor_reads_first=True, singly=True)
            )


def test_what_the_python_hook_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(entries, "_compiled", lambda: None)
    monkeypatch.setattr(entries, "on_exception", broken)
    with UnicornEngine(PhysicalMemory(RAM)) as slow, pytest.raises(ZeroDivisionError):
        ask(slow, state(0, 4, 0), Access(AccessKind.READ), columns(3, 4, 300))


def test_rows_do_not_see_one_another(engine: UnicornEngine) -> None:
    """Each row is invalidated: what the row before it allowed is not remembered."""
    some = np.zeros((4, 64), np.uint64)
    for depth, table in enumerate((0x2000, 0x3000, 0x4000, 0x7000)):
        some[depth] = table | P | RW | US | A | D
    some[3, 1::2] &= ~np.uint64(P)

    seen = ask(engine, state(0, 4, 0), Access(AccessKind.READ, 8), some)

    mapped = seen.outcome == Outcome.MAPPED.code
    assert mapped[::2].all()
    assert not mapped[1::2].any()


def test_an_access_that_lands_elsewhere_is_found(engine: UnicornEngine) -> None:
    some = np.zeros((4, 2), np.uint64)
    for depth, table in enumerate((0x2000, 0x3000, 0x4000, 0x7000)):
        some[depth] = table | P | RW | US | A | D
    some[3, 1] ^= np.uint64(0x7000 ^ 0x9000)

    seen = ask(engine, state(0, 4, 0), Access(AccessKind.READ, 8), some)

    assert seen.pa.tolist() == [0x7008, 0x9008]


def test_a_loop_that_runs_astray_is_asked_singly(engine: UnicornEngine) -> None:
    """A fetch that lands where there is no stamp ends the loop, and not the host."""
    engine.memory.write(0x9008, b"\xf4")  # hlt
    some = np.zeros((4, 40), np.uint64)
    for depth, table in enumerate((0x2000, 0x3000, 0x4000, 0x7000)):
        some[depth] = table | P | RW | US | A | D
    some[3, 20] ^= np.uint64(0x7000 ^ 0x9000)
    for cpl in (0, 3):
        cpu = state(cpl, 4, 0)
        seen = ask(engine, cpu, Access(AccessKind.FETCH), some)
        same(seen, ask(engine, cpu, Access(AccessKind.FETCH), some, singly=True))
        assert seen.pa[20] == 0x9008


@pytest.mark.parametrize(
    ("access", "va", "words", "landing_words"),
    [
        (Access(AccessKind.READ, 8), VA + 1, 4, 3),
        (Access(AccessKind.FETCH), VA + 1, 4, 3),
        (Access(AccessKind.READ, 8, implicit=True), VA, 4, 3),
        (Access(AccessKind.READ, 8, stack=True), VA, 4, 3),
        (Access(AccessKind.READ, 16), VA, 4, 3),
        (Access(AccessKind.WRITE, 8), VA, MOST_WORDS - 2, 3),
        (Access(AccessKind.READ, 8), VA, MOST_WORDS + 1, 0),
        (Access(AccessKind.READ, 8), VA, 4, 5),
    ],
)
def test_does_not_take_what_it_cannot_make(
    access: Access, va: int, words: int, landing_words: int
) -> None:
    assert EntryLoop.takes(Access(AccessKind.WRITE, 8), VA, 5, 3)
    assert not EntryLoop.takes(access, va, words, landing_words)


def test_other_landings_do_not_find_old_code(engine: UnicornEngine) -> None:
    """Code at a landing was translated when another one was stamped so."""
    some = np.zeros((4, 1), np.uint64)
    for depth, table in enumerate((0x2000, 0x3000, 0x4000, 0)):
        some[depth] = table | P | RW | US | A | D
    frames = (0x7000, 0x8000, 0x9000, 0xA000, 0xB000, 0xC000)
    for landings in ((0, 1, 2), (2, 1), (1, 0), (3, 4, 5, 0), (0, 5), (5, 0, 1, 2)):
        words = [frames[number] + 8 for number in landings]
        for pa in words:
            some[3] = pa - 8 | P | RW | US | A | D
            with loop_alone():
                seen = engine.probe_entries(
                    state(0, 4, 0), VA, "fetch", AT[4], some, landing_words=words
                )
            assert seen.pa.tolist() == [pa]


def test_a_non_canonical_address_is_asked_singly(engine: UnicornEngine) -> None:
    cpu, some = state(0, 4, 0), columns(1, 4, 3)

    seen = engine.probe_entries(cpu, 1 << 47, "read", (0x1020,), some[:1], landing_words=LANDINGS)

    assert (seen.outcome == Outcome.GENERAL_PROTECTION.code).all()


def test_what_the_engine_cannot_have_is_unsupported(engine: UnicornEngine) -> None:
    cpu = CpuState(cr3=0x1000, cr4=int(CR4.PAE | CR4.PCIDE))

    seen = ask(engine, cpu, Access(AccessKind.READ), columns(1, 4, 3))

    assert (seen.outcome == Outcome.UNSUPPORTED.code).all()
    assert seen.reason == "Unicorn does not implement PCID (CR4 = 0x20020)"
