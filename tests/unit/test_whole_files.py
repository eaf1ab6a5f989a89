"""A single file appears whole or not at all, and a device, a link or a mask of permissions stays what it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from moir_edge import whole_files
from moir_edge.errors import EnvironmentProblem
from moir_edge.locks import take_lock
from moir_edge.whole_files import check_file, whole_file, write_whole


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_whole(path, "ä")
    assert path.read_bytes() == "ä".encode()
    write_whole(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_stream_can_seek_and_is_a_file_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as stream:
        stream.write(b"....tail")
        stream.seek(0)
        stream.write(b"head")
        assert not path.exists()
    assert path.read_bytes() == b"headtail"


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, "old")

    def fail() -> None:
        with whole_file(path) as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_are_the_masks_or_those_of_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        write_whole(path, "1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o755)
    write_whole(path, "2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_link_keeps_being_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "real")
    for text in ("made", "replaced"):
        write_whole(link, text)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "real").read_text() == text


def test_a_device_and_a_pipe_take_the_content(tmp_path: Path) -> None:
    write_whole("/dev/null", "nothing")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join()
    assert found == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_open_stream_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as stream:
        write_whole(f"/proc/self/fd/{stream.fileno()}", "text")
        assert os.path.samestat(os.fstat(stream.fileno()), (tmp_path / "log").stat())
    assert (tmp_path / "log").read_text() == "text"


def test_a_full_disk_is_one_line() -> None:
    with pytest.raises(
        EnvironmentProblem,
        match=r"^disk full while writing /dev/full; free some space or give another path; nothing was left behind$",
    ):
        write_whole("/dev/full", "x" * 10_000)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stream = Path("/proc/self/a")  # not asked beforehand
    for path in (tmp_path, tmp_path / "file" / "a", stream):
        for write in (check_file, lambda path: write_whole(path, "text"))[path == stream :]:
            with pytest.raises(
                EnvironmentProblem, match=rf"^cannot write {path}: .*nothing was left behind$"
            ) as caught:
                write(path)
            assert ".draft-" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_drafts_of_dead_writers_are_removed_and_those_of_living_ones_are_not(
    tmp_path: Path,
) -> None:
    names = [".a.draft-01234567", ".a.draft-89abcdef", ".a.draft-mine", ".ab.draft-01234567"]
    for name in names:
        (tmp_path / name).touch()
    with whole_file(tmp_path / "a") as stream:
        (alive,) = set(os.listdir(tmp_path)) - set(names)
        write_whole(tmp_path / "a", "other")  # by another process, say
        stream.write(b"mine")
        assert sorted(os.listdir(tmp_path)) == sorted(["a", alive, *names[2:]])
    assert (tmp_path / "a").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == sorted(["a", *names[2:]])


def test_content_and_name_are_on_the_disk_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        order.append("folder" if is_folder else "file")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_whole(tmp_path / "a", "text")
    assert order == ["file", "rename", "folder"]


def test_a_draft_that_is_taken_for_an_abandoned_one_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its creation and its lock another process may remove it."""
    taken: list[Path] = []

    def stolen(path: Path, *, mode: int = 0o600, new: bool = False) -> object:
        taken.append(path)
        return None if len(taken) == 1 else take_lock(path, mode=mode, new=new)

    monkeypatch.setattr(whole_files, "take_lock", stolen)
    write_whole(tmp_path / "a", "text")
    assert len(set(taken)) == 2
    assert os.listdir(tmp_path) == ["a"]


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "text")
    for name in ("a", "new", "deep/er/new"):
        check_file(tmp_path / name)
    check_file("/dev/null")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "text"
