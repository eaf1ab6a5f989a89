"""State of a training on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from moir_edge.whole_files import write_whole

__all__ = ["Snapshots", "Stateful"]


class Stateful(Protocol):
    """Anything that gives its state and takes it back: a module, an optimiser, an average."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take a state back."""


class Snapshots:
    """Keeps the last step of a training of several stages in one file.

    Args:
        file: Where; None keeps nothing.
        every: Steps between two snapshots.
    """

    def __init__(self, file: Path | None = None, *, every: int = 100) -> None:
        self._file, self._every = file, every
        self._stored: dict[str, Any] | None = None
        if file is not None and file.is_file():
            self._stored = torch.load(file, weights_only=True)

    def begin(
        self, stage: int, steps: int, parts: Mapping[str, Stateful], log: list[dict[str, float]]
    ) -> int:
        """Take back what was kept of a stage.

        Args:
            stage: Its number.
            steps: How many it has.
            parts: What is trained, and its optimisers.
            log: Curves; those that were kept take their place.

        Returns:
            The step to go on after: 0 for a fresh stage, `steps` for one that a later stage has left behind.
        """
        if self._stored is None or self._stored["stage"] < stage:
            return 0
        if self._stored["stage"] > stage:
            return steps
        for name, part in parts.items():
            part.load_state_dict(self._stored["parts"][name])
        log[:] = self._stored["log"]
        return int(self._stored["step"])

    def keep(
        self,
        stage: int,
        step: int,
        parts: Mapping[str, Stateful],
        log: list[dict[str, float]],
        *,
        last: bool,
    ) -> None:
        """Write a snapshot where one is due, and after the last step of a stage."""
        if self._file is None or not (last or step % self._every == 0):
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        record = {"stage": stage, "step": step, "parts": states, "log": log}
        packed = io.BytesIO()
        torch.save(record, packed)
        write_whole(self._file, packed.getvalue())
