"""Make a differing question of several steps small: fewer steps, words and bits, a plainer CPU.

A step goes whole; words that nobody misses go from the memory and from the steps that write them;
then bit by bit. What stays is needed to show the same difference::

    small = shrink_steps(question, lambda one: bench.ask(one).engines[0].decisive.kind == wanted)
    print(small.line())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final

from harness.check.question import Question
from harness.check.shrink.reduce import Reducer
from harness.engine.steps import AccessStep, DeliverStep, ExecuteStep, Step, WriteStep
from harness.errors import InputError
from harness.outcome import Access

__all__ = ["shrink_steps"]

_SIZES: Final = (1, 2, 4, 8, 16, 32)
# In the place of a step's number: the memory that the question begins with.
_BEGINNING: Final = -1


def shrink_steps(
    question: Question, differs: Callable[[Question], bool], *, tries: int = 2000
) -> Question:
    """Return the smallest question of several steps found that still differs.

    The parameters are those of :func:`~harness.check.shrink.access.shrink_access`.
    """
    return _StepsReducer(question, differs, _identity, tries).run()


class _StepsReducer(Reducer[Question]):
    def round(self) -> None:
        self.drop(self.question.steps, lambda kept: _with(self.question, steps=kept))
        self._words()
        self.plainer_cpu(lambda: self.question.cpu, lambda cpu: _with(self.question, cpu=cpu))
        self._steps()
        self._bits()

    def _words(self) -> None:
        self.drop(
            list(_words(self.question)),
            lambda kept: _with_words(self.question, kept),
        )

    def _bits(self) -> None:
        words = [(place, at) for place, at, _ in _words(self.question)]
        bits = [
            (place, at, 1 << bit)
            for place, at, word in _words(self.question)
            for bit in range(63, -1, -1)
            if word >> bit & 1
        ]

        def build(kept: list[tuple[int, int, int]]) -> Question | None:
            values = dict.fromkeys(words, 0)
            for place, at, bit in kept:
                values[place, at] |= bit
            return _with_words(self.question, [(*key, word) for key, word in values.items()])

        self.drop(bits, build)

    def _steps(self) -> None:
        for place in range(len(self.question.steps)):
            while any(self.take(simpler) for simpler in self._with_simpler(place)):
                pass

    def _with_simpler(self, place: int) -> Iterator[Question | None]:
        steps = self.question.steps
        for simpler in _simpler(steps[place]):
            yield _with(self.question, steps=[*steps[:place], simpler, *steps[place + 1 :]])


def _simpler(step: Step) -> Iterator[Step]:
    """Give what is simpler than a step by one thing."""
    if isinstance(step, AccessStep):
        for size in _SIZES:
            if size < step.access.size:
                access = Access(step.access.kind, size, stack=step.access.stack)
                yield dataclasses.replace(step, access=access)
        if step.access.stack:
            yield dataclasses.replace(step, access=Access(step.access.kind, step.access.size))
        if step.va & 0xFFF:
            yield dataclasses.replace(step, va=step.va & ~0xFFF)
    if isinstance(step, ExecuteStep):
        for name in step.registers:
            rest = {other: value for other, value in step.registers.items() if other != name}
            yield dataclasses.replace(step, registers=rest)
    if isinstance(step, AccessStep | ExecuteStep | DeliverStep) and step.cpl is not None:
        yield dataclasses.replace(step, cpl=None)


def _words(question: Question) -> Iterator[tuple[int, int, int]]:
    """Give every word: which step writes it, or :data:`_BEGINNING`; its address; its value."""
    for at, word in question.memory.items():
        yield _BEGINNING, at, word
    for place, step in enumerate(question.steps):
        if isinstance(step, WriteStep):
            for at, word in step.words.items():
                yield place, at, word


def _with_words(question: Question, words: Sequence[tuple[int, int, int]]) -> Question | None:
    """Return a question with other words; a step that would write none stays, and writes none."""
    memory: dict[int, int] = {}
    written: dict[int, dict[int, int]] = {}
    for place, at, word in words:
        (memory if place == _BEGINNING else written.setdefault(place, {}))[at] = word
    steps = [
        WriteStep(written.get(place, {})) if isinstance(step, WriteStep) else step
        for place, step in enumerate(question.steps)
    ]
    return _with(question, memory=memory, steps=steps)


def _identity(question: Question) -> Hashable:
    return question.line()


def _with(question: Question, **changes: object) -> Question | None:
    values = {name: getattr(question, name) for name in ("cpu", "ram", "memory", "steps")}
    try:
        return Question(**{**values, **changes})
    except InputError:
        return None
