"""The package's face: complete, lazy where it must be, and true to its example."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

import harness

MODULES = (
    *(
        "address",
        "asm",
        "boot",
        "campaign",
        "check.case",
        "check.judge.compare",
        "check.findings.database",
    ),
    *(
        "check.findings.finding",
        "check.matrix.work",
        "check.findings.reproducer",
        "check.scenario",
        "check.findings.tally",
    ),
    *("check.work", "cpu", "engine", "engine.run", "engine.steps", "entry", "errors", "frames"),
    *("fuzz.work", "kernels", "machine", "mapping", "memory", "outcome", "resources", "sizes"),
    *("snapshot", "walker"),
)
# A word that only its own module makes clear.
KEPT = {
    ("boot", "load"),
    ("boot", "read_kernel"),
    ("campaign", "run"),
    ("check.findings.database", "DEFAULT_PATH"),
    ("check.findings.reproducer", "file_stem"),
    ("check.scenario", "ask"),
    ("check.scenario", "states"),
    ("check.scenario", "step_to_json"),
    ("check.findings.tally", "cell"),
    ("engine.steps", "CONTROLS"),
    ("engine.steps", "Step"),
    ("engine.steps", "WRITTEN"),
    ("fuzz.work", "LONGEST"),
    ("walker", "CACHING"),
    ("walker", "RULE_INDEX"),
}


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_at_the_root(module: str) -> None:
    home = importlib.import_module(f"harness.{module}")
    for name in home.__all__:
        if (module, name) not in KEPT:
            assert name in harness.__all__, name
            assert getattr(harness, name) is getattr(home, name), name


def test_the_list_is_sorted_and_has_no_doubles() -> None:
    assert harness.__all__ == sorted(set(harness.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'harness' has no attribute 'wlak'"):
        _ = harness.wlak


def test_the_walk_function_survives_the_import_of_its_package() -> None:
    code = "import harness, harness.walker.bulk; assert callable(harness.walk)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_loads_no_engine_and_no_assembler() -> None:
    heavy = ("unicorn", "keystone", "capstone", "numba", "rich", "click", "elftools")
    code = f"import sys, harness; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_example_is_true() -> None:
    assert doctest.testmod(harness).failed == 0
