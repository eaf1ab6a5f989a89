"""Files that lie in this process's memory: where, and how their pages go back to the system until they are read again."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["c_library", "give_back_pages", "mapped_ranges", "written_ranges"]

_DONTNEED = 4  # of Linux's madvise, on every machine but alpha
_WRITTEN = re.compile(r"^Anonymous:\s+(\d+) kB$", re.MULTILINE)

Range = tuple[int, int]
"""First address, and the one after the last."""


def mapped_ranges(files: Iterable[Path]) -> list[Range]:
    """Return the addresses at which this process has mapped one of the files; none outside Linux."""
    wanted = {str(path.resolve()) for path in files}
    if not wanted or not sys.platform.startswith("linux"):
        return []
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    return [span for span, path in map(_mapping, lines) if path in wanted]


def written_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Return those of the ranges that this process has written to: what was written is in no file."""
    wanted = set(ranges)
    if not wanted:
        return []
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(errors="replace"), flags=re.MULTILINE)  # fmt: skip
    found = []
    for entry in filter(None, entries):
        span, _ = _mapping(entry.partition("\n")[0])
        written = _WRITTEN.search(entry)
        if span in wanted and (written is None or int(written[1])):
            found.append(span)
    return found


def _mapping(line: str) -> tuple[Range, str]:
    # start-end permissions offset device inode path
    addresses, *fields = line.split(maxsplit=5)
    start, end = (int(address, 16) for address in addresses.split("-"))
    return (start, end), fields[4] if len(fields) == 5 else ""


def give_back_pages(start: int, end: int) -> None:
    """Let the system take back the pages of a mapped file that nobody has written to; they are read again when asked for.

    Args:
        start: First address, that of a page.
        end: The address after the last.
    """
    c_library().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)


def c_library() -> Any:
    """Return the C library of this process."""
    return ctypes.CDLL(None, use_errno=True)
