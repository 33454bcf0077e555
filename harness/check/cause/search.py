"""The search for the cause of one observation.

:func:`cause_of` tries what is told by the observation alone (stored bytes, A and D, an error code
that no other fault has), then every single change, the likelier ones (tier 0) first; at last it
asks no longer that A and D fit::

    cause = cause_of(memory, walk, observation)
    print(cause.likeliest.key, cause.likeliest.as_if)

A ``ValueError`` says that the observation agrees with the walk: then there is no cause.
"""

from __future__ import annotations

import dataclasses

from harness.check.cause.bits import of_bits, of_second_page
from harness.check.cause.change import Reasons, explains, explanations, of_another_entry
from harness.check.cause.effects import (
    is_about_code_alone,
    of_address,
    of_code,
    of_order,
    of_segment,
)
from harness.check.cause.explanation import Cause, Explanation
from harness.check.cause.variation import Variation
from harness.check.cause.variations import variations
from harness.check.judge.compare import Agreement, Difference, Field, compare
from harness.check.model.words import Words
from harness.check.registered.model import EngineIdentity
from harness.cpu import ErrorCode
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = ["cause_of"]

_FP, _FRSVD, _FPK = int(ErrorCode.P), int(ErrorCode.RSVD), int(ErrorCode.PK)


def cause_of(
    memory: Words, walk: Walk, observation: Observation, engine: EngineIdentity | None = None
) -> Cause:
    """Find the smallest single changes under which the walker predicts what was observed.

    :param memory: the memory of both, as it was before the access.
    :param walk: the prediction.
    :param observation: what the engine saw; it must differ.
    :param engine: whose registered divergences may stand beside the cause.
    :raises ValueError: when it does not differ.
    """
    result = compare(walk, observation)
    if isinstance(result, Agreement):
        raise ValueError("only a difference has a cause, and this observation agrees")
    reasons = Reasons(engine)
    other = reasons.instead(memory, walk)
    left = None if other is None else compare(other, observation)
    if other is not None and isinstance(left, Difference) and left.fields == (Field.CHANGED,):
        return cause_of(memory, other, observation, engine)
    if result.fields[0] in (Field.CHANGED, Field.STORED) and Field.STORED in result.fields:
        kept = dataclasses.replace(observation, stored=0)
        if isinstance(compare(walk, kept), Agreement) or reasons.explains(memory, walk, kept):
            words = "the CPU wrote to the page that it could, although the access faults"
            return Cause.of([Explanation.of("SPLIT", "stored", None, words)])
    if result.fields == (Field.CHANGED,):
        plain = reasons.without_bits(memory, walk, observation)
        found = [*of_second_page(walk, observation), *of_bits(walk, plain)]
        return Cause.of([*found, *of_another_entry(memory, walk, observation, reasons)])
    code = list(of_code(walk, observation))
    if code and is_about_code_alone(walk, observation):
        return Cause.of(code)
    listed = list(variations(walk))
    tried: dict[int, list[tuple[Variation, Walk]]] = {}
    bits_right = Field.CHANGED not in result.fields or reasons.explains(
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
                if explains(change, memory, walk, after, observation, reasons, loosely=loosely)
                for one in explanations(change, walk, after)
            ]
            if tier == 0 and (bits_right or loosely):
                found = [*of_address(walk, observation), *found, *of_order(walk, observation)]
                found += [*code, *of_segment(walk, observation)]
            if found:
                return Cause.of(found)
    return Cause.of(_guesses(walk, observation), explained=False)


def _as_coded(walk: Walk, seen: Observation) -> Observation:
    """Return an observation with the error code and CR2 that were predicted."""
    if walk.outcome is not seen.outcome:
        return seen
    return dataclasses.replace(seen, error_code=walk.error_code, cr2=walk.cr2)


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
