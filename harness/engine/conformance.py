"""The proof that an engine does its duties: what any CPU must do before it may judge.

Each :class:`Duty` is a few questions with the answers that the manual gives, written down by hand,
and never taken from the walker, so that an engine is not held to what it is to be compared with.
:func:`prove` tries them all on an engine, each on one that is opened anew::

    for proof in prove("unicorn"):
        print(proof.duty, proof.failure or "done")

What the engine's capabilities exclude is skipped. A duty that raises is not done: the sentence says
what it raised.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from harness.cpu import CpuState
from harness.engine.base import Engine
from harness.engine.open import open_engine
from harness.engine.steps import AccessStep, InvlpgStep, Step, WriteStep
from harness.errors import EngineError, EngineMissing, HarnessError
from harness.memory import PhysicalMemory
from harness.outcome import UNKNOWN_PA, Access, AccessKind, AccessLike, Observation, Outcome
from harness.registers import CR0, CR4

__all__ = ["DUTIES", "Duty", "Proof", "Source", "prove"]

Source: TypeAlias = str | Callable[[PhysicalMemory], Engine]
"""A spec, or what opens an engine over a memory."""

_RAM: Final = 0x20_0000
_PAGE, _VALUE = 0x5000, 0x1122_3344_5566_7788
# A page at 0x4000 with 4 levels: one table of each level, and its PTE.
_PML4E, _PDPTE, _PDE, _PTE = 0x1000, 0x2000, 0x3000, 0x4020
_ENTRIES: Final = {_PML4E: 0x2007, _PDPTE: 0x3007, _PDE: 0x4007, _PTE: _PAGE | 7}
_VA: Final = 0x4123
_A, _D = 0x20, 0x40
_SUPERVISOR = CpuState(cr3=0x1000)
_USER = _SUPERVISOR.replace(cpl=3)


class _NotDone(Exception):
    """A duty is not done; the message says what was wrong."""


class _Skipped(Exception):
    """The engine's capabilities exclude the duty."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing that every engine must do.

    :ivar name: a word or two.
    :ivar sentence: what must hold.
    :ivar check: tries it; raises when it does not.
    """

    name: str
    sentence: str
    check: Callable[[_Bench], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of one duty.

    :ivar duty: its name.
    :ivar sentence: what must hold.
    :ivar failure: what was wrong; empty when it is done.
    :ivar skipped: why it was not tried; empty when it was.
    """

    duty: str
    sentence: str
    failure: str = ""
    skipped: str = ""

    @property
    def done(self) -> bool:
        """Say whether nothing is wrong."""
        return not self.failure

    def to_json(self) -> dict[str, str | bool]:
        """Return it as one JSON object."""
        return {
            "duty": self.duty,
            "sentence": self.sentence,
            "done": self.done,
            "failure": self.failure,
            "skipped": self.skipped,
        }


class _Bench:
    """One engine over small page tables, and what is expected of it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.memory = PhysicalMemory(_RAM)
        self.put(_ENTRIES)
        self.memory.write_u64(_PAGE + 0x120, _VALUE)
        self.engine = self.open(self.memory)

    def open(self, memory: PhysicalMemory) -> Engine:
        """Open another engine of this kind."""
        if isinstance(self.source, str):
            return open_engine(self.source, memory)
        return self.source(memory)

    def put(self, words: Mapping[int, int]) -> None:
        """Write words of memory."""
        for pa, word in words.items():
            self.memory.write_u64(pa, word)

    def seen(self, cpu: CpuState, access: AccessLike = "read", va: int = _VA) -> Observation:
        """Probe, and see to it that memory is put back."""
        access = Access.of(access)
        reason = self.engine.refuses(cpu, [AccessStep(va, access)])
        if reason is not None:
            raise _Skipped(reason)
        before = self.memory.buffer.copy()
        found = self.engine.probe(cpu, va, access)
        if not np.array_equal(self.memory.buffer, before):
            at = int(np.flatnonzero(self.memory.buffer != before)[0])
            raise _NotDone(f"a {access.kind} left memory changed at {at:#x}")
        return found

    def expect(
        self,
        outcome: Outcome,
        cpu: CpuState,
        access: AccessLike = "read",
        va: int = _VA,
        *,
        error_code: int | None = None,
        cr2: int | None = None,
        pa: int | None = None,
    ) -> Observation:
        """Probe, and hold the answer against the manual's."""
        found = self.seen(cpu, access, va)
        what = f"a {Access.of(access).kind} of {va:#x} at CPL {cpu.cpl}"
        if found.outcome is not outcome:
            raise _NotDone(f"{what} must end as {outcome}, and ended as {found.outcome}")
        if found.error_code != error_code:
            raise _NotDone(f"{what} must have error code {error_code}, not {found.error_code}")
        if found.cr2 != cr2:
            raise _NotDone(f"{what} must leave {cr2} in CR2, not {found.cr2}")
        if pa is not None and found.pa not in (None, pa):
            raise _NotDone(f"{what} must reach {pa:#x}, not {found.pa:#x}")
        return found


