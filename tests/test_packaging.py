"""The wheel: what it holds, and that it works where no checkout is.

It is built from the checkout without a network, installed with pip into a folder of its own, and
imported from there: PYTHONPATH comes before the editable install of this environment, whose
site-packages lends only the dependencies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"unicorn", "keystone", "capstone", "numba", "rich", "elftools"}


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command to its successful end and return what it printed.

    :param cwd: where; not the checkout, which Python would import from.
    :param path: a folder whose packages come before all others.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(*build, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-index", "--no-deps", "--no-compile", "--target", target, wheel, cwd=target)
    return target


def files(folder: str) -> set[str]:
    """Return the files under a folder of the checkout, by their path from its root."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if path.parent.name != "__pycache__"}


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())

    assert files("harness") <= held
    assert {f"harness/data/{name}" for name in files("asm") | files("fixtures")} <= held
    assert "harness/py.typed" in held
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in held)
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/")) for name in held)


def test_the_wheel_is_what_is_imported_and_finds_its_data(installed: Path, tmp_path: Path) -> None:
    script = """
import json, harness
from harness import resources
from harness.snapshot import load_set
from harness.walker import walk
sets = [load_set(path) for path in resources.page_table_sets()]
print(json.dumps({
    "package": harness.__file__,
    "asm": str(resources.asm_dir()),
    "walked": {each.name: walk(each.memory, each.cpu.replace(cpl=0, rflags=0x40002, pkru=0),
                               each.truth[0].va).pa == each.truth[0].pa for each in sets},
}))
"""
    answer = json.loads(run(sys.executable, "-c", script, cwd=tmp_path, path=installed))

    assert answer["package"] == str(installed / "harness" / "__init__.py")
    assert answer["asm"] == str(installed / "harness" / "data" / "asm")
    names = ("linux-max", "linux-max-pti", "linux-qemu64", "memtest-max", "ovmf-max")
    assert answer["walked"] == dict.fromkeys(names, True)


def test_the_wheel_runs_the_check(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "bin" / "harness", "check", "--json", cwd=tmp_path, path=installed)

    summary = json.loads(printed.strip().splitlines()[-1])
    assert summary["probes"] > 1000
    assert summary["diverge"] == 0
    assert len(summary["kernels"]) >= 16
    assert all(kernel["passed"] for kernel in summary["kernels"])


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    script = "import harness, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"

    loaded = set(run(sys.executable, "-c", script, cwd=tmp_path).split())

    assert "harness" in loaded
    assert not loaded & HEAVY
