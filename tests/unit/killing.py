"""Ends a writer of a folder at every step that it takes in the file system; run as a program: `killing.py FOLDER HOW SWAP`.

Each trial is a process of its own. HOW is `kill` (SIGKILL) or `terminate` (what SIGTERM raises), SWAP `exchange` or `renames`. One
JSON line per trial: the step, what stands at the output, and what is left beside it before and after the next write.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moir_edge import staging
from moir_edge.errors import DataError
from moir_edge.ownership import FolderKind

KIND = FolderKind(name="report", marker="report.json", error=DataError, keys=("version",))
STEPS = ("rename", "mkdir", "rmdir", "unlink", "open", "write", "fsync", "ftruncate", "close")


def write(output: Path, version: int) -> None:
    with staging.staged_folder(output, KIND, force=True, keep_others=True) as folder:
        (folder / "deep").mkdir()
        for name in ("report.json", "deep/data"):
            (folder / name).write_text(json.dumps({"version": version}))


def ended_at(step: int, how: str, run: Callable[[], None]) -> bool:
    """Run in a process of its own that ends before its step of that number; return whether it had so many."""
    child = os.fork()
    if child == 0:
        _arm(step, how)
        try:
            run()
        except SystemExit:
            os._exit(143)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 143, -signal.SIGKILL), status
    return status != 0


def _arm(step: int, how: str) -> None:
    left = [step]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise SystemExit(143)
            return function(*words, **named)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    io.open = counted(io.open)
    staging._exchange = counted(staging._exchange)


def version_of(output: Path) -> int | None:
    """Return the version of a whole folder; None where there is none, −1 for a mixture."""
    if not output.exists():
        return None
    try:
        found = {
            json.loads((output / name).read_text())["version"]
            for name in ("report.json", "deep/data")
        }
    except (OSError, ValueError):
        return -1
    return found.pop() if len(found) == 1 else -1


def main(folder: Path, how: str, swap: str) -> None:
    if swap == "renames":
        staging._exchange = lambda *_: False
    step, goes_on = 0, True
    while goes_on:
        step += 1
        output = folder / f"{step}" / "out"
        write(output, 1)
        (output / "note.txt").write_text("mine")
        goes_on = ended_at(step, how, lambda output=output: write(output, 2))
        record = {
            "step": step,
            "seen": version_of(output),
            "beside": len(os.listdir(output.parent)),
        }
        write(output, 3)
        left = sorted(os.listdir(output.parent))
        note = sorted(path.read_text() for path in output.glob("note.txt*"))
        print(json.dumps(record | {"then": version_of(output), "left": left, "note": note}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
