"""What is installed: every package of the tree, under one import name, and one file where optimum-cli looks for it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIMUM_FILE = "optimum/commands/register/register_moir_edge.py"
PLUGIN = "moir_edge/cli/optimum_plugin/"


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_wheel_holds_every_module_of_the_tree(wheel_names: list[str]) -> None:
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "moir_edge").rglob("*.py")}
    inside = {name for name in wheel_names if name.endswith(".py") and name != OPTIMUM_FILE}
    assert {name for name in expected if not name.startswith(PLUGIN)} == inside


def test_wheel_has_one_top_level_name_and_the_data_files(wheel_names: list[str]) -> None:
    files = [name for name in wheel_names if ".dist-info/" not in name]
    # a namespace package that optimum keeps open for this: no __init__.py, and no other file
    assert [name for name in files if not name.startswith("moir_edge/")] == [OPTIMUM_FILE]
    assert {"moir_edge/py.typed", "moir_edge/demo/checkpoint/model.safetensors"} <= set(wheel_names)


def test_links_stand_at_the_top_only() -> None:
    """They are for people; where a checkout writes links as text, nothing is missing."""
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    links = {line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")}
    assert links == {"export", "calibration"}