# The duties.


def _mapped(bench: _Bench) -> None:
    bench.expect(Outcome.MAPPED, _SUPERVISOR, pa=_PAGE + 0x123)
    bench.expect(Outcome.MAPPED, _USER, "write", pa=_PAGE + 0x123)


def _absent(bench: _Bench) -> None:
    for at in (_PTE, _PDE, _PDPTE, _PML4E):
        word = bench.memory.read_u64(at)
        bench.put({at: word & ~1})
        bench.expect(Outcome.PAGE_FAULT, _SUPERVISOR, error_code=0, cr2=_VA)
        bench.expect(Outcome.PAGE_FAULT, _USER, "write", error_code=6, cr2=_VA)
        bench.put({at: word})


def _read_only(bench: _Bench) -> None:
    bench.put({_PDE: 0x4005})
    bench.expect(Outcome.PAGE_FAULT, _USER, "write", error_code=7, cr2=_VA)
    bench.expect(Outcome.PAGE_FAULT, _SUPERVISOR, "write", error_code=3, cr2=_VA)
    bench.expect(Outcome.MAPPED, _USER)
    without = _SUPERVISOR.replace(cr0=_SUPERVISOR.cr0 & ~int(CR0.WP))
    bench.expect(Outcome.MAPPED, without, "write")


def _supervisor_page(bench: _Bench) -> None:
    bench.put({_PDPTE: 0x3003})
    bench.expect(Outcome.PAGE_FAULT, _USER, error_code=5, cr2=_VA)
    bench.expect(Outcome.MAPPED, _SUPERVISOR, "write")


def _no_execute(bench: _Bench) -> None:
    if not bench.engine.capabilities.nx:
        raise _Skipped("it has no NX")
    bench.expect(Outcome.MAPPED, _USER, "fetch")
    bench.put({_PTE: 1 << 63 | _PAGE | 7})
    bench.expect(Outcome.PAGE_FAULT, _USER, "fetch", error_code=0x15, cr2=_VA)
    bench.expect(Outcome.MAPPED, _USER)


def _reserved(bench: _Bench) -> None:
    bench.put({_PML4E: 0x2087})
    bench.expect(Outcome.PAGE_FAULT, _SUPERVISOR, error_code=9, cr2=_VA)


def _large(bench: _Bench) -> None:
    bench.put({_PDE: 0x87})
    bench.expect(Outcome.MAPPED, _SUPERVISOR, va=0x5123, pa=0x5123)
    bench.put({_PDE: 0x2087})
    bench.expect(Outcome.PAGE_FAULT, _SUPERVISOR, va=0x5123, error_code=9, cr2=0x5123)


def _not_canonical(bench: _Bench) -> None:
    found = bench.seen(_SUPERVISOR, "read", 1 << 47)
    if found.outcome is not Outcome.GENERAL_PROTECTION:
        raise _NotDone(f"a non-canonical read must end as #GP, and ended as {found.outcome}")
    if found.cr2 is not None:
        raise _NotDone("#GP leaves nothing in CR2")


def _five_levels(bench: _Bench) -> None:
    if 5 not in bench.engine.capabilities.levels:
        raise _Skipped("it walks no 5 levels")
    bench.put({0x8000: 0x1007})
    cpu = _SUPERVISOR.replace(cr3=0x8000, cr4=_SUPERVISOR.cr4 | int(CR4.LA57))
    bench.expect(Outcome.MAPPED, cpu, pa=_PAGE + 0x123)
    bench.expect(Outcome.PAGE_FAULT, cpu, va=1 << 48, error_code=0, cr2=1 << 48)


