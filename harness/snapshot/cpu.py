"""The CPU of a snapshot: what the file holds, and over it what a person gives.

Both are the ``cpu`` object of a case (:meth:`~harness.cpu.CpuState.from_json`). They are put
together before the state is judged, so that a register that the file has wrong, or cannot have, is
mended by giving it::

    cpu_of({"cr3": 0x100_0000_1000}, {"maxphyaddr": 46})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.cpu import CpuState

__all__ = ["Given", "assumed", "cpu_of"]

Given = Mapping[str, Any]
"""Keys of a ``cpu`` object."""


def cpu_of(stored: Given, given: Given) -> CpuState:
    """Return the state of a CPU.

    :param stored: what the file holds.
    :param given: what replaces it, key by key.
    :raises CaseError: for an unknown key or a value of the wrong kind.
    :raises CpuStateError: when a CPU cannot be in that state.
    """
    features = {**stored.get("features", {}), **_features(given)}
    # A register that was given as such also replaces what the features say of it.
    for name in ("maxphyaddr", "vendor"):
        if name in given:
            features.pop(name, None)
    return CpuState.from_json({**stored, **given, "features": features})


def assumed(stored: Given, given: Given) -> frozenset[str]:
    """Return what is assumed: ``maxphyaddr``, unless somebody told it."""
    told = {*stored, *given, *stored.get("features", {}), *_features(given)}
    return frozenset({"maxphyaddr"} - told)


def _features(given: Given) -> Mapping[str, Any]:
    features = given.get("features", {})
    return features if isinstance(features, Mapping) else {}
