"""Root causes: which rule an engine breaks, at which level, told by what it acted as if.

:func:`cause_of` looks for the smallest single change under which the walker would have predicted
exactly what was observed: a bit of one entry, a switch of the CPU, a property of the access
(:mod:`harness.check.asif`), another error code or CR2, accessed and dirty bits left out or too
many. "The CPU acted as if bit R/W of the PDE at 0x2000 were 1" names the rule and the level; when
nothing that is tried explains an observation, the :class:`Cause` says so::

    cause = cause_of(memory, walk, observation)
    print(cause.rule, cause.level, cause.as_if)

One case seldom has one possible cause. A user's read that passes where U/S of the PDPTE is clear
may come of an engine that ignores U/S there, or everywhere. ``Cause.keys`` has them all, and the
findings of one campaign together tell which it is: :func:`root_causes` chooses the fewest causes
that explain every finding. Nothing here fails.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from harness.address import entry_name, format_address
from harness.check.asif import Change, changes
from harness.check.case import observation_to_json, prediction_to_json
from harness.check.compare import Agreement, Difference, Field, compare, excess
from harness.check.finding import Finding
from harness.check.known import KNOWN, EngineIdentity, Verdict, explain
from harness.check.words import Words, words_of
from harness.cpu import CR4, ErrorCode
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.memory import PhysicalMemory
from harness.outcome import Observation, Outcome
from harness.show.report import headline, index_of, walk_rows
from harness.walk import RULE_TEXT, Walk
from harness.walk.scalar import denial, error_code

__all__ = ["Cause", "Explanation", "cause_of", "finding_of", "root_causes", "told_as"]

_A = int(PageTableFlags.ACCESSED)
_D = int(PageTableFlags.DIRTY)
_RW = int(PageTableFlags.WRITABLE)
_US = int(PageTableFlags.USER_ACCESSIBLE)
_XD = int(PageTableFlags.NO_EXECUTE)
_PS = int(PageTableFlags.HUGE_PAGE)
_PAT_BIG = int(PageTableFlags.HUGE_PAGE_PAT)
_FP, _FW, _FU, _FRSVD, _FI, _FPK = (
    int(bit)
    for bit in (ErrorCode.P, ErrorCode.W, ErrorCode.U, ErrorCode.RSVD, ErrorCode.I, ErrorCode.PK)
)
_ACCESS_BITS = _FW | _FU | _FI
_RIGHTS: Final = ("USER_US", "USER_RW", "NX", "WP")


@dataclass(frozen=True, slots=True)
class Explanation:
    """One possible cause.

    :ivar key: names it.
    :ivar rule: the rule that the engine breaks.
    :ivar level: the level at which it does, when it is about one level.
    :ivar as_if: a sentence: what the CPU acted as if, or what it did.
    """

    key: str
    rule: str
    level: int | None
    as_if: str

    @classmethod
    def of(cls, rule: str, how: str, level: int | None, as_if: str) -> Explanation:
        """Return the explanation whose key is ``RULE:how`` or ``RULE:how:L2``."""
        return cls(f"{rule}:{how}" + ("" if level is None else f":L{level}"), rule, level, as_if)

    @property
    def stem(self) -> str:
        """Give the key without its level."""
        return self.key if self.level is None else self.key.rpartition(":L")[0]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one observation is not what the walker predicted.

    :ivar explanations: every cause that would show in this way, the likeliest first.
    :ivar explained: False when no change that was tried predicts the observation.
    """

    explanations: tuple[Explanation, ...]
    explained: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        """Name every possible cause, the likeliest first."""
        return tuple(one.key for one in self.explanations)

    @property
    def key(self) -> str:
        """Name the cause, or all that it may be: findings of one key merge."""
        return "|".join(self.keys)

    @property
    def rule(self) -> str:
        """Name the rule that the engine breaks, by the likeliest cause."""
        return self.explanations[0].rule

    @property
    def level(self) -> int | None:
        """Give the level at which it does, when it is about one level."""
        return self.explanations[0].level

    @property
    def as_if(self) -> str:
        """Say what the CPU acted as if, by the likeliest cause."""
        return self.explanations[0].as_if


