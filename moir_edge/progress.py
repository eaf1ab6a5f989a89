"""Callback by which long work reports progress, and one that prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "silent", "single_step"]

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``: with ``done`` 0 when a stage starts, with ``total`` when it ends."""


def silent(stage: str, done: int, total: int) -> None:
    """Print nothing."""
    del stage, done, total


@contextmanager
def single_step(progress: Progress, stage: str) -> Iterator[None]:
    """Report the start and the end of a stage that cannot be counted, as loading a model."""
    progress(stage, 0, 1)
    yield
    progress(stage, 1, 1)
