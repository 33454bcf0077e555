"""A directory of findings, which the next campaign asks again before anything else.

A :class:`Database` keeps one JSON file for each cause, named as its reproducers are. A file is
written whole or not at all, so that a campaign may be killed at any moment::

    database = Database()
    for finding in database.replay("unicorn"):
        print(finding.judgement, finding.sentence)
    database.save(new)

Replaying asks each question in a process of its own, with a time limit: what killed the engine the
last time may kill it again. A finding that no longer differs is moved to ``fixed/`` and said to be
fixed. A file that cannot be read raises :class:`~harness.errors.InputError`, which names it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from harness.check.findings.codec import finding_from_json, finding_to_json, older_finding
from harness.check.findings.finding import BROKE, Finding
from harness.check.findings.reproducer import Reproduction, file_stem, reproduce
from harness.check.judge.compare import Judgement
from harness.errors import EngineBroken, InputError
from harness.isolate import Ended, isolated_all
from harness.jsontext import loads, obj

__all__ = ["DEFAULT_PATH", "Database"]

DEFAULT_PATH: Final = ".harness/findings"
"""Where findings are kept, seen from the directory that a campaign is started in."""

_FORMAT: Final = 2
_FIXED: Final = "fixed"


class Database:
    """Findings kept between campaigns.

    :param path: the directory; made when something is first saved.
    """

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_PATH) -> None:
        self.path = Path(path)

    def save(self, finding: Finding) -> Path | None:
        """Store a finding, in place of an older one of its cause.

        :param finding: one without a question cannot be asked again: it is not stored.
        :returns: the file.
        :raises InputError: when the directory cannot be written.
        """
        if finding.question is None:
            return None
        path = self.path / f"{file_stem(finding)}.json"
        text = json.dumps({"format": _FORMAT, "finding": finding_to_json(finding)}, indent=1) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.path, prefix=".", suffix=".part")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise InputError(
                f"{self.path}: the directory of findings must be writable: {error.strerror}"
            ) from error
        return path

    def paths(self) -> list[Path]:
        """List the files of the findings, by name."""
        return sorted(path for path in self.path.glob("*.json") if not path.name.startswith("."))

    def __iter__(self) -> Iterator[Finding]:
        """Give the stored findings, by their files' names.

        :raises InputError: for a file that is no finding; the message names it.
        """
        return (_load(path) for path in self.paths())

    def __len__(self) -> int:
        return len(self.paths())

    def replay(
        self, engine: str = "unicorn", *, seconds: float = 10.0, workers: int = 1
    ) -> list[Finding]:
        """Ask every stored question again, each in a process that it may take down.

        Each finding comes back with what its question gives now: ``diverge``, ``open`` or
        ``known``; ``broke`` when the engine died or hung; ``unsupported`` when it cannot run it;
        ``fixed`` when engine and walker agree: its file has then been moved to ``fixed/``. Key,
        count and first stay. Findings of another engine are left alone.

        :param engine: a spec.
        :param seconds: how long one question may take.
        :param workers: how many processes at a time.
        :raises InputError: for a file that is no finding, before anything is asked.
        :raises EngineMissing: when the engine is not installed.
        """
        everything = [(path, _load(path)) for path in self.paths()]
        stored = [
            (path, finding)
            for path, finding in everything
            if finding.engine is None or finding.engine.spec == engine
        ]
        calls: list[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]] = [
            (reproduce, (finding.question, engine), {}) for _, finding in stored
        ]
        results: list[Finding | None] = [None] * len(stored)
        for event in isolated_all(calls, workers=workers, seconds=seconds):
            if not isinstance(event, Ended):
                continue
            path, finding = stored[event.number]
            results[event.number] = self._replayed(path, finding, event)
        return [finding for finding in results if finding is not None]

    def _replayed(self, path: Path, finding: Finding, event: Ended) -> Finding:
        if isinstance(event.error, EngineBroken):
            return dataclasses.replace(finding, judgement=BROKE, why=str(event.error))
        if isinstance(event.error, InputError):
            raise InputError(f"{path}: {event.error}") from event.error
        if event.error is not None:
            raise event.error
        found = event.value
        assert isinstance(found, Reproduction)
        if found.judgement is Judgement.AGREE:
            self._set_aside(path)
            return dataclasses.replace(finding, judgement="fixed", answer=found.answer)
        # What it acted as if was told over all questions: this one alone may say less.
        return dataclasses.replace(
            finding, judgement=str(found.judgement), answer=found.answer, engine=found.answer.engine
        )

    def _set_aside(self, path: Path) -> None:
        fixed = self.path / _FIXED
        fixed.mkdir(exist_ok=True)
        os.replace(path, fixed / path.name)


def _load(path: Path) -> Finding:
    try:
        data = loads(path.read_bytes())
        if not isinstance(data, dict) or data.get("format") not in (1, _FORMAT):
            raise InputError(f"a finding must be an object with format {_FORMAT}")
        stored = obj("finding", data.get("finding"))
        finding = (older_finding if data["format"] == 1 else finding_from_json)(stored)
        if finding.question is None:
            raise InputError("a stored finding must have a question, and has none")
        return finding
    except OSError as error:
        raise InputError(f"{path}: the file must be readable: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
