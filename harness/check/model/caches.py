"""What a CPU's caches may still hold: the set of outcomes that each access of a sequence may have.

After an entry changes, and until it is invalidated, an access may use the old or the new
translation (rules STALE, INVLPG, CR3_LOAD and BIG; SDM 3A 4.10). A :class:`History` follows a
sequence: every value that a word of memory has had, and every event that invalidates. From these it
makes *memories that the CPU may see*, and asks the walker about each; the rules of a walk are
nowhere restated. What bounds those memories:

* a walk goes down in time as it goes down in levels: what it reads below was read no earlier than
  what it read above, which a paging-structure cache may have kept. A new upper entry over an older
  lower one is a mixture that was never there;
* ``invlpg``, whatever its address, empties the paging-structure caches: what is read below one
  lies on the same side of it as what is read above. Whole translations survive it, but those of the
  same page, of whatever size;
* a load of CR3 leaves global translations only, and a change of CR4.PGE none;
* a page fault invalidates what would be used for its address, so that there is one spurious
  fault at most (4.10.4.1).

Where nothing is pending one memory is left, the real one, and the prediction is the plain walk.
A and D are judged by the same memories: the CPU acts on the bits that it may have cached, sets
those of the old or the new translation, and never any other bit.

An observation outside the set diverges. To name the rule, the set is made again without one of
the bounds: the one without which the observation is permitted is the one that the engine broke.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

from harness.address import format_address
from harness.check.judge.access import verdict_of_difference
from harness.check.judge.compare import Difference, Judgement, compare
from harness.check.judge.verdict import StepVerdict
from harness.check.model.access_walks import either, joined, stored_words, where
from harness.check.model.bounds import (
    BOUND_OF,
    LIFTED,
    Bound,
    Event,
    Kind,
    Segment,
    TooMany,
    kills_page,
    survives,
)
from harness.check.model.overlay import Overlay
from harness.check.registered.model import EngineIdentity
from harness.cpu import CR4, EFER, CpuState
from harness.engine.steps import AccessStep, ControlStep, StepResult
from harness.entry import PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import Access, Observation, Outcome
from harness.walker import Walk, walk

__all__ = ["History"]

_MASK = (1 << 64) - 1
_A, _D, _G = (
    int(bit) for bit in (PageTableFlags.ACCESSED, PageTableFlags.DIRTY, PageTableFlags.GLOBAL)
)
_PGE, _SMEP, _PKE, _NXE = int(CR4.PGE), int(CR4.SMEP), int(CR4.PKE), int(EFER.NXE)
_ENOUGH = 4096
"""Walks for one access; a sequence that needs more is not judged."""


class History:
    """Everything that has happened to one CPU and its memory since a sequence began.

    :param memory: the memory as it was then; it is not changed.
    :param cpu: the CPU's state then.
    """

    def __init__(self, memory: PhysicalMemory, cpu: CpuState) -> None:
        self.memory = Overlay(memory)
        self._time = 0
        self._versions: dict[int, list[tuple[int, int]]] = {}
        self._events = [Event(0, None, 0, False, cpu.cr3)]
        self._nxe = [(0, cpu.nxe)]
        self._controls = [(cpu.cr0, cpu.cr4, cpu.pkru)]
        self._cpus: dict[tuple[object, ...], CpuState] = {}
        self.settled = True
        """Whether nothing was written since everything was invalidated."""

    # What happens.

    def write(self, words: dict[int, int]) -> None:
        """Take in that words of memory were written."""
        for pa, word in words.items():
            self._record(pa, word)
        self.settled = False

    def change(self, bits: dict[int, int]) -> None:
        """Take in that the CPU changed words: its A and D bits, and what it stored."""
        for pa, changed in bits.items():
            old = self.memory.read_u64(pa)
            if changed & ~(_A | _D) or old & changed:
                self._record(pa, old ^ changed)
                continue
            # No cache holds an entry without its A, and D is set again where it is set already:
            # the version before this one makes no difference.
            self.memory.write_u64(pa, old | changed)
            if pa in self._versions:
                self._versions[pa][-1] = self._versions[pa][-1][0], old | changed

    def invlpg(self, va: int) -> None:
        """Take in an ``invlpg``."""
        self._happens(Kind.INVLPG, va)

    def fault(self, va: int) -> None:
        """Take in a page fault at an address."""
        self._happens(Kind.FAULT, va)

    def load(self, step: ControlStep, before: CpuState) -> None:
        """Take in the load of a control register.

        :param before: the CPU's state before it.
        """
        if step.register == "cr3":
            self._happens(Kind.ROOT, 0, spares_global=bool(before.cr4 & _PGE), cr3=step.value)
        elif step.register == "cr4":
            if (before.cr4 ^ step.value) & _PGE:
                self._happens(Kind.ALL, 0)
            elif step.value & ~before.cr4 & _SMEP:
                self._happens(Kind.ROOT, 0, spares_global=bool(before.cr4 & _PGE))
        elif step.register == "efer":
            self._nxe.append((self._time, bool(step.value & _NXE)))
        if step.register in ("cr0", "cr4", "pkru"):
            cr0, cr4, pkru = self._controls[-1]
            now = {"cr0": cr0, "cr4": cr4, "pkru": pkru} | {step.register: step.value}
            self._controls.append((now["cr0"], now["cr4"], now["pkru"]))

    def _happens(
        self, kind: Kind, va: int, *, spares_global: bool = False, cr3: int | None = None
    ) -> None:
        self._time += 1
        root = self._events[-1].cr3 if cr3 is None else cr3
        self._events.append(Event(self._time, kind, va, spares_global, root))
        if kind is Kind.ALL or (kind is Kind.ROOT and not spares_global):
            self.settled = True

    def _record(self, pa: int, word: int) -> None:
        old = self.memory.read_u64(pa)
        if word == old:
            return
        self._time += 1
        self._versions.setdefault(pa, [(0, old)]).append((self._time, word))
        self.memory.write_u64(pa, word)

    # What may be.

    def candidates(
        self, cpu: CpuState, va: int, access: Access, lifted: frozenset[Bound] = frozenset()
    ) -> list[Walk]:
        """Give every walk that an access may make, the one of the memory as it is first.

        :param lifted: bounds that do not count.
        :raises TooMany: when there are too many.
        """
        last = va + access.size - 1 & _MASK
        if va >> 12 == last >> 12:
            return list(self._page(cpu, va, access, lifted))
        boundary = last & ~0xFFF
        upper_size = (last & 0xFFF) + 1
        lower_part = dataclasses.replace(access, size=access.size - upper_size)
        upper_part = dataclasses.replace(access, size=upper_size)
        uppers = list(self._page(cpu, boundary, upper_part, lifted))
        found = []
        for lower in self._page(cpu, va, lower_part, lifted):
            lower.access = access
            found += [joined(lower, u) for u in uppers] if lower.completed else [lower]
        return found

    def _page(
        self, cpu: CpuState, va: int, access: Access, lifted: frozenset[Bound]
    ) -> Iterator[Walk]:
        """Give the walks of an access within one page, each with other entries."""
        seen: set[tuple[object, ...]] = set()
        budget = _ENOUGH
        segments = self._segments(va, lifted)
        for number, segment in enumerate(segments):
            if number and not self._versions and segment.cr3 == segments[0].cr3:
                continue
            for state in self._states(cpu, segment, lifted):
                choices: list[int] = []
                while True:
                    budget -= 1
                    if budget < 0:
                        raise TooMany
                    view = _View(self, segment, choices, Bound.ORDER in lifted)
                    found = walk(cast(PhysicalMemory, view), state, va, access)
                    key = (found.outcome, found.rule, *found.steps)
                    alive = not number or survives(found, segment.after, lifted)
                    if key not in seen and alive:
                        seen.add(key)
                        yield found
                    if not view.advance():
                        break

    def _segments(self, va: int, lifted: frozenset[Bound]) -> list[Segment]:
        """Give the stretches of time that translations of a page may come from, the last first."""
        found = []
        last = self._time
        after: list[Event] = []
        for event in reversed(self._events):
            if event.kind is Kind.FAULT and event.va >> 12 != va >> 12:
                continue
            ignored = event.kind is not None and BOUND_OF[event.kind] in lifted
            if ignored and event.kind is not Kind.ROOT:  # at which the root still changes
                continue
            found.append(Segment(event.time, last, event.cr3, tuple(after)))
            if event.kind is None:
                break
            if not ignored:
                if kills_page(event, va):
                    break
                after.append(event)
            last = event.time - 1
        return found

    def _states(
        self, cpu: CpuState, segment: Segment, lifted: frozenset[Bound]
    ) -> Iterator[CpuState]:
        """Give the states in which a walk of a segment may have been made, the present first."""
        # What EFER.NXE makes reserved was checked when the translation was made.
        nxe = [cpu.nxe]
        for at, (_, value) in enumerate(self._nxe):
            until = self._nxe[at + 1][0] if at + 1 < len(self._nxe) else self._time
            if until >= segment.first and value not in nxe:
                nxe.append(value)
        controls = [(cpu.cr0, cpu.cr4, cpu.pkru)]
        if Bound.CONTROL in lifted:
            controls += self._controls
        elif Bound.PKE in lifted:
            controls.append((cpu.cr0, cpu.cr4 ^ _PKE, cpu.pkru))
        for cr0, cr4, pkru in dict.fromkeys(controls):
            for value in nxe:
                efer = cpu.efer & ~_NXE | (_NXE if value else 0)
                yield self._cpu(cpu, cr0, segment.cr3, cr4, efer, pkru)

    def _cpu(self, cpu: CpuState, *controls: int) -> CpuState:
        if controls == (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.pkru):
            return cpu
        found = self._cpus.get((cpu, *controls))
        if found is None:
            names = ("cr0", "cr3", "cr4", "efer", "pkru")
            found = cpu.replace(**dict(zip(names, controls, strict=True)))
            self._cpus[cpu, *controls] = found
        return found

    def options(self, pa: int, time: int, last: int, any_time: bool) -> list[tuple[int, int]]:
        """Give the values that a word had between two times, the newest first.

        Each comes with the earliest of these times at which it had it.
        """
        versions = self._versions.get(pa)
        if versions is None:
            return [(self.memory.read_u64(pa), time)]
        found: dict[int, int] = {}
        until = last
        for since, value in reversed(versions):
            if since <= last and (any_time or until >= time):
                found[value] = time if any_time else max(since, time)
            until = min(last, since - 1)
            if until < time and not any_time:
                break
        return list(found.items())

    # The judge.

    def judge(
        self, engine: EngineIdentity, cpu: CpuState, step: AccessStep, result: StepResult
    ) -> StepVerdict:
        """Judge an access, and take in what it did.

        :param engine: who observed.
        :param cpu: the CPU's state at the access.
        """
        seen = result.seen
        try:
            walks = self.candidates(cpu, step.va, step.access)
        except TooMany:
            return StepVerdict(
                step,
                result,
                Judgement.UNSUPPORTED,
                sentence=f"more than {_ENOUGH} translations are possible, which are not judged",
            )
        plain = walks[0]
        verdict = StepVerdict(
            step, result, Judgement.AGREE, tuple(walks), rule=plain.rule, level=plain.level
        )
        agreed = self._permits(walks, step, seen)
        if agreed is None:
            verdict = self._explained(engine, walks, cpu, verdict)
        else:
            verdict = dataclasses.replace(verdict, rule=agreed.rule, level=agreed.level)
        self.change(seen.changed)
        if step.access.is_write:
            self.settled = False
        if seen.outcome is Outcome.PAGE_FAULT and seen.cr2 is not None:
            self.fault(seen.cr2)
        return verdict

    def _permits(self, walks: list[Walk], step: AccessStep, seen: Observation) -> Walk | None:
        """Return the first walk that an observation agrees with."""
        extra = either(walks) if len(walks) > 1 else {}
        for found in walks:
            same = (
                found.outcome is seen.outcome
                and found.error_code == seen.error_code
                and found.cr2 == seen.cr2
                and seen.pa in (None, found.pa)
            )
            if same and self._changed_as(found, step, seen, extra):
                return found
        return None

    def _changed_as(
        self, found: Walk, step: AccessStep, seen: Observation, extra: dict[int, int]
    ) -> bool:
        """Whether memory changed as one walk permits, and a read returned what is there."""
        stored = stored_words(found, step)
        must, may = found.sets, found.may_set
        usable = _A | _D if found.completed else _A
        for pa in {*seen.changed, *must, *stored}:
            now = self.memory.read_u64(pa)
            changed = seen.changed.get(pa, 0)
            mask, value = stored.get(pa, (0, 0))
            if (now ^ changed ^ value) & mask:
                return False
            needed = must.get(pa, 0) & ~now & ~mask
            allowed = needed | (may.get(pa, 0) | extra.get(pa, 0) & usable) & ~now
            if needed & ~changed or changed & ~mask & ~allowed:
                return False
        if seen.value is None or found.outcome is not Outcome.MAPPED or found.second is not None:
            return True
        assert found.pa is not None
        after = Overlay(self.memory)
        for pa, bits in seen.changed.items():
            after.write_u64(pa, after.read_u64(pa) ^ bits)
        return seen.value == int.from_bytes(after.read(found.pa, step.access.size), "little")

    def _explained(
        self, engine: EngineIdentity, walks: list[Walk], cpu: CpuState, verdict: StepVerdict
    ) -> StepVerdict:
        """Say what an observation outside the set is: known, or whose rule it breaks."""
        step, seen = verdict.step, verdict.result.seen
        assert isinstance(step, AccessStep)
        for found in walks:
            difference = compare(found, self._without_store(found, step, seen))
            if isinstance(difference, Difference):
                reasons = verdict_of_difference(engine, self.memory.as_memory(), difference)
                if reasons.judgement is not Judgement.DIVERGE:
                    return dataclasses.replace(
                        verdict,
                        judgement=reasons.judgement,
                        rule=difference.rule,
                        sentence=difference.sentence,
                        fields=tuple(map(str, difference.fields)),
                        known=reasons.known,
                        open=reasons.open,
                    )
        nearest = next((found for found in walks if found.outcome is seen.outcome), walks[0])
        difference = compare(nearest, self._without_store(nearest, step, seen))
        differs = dataclasses.replace(verdict, judgement=Judgement.DIVERGE)
        if isinstance(difference, Difference):
            differs = dataclasses.replace(
                differs,
                rule=difference.rule,
                sentence=difference.sentence,
                fields=tuple(map(str, difference.fields)),
            )
        else:
            what = "value" if step.access.kind == "read" else "stored bytes"
            differs = dataclasses.replace(
                differs,
                rule=nearest.rule,
                sentence=f"a {step.access.kind} of {format_address(step.va)} at CPL {cpu.cpl}: the "
                f"{what} must be those at {format_address(nearest.pa or 0)}, and were others",
                fields=("value",),
            )
        return self._named(engine, walks, cpu, differs)

    def _named(
        self, engine: EngineIdentity, walks: list[Walk], cpu: CpuState, differs: StepVerdict
    ) -> StepVerdict:
        """Find the bound without which the observation would be permitted."""
        step, seen = differs.step, differs.result.seen
        assert isinstance(step, AccessStep)
        # Skip PKE unless CR4.PKE changed.
        ever = {cr4 & _PKE for _, cr4, _ in self._controls}
        for lifted in LIFTED:
            if Bound.PKE in lifted and len(ever) == 1:
                continue
            try:
                wider = self.candidates(cpu, step.va, step.access, lifted)
            except TooMany:
                continue
            agreed = self._permits(wider, step, seen)
            agreed = agreed or self._known(engine, wider, step, seen)
            if agreed is None:
                continue
            return dataclasses.replace(
                differs,
                rule=self._rule(lifted, agreed, walks, step.va),
                level=agreed.level,
                sentence=f"a {step.access.kind} of {format_address(step.va)} at CPL {cpu.cpl} "
                f"ended as {seen.outcome}{where(seen)}, as if "
                + " and ".join(bound.value for bound in Bound if bound in lifted)
                + "; it must end as "
                + " or ".join(dict.fromkeys(f"{w.outcome}{where(w)}" for w in walks)),
                acted=tuple(bound.name.lower() for bound in Bound if bound in lifted),
            )
        return differs

    def _known(
        self, engine: EngineIdentity, walks: list[Walk], step: AccessStep, seen: Observation
    ) -> Walk | None:
        """Return the first walk that an observation agrees with but for registered divergences."""
        for found in walks:
            difference = compare(found, self._without_store(found, step, seen))
            if isinstance(difference, Difference):
                reasons = verdict_of_difference(engine, self.memory.as_memory(), difference)
                if reasons.judgement is not Judgement.DIVERGE:
                    return found
        return None

    def _rule(self, lifted: frozenset[Bound], agreed: Walk, walks: list[Walk], va: int) -> str:
        if len(lifted) == 2:  # a fault that invalidates nothing only lays open the other one
            lifted -= {Bound.FAULT}
        if lifted == {Bound.CR3_LOAD}:
            return "CR3_LOAD"
        if lifted == {Bound.PKE}:
            return "PKU"
        if lifted == {Bound.CONTROL}:
            return walks[0].rule if walks[0].rule != "COMBINE" else agreed.rule
        if lifted != {Bound.INVLPG}:
            return "STALE"
        own = any(
            event.kind is Kind.INVLPG and event.va >> 12 == va >> 12 for event in self._events
        )
        big = agreed.leaf is not None and agreed.leaf.level > 1
        return "BIG" if big and not own else "INVLPG"

    def _without_store(self, found: Walk, step: AccessStep, seen: Observation) -> Observation:
        """Take what was stored out of an observation, which leaves the changes of entries."""
        stored = stored_words(found, step)
        changed = {pa: bits & ~stored.get(pa, (0, 0))[0] for pa, bits in seen.changed.items()}
        return dataclasses.replace(seen, changed={pa: bits for pa, bits in changed.items() if bits})


class _View:
    """One memory that the CPU may see: each read takes one of the values that it may find."""

    __slots__ = ("_any_time", "_at", "_choices", "_counts", "_history", "_last", "_time")

    def __init__(
        self, history: History, segment: Segment, choices: list[int], any_time: bool
    ) -> None:
        self._history = history
        self._choices = choices
        self._counts: list[int] = []
        self._at = 0
        self._time = segment.first
        self._last = segment.last
        self._any_time = any_time

    def read_u64(self, pa: int) -> int:
        options = self._history.options(pa, self._time, self._last, self._any_time)
        if self._at == len(self._choices):
            self._choices.append(0)
        value, self._time = options[self._choices[self._at]]
        self._counts.append(len(options))
        self._at += 1
        return value

    def offset(self, pa: int) -> int:
        return self._history.memory.offset(pa)

    def advance(self) -> bool:
        """Go on to the next memory; return False behind the last."""
        choices = self._choices
        del choices[self._at :]
        while choices:
            choices[-1] += 1
            if choices[-1] < self._counts[len(choices) - 1]:
                return True
            choices.pop()
        return False
