"""Where the files that ship with the package are: guest kernels and real page tables.

In a checkout they are ``asm/`` and ``fixtures/`` at its root; the wheel carries the same folders
inside the package, as ``harness/data/asm`` and ``harness/data/fixtures``. A broken installation
raises :class:`~harness.errors.HarnessError`::

    for path in page_table_sets():
        tables = load_set(path)
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import HarnessError

__all__ = ["asm_dir", "find_data", "fixtures_dir", "kernels", "page_table_sets"]

_PACKAGE = Path(__file__).resolve().parent


def asm_dir() -> Path:
    """Return the folder of the guest kernels.

    :raises HarnessError: when this installation has none.
    """
    return _folder("asm")


def fixtures_dir() -> Path:
    """Return the folder of the real inputs.

    :raises HarnessError: when this installation has none.
    """
    return _folder("fixtures")


def page_table_sets() -> list[Path]:
    """Return the folder of each page-table set that ships with the package, sorted by name.

    :raises HarnessError: when this installation has none.
    """
    root = fixtures_dir() / "page-tables"
    sets = sorted(path.parent for path in root.glob("*/cpu.json"))
    if not sets:
        raise HarnessError(f"the installation must hold page-table sets in {root}, and has none")
    return sets


def find_data(path: str | Path) -> Path:
    """Return what a path or a name stands for: what exists, else what ships under that name.

    ``linux-max`` is a page-table set and ``three-faults`` a guest kernel, wherever the package is
    installed. A path that is neither is returned as it is.
    """
    given = Path(path)
    if given.exists() or len(given.parts) != 1:
        return given
    for found in (fixtures_dir() / "page-tables" / given, asm_dir() / given.with_suffix(".asm")):
        if found.exists() and (found.is_file() or (found / "cpu.json").is_file()):
            return found
    return given


def kernels() -> list[Path]:
    """Return the file of each guest kernel that ships with the package, sorted by name."""
    return sorted(asm_dir().glob("*.asm"))


def _folder(name: str) -> Path:
    # pyproject.toml, [tool.hatch.build.targets.wheel.force-include]
    installed = _PACKAGE / "data" / name
    checkout = _PACKAGE.parent / name
    if installed.is_dir():
        return installed
    # Beside an installed package lies site-packages, where an `asm` would be somebody else's.
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    raise HarnessError(f"the installation must hold the folder {installed}, and does not")
