"""Calls back before every step that this process takes in the file system, as far as Python takes it.

Counted are the functions of `os` that change something, each opening of a file for writing, and each write to such a file as it
reaches the system. What a library writes by itself (safetensors, tokenizers, ONNX Runtime) is not seen; it lies between two steps.
"""

from __future__ import annotations

import builtins
import io
import os
import pathlib
from collections.abc import Callable
from typing import Any

from moir_edge import replacing

__all__ = ["STEPS", "on_each_step", "without_disk"]

STEPS = (
    "rename", "replace", "link", "symlink", "mkdir", "rmdir", "unlink", "remove", "open", "write", "fsync",
    "ftruncate", "truncate", "chmod", "fchmod", "utime", "sendfile", "copy_file_range", "close",
)  # fmt: skip

Step = Callable[[str, tuple[Any, ...]], None]


def on_each_step(before: Step, after: Step | None = None) -> None:
    """Install the callbacks for the rest of this process's life.

    Args:
        before: Called as ``before(name, arguments)`` before each step.
        after: The same after it, if it did not fail.
    """
    for name in STEPS:
        if hasattr(os, name):
            setattr(os, name, _watched(name, getattr(os, name), before, after))
    replacing.exchange = _watched("exchange", replacing.exchange, before, after)
    opening = _opening(before, after)
    builtins.open = io.open = opening
    accessor: Any = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 keeps the functions
    for name in STEPS if accessor is not None else ():
        if hasattr(accessor, name):
            setattr(accessor, name, staticmethod(getattr(os, name)))
    if accessor is not None:
        accessor.open = staticmethod(opening)


def without_disk() -> None:
    """Let synchronization return at once, for the rest of this process's life: no trial depends on the disk itself.

    A killed process leaves what the system holds, and a power cut is made up from the calls.
    """
    os.fsync = lambda descriptor: (
        os.fstat(descriptor) and None
    )  # a wrong descriptor is an error still


def _watched(
    name: str, function: Callable[..., Any], before: Step, after: Step | None
) -> Callable[..., Any]:
    def call(*words: Any, **named: Any) -> Any:
        before(name, words)
        result = function(*words, **named)
        if after is not None:
            after(name, words)
        return result

    return call


def _opening(before: Step, after: Step | None) -> Callable[..., Any]:
    """Return an `open` whose files call back at each write that reaches the system."""
    plain = io.open

    class Watched(io.FileIO):
        def write(self, data: Any, /) -> int:
            before("write", (self.name,))
            written = super().write(data)
            if after is not None:
                after("write", (self.name,))
            return written

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+"):
            return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
        before("create", (file,))
        raw = Watched(file, mode.replace("t", ""), closefd, opener)
        if after is not None:
            after("create", (file,))
        if buffering == 0:
            return raw
        stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

    return opened
