"""Goes through the steps of one writer: ends it, cuts the power or fills the disk there, and looks at what is left."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.ending import count_steps, ended_at, refused_at, say_nothing
from tests.faults.power import CONTENTS, record
from tests.faults.steps import without_disk
from tests.faults.writers import KEEPERS, NEWCOMERS, WRITERS, Write

__all__ = ["WAYS", "Sweep", "Trial"]

WAYS = ("kill", "terminate", "cut", "full")
_NOTE = "note.txt"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one end of a writer left behind.

    Attributes:
        writer: Which one.
        way: One of `WAYS`, with the details of a power cut.
        step: Before which it ended; one more than there are is after the end.
        steps: How many there are.
        seen: The version at the output after it; None where there is nothing, −1 for a mixture.
        then: The version after the next write, which is of version 3.
        left: What lies beside the output after that.
        notes: Content of the user's own file at the end, of each copy; None where the writer takes none.
        message: The error on a full disk; None where there was none.
        at_once: What lay beside the output before the next write, on a full disk only.
    """

    writer: str
    way: str
    step: int
    steps: int
    seen: int | None
    then: int | None
    left: tuple[str, ...]
    notes: tuple[str, ...] | None
    message: str | None = None
    at_once: tuple[str, ...] = ("out",)

    @property
    def fault(self) -> str | None:
        """What is wrong, or None."""
        # Between two renames there is nothing at the output; the next write starts from the old folder.
        allowed: set[int | None] = {None, 2} if self.writer in NEWCOMERS else {1, 2}
        if self.writer == "folder-by-renames":
            allowed |= {None}
        if self.writer == "folder-by-removal" and self.way != "terminate":
            allowed |= {None, -1}  # removed in part; the next write goes on
        if self.step > self.steps:
            allowed = {2}
        if self.seen not in allowed:
            return f"version {self.seen} at the output"
        if self.then != 3:
            return f"version {self.then} after the next write"
        if self.left != ("out",):
            return f"left beside the output: {', '.join(self.left)}"
        if self.notes not in (None, ("mine",)):
            return f"the user's file is {self.notes}"
        if self.way == "full":
            return self._fault_of_refusal()
        return None

    def _fault_of_refusal(self) -> str | None:
        """Return what is wrong with the end on a full disk: one line, and nothing to be removed by the next write."""
        if self.at_once not in ((), ("out",)):
            return f"left on a full disk: {', '.join(self.at_once)}"
        if self.message is None:
            return None if self.seen == 2 else "no error on a full disk"
        if "\n" in self.message or not self.message.startswith("disk full while writing "):
            return f"the error is {self.message!r}"
        return None

    def record(self) -> dict[str, Any]:
        """Return the trial as plain JSON data."""
        return {**asdict(self), "fault": self.fault}


