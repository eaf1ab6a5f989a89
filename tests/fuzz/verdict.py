"""Judge one case: what the product did with it, in how much memory."""

from __future__ import annotations

import json
import os
import resource
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.area import Case, Unnoticed

__all__ = ["FAULTS", "MEMORY_MB", "Verdict", "is_plain", "judge", "status_mb"]

FAULTS = ("exception", "message", "hang", "signal", "memory", "unnoticed", "suite")
"""Verdicts that fail a run; `message` is an error that is not one bounded line, `suite` an error of the suite itself."""

MEMORY_MB = 300
"""What a case may take over the idle process."""

_ROOM_MB = (
    3072  # address space over the idle process: a bomb ends in MemoryError, and the machine lives
)
_LONGEST = 2_100  # characters of a message: moir-edge bounds them at about 2,000
_STEERING = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # categories of Unicode: controls, halves of characters, ends of lines
_TURNING = (
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of writing
)
_FILE_BYTES = 1 << 28


@dataclass
class Verdict:
    """What became of one case.

    Attributes:
        kind: `refused`, `accepted` or one of `FAULTS`.
        detail: The message, or the error and where it came from.
        recipe: What was altered.
        megabytes: Most memory over the idle process.
        seconds: Time that it took, waiting for a core left out.
    """

    kind: str
    detail: str = ""
    recipe: str = ""
    megabytes: float = 0.0
    seconds: float = 0.0
    index: int = -1

    def line(self) -> str:
        """Return the verdict as one JSON line."""
        return json.dumps(asdict(self))


def judge(
    make: Callable[[], Case],
    attempt: Callable[[Any], None],
    idle_files_mb: float,
    announce: Callable[[str], None],
) -> Verdict:
    """Make a case and let the product read it, in this process, which is lost to anything else.

    Args:
        make: Makes the case.
        attempt: Reads it.
        idle_files_mb: Memory of the idle process that holds files, in RAM.
        announce: Told the recipe before the attempt, which may end this process.
    """
    try:
        case = make()
    except BaseException as error:
        return Verdict("suite", f"{error!r} {traceback.format_exc()[-1000:]}")
    announce(case.recipe)
    _limit()
    before, files_before = status_mb("VmRSS"), status_mb("RssFile")
    verdict = _attempted(attempt, case.payload)
    # A fork starts without the pages of libraries that the idle process had.
    libraries = min(idle_files_mb, max(0.0, status_mb("RssFile") - files_before))
    verdict.megabytes = round(max(0.0, status_mb("VmHWM") - before - libraries), 1)
    if verdict.kind in ("accepted", "refused") and verdict.megabytes > MEMORY_MB:
        verdict.kind, verdict.detail = "memory", f"{verdict.megabytes} MB; {verdict.detail}"
    return verdict


def _attempted(attempt: Callable[[Any], None], payload: Any) -> Verdict:
    from moir_edge.errors import MoirEdgeError

    try:
        attempt(payload)
    except Unnoticed as error:
        return Verdict("unnoticed", str(error))
    except MoirEdgeError as error:
        if _out_of_memory(error):
            return Verdict("memory", f"{_place(error)}: {error}")
        return Verdict(_message_kind(str(error)), str(error)[: 2 * _LONGEST])
    except MemoryError as error:
        return Verdict("memory", f"MemoryError at {_place(error)}")
    except BaseException as error:
        text = " ".join(str(error).split())[:300]
        return Verdict("exception", f"{type(error).__name__} at {_place(error)}: {text}")
    return Verdict("accepted")


def _message_kind(text: str) -> str:
    return "refused" if is_plain(text) and 0 < len(text) <= _LONGEST else "message"


def is_plain(text: str) -> bool:
    """Say whether nothing in a line steers a terminal."""
    return not any(unicodedata.category(one) in _STEERING or one in _TURNING for one in text)


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """Return the innermost line of moir-edge that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "moir_edge" in Path(frame.filename).parts]
    frame = (own or frames)[-1]
    parts = Path(frame.filename).parts
    start = parts.index("moir_edge") if "moir_edge" in parts else len(parts) - 1
    return f"{'/'.join(parts[start:])}:{frame.lineno}"


def _limit() -> None:
    """Bound address space and files, and forget the memory that making the case took."""
    most = int((status_mb("VmSize") + _ROOM_MB) * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/clear_refs").write_text("5")


def status_mb(key: str) -> float:
    """Return an entry of this process's status, such as `VmRSS`, in MB."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(key)
