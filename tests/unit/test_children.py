"""A child process finds what its parent finds, and nothing in the current folder."""

from __future__ import annotations

import json as real_json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import moir_edge
from benchmarks.demo_training.batches import stream, vision_batches
from moir_edge.children import child_command, child_environment, module_command

ROOT = Path(moir_edge.__file__).resolve().parents[1]
NAMES = ("numpy", "torch", "json", "typing", "socket", "pickle", "struct", "multiprocessing")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: modules that leave a file where they are run."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def executed(folder: Path) -> list[str]:
    return [name for name in NAMES if (folder / name).exists()]


@pytest.mark.parametrize("python_path", ["", ":", ".", f"{ROOT}:", f":{ROOT}"])
@pytest.mark.parametrize("kind", ["function", "module", "other interpreter"])
def test_nothing_of_the_current_folder_runs(
    kind: str, python_path: str, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path)
    other = hostile / "python-of-another-environment"
    other.symlink_to(sys.executable)
    command = {
        "function": child_command("moir_edge.cli.main:main", "targets", "--json"),
        "module": module_command("moir_edge", "targets", "--json"),
        # it finds the package by its own means, so a module of the standard library serves
        "other interpreter": module_command("platform", python=str(other)),
    }[kind]
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, check=True
    )
    assert executed(hostile) == []
    if kind != "other interpreter":
        assert real_json.loads(done.stdout)


def test_the_trap_works(hostile: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", "import numpy, json"], env=environment, check=True)
    assert executed(hostile) == ["numpy", "json"]


def test_pool_processes_import_nothing_of_the_current_folder(hostile: Path) -> None:
    batches = stream(vision_batches, ahead=1, seed=0, batch=1, crowded=0.5)
    assert next(batches).pixels.shape[0] == 1
    batches.close()  # type: ignore[attr-defined]
    assert executed(hostile) == []
    assert Path.cwd() == hostile


def test_a_folder_that_the_program_added_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_program.py").write_text("print(__name__)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    command = module_command("of_the_program")
    done = subprocess.run(command, env=child_environment(), capture_output=True, check=True)
    assert done.stdout == b"__main__\n"


def test_relative_entries_of_the_user_stay_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["libs", "", ".", "/opt/libs", "libs"]))
    assert child_environment()["PYTHONPATH"] == f"{tmp_path / 'libs'}{os.pathsep}/opt/libs"


def test_a_current_folder_that_the_user_names_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child_environment()["PYTHONPATH"] == str(tmp_path)


@pytest.mark.parametrize("flags", [["-m", "moir_edge"], ["-X", "dev", "-Bmmoir_edge"]])
def test_python_m_imports_nothing_of_the_current_folder(flags: list[str], hostile: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, *flags, "targets", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert real_json.loads(done.stdout)
    assert executed(hostile) == []


def test_python_m_of_another_package_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("import moir_edge, beside\n")
    (tmp_path / "beside.py").write_text("print('found')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "theirs"], cwd=tmp_path, env=environment, capture_output=True, check=True
    )  # fmt: skip
    assert done.stdout == b"found\n"


_PARENT = """
import subprocess, sys
from moir_edge.children import child_command, child_environment
process = subprocess.Popen(child_command("waits:main"), env=child_environment(), stdout=subprocess.PIPE, text=True)
print(process.stdout.readline().strip(), flush=True)
process.wait()
"""
_CHILD = """
import os, time
def main():
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_in_the_middle_of_its_work(
    how: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(_CHILD)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(how)
    until = time.monotonic() + 300
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Say whether a process is there and not merely unclaimed by its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
