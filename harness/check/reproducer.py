"""Reproducers: a finding as a case file and as a pytest file that runs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.check.finding import Finding
from harness.engine import Engine
from harness.memory import PhysicalMemory

__all__ = ["Judged", "judge_json", "write_reproducers"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one case or scenario.

    :ivar judgement: agree, known, diverge or unsupported.
    :ivar explanation: what the walker says and why, with the rule's text, and what the engine did.
    :ivar finding: the difference as a finding; None when they agree.
    """

    judgement: str
    explanation: str
    finding: Finding | None = None

    @property
    def agree(self) -> bool:
        """Whether engine and walker agree."""
        return self.judgement == "agree"


def judge_json(
    case: dict[str, Any], engine: str | Callable[[PhysicalMemory], Engine] = "unicorn"
) -> Judged:
    """Ask walker and engine one case or scenario.

    :param case: its JSON object.
    :param engine: a name, or what opens an engine over a memory.
    :raises CaseError: when it is neither case nor scenario.
    :raises EngineError: when the engine is missing or breaks.
    """
    raise NotImplementedError


def write_reproducers(findings: Iterable[Finding], folder: str | Path) -> list[Path]:
    """Write a ``.jsonl`` case and a pytest file for each finding that has a case.

    :param findings: whose names and files are stable: rule, level, a short hash of the key.
    :param folder: made when it is missing.
    """
    raise NotImplementedError
