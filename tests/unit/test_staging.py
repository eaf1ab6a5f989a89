"""`--force` deletes what moir-edge wrote, and nothing else."""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from moir_edge import disk, replacing, staging
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.locks import take_lock
from moir_edge.ownership import RECORD_NAME, FolderKind, matches
from moir_edge.staging import check_replaceable, staged_folder

KIND = FolderKind(
    name="report", marker="report.json", error=DataError, keys=("version",), names=("page-*.html",)
)
OTHER = FolderKind(name="checkpoint", marker="config.json", error=DataError, keys=("router",))


def write(output: Path, *files: str, kind: FolderKind = KIND, **options: bool) -> None:
    with staged_folder(output, kind, **options) as folder:
        for name in (kind.marker, *files):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")


def contents(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_the_record_lists_every_file(tmp_path: Path) -> None:
    write(tmp_path / "out", "page.html", "deep/er/data.bin")
    record = json.loads((tmp_path / "out" / RECORD_NAME).read_text())
    assert record == {"kind": "report", "files": ["deep/er/data.bin", "page.html", "report.json"]}
    write(tmp_path / "out", force=True)
    assert contents(tmp_path) == ["out/.moir-edge.json", "out/report.json"]


def test_a_project_with_a_file_of_the_right_name_is_refused(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "main.c").touch()
    for foreign in ("", "not json", "[]", '{"version": 1', '{"other": 1}'):
        (project / "report.json").write_text(foreign)
        with pytest.raises(
            DataError,
            match="project exists and is not a report that moir-edge wrote, so `force=True` will not replace it; "
            "give another `output` or remove it yourself",
        ):
            write(project, force=True)
    assert contents(tmp_path) == ["project/report.json", "project/src/main.c"]


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out", "report.json", kind=OTHER)
    with pytest.raises(DataError, match="is not a report that moir-edge wrote"):
        write(tmp_path / "out", force=True)


def test_files_beside_ours_are_named(tmp_path: Path) -> None:
    write(tmp_path / "out", "page.html")
    note = tmp_path / "out" / "deep" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    for check in (
        lambda: check_replaceable(tmp_path / "out", KIND, force=True),
        lambda: write(tmp_path / "out", force=True),
    ):
        with pytest.raises(
            DataError,
            match=r"out holds files not written by moir-edge \(deep/note.txt\), so `force=True` will not replace it; "
            "move them away or give another `output`",
        ):
            check()
    for index in range(4):
        (tmp_path / "out" / f"a{index}").touch()
    with pytest.raises(DataError, match=r"\(a0, a1, a2 and 2 more\)"):
        write(tmp_path / "out", force=True)
    assert note.read_text() == "mine"
    assert (tmp_path / "out" / "page.html").exists()


def test_without_record_only_known_names_are_ours(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "report.json").write_text('{"version": 1}')
    (earlier / "page-1.html").touch()
    (earlier / "main.html").touch()
    with pytest.raises(DataError, match=r"not written by moir-edge \(main.html\)"):
        write(earlier, force=True)
    (earlier / "main.html").unlink()
    write(earlier, force=True)
    assert contents(earlier) == [RECORD_NAME, "report.json"]


def test_patterns_stay_within_one_part() -> None:
    assert matches("page-1.html", KIND.names)
    assert not matches("page-1/x.html", KIND.names)
    assert matches("a/b.json", ("*/*.json",))
    assert not matches("b.json", ("*/*.json",))


def test_links_are_never_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").touch()
    write(tmp_path / "out", "page.html", "data/rows")
    (tmp_path / "out" / "elsewhere").symlink_to(precious)
    with pytest.raises(DataError, match=r"not written by moir-edge \(elsewhere\)"):
        write(tmp_path / "out", force=True)
    (tmp_path / "out" / "elsewhere").unlink()
    # A link in the place of a file of ours goes; what it leads to stays
    (tmp_path / "out" / "page.html").unlink()
    (tmp_path / "out" / "page.html").symlink_to(precious / "photo.jpg")
    shutil.rmtree(tmp_path / "out" / "data")
    (tmp_path / "out" / "data").symlink_to(precious)
    with pytest.raises(DataError, match=r"not written by moir-edge \(data\)"):
        write(tmp_path / "out", force=True)
    (tmp_path / "out" / "data").unlink()
    write(tmp_path / "out", force=True)
    assert contents(precious) == ["photo.jpg"]


def test_an_output_that_is_a_link_keeps_being_one(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "real")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    write(tmp_path / "out", "page.html", force=True)
    assert (tmp_path / "out").is_symlink()
    assert contents(tmp_path / "disk") == [
        f"real/{RECORD_NAME}",
        "real/page.html",
        "real/report.json",
    ]


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_during_the_work_is_kept(force: bool, tmp_path: Path) -> None:
    """Another process, or the user, writes to the output before this one is done."""
    output = tmp_path / "out"

    def slow() -> None:
        with staged_folder(output, KIND, force=force) as folder:
            (folder / "report.json").write_text("{}")
            output.mkdir()
            (output / "note.txt").write_text("mine")

    with pytest.raises(DataError, match="out exists"):
        slow()
    assert contents(tmp_path) == ["out/note.txt"]


def test_others_are_moved_into_the_new_folder_on_demand(tmp_path: Path) -> None:
    write(tmp_path / "out", "deep/page.html", "gone.html")
    (tmp_path / "out" / "deep" / "note.txt").write_text("mine")
    (tmp_path / "out" / "new.html").write_text("mine too")
    write(tmp_path / "out", "deep/page.html", "new.html", force=True, keep_others=True)
    assert contents(tmp_path / "out") == [
        RECORD_NAME, "deep/note.txt", "deep/page.html", "new.html", "new.html.old", "report.json"
    ]  # fmt: skip
    assert (tmp_path / "out" / "new.html.old").read_text() == "mine too"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_hidden_folders_are_removed_only_where_a_dead_process_of_ours_left_them(
    tmp_path: Path,
) -> None:
    dead, alive, theirs, unmarked = (
        tmp_path / f".out.partial-{name}" for name in ("01234567", "89abcdef", "mine", "76543210")
    )
    for folder in (dead, alive, theirs, unmarked):
        folder.mkdir()
        (folder / "x").touch()
        if folder is not unmarked:
            folder.with_name(f"{folder.name}.lock").write_text("writing")
    (tmp_path / ".out.partial-aaaaaaaa.lock").touch()  # killed before there was a folder
    lock = take_lock(tmp_path / ".out.partial-89abcdef.lock")
    assert lock is not None
    with lock:
        write(tmp_path / "out")
    assert not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".out.partial-76543210",
        ".out.partial-89abcdef",
        ".out.partial-89abcdef.lock",
        ".out.partial-mine",
        ".out.partial-mine.lock",
        "out",
    ]


