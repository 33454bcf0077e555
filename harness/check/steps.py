"""What became of one step of a scenario: the answer that every judge of steps gives.

:mod:`.stale` judges accesses, :mod:`.instructions` instructions, :mod:`.delivery` deliveries; each
knows what the manual permits and looks whether an engine did one of those things. Each works on an
:class:`Overlay`, since a model must see what the CPU has done to memory so far and must not do it
again::

    overlay = Overlay(memory)
    overlay.write_u64(0x4020, 0)     # the memory keeps its word
    walk(overlay.as_memory(), cpu, 0x4123)

Reading and writing outside RAM raises :class:`~harness.errors.NoMemory`, as memory does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from harness.check.case import prediction_to_json
from harness.check.compare import Judgement
from harness.engine.steps import Step, StepResult
from harness.errors import NoMemory
from harness.memory import PhysicalMemory
from harness.walk import Walk

__all__ = ["Overlay", "StepVerdict"]


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """How an engine did on one step.

    :ivar step: what was asked.
    :ivar result: what the engine saw.
    :ivar judgement: agree, known, diverge or unsupported.
    :ivar predicted: what the rules permit, the plainest first: walks, or JSON objects.
    :ivar rule: the rule that the engine breaks, or that decided.
    :ivar level: the level of the entry that decided, if one did.
    :ivar sentence: the difference in words; empty when there is none.
    :ivar fields: what differs, the most important first.
    :ivar known: names of the registered divergences that explain it.
    :ivar acted: which bound of what may be stale the engine acted without: ``invlpg``,
        ``cr3_load``, ``fault`` or ``order``; empty when that is not it.
    """

    step: Step
    result: StepResult
    judgement: Judgement
    predicted: tuple[Walk | dict[str, Any], ...] = ()
    rule: str = "COMBINE"
    level: int | None = None
    sentence: str = ""
    fields: tuple[str, ...] = field(default=())
    known: tuple[str, ...] = ()
    acted: str = ""

    @property
    def permitted(self) -> list[dict[str, Any]]:
        """List what the rules permit as JSON objects, each once."""
        found = [
            one if isinstance(one, dict) else prediction_to_json(one) for one in self.predicted
        ]
        return [one for place, one in enumerate(found) if one not in found[:place]]


class Overlay:
    """A memory with changes of its own.

    :param under: what shows where nothing was changed.
    """

    __slots__ = ("_under", "words")

    def __init__(self, under: PhysicalMemory | Overlay) -> None:
        self._under = under
        self.words: dict[int, int] = {}
        """What was changed: address → u64."""

    def as_memory(self) -> PhysicalMemory:
        """Give it the type of what a walker reads; reading is all that a walker does."""
        return cast(PhysicalMemory, self)

    def offset(self, pa: int) -> int:
        """Return where an address is in RAM, negative when it is not."""
        return self._under.offset(pa)

    def read_u64(self, pa: int) -> int:
        """Return a word.

        :param pa: a multiple of 8.
        """
        found = self.words.get(pa)
        return self._under.read_u64(pa) if found is None else found

    def write_u64(self, pa: int, word: int) -> None:
        """Change a word.

        :param pa: a multiple of 8.
        :raises NoMemory: when it is not RAM.
        """
        if self.offset(pa) < 0:
            raise NoMemory(pa)
        self.words[pa] = word

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes."""
        first, last = pa & ~7, pa + size - 1 & ~7
        data = b"".join(self.read_u64(at).to_bytes(8, "little") for at in range(first, last + 8, 8))
        return data[pa - first : pa - first + size]

    def write(self, pa: int, data: bytes) -> None:
        """Change bytes."""
        at = pa
        for byte in data:
            word = self.read_u64(at & ~7)
            shift = 8 * (at & 7)
            self.write_u64(at & ~7, word & ~(0xFF << shift) | byte << shift)
            at += 1

    def set_bits(self, bits: dict[int, int]) -> None:
        """Set bits of words, as the CPU sets A and D."""
        for pa, mask in bits.items():
            self.write_u64(pa, self.read_u64(pa) | mask)

    def changed(self) -> dict[int, int]:
        """Return the address of each word that is different now → the bits that are."""
        found = {}
        for pa, word in sorted(self.words.items()):
            bits = word ^ self._under.read_u64(pa)
            if bits:
                found[pa] = bits
        return found
