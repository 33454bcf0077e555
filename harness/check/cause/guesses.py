"""What nothing explains: the rule that is most likely meant, without a cause.

Nothing here fails.
"""

from __future__ import annotations

from harness.check.cause.explanation import Explanation
from harness.check.judge.compare import Difference, Field, compare
from harness.cpu import ErrorCode
from harness.outcome import Observation, Outcome
from harness.walker import Walk

__all__ = ["guesses"]

_FP, _FRSVD, _FPK = int(ErrorCode.P), int(ErrorCode.RSVD), int(ErrorCode.PK)


def guesses(walk: Walk, seen: Observation) -> list[Explanation]:
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
