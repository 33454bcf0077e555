"""What a cause is: the explanations that one observation allows, the likeliest first.

An :class:`Explanation` names a rule, how it is broken and, where it is about one level, the level;
that is its :class:`CauseKey`, by which findings merge. A :class:`Cause` is every explanation of one
observation::

    >>> str(Explanation.of("A", "missing", 2, "the CPU did not set A").key)
    'A:missing:L2'
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

__all__ = ["Cause", "CauseKey", "Explanation"]


class CauseKey(NamedTuple):
    """What names a cause.

    :ivar rule: the rule that the engine breaks.
    :ivar how: how it does, in a word or a few.
    :ivar level: the level at which it does, when it is about one level.
    """

    rule: str
    how: str
    level: int | None = None

    @property
    def stem(self) -> CauseKey:
        """Give the key without its level."""
        return self._replace(level=None)

    def __str__(self) -> str:
        return f"{self.rule}:{self.how}" + ("" if self.level is None else f":L{self.level}")


@dataclass(frozen=True, slots=True)
class Explanation:
    """One possible cause.

    :ivar key: names it.
    :ivar as_if: a sentence: what the CPU acted as if, or what it did.
    """

    key: CauseKey
    as_if: str

    @classmethod
    def of(cls, rule: str, how: str, level: int | None, as_if: str) -> Self:
        """Return the explanation of a key's parts."""
        return cls(CauseKey(rule, how, level), as_if)

    @property
    def rule(self) -> str:
        """Name the rule that the engine breaks."""
        return self.key.rule

    @property
    def level(self) -> int | None:
        """Give the level at which it does, when it is about one level."""
        return self.key.level

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {**self.key._asdict(), "key": str(self.key), "as_if": self.as_if}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one observation is not what the walker predicted.

    :ivar explanations: every cause that would show in this way, the likeliest first.
    :ivar explained: False when no change that was tried predicts the observation.
    """

    explanations: tuple[Explanation, ...]
    explained: bool = True

    @classmethod
    def of(cls, found: list[Explanation], *, explained: bool = True) -> Cause:
        """Return the cause with its explanations in order.

        One that names a level counts when only one does: of several levels none can be told from
        the others, and the cause as a whole goes first.

        :param found: the likeliest first; one may be there twice.
        """
        unique = {one.key: one for one in reversed(found)}
        ordered = [unique[key] for key in dict.fromkeys(one.key for one in found)]
        levels: dict[CauseKey, list[Explanation]] = defaultdict(list)
        for one in ordered:
            levels[one.key.stem].append(one)
        result: list[Explanation] = []
        for one in ordered:
            group = levels[one.key.stem]
            if one in result:
                continue
            whole = [other for other in group if other.level is None]
            several = len(group) - len(whole) > 1
            result += [*whole, *(o for o in group if o not in whole)] if several else [one]
        return cls(tuple(result), explained)

    @property
    def keys(self) -> tuple[CauseKey, ...]:
        """Name every possible cause, the likeliest first."""
        return tuple(one.key for one in self.explanations)

    @property
    def likeliest(self) -> Explanation:
        """Give the likeliest explanation."""
        return self.explanations[0]

    @property
    def rule(self) -> str:
        """Name the rule that the engine breaks, by the likeliest explanation."""
        return self.likeliest.rule

    @property
    def level(self) -> int | None:
        """Give the level at which it does, when it is about one level."""
        return self.likeliest.level

    @property
    def as_if(self) -> str:
        """Say what the CPU acted as if, by the likeliest explanation."""
        return self.likeliest.as_if
