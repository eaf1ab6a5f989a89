"""An answer piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

from moir_edge.runtime.generation import Generation, GenerationRun

__all__ = ["TextStream"]


class TextStream(Iterator[str]):
    """The pieces of one answer; `result` holds the whole once they are read.

    Args:
        run: The run of one prompt.
    """

    def __init__(self, run: GenerationRun) -> None:
        self._run = run
        self._pieces = (step[0] for step in run)

    def __next__(self) -> str:
        """Return the next piece of text that is not empty."""
        for piece in self._pieces:
            if piece:
                return piece
        raise StopIteration

    @property
    def result(self) -> Generation:
        """The answer so far, with timings and routing."""
        return self._run.result
