"""Say in one line what ran out: memory, threads, files or disk, by an exception or the end of a child process.

Libraries have no common exception for it: torch and ONNX Runtime raise a `RuntimeError` with a text of the allocator, the loader
an `ImportError`, a child that the system killed leaves a signal.
"""

from __future__ import annotations

import errno
import re
import sys
import threading
from collections.abc import Iterator

from moir_edge.errors import EnvironmentProblem, MoirEdgeError, one_line

__all__ = ["cannot_start_threads", "end_of_child", "exhaustion", "memory_for_libraries"]

_MEMORY = (
    "memory ran out",
    "close other programs, give smaller inputs or batches, or raise the limit (ulimit -v, the container's memory)",
)
_THREADS = (
    "no more threads or processes can be started",
    "use fewer (`threads=1`), or raise the limit (ulimit -u, the container's pids)",
)
_FILES = ("too many files are open", "raise the limit (ulimit -n 1024)")
_DISK = ("the disk is full", "free some space, or give another folder")
_NESTING = ("an input is nested too deeply to be read", "give one with fewer levels")

_NUMBERS = {
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _THREADS,  # of fork: nothing here reads from a stream that does not wait
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
}
# Compiled where an error is told.
_TEXTS = (
    (
        r"MemoryError|bad_?alloc|bad allocation|(not enough|can.?t allocate|failed to allocate|cannot allocate) memory"
        r"|unable to allocate|out ?of ?memory|Memory allocation still failed",
        _MEMORY,
    ),
    (
        r"can't start new thread|pthread_create|thread creation failed|resource temporarily unavailable",
        _THREADS,
    ),
    ("too many open files", _FILES),
    ("no space left on device", _DISK),
)
_SPOKEN = (RuntimeError, ImportError, SystemError, OSError)
_LIBRARIES = ("onnxruntime", "safetensors", "torch", "tensorrt")
_UNMAPPED = "failed to map segment"
_LONGEST_QUOTE = 200
_LIBRARIES_BYTES = 192 << 20  # numpy's BLAS alone takes 130 MB of address space on two cores
_TORCH_BYTES = 3 << 29
_CAUSES = 20
_KILLED = -9


def exhaustion(error: BaseException) -> str | None:
    """Return what ran out and what helps, in one line; None where an exception does not say that something did.

    Args:
        error: Of any library. An error of moir-edge is looked through for the exception that it came from, unless it is an
            `EnvironmentProblem`, which says it already.
    """
    if isinstance(error, EnvironmentProblem):
        return None
    chain = list(_chain(error))
    for one in reversed(chain):
        found = _kind(one)
        # A file that is nested too deeply has its own message already.
        if found is not None and not (found is _NESTING and isinstance(error, MoirEdgeError)):
            return f"{found[0]}{_quote(one)}; {found[1]}"
    return None


def cannot_start_threads(count: int = 1) -> str | None:
    """Return that threads cannot be started, and what helps; None where they can.

    numpy's BLAS, whose threads cannot be started, sends its process the signal of Ctrl-C. ONNX Runtime 1.31 waits forever in
    the constructor of a session, where a later thread of its pool cannot be started.

    Args:
        count: How many, at the same time.
    """
    gate = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        return exhaustion(error)
    finally:
        gate.set()
        for thread in started:
            thread.join()
    return None


def memory_for_libraries(*, torch: bool) -> None:
    """Refuse to start where a limit leaves no address space for the libraries, which would end the process in ways of their own.

    numpy's BLAS ends it with exit code 1, torch with an abort.

    Args:
        torch: The command needs torch too.

    Raises:
        EnvironmentProblem: The limit of the address space is too low.
    """
    limit = _address_space()
    if limit is None:
        return
    import mmap

    needed = _TORCH_BYTES if torch else _LIBRARIES_BYTES
    try:
        mmap.mmap(-1, needed).close()
    except OSError as error:
        raise EnvironmentProblem(
            f"the limit of {limit / 1e6:.0f} MB on this process's memory leaves no {needed / 1e6:.0f} MB for the "
            "libraries; raise it (ulimit -v)"
        ) from error


def end_of_child(code: int, log: str, *, advice: str) -> str:
    """Return how a child process ended, as the rest of a sentence that names it.

    Args:
        code: Its exit code; −n after signal n.
        log: What it printed; the last line is quoted.
        advice: What lowers the memory that such a process needs, for a child that the system killed.
    """
    reason = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    lines = log.strip().splitlines()
    told = next((found for line in reversed(lines[-20:]) if (found := _of_text(line))), None)
    hint = f"; if memory ran out, {advice}" if code == _KILLED else ""
    if told is not None:
        hint = f"; {told[0]}: {told[1]}"
    last = f" (its last line: {one_line(lines[-1][:_LONGEST_QUOTE])})" if lines else ""
    return f"{reason}{hint}{last}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the one that it came from, and so on; one that an error of moir-edge replaced counts too."""
    one: BaseException | None = error
    for _ in range(_CAUSES):
        if one is None:
            return
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _kind(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, MoirEdgeError):
        return None
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, RecursionError):
        return _NESTING
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return _NUMBERS[error.errno]
    if not isinstance(error, _SPOKEN) and not type(error).__module__.startswith(_LIBRARIES):
        return None  # it may quote any text
    text = str(error)
    if isinstance(error, ImportError) and _UNMAPPED in text and _address_space() is not None:
        return _MEMORY
    return _of_text(text)


def _of_text(text: str) -> tuple[str, str] | None:
    return next((found for words, found in _TEXTS if re.search(words, text, re.IGNORECASE)), None)


def _quote(error: BaseException) -> str:
    """Return an exception's own words in brackets; nothing where it has none."""
    text = one_line(error)
    if not str(error):
        return ""
    return f" ({text[:_LONGEST_QUOTE]}{'…' if len(text) > _LONGEST_QUOTE else ''})"


def _address_space() -> int | None:
    """Return the limit of this process's address space in bytes; None without one."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
