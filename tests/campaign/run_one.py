"""A campaign as a process of its own: ``JOURNAL OUTPUT COUNT SIZE PAUSE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.campaign import run
from tests.campaign.works import Steered


def main(journal: str, output: str, count: str, size: str, pause: str) -> None:
    work = Steered(int(count), int(size), pause=float(pause))
    result = run(work, journal=Path(journal))
    told = {
        "tally": result.tally.to_json(),
        "interrupted": result.interrupted,
        "complete": result.complete,
        "resumed": result.resumed_cases,
    }
    Path(output).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
