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
    ("machine", "kernel_header", "kernels", "describe.runs"),
    ("check", "booted"),
    ("fuzz", "campaign"),
    ("planted",),
    ("lecture", "show"),
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
    ("check", "show"),
    ("describe", "check"),
    ("lecture", "commands"),
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


def _names(node: ast.ImportFrom) -> list[str]:
    """Return the modules that an import loads: of a package, those of its parts that it names."""
    module = str(node.module).removeprefix("harness").removeprefix(".")
    found = []
    for alias in node.names:
        part = f"{module}.{alias.name}" if module else alias.name
        path = PACKAGE.joinpath(*part.split("."))
        found.append(part if path.with_suffix(".py").exists() or path.is_dir() else module)
    return found


def _graph() -> dict[str, set[str]]:
    """Return which module loads which, imports in functions too, those for type checkers not."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "data" in path.relative_to(PACKAGE).parts:
            continue
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        graph[_module(path)] = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in for_types
            if (node.module or "").partition(".")[0] == "harness"
            for name in _names(node)
        } - {_module(path)}
    return graph


def test_no_import_goes_in_a_circle() -> None:
    graph = _graph()
    assert sum(map(len, graph.values())) > 900
    state: dict[str, int] = {}

    def visit(module: str, above: tuple[str, ...]) -> None:
        state[module] = 1
        for name in sorted(graph.get(module, ())):
            assert state.get(name) != 1, " → ".join((*above, module, name))
            if name not in state:
                visit(name, (*above, module))
        state[module] = 2

    for module in graph:
        if module not in state:
            visit(module, ())


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert long == {}


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