@pytest.mark.parametrize("parent", ["/proc/self", "file"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    parent: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    output = (tmp_path / parent) / "out"
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*out: .*; nothing was left"):
        check_replaceable(output, KIND, force=True)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="out is a file; give a folder as `output`"):
        write(tmp_path / "out", force=True)


def test_two_writers_do_not_delete_each_other(tmp_path: Path) -> None:
    ready = threading.Barrier(2)
    failures: list[Any] = []

    def one() -> None:
        try:
            with staged_folder(tmp_path / "out", KIND) as folder:
                (folder / "report.json").write_text("{}")
                ready.wait()
        except DataError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path) == [f"out/{RECORD_NAME}", "out/report.json"]
    assert len(failures) == 1
    assert "out exists" in failures[0]


def test_files_that_the_marker_lists(tmp_path: Path) -> None:
    def listed(marker: Mapping[str, Any]) -> list[str]:
        return list(marker["files"])

    kind = FolderKind(
        name="bundle", marker="m.json", error=DataError, keys=("files",), listed=listed
    )
    with staged_folder(tmp_path / "out", kind) as folder:
        (folder / "weights").touch()
        (folder / "m.json").write_text('{"files": ["weights", "../sibling"]}')
    (tmp_path / "sibling").touch()
    assert not (tmp_path / "out" / RECORD_NAME).exists()
    with staged_folder(tmp_path / "out", kind, force=True) as folder:
        (folder / "m.json").write_text('{"files": []}')
    assert contents(tmp_path) == ["out/m.json", "sibling"]


def test_everything_is_on_the_disk_before_the_folder_stands_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut drops what was not synchronized: files and folders come first, then the exchange, then the parent."""
    write(tmp_path / "out")
    order: list[str] = []
    exchange = replacing.exchange

    def sync(path: Path) -> None:
        order.append(re.sub(r"\.out\.partial-\w+", "new", path.relative_to(tmp_path).as_posix()))

    def swap(left: Path, right: Path) -> bool:
        order.append("exchange")
        return exchange(left, right)

    for module in (staging, replacing, disk):
        monkeypatch.setattr(module, "sync", sync)
    monkeypatch.setattr(replacing, "exchange", swap)
    write(tmp_path / "out", "deep/data", force=True)
    first, *before = order[: order.index("exchange")]
    after = order[order.index("exchange") + 1 :]
    assert first == "."  # the lock, before there is a folder that it tells about
    assert set(before) == {
        "new", "new/deep", "new/deep/data", "new/report.json", f"new/{RECORD_NAME}"
    }  # fmt: skip
    assert before.index("new/deep/data") < before.index("new/deep") < before.index("new")
    # The new name, then step by step the removal of the old folder, and its lock last.
    assert (after[0], set(after[1:-1]), after[-1]) == (".", {"new"}, ".")


def test_a_file_system_without_locks_takes_a_folder_and_keeps_what_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".out.partial-01234567.lock"
    left.write_text("writing")

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(tmp_path / "out")
    write(tmp_path / "out", "page.html", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "out"]


def test_a_folder_that_another_process_replaces_during_the_check_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its files are held against the record of the folder before it."""
    output = tmp_path / "out"
    write(output)
    owned = replacing.owned_files
    calls: list[Path] = []

    def overtaken(folder: Path, kind: FolderKind) -> frozenset[str] | None:
        found = owned(folder, kind)
        calls.append(folder)
        if len(calls) == 1:
            write(output, "page.html", force=True)
        return found

    monkeypatch.setattr(replacing, "owned_files", overtaken)
    check_replaceable(output, KIND, force=True)
    assert calls.count(output) == 4  # once in vain, twice by the other process, once more


def test_a_process_that_replaces_for_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_PATIENCE_SECONDS", 0.05)
    turn = take_lock(tmp_path / ".out.turn.lock")
    assert turn is not None
    with (
        turn,
        pytest.raises(
            DataError, match="out exists: another process is replacing it; try again later"
        ),
    ):
        write(tmp_path / "out")
    write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