def cause_of(
    memory: Words, walk: Walk, observation: Observation, engine: EngineIdentity | None = None
) -> Cause:
    """Find the smallest single changes under which the walker predicts what was observed.

    :param memory: the memory of both, as it was before the access.
    :param walk: the prediction.
    :param observation: what the engine saw; it must differ.
    :param engine: whose registered divergences may stand beside the cause.
    """
    result = compare(walk, observation)
    if isinstance(result, Agreement):
        raise ValueError("only a difference has a cause, and this observation agrees")
    known = _but_for_known(engine)
    other = _instead(engine, memory, walk)
    left = None if other is None else compare(other, observation)
    if other is not None and isinstance(left, Difference) and left.fields == (Field.CHANGED,):
        return cause_of(memory, other, observation, engine)
    if result.fields[0] in (Field.CHANGED, Field.STORED) and Field.STORED in result.fields:
        kept = dataclasses.replace(observation, stored=0)
        if isinstance(compare(walk, kept), Agreement) or known(memory, walk, kept):
            words = "the CPU wrote to the page that it could, although the access faults"
            return _finished([Explanation.of("SPLIT", "stored", None, words)])
    if result.fields == (Field.CHANGED,):
        plain = _but_for_bits_known(engine, memory, walk, observation)
        found = [*_of_second_page(walk, observation), *_of_bits(walk, plain)]
        return _finished([*found, *_beyond(memory, walk, observation, known)])
    code = list(_of_code(walk, observation))
    if code and _is_about_code_alone(walk, observation):
        return _finished(code)
    listed = list(changes(walk))
    tried: dict[int, list[tuple[Change, Walk]]] = {}
    bits_right = Field.CHANGED not in result.fields or known(
        memory, walk, _as_coded(walk, observation)
    )
    for loosely in (False, True):
        if loosely and other is not None and isinstance(left, Difference):
            return cause_of(memory, other, observation, engine)
        for tier in (0, 1):
            if tier not in tried:
                tried[tier] = [
                    (change, after)
                    for change in listed
                    if change.tier == tier and (after := change.walk(memory, walk)) is not None
                ]
            found = [
                one
                for change, after in tried[tier]
                if _explains(change, memory, walk, after, observation, known, loosely=loosely)
                for one in _explanations(change, walk, after)
            ]
            if tier == 0 and (bits_right or loosely):
                found = [*_of_address(walk, observation), *found, *_of_order(walk, observation)]
                found += [*code, *_of_segment(walk, observation)]
            if found:
                return _finished(found)
    return _finished(_guesses(walk, observation), explained=False)


def _finished(found: list[Explanation], *, explained: bool = True) -> Cause:
    """Put the explanations in order: one that names a level counts when only one does."""
    unique = {one.key: one for one in reversed(found)}
    ordered = [unique[key] for key in dict.fromkeys(one.key for one in found)]
    levels: dict[str, list[Explanation]] = defaultdict(list)
    for one in ordered:
        levels[one.stem].append(one)
    result: list[Explanation] = []
    for one in ordered:
        group = levels[one.stem]
        if one in result:
            continue
        # Of several levels none can be told from the others: the cause as a whole goes first.
        whole = [other for other in group if other.level is None]
        several = len(group) - len(whole) > 1
        result += [*whole, *(o for o in group if o not in whole)] if several else [one]
    return Cause(tuple(result), explained)


# What agreement is: exactly, with registered divergences beside the change, or apart from A and D.


def _explains(
    change: Change,
    memory: Words,
    before: Walk,
    after: Walk,
    seen: Observation,
    known: _Known,
    *,
    loosely: bool,
) -> bool:
    if change.by_rules and after.rule not in (change.decides or change.rules):
        return False
    if not _answers(change, before, after, seen):
        return not loosely and known(change.memory(memory, before), after, seen)
    if loosely or _exactly(change, after, seen):
        return True
    return known(change.memory(memory, before), after, seen)


def _exactly(change: Change, after: Walk, seen: Observation) -> bool:
    if not after.completed:
        may = change.moved(after, after.may_set)
        return all(not bits & ~may.get(at, 0) for at, bits in seen.changed.items())
    return change.moved(after, after.sets) == seen.changed


_Known: TypeAlias = Callable[[Words, Walk, Observation], bool]
"""Says whether registered divergences alone explain an observation."""


def _but_for_known(engine: EngineIdentity | None) -> _Known:
    def known(memory: Words, after: Walk, seen: Observation) -> bool:
        if engine is None:
            return False
        result = compare(after, seen)
        return isinstance(result, Difference) and bool(
            explain(engine, cast(PhysicalMemory, memory), result)
        )

    return known


