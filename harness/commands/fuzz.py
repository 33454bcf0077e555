"""``harness fuzz``: address spaces and accesses that no kernel would make, at random."""

from __future__ import annotations

import click

from harness.commands.campaign import Campaign, run_campaign
from harness.commands.campaign_options import (
    Settings,
    campaign_options,
    command_line,
    settings_words,
)
from harness.errors import InputError

__all__ = ["fuzz"]

_CASES = 100_000


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Which random cases.")
@click.option("--cases", type=int, metavar="N", help="How many; 100,000 unless --minutes is given.")
@click.option("--minutes", type=float, metavar="M", help="For how long.")
@click.option("--planted", is_flag=True, help="See, too, whether wrong engines are found.")
@campaign_options
def fuzz(
    seed: int, cases: int | None, minutes: float | None, planted: bool, settings: Settings
) -> None:
    """Ask the CPU random questions, and hold each answer against the walker's.

    What one round of cases met steers the next one. The same seed asks the same cases, however
    many processes there are; with --minutes their number depends on the machine.
    """
    from harness.fuzz.work import FuzzWork

    # Written this way round, a NaN is refused too.
    if minutes is not None and not 0 < minutes <= 100_000:
        raise InputError(f"a campaign must take more than 0 minutes, and at most 100,000, "
                         f"not {minutes}")  # fmt: skip
    if cases is None and minutes is None:
        cases = _CASES
    words: list[object] = ["fuzz", "--seed", seed]
    facts = [("seed", str(seed))]
    if cases is not None:
        words += ["--cases", cases]
        facts.append(("cases", f"{cases:,}"))
    if minutes is not None:
        words += ["--minutes", f"{minutes:g}"]
        facts.append(("time", f"{minutes:g} minutes"))
    if planted:
        words.append("--planted")
    campaign = Campaign(
        work=FuzzWork(
            seed=seed,
            cases=cases,
            engine=settings.subject,
            witnesses=settings.witnesses,
            # A walker has no TLB and executes nothing.
            scenarios=settings.walker is None,
        ),
        settings=settings,
        facts=tuple(facts),
        command=command_line(*words, *settings_words(settings)),
        minutes=minutes,
        planted=planted,
    )
    raise SystemExit(run_campaign(campaign))
