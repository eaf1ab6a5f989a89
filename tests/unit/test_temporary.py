"""Temporary folders: of this user alone, gone with the process, and swept after one that was killed; nothing else is."""

from __future__ import annotations

import ast
import errno
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moir_edge import locks, temporary
from moir_edge.errors import EnvironmentProblem
from moir_edge.temporary import TemporaryFolder, nameless_file

PACKAGE = Path(temporary.__file__).parent
# Makes a folder with a file in it, says so, and waits.
_HOLD = """
import sys
from moir_edge.temporary import TemporaryFolder
with TemporaryFolder() as folder:
    (folder / "picture.png").write_bytes(b"x")
    print("ready", flush=True)
    sys.stdin.read()
"""
# Ends a process before each step that it takes in the file system, then looks what the next process leaves.
_STEPS = """
import json, os, signal, sys, tempfile
from pathlib import Path
from moir_edge.temporary import TemporaryFolder

def work():
    with TemporaryFolder() as folder:
        (folder / "picture.png").touch()

def ended_at(step, how):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    left = [step]
    def counted(function):
        def call(*words, **named):
            left[0] -= 1
            if left[0] == 0:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise SystemExit(143)
            return function(*words, **named)
        return call
    for name in ("mkdir", "rmdir", "unlink", "open", "close"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        work()
    except SystemExit:
        os._exit(143)
    os._exit(0)

step, goes_on = 0, True
while goes_on:
    step += 1
    tempfile.tempdir = str(Path(sys.argv[1], str(step)))
    os.mkdir(tempfile.tempdir)
    goes_on = ended_at(step, sys.argv[2])
    before = len(os.listdir(tempfile.tempdir))
    work()
    print(json.dumps({"before": before, "after": os.listdir(tempfile.tempdir)}))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, not swept yet."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def _holder(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_folder_is_this_users_alone_and_goes_with_the_block(root: Path) -> None:
    with TemporaryFolder() as folder:
        (outer,) = root.iterdir()
        assert folder.parent == outer
        assert [one.stat().st_mode & 0o777 for one in (outer, folder)] == [0o700, 0o700]
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
    assert list(root.iterdir()) == []


def test_it_goes_when_the_block_raises_and_with_the_object(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TemporaryFolder():
        raise KeyboardInterrupt
    assert list(root.iterdir()) == []
    folder = TemporaryFolder()
    assert folder.path.is_dir()
    del folder
    gc.collect()
    assert list(root.iterdir()) == []


def test_it_goes_when_the_process_ends(root: Path) -> None:
    code = "from moir_edge.temporary import TemporaryFolder; kept = TemporaryFolder(); print(kept.path)"
    environment = {**os.environ, "TMPDIR": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).parent.parent == root
    assert list(root.iterdir()) == []


def test_a_forked_process_leaves_its_parents_folder(root: Path) -> None:
    code = (
        "import os; from moir_edge.temporary import TemporaryFolder; kept = TemporaryFolder(); child = os.fork()\n"
        "if child: os.waitpid(child, 0); print(kept.path.is_dir())"
    )
    environment = {**os.environ, "TMPDIR": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
    assert list(root.iterdir()) == []


def test_the_next_process_sweeps_what_killed_ones_left_and_nothing_of_living_ones(
    root: Path,
) -> None:
    dead, living = _holder(root), _holder(root)
    (of_living,) = (one for one in root.iterdir() if one not in _folders_of(dead, root))
    _kill(dead)
    assert len(list(root.iterdir())) == 2
    with TemporaryFolder() as folder:
        assert set(root.iterdir()) == {of_living, folder.parent}
        assert (of_living / "files" / "picture.png").is_file()
    _kill(living)


def _folders_of(process: subprocess.Popen[str], root: Path) -> set[Path]:
    """Return the folders whose lock a process has open."""
    opened = {os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
    return {one for one in root.iterdir() if str(one / ".moir-edge.lock") in opened}


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_process_ended_at_any_step_leaves_nothing_after_the_next(
    how: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STEPS, str(tmp_path), how],
        capture_output=True,
        text=True,
        check=True,
    )
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) > 8  # two folders, lock, file, and the way back
    assert any(trial["before"] for trial in trials)
    assert [trial["after"] for trial in trials] == [[]] * len(trials)


def test_four_processes_that_sweep_at_once_all_get_a_folder(root: Path) -> None:
    for _ in range(6):
        _kill(_holder(root))
    assert len(list(root.iterdir())) >= 1  # each start swept the one before
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(root)},
        )
        for _ in range(4)
    ]
    assert [one.communicate()[0] for one in processes] == [b"ready\n"] * 4
    assert [one.returncode for one in processes] == [0] * 4
    assert list(root.iterdir()) == []


def test_what_is_not_ours_is_left_alone(root: Path, tmp_path: Path) -> None:
    """Each has something that a swept folder has not: another name, other files, a link in its place."""
    elsewhere = tmp_path / "elsewhere"
    for folder in (root / "moir-edge-mine", root / "moir-edge-0123456789ab", elsewhere):
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "precious").write_text("x")
        (folder / ".moir-edge.lock").touch()
    (root / "moir-edge-0123456789ab" / "note.txt").write_text("x")
    (root / "moir-edge-ffffffffffff").symlink_to(elsewhere)
    (root / "moir-edge-eeeeeeeeeeee").write_text("a file")
    (root / "moir-edge-dddddddddddd" / "files" / "precious").mkdir(parents=True)  # no lock
    before = sorted(tmp_path.rglob("*"))
    with TemporaryFolder():
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_folders_without_a_lock_are_removed(root: Path) -> None:
    """A process that is killed at once leaves the one, a child that outlives its parent may make the other anew."""
    (root / "moir-edge-aaaaaaaaaaaa").mkdir()
    (root / "moir-edge-bbbbbbbbbbbb" / "files").mkdir(parents=True)
    with TemporaryFolder() as folder:
        assert list(root.iterdir()) == [folder.parent]


def test_a_folder_of_another_user_is_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill(_holder(root))
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with TemporaryFolder():
        pass
    assert len(list(root.iterdir())) == 1


def test_links_inside_are_removed_and_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with TemporaryFolder() as folder:
        (folder / "link").symlink_to(tmp_path / "precious")
    assert (tmp_path / "precious" / "file").is_file()


def test_a_root_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        EnvironmentProblem,
        match=r"cannot make a temporary folder: No such file or directory \(.*gone.*\); set TMPDIR to a folder",
    ):
        TemporaryFolder()


def test_a_disk_that_fills_up_is_one_line_and_nothing_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *, new: bool) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(temporary, "take_lock", refused)
    with pytest.raises(EnvironmentProblem, match=r"temporary folder: No space left on device \("):
        TemporaryFolder()
    assert list(root.iterdir()) == []


def test_on_a_file_system_without_locks_nobody_sweeps(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", refused)
    with TemporaryFolder() as first:
        (first / "picture.png").write_bytes(b"x")
        temporary._sweep.cache_clear()
        with TemporaryFolder() as second:
            assert set(root.iterdir()) == {first.parent, second.parent}
            assert (first / "picture.png").is_file()
    assert list(root.iterdir()) == []


def test_a_nameless_file_has_no_name(root: Path) -> None:
    with nameless_file() as file:
        file.write(b"x")
        assert list(root.iterdir()) == []


def test_temporary_files_are_made_in_one_module() -> None:
    """`disk` probes whether an output folder takes a new folder, which is beside the output and not in `TMPDIR`."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(one.name == "tempfile" for one in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "tempfile")
    }
    assert found == {"temporary.py", "disk.py"}
