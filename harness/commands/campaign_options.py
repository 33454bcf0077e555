"""The options that ``harness matrix`` and ``harness fuzz`` share, and the words for them."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

__all__ = ["Settings", "campaign_options", "command_line", "engine_words", "settings_words"]

_DATABASE: Final = ".harness/findings"
_REPRODUCERS: Final = ".harness/reproducers"
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options that every campaign has; see :func:`campaign_options`."""

    engine: str = "unicorn"
    walker: str | None = None
    workers: int | None = None
    journal: Path | None = None
    scheduler: str | None = None
    seconds: float = 300.0
    as_json: bool = False
    junit: Path | None = None
    html: Path | None = None
    reproducers: Path = Path(_REPRODUCERS)
    database: Path = Path(_DATABASE)
    no_database: bool = False

    @property
    def subject(self) -> str:
        """Return the spec of who is judged: the walker, or the engine."""
        return self.engine if self.walker is None else f"walker:{self.walker}"

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Return the specs of the engines that are asked about a walker's findings."""
        return () if self.walker is None else (self.engine,)

    @property
    def processes(self) -> int:
        """Return how many processes to run: as many as there are CPUs unless told otherwise."""
        return self.workers or len(os.sched_getaffinity(0))


def campaign_options(function: _F) -> _F:
    """Add the options that every campaign has; they come as one ``settings`` argument."""

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:
        names = [field.name for field in fields(Settings)]
        return function(settings=Settings(**{name: values.pop(name) for name in names}), **values)

    path = click.Path(path_type=Path)
    options = [
        click.option(
            "--engine",
            default="unicorn",
            show_default=True,
            help="The CPU that is asked, or package.module:attribute for one of your own.",
        ),
        click.option(
            "--walker",
            metavar="MODULE:FUNCTION",
            help="Judge your own walker, with the CPU as a witness.",
        ),
        click.option(
            "--workers", type=click.IntRange(1, 1024), help="How many processes; one for each CPU."
        ),
        click.option(
            "--journal", type=path, help="Keep what is done in this file, and go on from there."
        ),
        click.option("--scheduler", help="Run on a Dask cluster: tcp://host:port."),
        click.option(
            "--seconds",
            type=click.FloatRange(1, 86400),
            default=300.0,
            show_default=True,
            help="How long a worker may be silent before it is said to hang.",
        ),
        click.option("--json", "as_json", is_flag=True, help="End with one JSON object."),
        click.option("--junit", type=path, help="Write the report as JUnit XML."),
        click.option("--html", type=path, help="Write the report as one page."),
        click.option(
            "--reproducers",
            type=path,
            default=_REPRODUCERS,
            show_default=True,
            help="Write a case and a test for each finding here.",
        ),
        click.option(
            "--database",
            type=path,
            default=_DATABASE,
            show_default=True,
            help="Keep findings here, and ask them again first.",
        ),
        click.option("--no-database", is_flag=True, help="Do not keep findings."),
    ]
    result: Any = gathered
    for option in reversed(options):
        result = option(result)
    return result  # type: ignore[no-any-return]


def command_line(*words: object) -> str:
    """Return a command line that a shell takes as it is.

    :param words: the command's words after ``harness``; a None is left out.
    """
    return shlex.join(["harness", *(str(word) for word in words if word is not None)])


def engine_words(settings: Settings) -> list[object]:
    """Return the options that say who is asked."""
    words: list[object] = []
    if settings.engine != "unicorn":
        words += ["--engine", settings.engine]
    if settings.walker is not None:
        words += ["--walker", settings.walker]
    return words


def settings_words(settings: Settings) -> list[object]:
    """Return the options that what is found depends on, and the journal, as words."""
    words = engine_words(settings)
    if settings.scheduler is not None:
        words += ["--scheduler", settings.scheduler]
    if settings.journal is not None:
        words += ["--journal", settings.journal]
    return words
