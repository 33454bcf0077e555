"""docs/write-an-engine.md: its complete example does every duty, and random questions agree."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from harness.check.findings.tally import Tally
from harness.engine.conformance import prove
from harness.fuzz.work import FuzzWork

PAGE = Path(__file__).parents[1] / "docs" / "write-an-engine.md"
SPEC = "toy:CPU"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example, in the current directory."""
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "toy.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    return SPEC


def test_the_example_does_its_duties(toy: str) -> None:
    proofs = list(prove(toy))

    assert [(proof.duty, proof.failure) for proof in proofs if not proof.done] == []
    assert [proof.duty for proof in proofs if proof.skipped] == ["five levels"]


def test_random_questions_agree(toy: str) -> None:
    work = FuzzWork(seed=5, cases=3000, engine=toy, scenarios=False)
    tally = sum((work.run(shard) for shard in work.plan(0, Tally())), Tally())

    assert tally.judgements["diverge"] == 0, [f.sentence for f in tally.findings.values()]
    assert tally.judgements["broke"] == 0, [f.sentence for f in tally.findings.values()]
    assert tally.judgements["agree"] > 250
    assert tally.judgements["unsupported"] == tally.unsupported.total()
