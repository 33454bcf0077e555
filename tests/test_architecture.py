"""The arrows of docs/architecture.md: who must never import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import harness

PACKAGE = Path(harness.__file__).parent

# From left to right; a module may import from its own group and from those before it. What stands
# alone at the root of the package is named with its file's name.
ORDER = (
    ("errors",),
    ("_address", "address", "layout", "registers", "entry", "cpu", "memory", "outcome"),
    ("jsontext", "resources", "isolate", "sizes"),
    ("walker", "asm", "frames"),
    ("snapshot", "mapping", "boot", "describe"),
    ("engine",),
    ("machine", "kernel_header", "kernels"),
    ("show",),
    ("check", "booted"),
    ("fuzz", "campaign"),
    ("planted",),
    ("lecture",),
    ("commands",),
    ("cli", "__main__", "__init__"),
)
NEVER = (
    ("walker", "engine"),
    ("engine", "walker"),
    ("engine", "check"),
    ("engine", "mapping"),
    ("engine", "boot"),
    ("mapping", "boot"),
    ("boot", "engine"),
)


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imports() -> list[tuple[str, str]]:
    files = [p for p in PACKAGE.rglob("*.py") if "data" not in p.relative_to(PACKAGE).parts]
    return [
        (_module(path), str(node.module).removeprefix("harness."))
        for path in sorted(files)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness.")
    ]


def _rank(module: str) -> int:
    for rank, group in enumerate(ORDER):
        if module in group:
            return rank
    return next(r for r, group in enumerate(ORDER) if module.partition(".")[0] in group)


IMPORTS = _imports()


def test_every_import_goes_from_right_to_left() -> None:
    assert len(IMPORTS) > 300
    against = [f"{a} imports {b}" for a, b in IMPORTS if _rank(b) > _rank(a)]
    assert against == []


@pytest.mark.parametrize(("left", "right"), NEVER)
def test_never(left: str, right: str) -> None:
    against = [
        f"{a} imports {b}"
        for a, b in IMPORTS
        if a.partition(".")[0] == left and b.partition(".")[0] == right
    ]
    assert against == []
