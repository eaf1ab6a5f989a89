"""Ends a process of its own before one of its steps in the file system: killed, terminated as the command line is, or by a full disk."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from typing import Any

from moir_edge.errors import MoirEdgeError
from tests.faults.steps import on_each_step

__all__ = ["HOW", "count_steps", "ended_at", "in_a_fork", "refused_at", "say_nothing"]

HOW = ("kill", "terminate")
_TERMINATED = 143
_FAILED = 99


def ended_at(step: int, how: str, work: Callable[[], object]) -> bool:
    """Run some work in a forked process that ends before its step of that number; return whether it had so many.

    Args:
        step: From 1.
        how: ``kill`` is SIGKILL; ``terminate`` raises in that place what the handler of SIGTERM raises.
        work: Writes something.
    """
    left = [step]

    def before(name: str, words: tuple[Any, ...]) -> None:
        left[0] -= 1
        if left[0] == 0:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise SystemExit(_TERMINATED)

    code = in_a_fork(work, before)
    if code not in (0, _TERMINATED, -signal.SIGKILL):
        raise AssertionError(f"the writer failed at step {step} ({how}) with {code}")
    return code != 0


def refused_at(step: int, work: Callable[[], object]) -> str | None:
    """Run some work in a forked process on a disk that is full from its step of that number on.

    Returns:
        The message of its error; None where it came to its end.
    """
    left = [step]
    reading, writing = os.pipe()
    tell = os.write

    def before(name: str, words: tuple[Any, ...]) -> None:
        left[0] -= 1
        if left[0] <= 0 and _needs_space(name, words):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def told() -> None:
        try:
            work()
        except MoirEdgeError as error:
            tell(writing, str(error).encode())

    code = in_a_fork(told, before)
    os.close(writing)
    with os.fdopen(reading) as stream:
        message = stream.read()
    if code != 0:
        raise AssertionError(f"the writer failed at step {step} on a full disk")
    return message or None


def _needs_space(name: str, words: tuple[Any, ...]) -> bool:
    """Say whether a step takes space on a disk; files may find out as late as when they are synchronized."""
    if name == "open":
        return bool(words[1] & os.O_CREAT)
    if name == "fsync":
        return stat.S_ISREG(os.fstat(words[0]).st_mode)
    return name in ("create", "write", "mkdir", "sendfile", "copy_file_range")


def count_steps(work: Callable[[], object]) -> int:
    """Return how many steps some work takes, done once in a forked process."""
    reading, writing = os.pipe()
    count = [0]

    def before(name: str, words: tuple[Any, ...]) -> None:
        count[0] += 1

    def counted() -> None:
        work()
        total = count[0]
        os.write(writing, str(total).encode())

    if in_a_fork(counted, before) != 0:
        raise AssertionError("the writer failed")
    os.close(writing)
    with os.fdopen(reading) as stream:
        return int(stream.read())


def say_nothing() -> None:
    """Drop what a command prints for its user."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def in_a_fork(
    work: Callable[[], object],
    before: Callable[[str, tuple[Any, ...]], None],
    after: Callable[[str, tuple[Any, ...]], None] | None = None,
) -> int:
    """Run some work under the callbacks in a forked process, and return its exit code."""
    child = os.fork()
    if child == 0:
        end, code = os._exit, _FAILED
        say_nothing()
        try:
            on_each_step(before, after)
            work()
            code = 0
        except SystemExit:
            code = _TERMINATED
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stderr.flush()
            end(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
