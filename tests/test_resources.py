"""The shipped files are found in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import resources
from harness.errors import HarnessError

ROOT = Path(__file__).resolve().parents[1]


def test_a_checkout_has_them_at_its_root() -> None:
    assert resources.asm_dir() == ROOT / "asm"
    assert resources.fixtures_dir() == ROOT / "fixtures"
    assert [path.name for path in resources.page_table_sets()] == [
        "linux-max",
        "linux-max-pti",
        "linux-qemu64",
        "memtest-max",
        "ovmf-max",
    ]


def test_an_installed_package_has_them_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "harness"
    for folder in ("data/asm", "data/fixtures/page-tables/a-set", "../asm", "../fixtures"):
        (package / folder).mkdir(parents=True)
    (package / "data/fixtures/page-tables/a-set/cpu.json").touch()
    (package / "data/fixtures/page-tables/README.md").touch()
    monkeypatch.setattr(resources, "_PACKAGE", package)

    assert resources.asm_dir() == package / "data" / "asm"
    assert resources.page_table_sets() == [package / "data/fixtures/page-tables/a-set"]


def test_a_neighbours_folder_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asm").mkdir()
    (tmp_path / "harness").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "harness")

    with pytest.raises(HarnessError) as caught:
        resources.asm_dir()

    missing = tmp_path / "harness" / "data" / "asm"
    assert str(caught.value) == f"the installation must hold the folder {missing}, and does not"


def test_an_installation_without_sets_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "fixtures").mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path)

    with pytest.raises(HarnessError, match="must hold page-table sets in "):
        resources.page_table_sets()