class Sweep:
    """The trials of one writer.

    Args:
        name: Key of `WRITERS`.
        folder: An empty folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        without_disk()
        scratch = folder / "scratch"
        scratch.mkdir()
        self._write: Write = WRITERS[name](scratch)
        self._versions: dict[str, int] = {}
        for version in (3, 2, 1):  # where 3 is 2 again it counts as 2
            area = folder / f"version-{version}"
            area.mkdir()
            if version != 1:
                _forked(self._write, area / "out", 1)
            _forked(self._write, area / "out", version)
            self._versions[_digest(area / "out")] = version
        if name in KEEPERS:
            (area / "out" / _NOTE).write_text("mine")
        self._start = folder / ("empty" if name in NEWCOMERS else "version-1")
        self._start.mkdir(exist_ok=True)
        self._last = self._versions[_digest(folder / "version-3" / "out")]
        self._serial = itertools.count()

    def trials(self, way: str, cases: int | None, seed: int) -> Iterator[Trial]:
        """Give the trials of one way to end.

        Args:
            way: One of `WAYS`.
            cases: How many, drawn from all; None for all.
            seed: Of the draw.
        """
        if way == "cut":
            yield from self._cuts(cases, seed)
            return
        steps = self._in_area(lambda area: count_steps(lambda: self._write(area / "out", 2)))
        for step in _drawn(list(range(1, steps + 1)), cases, f"{seed}:{self._name}:{way}"):
            area = self._area()
            if way == "full":
                message = refused_at(step, lambda area=area: self._write(area / "out", 2))  # type: ignore[misc]
                yield self._judged(area, way, step, steps, message=message)
                continue
            if not ended_at(step, way, lambda area=area: self._write(area / "out", 2)):  # type: ignore[misc]
                steps = step - 1  # it took fewer this time: this is after the end
            yield self._judged(area, way, step, steps)

    def _cuts(self, cases: int | None, seed: int) -> Iterator[Trial]:
        notes = self._folder / "notes"
        notes.mkdir()
        area = self._area()
        recording = record(lambda: self._write(area / "out", 2), area, notes)
        steps = range(1, recording.steps + 1)
        states = [
            (step, names, content)
            for step in steps
            for names in ("none", "some", "all")
            for content in CONTENTS
        ]
        seen: set[str] = set()
        for step, names, content in _drawn(states, cases, f"{seed}:{self._name}:cut"):
            area = self._folder / f"area-{next(self._serial)}"
            recording.cut(step, area, names=names, content=content, seed=seed)
            state = _digest(area) + str(step == recording.steps)
            if state in seen:
                shutil.rmtree(area)
                continue
            seen.add(state)
            way = f"cut, {names} of the names, content {content}"
            yield self._judged(area, way, step, recording.steps - 1)

    def _judged(
        self, area: Path, way: str, step: int, steps: int, *, message: str | None = None
    ) -> Trial:
        at_once = tuple(sorted(os.listdir(area)))
        seen = self._version(area / "out")
        if seen is None and self._name == "engines":
            _forked(self._write, area / "out", 1)
        _forked(self._write, area / "out", 3)
        then = self._version(area / "out")
        trial = Trial(
            writer=self._name,
            way=way,
            step=step,
            steps=steps,
            seen=seen,
            then=3 if then == self._last else then,
            left=tuple(sorted(os.listdir(area))),
            notes=self._notes(area) if self._name in KEEPERS else None,
            message=message,
            at_once=at_once if way == "full" else ("out",),
        )
        shutil.rmtree(area)
        return trial

    def _area(self) -> Path:
        area = self._folder / f"area-{next(self._serial)}"
        shutil.copytree(self._start, area)
        return area

    def _in_area(self, work: Any) -> Any:
        area = self._area()
        result = work(area)
        shutil.rmtree(area)
        return result

    def _notes(self, area: Path) -> tuple[str, ...]:
        return tuple(path.read_text() for path in sorted(area.rglob(f"{_NOTE}*")))

    def _version(self, output: Path) -> int | None:
        if not output.exists():
            return None
        return self._versions.get(_digest(output), -1)


def _drawn(states: list[Any], cases: int | None, seed: str) -> list[Any]:
    """Return some of the states, the first and the last among them, in their order."""
    if cases is None or cases >= len(states):
        return states
    at = random.Random(seed).sample(range(1, len(states) - 1), cases - 2)
    return [states[i] for i in (0, *sorted(at), len(states) - 1)]


def _forked(write: Write, output: Path, version: int) -> None:
    """Write in a process of its own, as the next command does."""
    child = os.fork()
    if child == 0:
        code = 1
        say_nothing()
        try:
            write(output, version)
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise AssertionError(f"version {version} of {output} could not be written")


def _digest(path: Path) -> str:
    """Hash names and contents of all files; that of the user, the time and the permissions do not count."""
    digest = hashlib.sha256()
    for one in sorted([path, *path.rglob("*")]):
        if one.name.startswith(_NOTE):
            continue
        kind = "folder" if one.is_dir() else "file"
        digest.update(f"{one.relative_to(path)}\0{kind}\0".encode())
        if kind == "file":
            digest.update(hashlib.sha256(one.read_bytes()).digest())
    return digest.hexdigest()
