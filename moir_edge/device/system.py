"""The one reader of a machine: files of the system, and the output of its tools; a recording can stand in for both."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["RecordedSystem", "System"]

_MOST_BYTES = 1 << 20  # of one file or one output; real ones have some kilobytes
_SECONDS = 10.0  # that a tool may take; nvidia-smi needs two or three where the driver sleeps


class System:
    """The machine that this process runs on.

    Args:
        root: Folder that stands for ``/``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def text(self, path: str) -> str:
        """Return a file's text without blanks and NULs at its ends; empty where it cannot be read.

        Args:
            path: Absolute, as ``/proc/device-tree/model``.
        """
        try:
            with (self._root / path.lstrip("/")).open("rb") as stream:
                content = stream.read(_MOST_BYTES)
        except OSError:  # a sensor of a sleeping chip may also refuse to be read
            return ""
        return content.decode("utf-8", "replace").strip("\0 \t\r\n")

    def paths(self, pattern: str) -> list[str]:
        """Return the paths that match, in the order of their numbers.

        Args:
            pattern: Absolute; ``*`` stands for any characters within one name.
        """
        found = self._root.glob(pattern.lstrip("/"))
        return sorted((f"/{path.relative_to(self._root)}" for path in found), key=_natural)

    def number(self, path: str) -> float | None:
        """Return the number that a file holds; None where it cannot be read or holds something else."""
        try:
            return float(self.text(path))
        except ValueError:
            return None

    def output(self, *words: str) -> str:
        """Return what a tool prints on standard output; empty where it is missing, fails or takes too long."""
        program = shutil.which(words[0])
        if program is None:
            return ""
        try:
            done = subprocess.run(
                [program, *words[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout[:_MOST_BYTES].decode("utf-8", "replace") if not done.returncode else ""

    def first_line(self, *words: str) -> str:
        """Return the first line of a tool that prints on for ever; empty where it is missing or prints nothing."""
        program = shutil.which(words[0])
        if program is None:
            return ""
        with subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            ending = threading.Timer(_SECONDS, process.kill)
            ending.start()
            assert process.stdout is not None
            line = process.stdout.readline(_MOST_BYTES)
            ending.cancel()
            process.kill()
        return line.decode("utf-8", "replace").strip()


class RecordedSystem(System):
    """A machine that was written down.

    Args:
        files: Absolute path to content.
        commands: Words of a command, joined by blanks, to its output; a command that is not there counts as missing.
    """

    def __init__(self, files: Mapping[str, str], commands: Mapping[str, str]) -> None:
        super().__init__()
        self._files = files
        self._commands = commands

    def text(self, path: str) -> str:
        """Return the recorded content."""
        return self._files.get(path, "").strip("\0 \t\r\n")

    def paths(self, pattern: str) -> list[str]:
        """Return the recorded paths, and folders above them, that match."""
        depth = pattern.count("/")
        found = {"/".join(path.split("/")[: depth + 1]) for path in self._files}
        parts = pattern.split("/")
        return sorted((path for path in found if _matches(path.split("/"), parts)), key=_natural)

    def output(self, *words: str) -> str:
        """Return the recorded output."""
        return self._commands.get(" ".join(words), "")

    def first_line(self, *words: str) -> str:
        """Return the first line of the recorded output."""
        return self.output(*words).partition("\n")[0]


def _matches(names: list[str], patterns: list[str]) -> bool:
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _natural(path: str) -> list[tuple[int, str]]:
    """Sort key that puts ``zone10`` behind ``zone9``."""
    return [(int(part or 0), rest) for rest, part in re.findall(r"(\D*)(\d*)", path)]