def _values(bench: _Bench) -> None:
    found = bench.expect(Outcome.MAPPED, _SUPERVISOR, Access(AccessKind.READ, 8), va=0x4120)
    if found.value not in (None, _VALUE):
        raise _NotDone(f"a read must return what is there, {_VALUE:#x}, not {found.value:#x}")
    bench.put({_PTE: 0x6007})
    bench.memory.write_u64(0x6120, 5)
    found = bench.expect(Outcome.MAPPED, _SUPERVISOR, Access(AccessKind.READ, 8), va=0x4120)
    if found.value not in (None, 5):
        raise _NotDone(f"a read must return what is there, 0x5, not {found.value:#x}")


def _told(found: Observation) -> None:
    if "changed" in found.untold:
        raise _Skipped("it does not tell accessed and dirty bits")


def _accessed(bench: _Bench) -> None:
    found = bench.expect(Outcome.MAPPED, _SUPERVISOR)
    _told(found)
    wanted = dict.fromkeys(_ENTRIES, _A)
    if found.changed != wanted:
        raise _NotDone(f"a read must set A in every entry, and changed {_bits(found.changed)}")
    bench.put({at: word | _A for at, word in _ENTRIES.items()})
    found = bench.expect(Outcome.MAPPED, _SUPERVISOR)
    if found.changed:
        raise _NotDone(f"a read must leave A where it is set, and changed {_bits(found.changed)}")


def _dirty(bench: _Bench) -> None:
    bench.put({at: word | _A for at, word in _ENTRIES.items()})
    found = bench.expect(Outcome.MAPPED, _SUPERVISOR, "write")
    _told(found)
    if found.changed != {_PTE: _D}:
        raise _NotDone(f"a write must set D in the leaf alone, and changed {_bits(found.changed)}")


def _put_back(bench: _Bench) -> None:
    before = bench.memory.buffer.copy()
    for cpu, access in (
        (_SUPERVISOR, "read"),
        (_USER, "write"),
        (_SUPERVISOR, "fetch"),
        (_USER, Access(AccessKind.WRITE, 8)),
    ):
        bench.engine.probe(cpu, _VA - 3, access)
        if not np.array_equal(bench.memory.buffer, before):
            at = int(np.flatnonzero(bench.memory.buffer != before)[0])
            raise _NotDone(f"a probe must put memory back, and left it changed at {at:#x}")


def _independent(bench: _Bench) -> None:
    bench.expect(Outcome.MAPPED, _SUPERVISOR, "write")
    bench.put({_PTE: _PAGE | 6})
    bench.expect(Outcome.PAGE_FAULT, _SUPERVISOR, error_code=0, cr2=_VA)
    bench.put({_PTE: 0x6007})
    bench.expect(Outcome.MAPPED, _SUPERVISOR, pa=0x6123)
    bench.expect(Outcome.MAPPED, _USER, pa=0x6123)
    bench.put({_PTE: 0x6003})
    bench.expect(Outcome.PAGE_FAULT, _USER, error_code=5, cr2=_VA)


def _refusals(bench: _Bench) -> None:
    capabilities = bench.engine.capabilities
    beyond = []
    if not capabilities.pks:
        beyond.append(_SUPERVISOR.replace(cr4=_SUPERVISOR.cr4 | int(CR4.PKS)))
    if not capabilities.pcid:
        beyond.append(_SUPERVISOR.replace(cr4=_SUPERVISOR.cr4 | int(CR4.PCIDE)))
    width = next((width for width in range(32, 53) if width not in capabilities.maxphyaddr), None)
    if width is not None:
        features = _SUPERVISOR.features.replace(maxphyaddr=width)
        beyond.append(_SUPERVISOR.replace(features=features))
    for cpu in beyond:
        if not bench.engine.refuses(cpu):
            raise _NotDone(f"it must refuse what its capabilities exclude, {cpu!r}")
        found = bench.engine.probe(cpu, _VA)
        if found.outcome is not Outcome.UNSUPPORTED or not found.reason:
            raise _NotDone(
                f"a probe of what it refuses must be unsupported with a reason, not {found.outcome}"
            )
    odd = Access(AccessKind.READ, 64)
    if 64 not in capabilities.reads:
        found = bench.engine.probe(_SUPERVISOR, 0x4000, odd)
        if found.outcome is not Outcome.UNSUPPORTED:
            raise _NotDone("a read of 64 bytes is not among its widths, and must be unsupported")


