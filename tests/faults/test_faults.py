"""Every writer, ended at its steps: what stands at the output is the old version or the new one, whole, and nothing stays behind.

A small folder and a file are ended at every step, the other writers at some that a seed draws; `make faults` takes all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.together import namespaces_are_permitted
from tests.faults.writers import NEWCOMERS, WRITERS

SMALL = (
    "folder", "folder-by-renames", "folder-by-removal", "new-folder", "file", "new-file", "calibration-cache",
)  # fmt: skip
LARGE = ("report", "retrofit", "tune", "engines", "routing-map")
ROOT = Path(__file__).parents[2]


def _run(program: str, *words: str) -> list[dict[str, Any]]:
    """Run a module in a process that has started no thread, and return the JSON lines that it prints."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", program, *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr  # it has exit code 1 too
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("writer", SMALL)
def test_a_small_writer_that_ends_at_its_steps(writer: str) -> None:
    some = ["--cases", "40"] if writer.startswith("folder-") else []
    trials = _run("tests.faults", "--writers", writer, "--all", *some)
    assert [trial for trial in trials if trial["fault"]] == []
    for way in ("kill", "terminate", "cut", "full"):
        found = [trial for trial in trials if trial["way"].startswith(way)]
        assert len(found) >= 10
        # Both the old and the new version are seen, so the steps lie before and after the one that counts.
        assert {trial["seen"] for trial in found} >= {None if writer in NEWCOMERS else 1, 2}


def test_real_writers_that_end_at_some_steps() -> None:
    trials = _run("tests.faults", "--writers", *LARGE, "--cases", "3", "--all")
    trials += _run("tests.faults", "--writers", "export", "--cases", "2", "--all")
    assert [trial for trial in trials if trial["fault"]] == []
    assert {trial["writer"] for trial in trials} == {*LARGE, "export"}
    assert {trial["seen"] for trial in trials} == {1, 2}


@pytest.mark.parametrize("mutant", ["no-folder", "no-content", "no-lock", "no-last", "no-order"])
def test_a_synchronization_that_is_left_out_is_found(mutant: str) -> None:
    """Each of them is needed: a cut that comes at the wrong moment shows it."""
    trials = _run("tests.faults.mutants", mutant)
    assert [trial for trial in trials if trial["fault"]]


@pytest.mark.parametrize("how", ["", "--renames", "--force", "--force --renames"])
@pytest.mark.parametrize("apart", [False, True])
def test_several_writers_at_once(how: str, apart: bool, tmp_path: Path) -> None:
    """Two in process namespaces of their own, as containers on one volume are; four without."""
    if apart and not namespaces_are_permitted():
        pytest.skip("this machine does not let this user make process namespaces")
    words = ["--namespaces", "--writers", "2"] if apart else []
    found = _run("tests.faults.together", str(tmp_path), *how.split(), *words)
    assert len(found) == 50
    for one in found:
        assert one["author"] >= 0, one
        assert one["latest_is_whole"]
        assert one["left"] == ["latest", "out"], one
        assert [error for error in one["errors"] if "out exists" not in error] == [], one
        assert len(one["errors"]) == (0 if "--force" in how else len(one["pids"]) - 1)
        assert not apart or one["pids"] == [1, 1]
    assert len({one["author"] for one in found}) > 1


_REPLACE = """
import json, os, sys
from pathlib import Path
from tests.faults.writers import WRITERS
write = WRITERS["folder"](Path.cwd())
write(Path("merged/volume/out"), 2)
write(Path("merged/volume/new"), 1)
write(Path("merged/volume/new"), 2)
names = sorted(path.relative_to("merged/volume").as_posix() for path in Path("merged/volume").rglob("*"))
print(json.dumps([names, Path("merged/volume/out/report.json").read_text()]))
"""
_MOUNT = (
    "mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged || exit 77; "
    'exec "$@"'
)


def test_a_folder_of_a_containers_image_is_replaced(tmp_path: Path) -> None:
    """An overlay file system moves no folder of its lower layer."""
    for name in ("lower/volume", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    WRITERS["folder"](tmp_path)(tmp_path / "lower" / "volume" / "out", 1)
    (tmp_path / "lower" / "volume" / "out" / "note.txt").write_text("mine")
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh"]
    done = subprocess.run(
        [*own, sys.executable, "-c", _REPLACE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not namespaces_are_permitted() or done.returncode == 77:
        pytest.skip("this machine does not let this user mount an overlay")
    assert done.returncode == 0, done.stderr
    names, report = json.loads(done.stdout)
    whole = [".moir-edge.json", "deep", "deep/data", "report.json"]
    expected = [
        "new",
        "out",
        "out/note.txt",
        *(f"{out}/{name}" for out in ("new", "out") for name in whole),
    ]
    assert names == sorted(expected)
    assert json.loads(report) == {"version": 2}