def _but_for_bits_known(
    engine: EngineIdentity | None, memory: Words, walk: Walk, seen: Observation
) -> Observation:
    """Return an observation without the bits that a registered divergence has changed."""
    for known in KNOWN if engine is not None else ():
        if engine is not None and known.covers(engine):
            amended = known.amend(cast(PhysicalMemory, memory), walk, seen)
            if amended is not None and isinstance(compare(walk, amended), Difference):
                seen = amended
    return seen


def _instead(engine: EngineIdentity | None, memory: Words, walk: Walk) -> Walk | None:
    """Return the walk that an engine is known to make in the place of the right one."""
    if engine is not None:
        for known in KNOWN:
            if known.instead is not None and known.covers(engine):
                return known.instead(cast(PhysicalMemory, memory), walk)
    return None


def _as_coded(walk: Walk, seen: Observation) -> Observation:
    """Return an observation with the error code and CR2 that were predicted."""
    if walk.outcome is not seen.outcome:
        return seen
    return dataclasses.replace(seen, error_code=walk.error_code, cr2=walk.cr2)


def _answers(change: Change, before: Walk, after: Walk, seen: Observation) -> bool:
    """Say whether a walk under a change answers what was seen, apart from A and D."""
    if after.outcome is not seen.outcome:
        return False
    if seen.outcome is Outcome.PAGE_FAULT:
        # A right may be lost or found, and the access still be reported for what it is.
        codes = (after.error_code, error_code(before.cpu, before.access, after.rule))
        addresses = (after.cr2, before.va if change.rules[0] == "CANONICAL" else after.cr2)
        return seen.error_code in codes and seen.cr2 in addresses
    if after.error_code != seen.error_code:
        return False
    return seen.pa is None or seen.pa == after.pa


def _explanations(change: Change, before: Walk, after: Walk) -> Iterator[Explanation]:
    rule = change.rule(before, after)
    sentence = f"the CPU acted as if {change.words}"
    yield Explanation.of(rule, change.how, change.level, sentence)
    for other, how, level in change.also:
        yield Explanation.of(other, how, level, sentence)
    stopped = before.rule.startswith("RSVD_") and change.how == "ignored"
    if stopped and after.outcome is Outcome.PAGE_FAULT:
        words = f"the CPU looked at the reserved bits of level {before.level} after what is below"
        yield Explanation.of("ORDER", "reserved-late", None, words)


# Error codes and CR2.


def _is_about_code_alone(walk: Walk, seen: Observation) -> bool:
    """Say whether no other fault would have this code: what is wrong is the code itself."""
    if walk.outcome is not seen.outcome or seen.outcome is not Outcome.PAGE_FAULT:
        return False
    assert walk.error_code is not None
    assert seen.error_code is not None
    if walk.cr2 != seen.cr2:
        return False
    code = seen.error_code
    impossible = bool(code & (_FRSVD | _FPK)) and not code & _FP
    return impossible or not (walk.error_code ^ code) & ~_ACCESS_BITS


