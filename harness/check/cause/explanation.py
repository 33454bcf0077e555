"""What a cause is: the explanations that one observation allows, the likeliest first.

An :class:`Explanation` names a rule, how it is broken and, where it is about one level, the level;
its key is what findings merge by. A :class:`Cause` is every explanation of one observation::

    >>> Explanation.of("A", "missing", 2, "the CPU did not set A").key
    'A:missing:L2'

Nothing here fails.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

__all__ = ["Cause", "Explanation"]


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

    @classmethod
    def of(cls, found: list[Explanation], *, explained: bool = True) -> Cause:
        """Return the cause with its explanations in order.

        One that names a level counts when only one does: of several levels none can be told from
        the others, and the cause as a whole goes first.

        :param found: the likeliest first; one may be there twice.
        """
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
            whole = [other for other in group if other.level is None]
            several = len(group) - len(whole) > 1
            result += [*whole, *(o for o in group if o not in whole)] if several else [one]
        return cls(tuple(result), explained)

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
