"""Training checkpoints: one that is damaged, half-written or of other types is passed over, in one line that names the file."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import TrainerControl

from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.locks import take_lock
from moir_edge.tuning import TuneSettings, checkpoint_writing, training_folder, tune
from moir_edge.tuning.balancing.allocation import BranchBalance
from moir_edge.tuning.checkpoint_writing import HashingFile, written_checkpoint
from moir_edge.tuning.checkpoints import (
    SEAL_NAME,
    CheckpointFlaw,
    FileHash,
    find_whole,
    newest_whole,
    remove_old,
    require_whole,
)
from moir_edge.tuning.trainer_state import best_step, check_state

FLIPS = 600
SETTINGS = TuneSettings(
    steps=4, batch_size=3, checkpoint_every=1, balance_method="mwam-loss", early_stop=4
)
FILES = {
    "balance.json",
    "complete.json",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
}


def _stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "tuning" and done == step:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def stopped(train_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was interrupted in its third step."""
    output = tmp_path_factory.mktemp("stopped") / "tuned"
    with pytest.raises(KeyboardInterrupt):
        tune(
            checkpoint_path(), output, train_file,
            eval_data=train_file, settings=SETTINGS, progress=_stop_at(3),
        )  # fmt: skip
    return training_folder(output)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    copy: Path = shutil.copytree(stopped, tmp_path / "tuned.training")
    return copy


def _check(folder: Path) -> None:
    check_state(folder, [EarlyStoppingCallback(4), TrainerControl()])


def _seal_again(folder: Path) -> None:
    """Write the seal for the files as they are now."""
    (folder / SEAL_NAME).unlink()
    files = {path.name: FileHash.of(path)._asdict() for path in folder.iterdir()}
    (folder / SEAL_NAME).write_text(json.dumps({"version": 1, "files": files}))


def test_a_checkpoint_lists_each_of_its_files(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "run.lock",
        "checkpoint-1",
        "checkpoint-2",
    }
    for folder in (run / "checkpoint-1", run / "checkpoint-2"):
        assert {path.name for path in folder.iterdir()} == FILES
        assert set(json.loads((folder / SEAL_NAME).read_text())["files"]) == FILES - {SEAL_NAME}
    assert find_whole(run, _check) == (run / "checkpoint-2", {})


def test_a_flipped_bit_anywhere_is_found(run: Path) -> None:
    draw = random.Random(21)
    files = [run / "checkpoint-2" / name for name in sorted(FILES)]
    places = [
        (path, draw.randrange(8 * path.stat().st_size))
        for path in files
        for _ in range(FLIPS // len(files))
    ]
    accepted = 0
    for path, place in places:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        found, flaws = find_whole(run, _check)
        path.write_bytes(content)
        if found == run / "checkpoint-2":  # a blank of the seal: every file is as it was
            assert path.name == SEAL_NAME
            assert json.loads(changed) == json.loads(content)
            accepted += 1
            continue
        assert found == run / "checkpoint-1"
        (text,) = map(str, flaws.values())
        assert text.startswith(str(run / "checkpoint-2"))
        assert "\n" not in text
    assert accepted < FLIPS // 20


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_cut_or_missing_file_is_named(run: Path, name: str) -> None:
    path = run / "checkpoint-2" / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointFlaw, match=name):
            require_whole(path.parent)
    path.unlink()
    with pytest.raises(CheckpointFlaw, match=name):
        require_whole(path.parent)


def test_what_is_not_a_file_of_the_checkpoint_is_never_opened(run: Path, tmp_path: Path) -> None:
    folder = run / "checkpoint-2"
    weights = folder / "model.safetensors"
    outside = tmp_path / "outside"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(CheckpointFlaw, match=r"model\.safetensors is not a regular file"):
        require_whole(folder)
    weights.unlink()
    os.mkfifo(weights)  # reading it would never end
    with pytest.raises(CheckpointFlaw, match=r"model\.safetensors is not a regular file"):
        require_whole(folder)
    weights.unlink()
    outside.rename(weights)
    (folder / "scaler.pt").write_bytes(b"")  # the Trainer would unpickle it
    with pytest.raises(CheckpointFlaw, match=r"scaler\.pt is not listed in complete\.json"):
        require_whole(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"log_history": [{"loss": float("nan")}]}, "log_history.0.loss: Input should be a finite"),
        ({"best_metric": float("inf")}, "best_metric: Input should be a finite number"),
        ({"best_metric": "low"}, "best_metric: Input should be a valid number"),
        ({"best_model_checkpoint": 5}, "best_model_checkpoint: Input should be a valid string"),
        ({"global_step": "2"}, "global_step: Input should be a valid integer"),
        ({"global_step": True}, "global_step: Input should be a valid integer"),
        ({"global_step": 1}, "global_step is not that of the folder's name"),
        ({"best_global_step": 3}, "best_global_step is not a step of the run so far"),
        ({"best_global_step": -1}, "best_global_step is not a step of the run so far"),
        ({"log_history": {}}, "log_history: Input should be a valid list"),
        ({"epoch": []}, "epoch: Input should be a valid number"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"stateful_callbacks": {}}, "stateful_callbacks is not what this run's callbacks export"),
        (
            {"stateful_callbacks": {"TrainerControl": {"args": {}, "attributes": {"state": 1}}}},
            "stateful_callbacks is not what this run's callbacks export",
        ),
    ],
)
def test_other_types_in_the_trainers_record_are_named(
    run: Path, change: dict[str, Any], reason: str
) -> None:
    folder = run / "checkpoint-2"
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    _seal_again(folder)
    require_whole(folder)
    with pytest.raises(CheckpointFlaw) as caught:
        _check(folder)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_deeply_nested_record_is_one_line(run: Path) -> None:
    path = run / "checkpoint-2" / "trainer_state.json"
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointFlaw, match=r"trainer_state\.json .*; the file is damaged"):
        _check(path.parent)


