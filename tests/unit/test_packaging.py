"""What is installed: every package of the tree, under one import name, and one file where optimum-cli looks for it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("export", "calibration", "benchmarks")
# Folders that are not modules of `moir_edge`: scripts, and the file that goes into optimum's namespace package.
ELSEWHERE = {"peers", "optimum_register"}
OPTIMUM_FILE = "optimum/commands/register/register_moir_edge.py"


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_wheel_holds_every_module_of_the_tree(wheel_names: list[str]) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "moir_edge").rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if not ELSEWHERE & set(path.parts):
                expected.add(f"moir_edge/{path.relative_to(ROOT).as_posix()}")
    assert expected <= set(wheel_names)


def test_wheel_has_one_top_level_name_and_the_data_files(wheel_names: list[str]) -> None:
    files = [name for name in wheel_names if ".dist-info/" not in name]
    # a namespace package that optimum keeps open for this: no __init__.py, and no other file
    assert [name for name in files if not name.startswith("moir_edge/")] == [OPTIMUM_FILE]
    assert {"moir_edge/py.typed", "moir_edge/demo/checkpoint/model.safetensors"} <= set(wheel_names)
    assert not any("peers" in name for name in wheel_names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_bare_name_is_refused(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"moir_edge.{folder}" in done.stderr.splitlines()[-1]


def test_links_are_relative_and_point_at_the_three_folders() -> None:
    for folder in FOLDERS:
        link = ROOT / "moir_edge" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("..") / folder