def _capable(bench: _Bench) -> None:
    capabilities = bench.engine.capabilities
    asked = [Access(AccessKind.READ, size) for size in capabilities.reads]
    asked += [Access(AccessKind.WRITE, size) for size in capabilities.writes]
    asked += [Access(AccessKind.FETCH, size) for size in capabilities.fetches]
    asked += [Access(AccessKind.READ, size, implicit=True) for size in capabilities.implicit_reads]
    if capabilities.stack:
        asked.append(Access(AccessKind.READ, 8, stack=True))
    for access in asked:
        reason = bench.engine.refuses(_SUPERVISOR, [AccessStep(0x4000, access)])
        found = bench.engine.probe(_SUPERVISOR, 0x4000, access)
        if reason or found.outcome is not Outcome.MAPPED:
            raise _NotDone(f"it must make every access that it claims, and {access!r} ended as "
                           f"{found.outcome}: {reason or found.reason}")  # fmt: skip


def _ordered(bench: _Bench) -> None:
    if not bench.engine.capabilities.sequences:
        raise _Skipped("it plays no sequences")
    before = bench.memory.buffer.copy()
    steps: list[Step] = [
        AccessStep(_VA, Access()),
        WriteStep({_PTE: 0x6007}),
        InvlpgStep(0x4000),
        AccessStep(_VA, Access()),
        WriteStep({_PTE: 0}),
        InvlpgStep(0x4000),
        AccessStep(_VA, Access(AccessKind.WRITE), cpl=3),
    ]
    results = bench.engine.play(_SUPERVISOR, steps)
    if len(results) != len(steps):
        raise _NotDone(f"{len(steps)} steps must have as many results, not {len(results)}")
    first, second, third = (results[place].seen for place in (0, 3, 6))
    if first.outcome is not Outcome.MAPPED or first.pa not in (None, _PAGE + 0x123):
        raise _NotDone(f"the first access must reach the first page, not {first!r}")
    if second.outcome is not Outcome.MAPPED or second.pa not in (None, 0x6123):
        raise _NotDone(f"what invlpg has invalidated must not be used again: {second!r}")
    if (third.outcome, third.error_code, third.cr2) != (Outcome.PAGE_FAULT, 6, _VA):
        raise _NotDone(f"a page that went must fault at the CPL of the step: {third!r}")
    if not np.array_equal(bench.memory.buffer, before):
        raise _NotDone("memory must be put back when a sequence has ended")


def _columns(bench: _Bench) -> None:
    vas = np.array([_VA, 0x4FF8, 0x5000, 1 << 47, 0x4120, 0x20_0000], np.uint64)
    for cpu in (_SUPERVISOR, _USER):
        for access in ("read", "write"):
            many = bench.engine.probe_many(cpu, vas, access)
            for row, va in enumerate(vas.tolist()):
                one, other = bench.engine.probe(cpu, va, access), many[row]
                same = (one.outcome, one.error_code, one.cr2)
                if same != (other.outcome, other.error_code, other.cr2):
                    raise _NotDone(f"probe_many must agree with probe at {va:#x}: {other!r}, "
                                   f"not {one!r}")  # fmt: skip
                if None not in (one.pa, other.pa) and one.pa != other.pa:
                    raise _NotDone(f"probe_many must reach what probe reaches at {va:#x}")


def _versions(bench: _Bench) -> None:
    bench.put({at: word | _A for at, word in _ENTRIES.items() if at != _PTE})
    words = [_PAGE | 7, _PAGE | 6, _PAGE | 5, 0x6003, 1 << 63 | _PAGE | 7, _PAGE | 0x67]
    entries = np.array([words], np.uint64)
    va, access = 0x4120, Access(AccessKind.WRITE, 8)
    before = bench.memory.read_u64(_PTE)
    landing = [_PAGE + 0x120, 0x6120]
    seen = bench.engine.probe_entries(_USER, va, access, [_PTE], entries, landing_words=landing)
    if bench.memory.read_u64(_PTE) != before:
        raise _NotDone("probe_entries must put the entries back")
    for row, word in enumerate(words):
        bench.put({_PTE: word})
        one = bench.engine.probe(_USER, va, access)
        bench.put({_PTE: before})
        if Outcome.from_code(int(seen.outcome[row])) is not one.outcome:
            raise _NotDone(f"probe_entries must agree with probe where the PTE is {word:#x}")
        if one.error_code is not None and int(seen.error_code[row]) != one.error_code:
            raise _NotDone(f"probe_entries must have probe's error code where it is {word:#x}")
        if one.pa is not None and int(seen.pa[row]) not in (one.pa, UNKNOWN_PA):
            raise _NotDone(f"probe_entries must reach what probe reaches where it is {word:#x}")
        told = "changed" not in one.untold
        if told and int(seen.after[0, row]) != word ^ one.changed.get(_PTE, 0):
            raise _NotDone(f"probe_entries must tell what is left of a PTE of {word:#x}")


