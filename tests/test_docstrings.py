"""The examples in the chapters' docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

CHAPTERS = ["address", "cpu", "entry", "layout", "memory", "outcome"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_examples(chapter: str) -> None:
    module = importlib.import_module(f"harness.{chapter}")
    result = doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert result.attempted > 0
    assert result.failed == 0
