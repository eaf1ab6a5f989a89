"""Base class of the balance methods: hooks of a training step, figures for the log, and the state of a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from moir_edge.errors import DataError
from moir_edge.tuning.balancing.branches import BranchRows

__all__ = ["BalanceMethod"]


class BalanceMethod:
    """Balances the two branches while training; it has no parameters and takes no part in evaluations and inference.

    In each step the trainer calls `before_forward`, then the model, then `loss`, then the backward pass, then
    `after_backward`. Draws come from torch's generators, whose states a training checkpoint holds.

    Args:
        model: A model with a router, whose `requires_grad` says what is trained; the method stays on it until `detach`.

    Attributes:
        name: As in `BALANCE_METHODS`.
        rows: Reads and changes the rows of both branches.

    Raises:
        UnsupportedError: The model has no router.
    """

    name: ClassVar[str]

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.rows = BranchRows(model)

    def detach(self) -> None:
        """Take the method off the model."""
        self.rows.detach()

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        """Prepare the forward pass of a step.

        Args:
            inputs: What the model will be called with, labels included.
        """

    def loss(self, answers: Tensor, inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Return the loss of a step: by default the answers' alone.

        Args:
            answers: The answers' loss, a scalar.
            inputs: What the model was called with, labels included.
            logits: (batch, sequence, vocabulary) of that forward pass.
        """
        return answers

    def after_backward(self) -> None:
        """Change the gradients of a step, before they are clipped."""

    def record(self) -> dict[str, float]:
        """Return figures of the last step for the log, each named `FIGURE_BRANCH`."""
        return {}

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs, as plain JSON data."""
        return {}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse what `state` did not return.

        Raises:
            DataError: Names what is wrong.
        """
        if state:
            raise DataError(f"{self.name} keeps no state, but found {sorted(state)[0]!r}")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            DataError: See `check_state`.
        """
        self.check_state(state)

    def branch_logits(self, branch: str, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of a branch alone, the other one's routed rows being zero; one more forward pass.

        Args:
            branch: `image` or `text`.
            inputs: What the model was called with.
        """
        with self.rows.alone(branch):
            logits: Tensor = self._model(**inputs, use_cache=False).logits
        return logits
