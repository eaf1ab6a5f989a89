"""One process of a run: it warms an area up and forks once per case. `python -m tests.fuzz.host` with a JSON job as argument."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, find_area
from tests.fuzz.verdict import Verdict, judge, status_mb

__all__ = ["HANG_SECONDS", "run_case"]

HANG_SECONDS = 8.0
"""What a case may take, waiting for a core left out."""

_POLL_SECONDS = 0.25
_MAKING_SECONDS = 60.0
_FRAMES = "fuzz-frames.txt"
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl


def run_case(
    area: Area,
    seed: int,
    index: int,
    folder: Path,
    *,
    idle_files_mb: float,
    hang_seconds: float = HANG_SECONDS,
) -> Verdict:
    """Run one case in a fork of this process, and return what became of it.

    Args:
        area: Warmed up.
        seed: Of the run.
        index: Of the case.
        folder: For the altered input; emptied first.
        idle_files_mb: Memory of this process that holds files.
        hang_seconds: What the case may take.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        _end_with_parent()
        os.close(receiver)
        _silence(folder)
        faulthandler.enable((folder.parent / _FRAMES).open("w"))
        with os.fdopen(sender, "w") as stream:

            def announce(recipe: str) -> None:
                stream.write(json.dumps(recipe) + "\n")
                stream.flush()

            verdict = judge(
                lambda: area.make(seed, index, folder), area.attempt, idle_files_mb, announce
            )
            stream.write(verdict.line() + "\n")
        os._exit(0)
    os.close(sender)
    start = time.monotonic()
    with os.fdopen(receiver, "rb") as stream:
        verdict = _answer(stream.fileno(), child, start, hang_seconds)
    if verdict.kind == "signal":
        _place_death(verdict, folder.parent / _FRAMES)
    verdict.index = index
    return verdict


def _place_death(verdict: Verdict, path: Path) -> None:
    """Say in which frame of Python a case died."""
    frames = [line for line in path.read_text().splitlines() if line.startswith('  File "')]
    verdict.detail += f" in {frames[0].strip() if frames else ''}"


def _end_with_parent() -> None:
    """Let the system kill this process once the one that forked it is gone: a case may wait forever."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _silence(folder: Path) -> None:
    """Keep what libraries print out of this process's answers; stand in a folder without anything of value."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.chdir(folder)


def _answer(pipe: int, child: int, start: float, hang_seconds: float) -> Verdict:
    """Wait for the recipe and the verdict of a child, for as long as it may take."""
    text = b""
    spent = waited = 0.0
    hangs = False
    while not hangs:
        ready, _, _ = select.select([pipe], [], [], _POLL_SECONDS)
        spent = max(spent, time.monotonic() - start - (_waited(child) - waited))
        hangs = spent > (hang_seconds if text else _MAKING_SECONDS)
        part = os.read(pipe, 1 << 16) if ready else None
        if part and not text:  # the recipe: the attempt begins
            start, spent, waited = time.monotonic(), 0.0, _waited(child)
        if part == b"":
            break
        text += part or b""
    if hangs:
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    recipe, *verdicts = [json.loads(line) for line in text.splitlines()] or [""]
    if isinstance(recipe, dict):  # making the case failed
        verdicts = [recipe]
    if hangs:
        verdict = Verdict("hang", f"{spent:.1f} s")
    else:
        verdict = Verdict(**verdicts[0]) if verdicts else Verdict("signal", _ending(status))
    verdict.recipe = str(recipe)
    verdict.seconds = round(spent, 3)
    return verdict


def _waited(process: int) -> float:
    """Return the seconds that a process was ready and had no core."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"it exited with {status}"


def main(job: dict[str, Any]) -> None:
    """Run the cases of a job and print one line each.

    Args:
        job: `area`, `seed`, `indices`, `seeds` (a folder), `keep` (a folder for the input of the last case, or None) and
            `hang_seconds`.
    """
    area = find_area(job["area"])(Path(job["seeds"]))
    area.warm()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"{area.name}: warming up left {threads} threads; forks would miss them")
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-host-"))
    folder = Path(job["keep"]) if job["keep"] else scratch / "case"
    files_mb = status_mb("RssFile")
    try:
        for index in job["indices"]:
            verdict = run_case(
                area, job["seed"], index, folder, idle_files_mb=files_mb, hang_seconds=job["hang_seconds"]
            )  # fmt: skip
            sys.stdout.write(verdict.line() + "\n")
            sys.stdout.flush()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
