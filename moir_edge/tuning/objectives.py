"""Auxiliary objectives: losses that the trainer adds to the answers' loss, each with its weight, and logs apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from moir_edge.data.rows import Row
from moir_edge.tuning.data import TrainingRow

__all__ = ["ANSWERS", "PREFIX", "LossParts", "Objective", "Step", "attached"]

PREFIX = "loss_"
"""A log entry names the mean of a part of the loss `loss_NAME`, before its weight."""
ANSWERS = "answers"
"""Name of the answers' loss among the parts, with the branches' own losses where a balance method adds them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step as an objective sees it, after the forward pass and under its autocast.

    Attributes:
        model: The model, in training mode.
        rows: The rows of the batch, with their condition and as they were before they were degraded.
        inputs: What the model was called with, labels included: (batch, sequence) and what the processor adds.
        outputs: What it returned; `logits` are (batch, sequence, vocabulary).
        encode: Makes a further batch of any rows, on the model's device; for a forward pass of the objective's own.
    """

    model: Any
    rows: Sequence[TrainingRow]
    inputs: Mapping[str, Tensor]
    outputs: Any
    encode: Callable[[Sequence[Row]], dict[str, Tensor]]


class Objective(ABC):
    """A loss besides that of the answers; evaluations leave it out.

    A resumed run must come to the same weights as one that was not stopped. So an objective keeps no state between
    steps but the model's weights, and draws from torch's generator alone, whose state a training checkpoint holds.

    Attributes:
        name: Lower-case words joined by `_`; entries of the log are `loss_NAME`.
        weight: By which the loss is multiplied in the sum, above 0.
    """

    name: str
    weight: float

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """Return the loss of a step before its weight: a scalar, 0 where the rows have nothing to say."""

    def hooks(self, model: Any) -> Sequence[RemovableHandle]:
        """Put the objective's hooks on the model, if it needs some, and return their handles; called once."""
        return ()


@contextmanager
def attached(objectives: Sequence[Objective], model: Any) -> Iterator[None]:
    """Put the objectives' hooks on a model for the time of the block."""
    with ExitStack() as stack:
        for objective in objectives:
            for handle in objective.hooks(model):
                stack.callback(handle.remove)
        yield


class LossParts:
    """Mean of each part of the loss over the steps since the last log entry."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Take in the parts of one step, the same names each time; nothing is read from a GPU here."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._steps += 1

    def take(self) -> dict[str, float]:
        """Return the means as `loss_NAME`, and start anew; empty where no step was added."""
        means = {
            f"{PREFIX}{name}": float(total) / self._steps for name, total in self._sums.items()
        }
        self._sums, self._steps = {}, 0
        return means
