"""The shipped files are found in a checkout and in an installed wheel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import resources
from harness.cli import cli
from harness.errors import HarnessError
from harness.resources import asm_dir, find_data, fixtures_dir

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


def test_what_ships_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_data("linux-max") == fixtures_dir() / "page-tables" / "linux-max"
    assert find_data("three-faults") == asm_dir() / "three-faults.asm"
    assert find_data("nothing-of-ours") == Path("nothing-of-ours")
    (tmp_path / "linux-max").write_text("mine")
    assert find_data("linux-max") == Path("linux-max")
    assert find_data("some/linux-max") == Path("some/linux-max")
    shown = CliRunner().invoke(cli, ["data", "--json"])
    assert json.loads(shown.output)["page_tables"]["linux-max"].endswith("linux-max")
    (tmp_path / "linux-max").unlink()
    done = CliRunner().invoke(cli, ["walk", "linux-max", "0xffffffff81000000"])
    assert "decided" in done.output, done.output
    assert CliRunner().invoke(cli, ["run", "map-to"]).exit_code == 0
