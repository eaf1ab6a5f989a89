"""Records what a writer does in the file system and what it brought to the disk, and rebuilds what a power cut may leave.

The file system is the weakest that POSIX allows. A rename, an exchange, a creation and a removal are each atomic. The content of a file is
certain only once that file was synchronized, an entry of a folder only once that folder was. Of all other changes to
folders any number may have reached the disk, in any order, except that

- two changes to the same entry, or of the same file, keep their order: a file is made before it is renamed;
- a folder that is gone took with it nothing that was still inside.

A file that was not synchronized has its content of the last time, nothing, a part of the new content, or zeros.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.ending import in_a_fork

__all__ = ["CONTENTS", "Recording", "record"]

CONTENTS = ("new", "before", "part", "zeros")
"""What becomes of the content that was not synchronized."""

Slot = tuple[int, str]
"""A folder, and the name of an entry in it."""


@dataclass
class Change:
    """One step that changed entries of folders.

    Attributes:
        step: Number of the step after which it was seen.
        slots: Each changed entry -> what it named before and after; None where there was nothing.
    """

    step: int
    slots: dict[Slot, tuple[int | None, int | None]]

    def touches(self) -> set[Any]:
        """Return the entries, the files and, where a folder goes, all that lies in it."""
        files = {one for pair in self.slots.values() for one in pair if one is not None}
        return {*self.slots, *(("file", one) for one in files)}


@dataclass
class Recording:
    """What a writer did.

    Attributes:
        root: Number of the folder in which all happened.
        start: Entries before the first step.
        changes: In order.
        folder_syncs: Step and folder of each synchronization.
        file_syncs: Step, file and copy of its content.
        sizes: File -> step and size, whenever it changed.
        folders: Numbers of all folders.
        links: Number of a symbolic link -> where it leads.
        steps: How many there were.
    """

    root: int
    start: dict[Slot, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    folder_syncs: list[tuple[int, int]] = field(default_factory=list)
    file_syncs: list[tuple[int, int, str]] = field(default_factory=list)
    sizes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)
    links: dict[int, str] = field(default_factory=dict)
    steps: int = 0

    def cut(self, step: int, into: Path, *, names: str, content: str, seed: int) -> None:
        """Build what the disk may hold after a power cut before a step.

        Args:
            step: From 1; one more than there were steps is a cut after the end.
            into: A folder to be made.
            names: ``all`` changes of folders reached the disk, ``none`` that were not synchronized, or ``some``.
            content: One of `CONTENTS`.
            seed: Of what is left to chance.
        """
        rng = random.Random(f"{seed}:{step}:{names}:{content}")
        entries = dict(self.start)
        for change in self._kept(step, names, rng):
            for slot, (_, now) in change.slots.items():
                if now is None:
                    entries.pop(slot, None)
                else:
                    entries[slot] = now
        self._build(self.root, entries, into, step, content, rng)

    def _kept(self, step: int, names: str, rng: random.Random) -> list[Change]:
        seen = [change for change in self.changes if change.step < step]
        certain = [
            any(self._is_synced(slot, change, step) for slot in change.slots) for change in seen
        ]
        kept: list[bool] = []
        for at in range(len(seen)):
            chosen = certain[at] or names == "all" or (names == "some" and rng.random() < 0.5)
            kept.append(chosen)
        # A change that is kept keeps all those before it that it builds on.
        for at in reversed(range(len(seen))):
            if kept[at]:
                for earlier in range(at):
                    kept[earlier] = kept[earlier] or _builds_on(seen[at], seen[earlier])
        return [change for change, keep in zip(seen, kept, strict=True) if keep]

    def _is_synced(self, slot: Slot, change: Change, step: int) -> bool:
        return any(change.step < at < step for at, folder in self.folder_syncs if folder == slot[0])

    def _build(
        self,
        folder: int,
        entries: dict[Slot, int],
        into: Path,
        step: int,
        content: str,
        rng: random.Random,
    ) -> None:
        into.mkdir()
        for (parent, name), number in entries.items():
            if parent != folder:
                continue
            if number in self.folders:
                self._build(number, entries, into / name, step, content, rng)
            elif number in self.links:
                (into / name).symlink_to(self.links[number])
            else:
                (into / name).write_bytes(self._content(number, step, content, rng))

    def _content(self, number: int, step: int, content: str, rng: random.Random) -> bytes:
        """Return the bytes of a file: certain up to the last synchronization, by `content` where it changed since."""
        syncs = [(at, copy) for at, file, copy in self.file_syncs if file == number]
        before = [copy for at, copy in syncs if at < step]
        durable = Path(before[-1]).read_bytes() if before else b""
        last = max((at for at, _ in syncs if at < step), default=-1)
        changed = [size for at, size in self.sizes.get(number, []) if last < at < step]
        if not changed:
            return durable
        following = next((Path(copy).read_bytes() for at, copy in syncs if at >= step), b"")
        new = following[: changed[-1]].ljust(changed[-1], b"?")
        return {
            "new": new,
            "before": durable,
            "part": new[: rng.randrange(len(new) + 1)],
            "zeros": bytes(len(new)),
        }[content]


def _builds_on(later: Change, earlier: Change) -> bool:
    if later.touches() & earlier.touches():
        return True
    gone = {old for old, _ in later.slots.values() if old is not None}
    return any(folder in gone for folder, _ in earlier.slots)


def record(work: Callable[[], object], area: Path, notes: Path) -> Recording:
    """Run some work in a forked process and record it.

    Args:
        work: Writes below `area`, whose content is taken to be on the disk.
        area: A folder.
        notes: An empty folder outside of it, for copies of what was synchronized.
    """
    recorder = _Recorder(area, notes)
    if in_a_fork(lambda: recorder.run(work), recorder.before, recorder.after) != 0:
        raise AssertionError("the writer failed")
    return _read(json.loads((notes / "record.json").read_text()))


class _Recorder:
    """Lives in the process of the writer."""

    def __init__(self, area: Path, notes: Path) -> None:
        self._area, self._notes = area, notes
        self._quiet = False
        self._kept: list[int] = []
        self._known: set[int] = set()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._entries: dict[Slot, int] = {}
        self._recording = Recording(root=area.stat().st_ino)

    def run(self, work: Callable[[], object]) -> None:
        self._quiet = True
        self._entries = dict(self._scan())
        self._recording.start = dict(self._entries)
        for path in (self._area, *self._area.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self._copy(path.stat().st_ino, path)
        self._recording.sizes.clear()
        self._quiet = False
        work()
        self._quiet = True
        self._look()
        self._recording.steps += 1
        _write(self._notes / "record.json", self._recording)

    def before(self, name: str, words: tuple[Any, ...]) -> None:
        if self._quiet:
            return
        self._quiet = True
        self._look()
        self._recording.steps += 1
        self._quiet = False

    def after(self, name: str, words: tuple[Any, ...]) -> None:
        if self._quiet or name != "fsync":
            return
        self._quiet = True
        facts = os.fstat(words[0])
        step = self._recording.steps
        if stat.S_ISDIR(facts.st_mode):
            self._recording.folder_syncs.append((step, facts.st_ino))
        else:
            self._copy(facts.st_ino, Path(f"/proc/self/fd/{words[0]}"))
        self._quiet = False

    def _look(self) -> None:
        """Note what the last step changed."""
        now = dict(self._scan())
        slots = {
            slot: (self._entries.get(slot), now.get(slot))
            for slot in {*self._entries, *now}
            if self._entries.get(slot) != now.get(slot)
        }
        if slots:
            self._recording.changes.append(Change(self._recording.steps, slots))
        self._entries = now

    def _scan(self) -> list[tuple[Slot, int]]:
        found: list[tuple[Slot, int]] = []
        waiting = [(self._area, self._area.stat().st_ino)]
        while waiting:
            folder, number = waiting.pop()
            self._recording.folders.add(number)
            for entry in os.scandir(folder):
                facts = entry.stat(follow_symlinks=False)
                found.append(((number, entry.name), facts.st_ino))
                self._keep(Path(entry.path), facts)
                if stat.S_ISDIR(facts.st_mode):
                    waiting.append((Path(entry.path), facts.st_ino))
                elif stat.S_ISLNK(facts.st_mode):
                    self._recording.links[facts.st_ino] = os.readlink(entry.path)
                elif self._sizes.get(facts.st_ino) != (facts.st_size, facts.st_mtime_ns):
                    self._sizes[facts.st_ino] = (facts.st_size, facts.st_mtime_ns)
                    sizes = self._recording.sizes.setdefault(facts.st_ino, [])
                    sizes.append((self._recording.steps, facts.st_size))
        return found

    def _keep(self, path: Path, facts: os.stat_result) -> None:
        """Hold a file open, so that no later file gets its number."""
        if facts.st_ino not in self._known and not stat.S_ISLNK(facts.st_mode):
            self._known.add(facts.st_ino)
            self._kept.append(os.open(path, os.O_RDONLY))

    def _copy(self, number: int, path: Path) -> None:
        copy = self._notes / f"{len(self._recording.file_syncs)}"
        shutil.copyfile(path, copy)
        self._recording.file_syncs.append((self._recording.steps, number, str(copy)))


def _write(path: Path, recording: Recording) -> None:
    content = {
        **vars(recording),
        "start": [[*slot, number] for slot, number in recording.start.items()],
        "changes": [
            [change.step, [[*slot, *pair] for slot, pair in change.slots.items()]]
            for change in recording.changes
        ],
        "sizes": list(recording.sizes.items()),
        "folders": list(recording.folders),
        "links": list(recording.links.items()),
    }
    path.write_text(json.dumps(content))


def _read(content: dict[str, Any]) -> Recording:
    return Recording(
        root=content["root"],
        start={(folder, name): number for folder, name, number in content["start"]},
        changes=[
            Change(step, {(folder, name): (old, new) for folder, name, old, new in slots})
            for step, slots in content["changes"]
        ],
        folder_syncs=[(step, folder) for step, folder in content["folder_syncs"]],
        file_syncs=[(step, number, copy) for step, number, copy in content["file_syncs"]],
        sizes={
            number: [(step, size) for step, size in sizes] for number, sizes in content["sizes"]
        },
        folders=set(content["folders"]),
        links=dict(content["links"]),
        steps=content["steps"],
    )