def _named(bench: _Bench) -> None:
    engine = bench.engine
    for word in ("name", "version"):
        if not isinstance(getattr(engine, word, None), str) or not getattr(engine, word):
            raise _NotDone(f"its {word} must be a word, not {getattr(engine, word, None)!r}")
    if engine.memory is not bench.memory:
        raise _NotDone("its memory must be the one that it was opened over")
    if isinstance(bench.source, str) and engine.spec != bench.source:
        raise _NotDone(f"its spec must be what opened it, {bench.source}, not {engine.spec!r}")


def _several(bench: _Bench) -> None:
    other = PhysicalMemory(_RAM)
    for pa, word in {**_ENTRIES, _PTE: 0}.items():
        other.write_u64(pa, word)
    with bench.open(other) as engine:
        if engine.probe(_SUPERVISOR, _VA).outcome is not Outcome.PAGE_FAULT:
            raise _NotDone("two engines must each have their own memory")
        bench.expect(Outcome.MAPPED, _SUPERVISOR)


def _closed(bench: _Bench) -> None:
    bench.engine.probe(_SUPERVISOR, _VA)
    bench.engine.close()
    bench.engine.close()
    counts = []
    for _ in range(3):
        memory = PhysicalMemory(_RAM)
        engine = bench.open(memory)
        engine.probe(_SUPERVISOR, _VA)
        engine.close()
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    if counts[2] > counts[0]:
        raise _NotDone("closing must leave nothing behind, and open files or threads pile up")


DUTIES: Final = (
    Duty("mapped", "an access to a present page with the right reaches it", _mapped),
    Duty("not present", "a clear P at any level is #PF, with its code and CR2", _absent),
    Duty("read-only", "R/W and CR0.WP are obeyed", _read_only),
    Duty("supervisor page", "a user access to a supervisor page is #PF", _supervisor_page),
    Duty("no execute", "a fetch where XD is set is #PF with I/D", _no_execute),
    Duty("reserved bits", "a reserved bit is #PF with RSVD", _reserved),
    Duty("large pages", "bit 7 of a PDE maps 2 MiB, whose low bits are reserved", _large),
    Duty("canonical", "a non-canonical address is #GP", _not_canonical),
    Duty("five levels", "CR4.LA57 walks five levels", _five_levels),
    Duty("values", "a read returns what RAM holds where it lands", _values),
    Duty("accessed", "A is told where it was set, and only there", _accessed),
    Duty("dirty", "a write sets D in the leaf alone", _dirty),
    Duty("memory put back", "a probe leaves memory as it was", _put_back),
    Duty("independent", "a probe sees the entries as they are, whatever came before", _independent),
    Duty("refusals", "what its capabilities exclude is unsupported, with a reason", _refusals),
    Duty("capabilities", "what its capabilities claim it does", _capable),
    Duty("sequences", "steps go in order, one result each, and invlpg invalidates", _ordered),
    Duty("probe_many", "columns of addresses agree with single probes", _columns),
    Duty("probe_entries", "columns of entries agree with single probes", _versions),
    Duty("identity", "it has a name, a version, its memory and its spec", _named),
    Duty("several", "two of them do not disturb each other", _several),
    Duty("closed", "closing twice is nothing, and leaves nothing behind", _closed),
)
"""Every duty, in the order in which they are tried."""


def prove(source: Source) -> Iterator[Proof]:
    """Try every duty, each on an engine that is opened anew.

    :param source: a spec, or what opens an engine over a memory.
    :raises EngineMissing: when the engine is not installed.
    :raises EngineError: when the first one cannot be opened.
    """
    _Bench(source).engine.close()
    for duty in DUTIES:
        yield _proof(duty, source)


def _proof(duty: Duty, source: Source) -> Proof:
    failure = skipped = ""
    try:
        bench = _Bench(source)
        try:
            duty.check(bench)
        finally:
            bench.engine.close()
    except _NotDone as error:
        failure = str(error)
    except _Skipped as error:
        skipped = str(error)
    except EngineMissing:
        raise
    except (EngineError, HarnessError) as error:
        failure = str(error)
    except Exception as error:
        failure = f"it raised {type(error).__name__}: {error}"
    return Proof(duty.name, duty.sentence, failure, skipped)


def _bits(changed: Mapping[int, int]) -> str:
    return ", ".join(f"{bits:#x} at {at:#x}" for at, bits in sorted(changed.items())) or "nothing"
