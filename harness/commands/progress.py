"""How far a campaign is, as one bar on a terminal's stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.campaign.progress import CampaignProgress

__all__ = ["campaign_bar", "progress_words"]


class _Bar:
    """One bar on a terminal's stderr.

    :param bars: of rich.
    """

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=None, told="")

    def campaign(self, now: CampaignProgress) -> None:
        """Show how far a campaign is."""
        self._show(now.what, now.cases, now.of_cases, progress_words(now))

    def planted(self, flaw: str, done: int, total: int) -> None:
        """Show how many planted bugs are done."""
        self._show("planted bugs", done, total, f"{done} of {total}, {flaw}")

    def _show(self, what: str, done: int, total: int | None, told: str) -> None:
        self._bars.update(self._task, description=what, completed=done, total=total, told=told)


@contextlib.contextmanager
def campaign_bar() -> Iterator[_Bar | None]:
    """Show a bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars)


def progress_words(now: CampaignProgress) -> str:
    """Say in a line how far a campaign is, how fast, and how long the rest takes."""
    from harness.show.campaign import duration, short_count

    parts = [f"{short_count(now.cases)} cases"]
    if now.of_cases:
        share = min(100.0, 100 * now.cases / now.of_cases)
        parts = [f"{share:.0f} %", f"{short_count(now.cases)} of {short_count(now.of_cases)}"]
    parts.append(f"{short_count(round(now.rate))}/s")
    if now.left is not None:
        parts.append(f"{duration(now.left)} left")
    if now.findings:
        parts.append(f"{now.findings} cause{'' if now.findings == 1 else 's'}")
    if now.deaths:
        parts.append(f"{now.deaths} died")
    return ", ".join(parts)
