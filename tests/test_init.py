"""The package's face: complete, lazy where it must be, and true to its example."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import harness


def test_the_names_of_the_first_hour_are_few_and_are_those_of_their_packages() -> None:
    assert 30 <= len(harness.__all__) <= 40
    assert sorted({*harness._MODULE_OF, "__version__"}) == harness.__all__
    for name, module in harness._MODULE_OF.items():
        home = importlib.import_module(module)
        assert name in home.__all__, name
        assert getattr(harness, name) is getattr(home, name), name


def test_the_version_is_the_distribution_s() -> None:
    assert harness.__version__ == importlib.metadata.version("harness")


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