@pytest.mark.parametrize("value", [float("nan"), -1, 10**400, "0.5", None, True, [1]])
def test_ratios_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"MWAM: the ratio of 'text' is .*expected a number"):
        BranchBalance().load_state({"image": 0.5, "text": value})


def test_the_newest_whole_one_is_taken_and_the_log_says_so(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "checkpoint-2" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert newest_whole(run, _check) == run / "checkpoint-1"
    assert caplog.messages == [
        f"a training checkpoint is not whole: {path} has another size than was written; going on from step 1"
    ]
    assert not path.parent.exists()


def test_a_first_checkpoint_that_was_interrupted_is_started_again(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run / "checkpoint-1")
    (run / "checkpoint-2" / SEAL_NAME).unlink()
    assert newest_whole(run, _check) is None
    assert caplog.messages == [
        f"a training checkpoint is not whole: {run / 'checkpoint-2'} has no complete.json, so writing it was "
        "interrupted; going on from the first step"
    ]


def test_a_run_whose_checkpoints_are_all_damaged_is_kept_and_refused(run: Path) -> None:
    for step in (1, 2):
        (run / f"checkpoint-{step}" / "rng_state.pth").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        newest_whole(run, _check)
    assert str(caught.value) == (
        f"no training checkpoint of the run at {run} is whole: {run / 'checkpoint-2' / 'rng_state.pth'} has another "
        "size than was written; put that file back as it was, or discard the run with `force=True`"
    )
    assert (run / "checkpoint-1" / SEAL_NAME).exists()


def test_names_that_are_not_checkpoints_are_left_alone(run: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-", "checkpoint-x", "checkpoint-03", "checkpoint--4", "checkpoint-9 "):
        (run / name).mkdir()
    (run / "checkpoint-7").write_text("a file")
    (run / "checkpoint-8").symlink_to(tmp_path)
    assert find_whole(run, _check) == (run / "checkpoint-2", {})


def test_the_two_newest_stay_and_the_best_that_they_know(tmp_path: Path) -> None:
    for step in range(1, 7):
        with written_checkpoint(tmp_path, step):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            best = {5: 2, 6: 6}.get(step, step)
            (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    (tmp_path / "checkpoint-4" / "mine.txt").write_text("a note")
    remove_old(tmp_path, best_step)
    left = {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir()}
    assert left == {"checkpoint-2": 2, "checkpoint-5": 2, "checkpoint-6": 2, "checkpoint-4": 1}


def test_bytes_are_hashed_on_their_way(tmp_path: Path) -> None:
    with (tmp_path / "some.pt").open("wb") as stream:
        hashing = HashingFile(stream)
        sink: Any = hashing
        torch.save({"weight": torch.arange(300_000), "step": 3}, sink)
    assert hashing.hash() == FileHash.of(tmp_path / "some.pt")
    assert torch.load(tmp_path / "some.pt", weights_only=True)["weight"].sum() == 44_999_850_000


def _resumed(run: Path, train_file: Path, **more: Any) -> Any:
    output = run.parent / "tuned"
    return tune(
        checkpoint_path(), output, train_file, eval_data=train_file, settings=SETTINGS, resume=True, **more
    )  # fmt: skip


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_ones(
    run: Path, train_file: Path
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def progress(stage: str, done: int, total: int) -> None:
        if (
            stage == "tuning" and done == 3
        ):  # the file system takes no file of more than 20 kB from now on
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))

    try:
        with pytest.raises(EnvironmentProblem) as caught:
            _resumed(run, train_file, progress=progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    text = str(caught.value)
    assert text.startswith(f"cannot write the training checkpoint {run / 'checkpoint-3'}: ")
    assert text.endswith(" MB free); free some space, then go on from step 2 with `resume=True`")
    assert not (run / "checkpoint-3").exists()
    assert find_whole(run, _check) == (run / "checkpoint-2", {})
    report = _resumed(run, train_file)
    assert report.steps == 4
    assert [entry["step"] for entry in report.log if "loss" in entry] == [1, 2, 3, 4]
    assert not run.exists()


def test_the_best_weights_are_taken_from_the_folder_and_not_from_the_path_in_the_record(
    run: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run / "checkpoint-2", elsewhere)
    path = run / "checkpoint-2" / "trainer_state.json"
    # a loss of 0 is never undercut: checkpoint 1 stays the best
    best = {"best_global_step": 1, "best_metric": 0.0, "best_model_checkpoint": str(elsewhere)}
    path.write_text(json.dumps({**json.loads(path.read_text()), **best}))
    _seal_again(path.parent)
    expected = load_file(run / "checkpoint-1" / "model.safetensors")
    read: dict[str, Any] = {}
    load = torch.load

    def watched(file: Any, **options: Any) -> Any:
        read[Path(file).name] = options.get("weights_only")
        return load(file, **options)

    monkeypatch.setattr(torch, "load", watched)
    _resumed(run, train_file)
    assert read == {"optimizer.pt": True, "rng_state.pth": True, "scheduler.pt": True}
    tuned = load_file(tmp_path / "tuned" / "model.safetensors")
    assert all(tuned[name].equal(value) for name, value in expected.items())


def test_a_checkpoint_whose_best_weights_are_damaged_is_not_whole(
    run: Path, train_file: Path
) -> None:
    state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
    (run / "checkpoint-2" / "trainer_state.json").write_text(
        json.dumps({**state, "best_global_step": 1})
    )
    _seal_again(run / "checkpoint-2")
    (run / "checkpoint-1" / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"checkpoint-1/model\.safetensors has another size"):
        _resumed(run, train_file)


def test_a_full_disk_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoint_writing, "sync", full)
    with (
        pytest.raises(
            EnvironmentProblem, match=r"^disk full while writing the training checkpoint"
        ),
        written_checkpoint(run, 3),
    ):
        shutil.copytree(run / "checkpoint-2", run / "checkpoint-3")
    assert not (run / "checkpoint-3").exists()


def _other_state(folder: Path) -> None:
    shutil.copy(folder / "scheduler.pt", folder / "optimizer.pt")


def _other_shapes(folder: Path) -> None:
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, folder / "optimizer.pt")


def _other_rate(folder: Path) -> None:
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    state["param_groups"][0]["lr"] = "fast"
    torch.save(state, folder / "optimizer.pt")


def _other_schedule(folder: Path) -> None:
    state = torch.load(folder / "scheduler.pt", weights_only=True)
    torch.save({**state, "get_lr": 3}, folder / "scheduler.pt")


def _other_weights(folder: Path) -> None:
    save_file({"a": torch.zeros(3)}, folder / "model.safetensors")


def _a_class(folder: Path) -> None:
    torch.save({"python": PurePosixPath("a")}, folder / "rng_state.pth")


@pytest.mark.parametrize(
    "change", [_other_state, _other_shapes, _other_rate, _other_schedule, _other_weights, _a_class]
)
def test_other_content_under_right_hashes_is_one_line(
    run: Path, train_file: Path, change: Callable[[Path], None]
) -> None:
    folder = run / "checkpoint-2"
    change(folder)
    _seal_again(folder)
    with pytest.raises(DataError) as caught:
        _resumed(run, train_file)
    assert str(caught.value).startswith(f"the training checkpoint {folder} cannot be loaded (")
    assert str(caught.value).endswith(
        "; remove it to go on from an older one, or discard the run with `force=True`"
    )
    assert "\n" not in str(caught.value)
    assert folder.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "; remove "),
        (b"[]", "holds a list, expected an object"),
        (b"{}", "is not the record of a run"),
        (b'{"settings": 3, "weights": 0, "data": 0, "eval_data": 0}', "is not the record of a run"),
        (
            b'{"settings": {}, "weights": 0, "data": 0, "eval_data": 0}',
            "cannot be resumed: train was None",
        ),
    ],
)
def test_a_damaged_record_of_the_run_is_one_line(
    run: Path, train_file: Path, content: bytes, reason: str
) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        _resumed(run, train_file)
    assert reason in str(caught.value)
    assert str(run) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (run / "checkpoint-2" / SEAL_NAME).exists()


def test_no_link_is_followed_out_of_the_folder(run: Path, train_file: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (run / "checkpoint-2").rename(outside)
    (run / "checkpoint-2").symlink_to(outside)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(DataError, match=r"checkpoint-2 is a link, and tune follows none"):
        _resumed(run, train_file)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


def test_two_processes_do_not_work_on_one_run(run: Path, train_file: Path) -> None:
    lock = take_lock(run / "run.lock")
    assert lock is not None
    with lock, pytest.raises(DataError, match=rf"another process works on the run at {run}; wait"):
        _resumed(run, train_file)
    assert find_whole(run, _check) == (run / "checkpoint-2", {})
