"""Ends a process of its own before one of its steps in the file system: killed at once, or terminated as the command line is."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tests.faults.steps import on_each_step

__all__ = ["HOW", "count_steps", "ended_at", "in_a_fork", "say_nothing"]

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
