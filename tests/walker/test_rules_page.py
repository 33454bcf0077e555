"""docs/rules.md says what the rules say, and every rule and open point is on it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from harness.walker import RULES
from harness.walker.open_points import OPEN_POINTS
from harness.walker.rules_page import NOTES, SECTIONS, rules_page

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == rules_page(), (
        "run: python -m harness.walker.rules_page > docs/rules.md"
    )


def test_each_rule_stands_in_one_section_in_the_order_of_the_rules() -> None:
    assert tuple(chain.from_iterable(SECTIONS.values())) == RULES
    assert set(NOTES) <= set(RULES)


def test_open_points_belong_to_rules_and_are_called_by_their_names() -> None:
    assert all(point.rule in RULES for point in OPEN_POINTS.values())
    assert list(OPEN_POINTS) == [point.name for point in OPEN_POINTS.values()]
    assert set(OPEN_POINTS) == {
        "A_ON_FAULT",
        "A_LEAF_DENIED",
        "D_OF_LOWER",
        "SPLIT_CANONICAL",
        "PK_OF_DENIED",
        "FRAME_ORDER",
        "WIDE_PARTS",
    }
