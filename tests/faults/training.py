"""The folder of a run of `tune`, ended at every step of writing it: `python -m tests.faults.training`, one JSON line per trial.

What a run does there: it starts the folder, writes a training checkpoint beside two older ones, and discards the folder. A trial
ends one of them before a step, or cuts the power there. The next command must find a whole checkpoint, and leave nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError
from moir_edge.tuning.checkpoint_writing import HashingFile, written_checkpoint
from moir_edge.tuning.checkpoints import newest_whole, remove_old
from moir_edge.tuning.settings import TuneSettings
from moir_edge.tuning.unfinished import check_unfinished, claim, discard
from tests.faults.ending import ended_at, in_a_fork
from tests.faults.power import CONTENTS, record

SETTINGS = TuneSettings()
IDENTITY: dict[str, Any] = {
    "settings": SETTINGS.record(),
    "weights": "0" * 64,
    "data": {},
    "eval_data": None,
}
FILES = {"model.safetensors": 3000, "optimizer.pt": 9000, "rng_state.pth": 500}


def start(training: Path) -> None:
    """Begin a run, as the process that is killed then has done."""
    claim(training, IDENTITY, SETTINGS, resume=False)


def save(training: Path, step: int) -> None:
    """Write the checkpoint of a step, as the Trainer does, and remove the oldest."""
    folder = training / f"checkpoint-{step}"
    with written_checkpoint(training, step) as hashes:
        folder.mkdir(exist_ok=True)
        for name, size in FILES.items():
            with (folder / name).open("wb") as stream:
                hashing = HashingFile(stream)
                hashing.write(bytes([step]) * size)
            hashes[name] = hashing.hash()
        (folder / "trainer_state.json").write_text(json.dumps({"step": step}))
    remove_old(training, lambda _: None)


def after_start(training: Path) -> str | None:
    """Return what is wrong after the start of a run was ended, or None."""
    return _all_of_it(training)


def after_save(training: Path) -> str | None:
    """Return what is wrong after writing checkpoint 3 beside 1 and 2 was ended, or None."""
    check_unfinished(training, resume=True, force=False)
    lock = claim(training, IDENTITY, SETTINGS, resume=True)
    found = newest_whole(training, _check)
    if found is None or found.name not in ("checkpoint-2", "checkpoint-3"):
        return f"{found} is the newest whole one"
    save(training, 3)
    save(training, 4)
    left = sorted(str(path.relative_to(training)) for path in training.rglob("*") if path.is_file())
    names = sorted([*FILES, "trainer_state.json", "complete.json"])
    expected = [f"checkpoint-{step}/{name}" for step in (3, 4) for name in names]
    if left != sorted([*expected, "run.json", "run.lock"]):
        return f"left: {', '.join(left)}"
    discard(training, lock)
    return "the folder is left" if training.exists() else None


def after_discard(training: Path) -> str | None:
    """Return what is wrong after discarding a run was ended, or None."""
    return _all_of_it(training)


def _all_of_it(training: Path) -> str | None:
    """Start a run anew with `force=True` whatever is there, and discard it."""
    check_unfinished(training, resume=False, force=True)
    lock = claim(training, IDENTITY, SETTINGS, resume=False)
    save(training, 1)
    discard(training, lock)
    return "the folder is left" if training.exists() else None


def _check(folder: Path) -> None:
    step = int(folder.name.rpartition("-")[2])
    for name, size in FILES.items():
        if (folder / name).read_bytes() != bytes([step]) * size:
            raise AssertionError(f"{folder / name} passes for whole and is not")


def _begun(training: Path) -> None:
    start(training)
    save(training, 1)
    save(training, 2)


def _discarded(training: Path) -> None:
    discard(training, claim(training, IDENTITY, SETTINGS, resume=True))


ACTIONS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], Callable[[Path], Any]]] = {
    "start": (lambda training: None, start, after_start),
    "save": (_begun, lambda training: save(training, 3), after_save),
    "discard": (_begun, _discarded, after_discard),
}
"""Name → what is there before, what is ended, and what the next command finds."""


def trials(action: str, folder: Path, cases: int | None) -> Iterator[dict[str, Any]]:
    """Give the trials of one action."""
    prepare, work, judge = ACTIONS[action]
    before = folder / "before"
    before.mkdir()
    _forked(lambda: prepare(before / "tuned.training"))
    for way in ("kill", "terminate"):
        step, goes_on = 0, True
        while goes_on:
            step += 1
            area = _copy(before, folder / "area")
            goes_on = ended_at(step, way, lambda area=area: work(area / "tuned.training"))  # type: ignore[misc]
            yield _judged(action, way, step, area, judge)
    (folder / "notes").mkdir()
    area = _copy(before, folder / "area")
    recording = record(lambda: work(area / "tuned.training"), area, folder / "notes")
    states = [
        (step, names, content)
        for step in range(1, recording.steps + 1)
        for names in ("none", "some", "all")
        for content in CONTENTS
    ]
    for step, names, content in _drawn(states, cases):
        shutil.rmtree(area)
        recording.cut(step, area, names=names, content=content, seed=0)
        yield _judged(action, f"cut, {names} of the names, content {content}", step, area, judge)


def _drawn(states: list[Any], cases: int | None) -> list[Any]:
    return states if cases is None else random.Random(0).sample(states, min(cases, len(states)))


def _judged(
    action: str, way: str, step: int, area: Path, judge: Callable[[Path], str | None]
) -> dict[str, Any]:
    """Look at what is left in a process of its own, as the next command does."""
    said = area.parent / "said"

    def look() -> None:
        try:
            fault = judge(area / "tuned.training")
        except (DataError, AssertionError) as error:
            fault = str(error)
        said.write_text(fault or "")

    _forked(look)
    return {"action": action, "way": way, "step": step, "fault": said.read_text() or None}


def _forked(work: Callable[[], object]) -> None:
    if in_a_fork(work, lambda name, words: None) != 0:
        raise AssertionError("the process failed")


def _copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults.training", description=__doc__)
    parser.add_argument("--cases", type=int, help="power cuts of each action; all without it")
    parser.add_argument("--all", action="store_true", help="print sound trials too")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # a line for each checkpoint that is passed over
    count = faults = 0
    for action in ACTIONS:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            for trial in trials(action, Path(folder), options.cases):
                count += 1
                faults += trial["fault"] is not None
                if trial["fault"] or options.all:
                    print(json.dumps(trial), flush=True)  # noqa: T201
    print(f"training: {count} trials, {faults} faults", file=sys.stderr)  # noqa: T201
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
