"""What makes any question small: try a simpler one, keep it if it still differs, go on from there.

A :class:`Reducer` holds the smallest question so far. Things are left out all at once, then in
halves, quarters and so on (:meth:`Reducer.drop`), so that most of a question goes in a few tries.
:mod:`.access` does this to questions of one access, :mod:`.sequence` to those of several steps.
Nothing is random, and no question is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, Generic, TypeVar, cast

from harness.cpu import CpuFeatures, CpuState
from harness.errors import InputError

__all__ = ["Reducer"]

_Question = TypeVar("_Question")
_T = TypeVar("_T")
_DEFAULTS = CpuState()
_REGISTERS: Final = ("cr0", "cr4", "efer", "rflags", "pkru", "pkrs")


class Reducer(Generic[_Question]):
    """The smallest question so far.

    :param question: one that differs.
    :param differs: says whether a question still differs for the same cause; it must not raise.
    :param identity: what two equal questions have in common.
    :param tries: how many questions to ask at most.
    """

    def __init__(
        self,
        question: _Question,
        differs: Callable[[_Question], bool],
        identity: Callable[[_Question], Hashable],
        tries: int,
    ) -> None:
        self.question = question
        self.left = tries
        self._differs = differs
        self._identity = identity
        self._tried = {identity(question)}

    def round(self) -> None:
        """Try every kind of simplification once."""
        raise NotImplementedError

    def run(self) -> _Question:
        """Make rounds until one of them has changed nothing, and return the smallest question."""
        before = None
        while before != self._identity(self.question) and self.left > 0:
            before = self._identity(self.question)
            self.round()
        return self.question

    def take(self, candidate: _Question | None) -> bool:
        """Take a candidate if it still differs; None is none."""
        if candidate is None or self.left <= 0:
            return False
        identity = self._identity(candidate)
        if identity in self._tried:
            return False
        self._tried.add(identity)
        self.left -= 1
        if not self._differs(candidate):
            return False
        self.question = candidate
        return True

    def drop(self, items: Sequence[_T], build: Callable[[list[_T]], _Question | None]) -> None:
        """Leave out as many items as can be: all, halves, quarters, ..., single ones.

        :param build: makes a question with those items that are kept.
        """
        left = list(items)
        size = len(left)
        while size:
            start = 0
            while start < len(left):
                rest = left[:start] + left[start + size :]
                if self.take(build(rest)):
                    left = rest
                else:
                    start += size
            size = min(size // 2, len(left))

    def plainer_cpu(
        self, cpu: Callable[[], CpuState], build: Callable[[CpuState], _Question | None]
    ) -> None:
        """Make the CPU's state as plain as can be.

        :param cpu: gives the state of the question as it is.
        :param build: makes a question with another state.
        """

        def changed(**changes: object) -> _Question | None:
            try:
                return build(cpu().replace(**changes))
            except InputError:
                return None

        def with_bits(kept: list[tuple[str, int]]) -> _Question | None:
            changes: dict[str, object] = {name: getattr(_DEFAULTS, name) for name in _REGISTERS}
            for register, bit in kept:
                changes[register] = cast(int, changes[register]) ^ bit
            return changed(**changes)

        if cpu().features != _DEFAULTS.features:
            self.take(changed(features=CpuFeatures()))
        if cpu().cpl in (1, 2):
            self.take(changed(cpl=0))
        if cpu().cr3 & 0xFFF:
            self.take(changed(cr3=cpu().root))
        self.drop(list(_unusual_bits(cpu())), with_bits)


def _unusual_bits(cpu: CpuState) -> Iterator[tuple[str, int]]:
    for register in _REGISTERS:
        wrong = getattr(cpu, register) ^ getattr(_DEFAULTS, register)
        yield from ((register, 1 << bit) for bit in range(64) if wrong >> bit & 1)
