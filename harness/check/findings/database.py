"""A directory of findings, which the next campaign asks again before anything else.

A :class:`Database` keeps one JSON file for each cause, named as its reproducers are. A file is
written whole or not at all, so that a campaign may be killed at any moment::

    database = Database()
    for finding in database.replay("unicorn"):
        print(finding.judgement, finding.sentence)
    database.save(new)

Replaying asks each case in a process of its own, with a time limit: what killed the engine the
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

from harness.check.case import Case
from harness.check.findings.finding import Finding
from harness.check.findings.reproducer import Judged, file_stem, judge_json
from harness.errors import CaseError, EngineBroken, InputError
from harness.isolate import Ended, isolated_all
from harness.jsontext import loads, shown

__all__ = ["DEFAULT_PATH", "Database"]

DEFAULT_PATH: Final = ".harness/findings"
"""Where findings are kept, seen from the directory that a campaign is started in."""

_FORMAT: Final = 1
_FIXED: Final = "fixed"
_STRINGS: Final = ("key", "judgement", "rule", "sentence")
_ASKED: Final = ("engine", "fields", "predicted", "observed", "walk", "steps")
_COUNTS: Final = ("count", "first")


class Database:
    """Findings kept between campaigns.

    :param path: the directory; made when something is first saved.
    """

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_PATH) -> None:
        self.path = Path(path)

    def save(self, finding: Finding) -> Path | None:
        """Store a finding, in place of an older one of its cause.

        :param finding: one without a case cannot be asked again: it is not stored.
        :returns: the file.
        :raises InputError: when the directory cannot be written.
        """
        if finding.case is None:
            return None
        path = self.path / f"{file_stem(finding)}.json"
        text = json.dumps({"format": _FORMAT, "finding": finding.to_json()}, indent=1) + "\n"
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
        """Ask every stored case again, each in a process that it may take down.

        Each finding comes back with what its case gives now: ``diverge`` or ``known``; ``broke``
        when the engine died or hung; ``unsupported`` when it cannot run it; ``fixed`` when engine
        and walker agree: its file has then been moved to ``fixed/``. Key, count and first stay.

        :param engine: a name.
        :param seconds: how long one case may take.
        :param workers: how many processes at a time.
        :raises InputError: for a file that is no finding, before anything is asked.
        :raises EngineMissing: when the engine is not installed.
        """
        stored = [(path, _load(path)) for path in self.paths()]
        calls: list[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]] = [
            (judge_json, (finding.case, engine), {}) for _, finding in stored
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
            details = {**finding.details, "why": str(event.error)}
            return dataclasses.replace(finding, judgement="broke", details=details)
        if isinstance(event.error, InputError):
            raise InputError(f"{path}: {event.error}") from event.error
        if event.error is not None:
            raise event.error
        judged = event.value
        assert isinstance(judged, Judged)
        if judged.agree:
            self._set_aside(path)
            return dataclasses.replace(finding, judgement="fixed")
        details = finding.details
        if judged.finding is not None:
            # What it acted as if was told over all cases: this one alone may say less.
            told = judged.finding.details
            details = {**details, **{name: told[name] for name in _ASKED if name in told}}
        return dataclasses.replace(
            finding,
            judgement=judged.judgement,
            known=judged.finding.known if judged.finding is not None else finding.known,
            details=details,
        )

    def _set_aside(self, path: Path) -> None:
        fixed = self.path / _FIXED
        fixed.mkdir(exist_ok=True)
        os.replace(path, fixed / path.name)


def _load(path: Path) -> Finding:
    try:
        data = loads(path.read_bytes())
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise InputError(f"a finding must be an object with format {_FORMAT}")
        return _finding(data.get("finding"))
    except OSError as error:
        raise InputError(f"{path}: the file must be readable: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _finding(data: Any) -> Finding:
    names = {field.name for field in dataclasses.fields(Finding)}
    if not isinstance(data, dict) or set(data) != names:
        raise InputError(f"a finding must have the keys {', '.join(sorted(names))} and no others")
    for name in _STRINGS:
        if not isinstance(data[name], str):
            raise InputError(f"{name} must be a string, not {shown(data[name])}")
    for name in _COUNTS:
        if type(data[name]) is not int or data[name] < 0:
            raise InputError(f"{name} must be an integer of 0 or more, not {shown(data[name])}")
    if data["level"] is not None and data["level"] not in (1, 2, 3, 4, 5):
        raise InputError(f"level must be 1 to 5 or null, not {shown(data['level'])}")
    if not isinstance(data["details"], dict):
        raise InputError(f"details must be an object, not {shown(data['details'])}")
    known = data["known"]
    if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
        raise InputError(f"known must be a list of strings, not {shown(known)}")
    case = data["case"]
    if not isinstance(case, dict):
        raise CaseError(f"case must be an object, not {shown(case)}")
    if "steps" not in case:
        Case.from_json(case)
    return Finding.from_json(data)
