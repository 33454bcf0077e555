"""The chapters' own examples."""

from __future__ import annotations

import doctest
import importlib

import pytest

from harness.memory import PhysicalMemory

MODULES = (
    "bootinfo", "config", "debug_text", "firmware", "kernel", "layout", "loader", "tables",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"harness.boot.{name}")
    names = vars(importlib.import_module("harness.boot")) | vars(module)
    result = doctest.testmod(module, extraglobs=names | {"PhysicalMemory": PhysicalMemory})
    assert result.attempted
    assert not result.failed