def _of_code(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    if walk.outcome is not seen.outcome or seen.outcome is not Outcome.PAGE_FAULT:
        return
    assert walk.error_code is not None
    assert seen.error_code is not None
    wrong = walk.error_code ^ seen.error_code
    if walk.cr2 != seen.cr2:
        if not wrong:
            yield _of_cr2(walk, seen)
        return
    if not wrong:
        return
    if seen.error_code & _FRSVD and wrong == _FP:
        sentence = "the CPU reported RSVD without P: a reserved bit is only looked at when P = 1"
        yield Explanation.of("ERR", "RSVD-without-P", None, sentence)
    names = [
        f"{ErrorCode(bit)}-{'missing' if walk.error_code & bit else 'extra'}"
        for bit in (_FP, _FW, _FU, _FRSVD, _FI, _FPK)
        if wrong & bit
    ]
    names += [f"bit-{bit}-extra" for bit in range(6, 32) if wrong >> bit & 1]
    told = ", ".join(f"{n.rpartition('-')[0]} {_MISSING[n.rpartition('-')[2]]}" for n in names)
    sentence = f"the CPU did as predicted, but in the error code {told}"
    how = "+".join(names)
    cpu = walk.cpu
    if wrong == _FI:
        switches = [name for name, on in (("NXE", cpu.nxe), ("SMEP", cpu.smep)) if on]
        if len(switches) < 2:
            only = f"{switches[0]}-only" if switches else "without-NXE-and-SMEP"
            if walk.access.is_fetch:
                yield Explanation.of("ERR", f"{how}:{only}", None, sentence)
    if wrong == _FU and walk.access.implicit:
        yield Explanation.of("ERR", f"{how}:implicit", None, sentence)
        if how == "U-extra":
            words = "the CPU acted as if the access were explicit"
            yield Explanation.of("SMAP", "implicit-as-explicit", None, words)
    yield Explanation.of("ERR", how, None, sentence)


_MISSING: Final = {"missing": "was missing", "extra": "was set wrongly"}


def _of_cr2(walk: Walk, seen: Observation) -> Explanation:
    assert seen.cr2 is not None
    assert walk.cr2 is not None
    if walk.cr2 != walk.va and seen.cr2 == walk.va:
        how, what = "CR2-of-access", "the first byte of the access, not of the part that faulted"
    elif seen.cr2 == walk.cr2 & ~0xFFF:
        how, what = "CR2-of-page", "the first byte of the page"
    elif seen.cr2 == walk.va + walk.access.size - 1 & (1 << 64) - 1:
        how, what = "CR2-of-last-byte", "the last byte of the access"
    elif seen.cr2 == 0:
        how, what = "CR2-zero", "0"
    else:
        how, what = "CR2", format_address(seen.cr2)
    return Explanation.of("ERR", how, None, f"the CPU put {what} into CR2")


def _of_segment(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain the other one of the two faults that a non-canonical address may raise."""
    pair = (Outcome.GENERAL_PROTECTION, Outcome.STACK_FAULT)
    if walk.rule == "CANONICAL" and seen.outcome in pair and walk.outcome is not seen.outcome:
        how = "" if seen.outcome is Outcome.STACK_FAULT else "not "
        words = f"the CPU acted as if the access were {how}made through SS"
        yield Explanation.of("CANONICAL", "stack", None, words)


# The physical address.


def _of_address(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain another physical address of a page that both found."""
    leaf, predicted, reached = walk.leaf, walk.pa, seen.pa
    if leaf is None or not walk.completed or reached is None or predicted is None:
        return
    if not seen.outcome.has_pa or reached == predicted:
        return
    level = leaf.level
    name = f"the {entry_name(level)} at {format_address(leaf.address)}"
    frame = leaf.raw & ADDRESS_MASK
    size = 8 << 9 * level
    wrong = reached ^ predicted
    if level > 1 and leaf.raw & _PAT_BIG and wrong == _PAT_BIG:
        words = f"the CPU acted as if bit 12 (PAT) of {name} belonged to the frame's address"
        yield Explanation.of("PAT", "as-address", level, words)
        yield Explanation.of("PAT", "as-address", None, words)
        return
    for bits, page in ((12, "4K"), (21, "2M"), (30, "1G")):
        low = (1 << bits) - 1
        starts = (frame & ~low, frame & -size)
        if 1 << bits != size and reached in [start | walk.va & low for start in starts]:
            rule = "PAT" if level == 1 and leaf.raw & _PS else "BIG"
            words = f"the CPU acted as if {name} mapped a page of {page}"
            yield Explanation.of(rule, f"as-{page}", level, words)
            yield Explanation.of(rule, f"as-{page}", None, words)
    for bits in range(51, 31, -1):
        if reached == predicted & (1 << bits) - 1:
            words = f"the CPU lost bits 51:{bits} of the frame's address in {name}"
            yield Explanation.of("RSVD_ADDR", "address-lost", level, words)
            break


# Rights looked at too early.


def _of_order(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    page = walk.second if walk.second is not None and not walk.completed else walk
    if seen.outcome is not Outcome.PAGE_FAULT or seen.cr2 != page.va:
        return
    if page.rule not in ("PRESENT", "ORDER") and not page.rule.startswith("RSVD_"):
        return
    granted = _RW | _US | _XD | 1
    steps = page.steps
    whole = None
    # What a user's page must not be asked for is known at the leaf alone.
    cpu = walk.cpu.replace(cr4=walk.cpu.cr4 & ~int(CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.PKS))
    for step in steps if page.rule != "PRESENT" else steps[:-1]:
        granted &= step.raw ^ _XD
        rule = denial(cpu, walk.access, granted, 0)
        if rule in _RIGHTS and seen.error_code == error_code(walk.cpu, walk.access, rule):
            words = (
                f"the CPU acted as if rights were judged at level {step.level} ({rule}), before "
                f"the entry of level {page.level} was looked at"
            )
            if step is steps[-1] and page.rule != "ORDER":
                words = "the CPU acted as if rights were judged before reserved bits"
            whole = whole or words
            yield Explanation.of("ORDER", "rights-first", step.level, words)
    if whole is not None:
        yield Explanation.of("ORDER", "rights-first", None, whole)


# Accessed and dirty bits.


def _of_second_page(walk: Walk, seen: Observation) -> Iterator[Explanation]:
    """Explain bits that are as if an access had not reached its upper page."""
    if walk.second is None or not walk.completed:
        return
    upper = walk.second.sets
    lower = {step.address for step in walk.steps}
    left = {at: bits for at, bits in walk.sets.items() if at in lower or at not in upper}
    if left == seen.changed:
        words = "the CPU acted as if the access ended with the lower page"
        yield Explanation.of("SPLIT", "upper-ignored", None, words)


def _beyond(memory: Words, walk: Walk, seen: Observation, known: _Known) -> Iterator[Explanation]:
    """Explain bits by a walk that ends in the same way at another entry."""
    for change in changes(walk):
        after = change.walk(memory, walk) if change.tier == 0 else None
        if after is not None and _explains(change, memory, walk, after, seen, known, loosely=False):
            yield from _explanations(change, walk, after)


def _of_bits(walk: Walk, seen: Observation) -> list[Explanation]:
    places: dict[int, list[tuple[int, bool, int]]] = defaultdict(list)
    for page in (walk, walk.second):
        steps = () if page is None else page.steps
        for step in steps:
            place = (step.level, step is steps[-1], step.raw)
            if place not in places[step.address]:
                places[step.address].append(place)
    several = [
        list(_of_bit(walk, seen, address, bit, places[address]))
        for address, bits in excess(walk, seen).items()
        for bit in (bits & _A, bits & _D, bits & ~(_A | _D))
        if bit
    ]
    common = [
        one for one in several[0] if all(one.key in {o.key for o in other} for other in several[1:])
    ]
    if common:
        return common
    firsts = {other[-1].key: other[-1] for other in several}
    first = several[0][0]
    as_if = "; ".join(one.as_if for one in firsts.values())
    return [Explanation("+".join(sorted(firsts)), first.rule, None, as_if)]


def _of_bit(
    walk: Walk, seen: Observation, address: int, bit: int, places: list[tuple[int, bool, int]]
) -> Iterator[Explanation]:
    name = {_A: "A", _D: "D"}.get(bit, f"bits {bit:#x}")
    if not places:
        words = f"the CPU changed {name} of the word at {format_address(address)}, not in the walk"
        yield Explanation.of("A" if bit == _A else "D", "elsewhere", None, words)
        return
    level, is_last, raw = places[-1]
    where = f"the {entry_name(level)} at {format_address(address)}"
    changed = bool(seen.changed.get(address, 0) & bit)
    hows: tuple[str, ...]
    levels = {place[0] for place in places}
    if bit not in (_A, _D):
        words = f"the CPU changed {name} of {where}"
        yield Explanation.of("A", "other-bits", level, words)
        yield Explanation.of("A", "other-bits", None, words)
        return
    if len(levels) > 1:
        used = " and ".join(str(used) for used in sorted(levels, reverse=True))
        words = f"the CPU treated {name} of {where} wrongly, which serves levels {used}"
        yield Explanation.of("SELF", name, None, words)
    if changed and raw & bit:
        words = f"the CPU cleared {name} of {where}"
        yield Explanation.of(name, "cleared", level, words)
        yield Explanation.of(name, "cleared", None, words)
        return
    if walk.completed:
        kind = "leaf" if is_last else "table"
        if not changed:
            hows, words = ("missing",), f"the CPU did not set {name} of {where}"
        elif is_last:
            hows, words = ("by-read",), f"the CPU set {name} of {where} without a write"
        else:
            hows, words = ("in-table",), f"the CPU set {name} of {where}, which maps no page"
        if name == "A" and not changed:
            hows = ("missing", f"missing-in-{kind}")
        rule = name
    else:
        why = {"PRESENT": "not-present"}.get(walk.rule, "rights")
        why = "reserved" if walk.rule.startswith("RSVD_") else why
        rule = "A_ON_FAULT" if name == "A" else "D"
        words = f"the CPU set {name} of {where} although the access faults"
        hows = (f"on-fault-{why}", "on-fault")
        if walk.second is not None:
            hows = ("on-fault-of-second-page", *hows)
    for how in hows:
        yield Explanation.of(rule, how, level, words)
    for how in hows:
        yield Explanation.of(rule, how, None, words)


# What nothing explains.


def _guesses(walk: Walk, seen: Observation) -> list[Explanation]:
    """Name the rule that is most likely meant, without an explanation."""
    rule, level = walk.rule, walk.level
    difference = compare(walk, seen)
    assert isinstance(difference, Difference)
    if walk.outcome is seen.outcome and difference.fields[0] in (Field.ERROR_CODE, Field.CR2):
        rule, level = "ERR", None
    elif walk.completed and seen.outcome is Outcome.PAGE_FAULT:
        code = seen.error_code or 0
        rule = next(
            name
            for name, holds in (
                ("PRESENT", not code & _FP),
                ("RSVD_ADDR", code & _FRSVD),
                ("PKU", code & _FPK),
                ("NX", walk.access.is_fetch),
                ("USER_US", walk.cpu.user),
                ("WP", walk.access.is_write),
                ("SMAP", True),
            )
            if holds
        )
        level = None
    elif seen.outcome in (Outcome.GENERAL_PROTECTION, Outcome.STACK_FAULT):
        rule, level = "CANONICAL", None
    sentence = (
        f"no single change explains it: predicted {_word(walk)}, "
        f"observed {_word(seen)} ({difference.sentence})"
    )
    if rule == walk.rule and not walk.completed:
        # It did not do what the rule says: perhaps it ignores the rule.
        return [
            Explanation.of(rule, "ignored", level, sentence),
            Explanation.of(rule, "ignored", None, sentence),
        ]
    return [
        Explanation.of(rule, "unexplained", level, sentence),
        Explanation.of(rule, "unexplained", None, sentence),
    ]


def _word(answer: Walk | Observation) -> str:
    code = f" {answer.error_code:#x}" if answer.outcome is Outcome.PAGE_FAULT else ""
    return f"{answer.outcome}{code}"


# Findings.


def finding_of(
    difference: Difference, verdict: Verdict, engine: EngineIdentity, first: int = 0
) -> Finding:
    """Return the finding of one difference; findings of one cause merge by their key.

    :param difference: with its case (``Bench.ask`` and ``judge`` put it in).
    :param verdict: of the same observation: ``diverge`` or ``known``.
    :param engine: who observed.
    :param first: the number of the case, in the campaign's own order.
    """
    case = difference.case
    assert case is not None
    walk, seen = difference.walk, difference.observation
    details: dict[str, Any] = {
        "engine": {"name": engine.name, "version": engine.version},
        "asked": headline(walk),
        "fields": [str(name) for name in difference.fields],
        "predicted": prediction_to_json(walk),
        "observed": observation_to_json(seen),
        "walk": _levels(walk),
    }
    if verdict.known:
        names = [known.name for known in verdict.known]
        rule, level = verdict.known[0].rule, walk.level
        key = f"known:{'+'.join(sorted(names))}"
        details["as_if"] = " ".join(known.reason for known in verdict.known)
        details["sources"] = [known.source for known in verdict.known]
    else:
        names = []
        cause = cause_of(words_of(case), walk, seen, engine)
        rule, level, key = cause.rule, cause.level, cause.key
        details["as_if"] = cause.as_if
        details["explained"] = cause.explained
        details["explanations"] = [dataclasses.asdict(one) for one in cause.explanations]
    details["rule_text"] = RULE_TEXT.get(rule, "")
    if rule != walk.rule:
        details["decided_by"] = {"rule": walk.rule, "text": RULE_TEXT.get(walk.rule, "")}
    return Finding(
        key=key,
        judgement=str(verdict.judgement),
        rule=rule,
        level=level,
        sentence=difference.sentence,
        first=first,
        case=case.to_json(),
        known=tuple(names),
        details=details,
    )


def _levels(walk: Walk) -> list[dict[str, Any]]:
    """Return the entries that a walk read as JSON values, those of the lower page first."""
    result = []
    for number, page in enumerate((walk, walk.second)):
        if page is None:
            continue
        for step, row in zip(page.steps, walk_rows(page), strict=True):
            result.append(
                {
                    "page": number,
                    "level": step.level,
                    "name": row.name,
                    "index": index_of(step),
                    "address": f"{step.address:#x}",
                    "raw": f"{step.raw:#x}",
                    "leads_to": row.leads_to,
                    "bits": row.bits,
                    "decides": row.decides,
                }
            )
    return result


def root_causes(findings: Iterable[Finding]) -> list[Finding]:
    """Return as few findings as explain all of these: call it once, at a campaign's end.

    One case may have several possible causes (``Cause.keys``). Over all cases the fewest causes
    that explain everything are chosen, one after another, each time the one that explains most: a
    flaw that shows at four levels is one finding, and so is one that shows at one.

    :param findings: of :func:`finding_of`; others (``broke``, of scenarios) pass unchanged.
    """
    result: list[Finding] = []
    left: list[tuple[Finding, dict[str, int]]] = []
    for finding in sorted(findings, key=lambda finding: (finding.first, finding.key)):
        explanations = finding.details.get("explanations")
        if explanations:
            left.append((finding, {one["key"]: rank for rank, one in enumerate(explanations)}))
        else:
            result.append(finding)
    everything = left
    chosen: list[str] = []
    while left:
        candidates = sorted({key for _, keys in left for key in keys})
        key = min(candidates, key=lambda key: _merit(key, left))
        key = _at_one_level(key, left)
        chosen.append(key)
        left = [(finding, keys) for finding, keys in left if key not in keys]
    # What was chosen early may have become needless: what came later explains it, too.
    for key in reversed(chosen):
        others = [other for other in chosen if other != key]
        if all(any(other in keys for other in others) for _, keys in everything if key in keys):
            chosen = others
    groups: dict[str, list[Finding]] = {key: [] for key in chosen}
    for finding, keys in everything:
        groups[next(key for key in chosen if key in keys)].append(finding)
    result += [_merged(key, group) for key, group in groups.items()]
    return sorted(result, key=lambda finding: (finding.first, finding.key))


def told_as(small: Finding, finding: Finding) -> Finding:
    """Return a finding as it is told on a smaller case of the same cause.

    :param small: the finding of the smaller case.
    :param finding: whose key, count and first stay.
    """
    key = finding.key
    details = {**small.details}
    for name in ("levels",):
        if name in finding.details:
            details[name] = finding.details[name]
    ones = [one for one in details.get("explanations", []) if one["key"] == key.partition("|")[0]]
    rule, level = small.rule, small.level
    if ones:
        rule, level = ones[0]["rule"], ones[0]["level"]
        details["as_if"], details["rule_text"] = ones[0]["as_if"], RULE_TEXT.get(rule, "")
    if "|" not in key and ones:
        details["explanations"] = ones
    elif "explanations" in finding.details:
        details["explanations"] = finding.details["explanations"]
    return dataclasses.replace(
        finding, rule=rule, level=level, sentence=small.sentence, case=small.case, details=details
    )


def _merit(key: str, left: list[tuple[Finding, dict[str, int]]]) -> tuple[int, int, str]:
    ranks = [keys[key] for _, keys in left if key in keys]
    return -len(ranks), sum(ranks), key


def _at_one_level(key: str, left: list[tuple[Finding, dict[str, int]]]) -> str:
    """Return the cause at the one level that explains all that a cause as a whole explains."""
    members = [keys for _, keys in left if key in keys]
    levels = {other for keys in members for other in keys if other.rpartition(":L")[0] == key}
    common = [other for other in sorted(levels) if all(other in keys for keys in members)]
    return common[0] if len(common) == 1 else key


def _merged(key: str, group: list[Finding]) -> Finding:
    finding = group[0]
    for other in group[1:]:
        finding = finding.merged(other)
    one = next(one for one in finding.details["explanations"] if one["key"] == key)
    levels = {
        other["level"]
        for member in group
        for other in member.details["explanations"]
        if other["level"] is not None and other["rule"] == one["rule"]
    }
    details = {
        **finding.details,
        "as_if": one["as_if"],
        "rule_text": RULE_TEXT.get(one["rule"], ""),
        "explanations": [one],
        "levels": [one["level"]] if one["level"] is not None else sorted(levels, reverse=True),
    }
    return dataclasses.replace(
        finding, key=key, rule=one["rule"], level=one["level"], details=details
    )
