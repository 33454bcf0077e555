"""Matrices of cases: named bits, enumerated.

:class:`Classic` is what kvm-unit-tests' ``access`` enumerates, :class:`Full` what it leaves out as
well; docs/matrix.md says what each holds. ``space.py`` is what both share, ``bits.py`` the bits,
``cover.py`` the covering arrays, ``scenarios.py`` what needs more than one access.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from harness.check.matrix.spaces.classic import Classic
from harness.check.matrix.spaces.full import Full
from harness.check.matrix.spaces.group import GroupInfo
from harness.check.matrix.spaces.scenarios import scenarios
from harness.check.matrix.spaces.space import Space

__all__ = ["SPACES", "Classic", "Full", "GroupInfo", "Space", "scenarios"]

SPACES: Mapping[str, Callable[[int], Space]] = MappingProxyType({"classic": Classic, "full": Full})
"""The matrices by name; each takes a number of levels."""
