"""The suite's own area: its cases do what the suite must notice. A run leaves it out; the tests of the suite ask for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, Unnoticed, register


@register
class Suite(Area):
    """One case of each verdict."""

    name = "suite"
    share = 0
    kinds = ("accepted", "refused", "exception", "message", "hang", "signal", "memory", "unnoticed", "suite", "bomb")  # fmt: skip

    def strategies(self) -> Sequence[Strategy]:
        return ()

    def make(self, seed: int, index: int, folder: Path) -> Case:
        kind = self.kinds[index % len(self.kinds)]
        if kind == "suite":
            raise ZeroDivisionError("making the case failed")
        return Case(kind, kind)

    def attempt(self, payload: Any) -> None:
        from moir_edge.errors import DataError

        if payload == "refused":
            raise DataError("one line")
        if payload == "message":
            raise _two_lines()
        if payload == "exception":
            raise KeyError("untreated")
        if payload == "unnoticed":
            raise Unnoticed("another answer")
        if payload == "hang":
            time.sleep(100)
        if payload == "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
        if payload == "memory":
            bytearray(b"x" * 200_000_000)
        if payload == "bomb":
            _explode()


def _two_lines() -> Exception:
    """Return an error of the product that gets around its one rule of messages."""
    from moir_edge.errors import DataError

    class TwoLinesError(DataError):
        def __str__(self) -> str:
            return "two\nlines"

    return TwoLinesError()


def _explode() -> None:
    """Take far too much memory, and hide it behind an error of the product."""
    from moir_edge.errors import DataError

    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise DataError("one line") from error
