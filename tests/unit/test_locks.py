"""Locks on files: one holder at a time, between open files, and given up with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moir_edge import locks
from moir_edge.locks import take_lock, wait_for_lock

_HOLD = """
import sys
from pathlib import Path
from moir_edge.locks import take_lock
lock = take_lock(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first = take_lock(tmp_path / "lock")
    assert first is not None
    assert take_lock(tmp_path / "lock") is None
    first.release()
    assert (tmp_path / "lock").exists()
    with take_lock(tmp_path / "lock") as again:  # type: ignore[union-attr]
        assert again is not None


def test_a_killed_process_gives_its_lock_up(tmp_path: Path) -> None:
    with _holder(tmp_path / "lock") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert take_lock(tmp_path / "lock") is None
        process.kill()
        process.wait()
        lock = take_lock(tmp_path / "lock")
        assert lock is not None
        lock.release(remove=True)
    assert not (tmp_path / "lock").exists()


def test_a_lock_on_a_file_that_is_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes could each hold a lock of one name, on different files."""
    own = locks._lock

    def slow(descriptor: int) -> bool:
        (tmp_path / "lock").unlink()
        return own(descriptor)

    monkeypatch.setattr(locks, "_lock", slow)
    assert take_lock(tmp_path / "lock") is None


def test_the_text_of_a_lock_is_replaced(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    with lock:
        lock.write("a long text")
        lock.write("short")
        assert lock.read() == (tmp_path / "lock").read_text() == "short"


def test_a_lock_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    first = take_lock(tmp_path / "lock")
    assert first is not None
    assert wait_for_lock(tmp_path / "lock", seconds=0.05) is None
    timer = threading.Timer(0.1, first.release, kwargs={"remove": True})
    timer.start()
    with wait_for_lock(tmp_path / "lock", seconds=30) as second:  # type: ignore[union-attr]
        assert second is not None
        assert take_lock(tmp_path / "lock") is None
    timer.join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def test_without_locks_only_a_file_of_ones_own_counts_as_locked(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none: what others left is not touched there."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert take_lock(tmp_path / "theirs") is None
    lock = take_lock(tmp_path / "mine", new=True)
    assert lock is not None
    lock.release(remove=True)
    assert wait_for_lock(tmp_path / "turn", seconds=0) is not None


def test_another_failure_of_a_lock_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        take_lock(tmp_path / "lock", new=True)


def test_a_lock_is_released_once(tmp_path: Path) -> None:
    """A second release would close a file that somebody else opened meanwhile."""
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    lock.release(remove=True)
    with (tmp_path / "other").open("w") as stream:
        lock.release(remove=True)
        stream.write("text")
    assert (tmp_path / "other").read_text() == "text"
