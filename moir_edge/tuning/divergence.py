"""Stop a run whose loss, gradient or weights are not finite any more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moir_edge.errors import NotFiniteError
from moir_edge.ownership import name_some

__all__ = ["DivergenceGuard", "require_finite_weights"]


class DivergenceGuard:
    """Checks each step and says where it went wrong.

    Args:
        learning_rate: Peak rate of the run.
    """

    def __init__(self, learning_rate: float) -> None:
        self._peak = learning_rate
        self._step = 0
        self._rows = ""
        self._rate = 0.0

    def begin(self, step: int, rows: Sequence[str], rate: float) -> None:
        """Note the step that the next checks belong to.

        Args:
            step: Its number, from 1.
            rows: Ids of its rows.
            rate: Its learning rate.
        """
        self._step, self._rows, self._rate = step, name_some(list(rows)), rate

    def check_loss(self, loss: Tensor) -> None:
        """Refuse a training loss that is not finite.

        Raises:
            NotFiniteError: Names step, rows and learning rate.
        """
        if not bool(torch.isfinite(loss).all()):
            raise self._error(f"the loss is {float(loss):g}", changed=self._step > 1)

    def check_gradients(self, model: nn.Module) -> None:
        """Refuse gradients that are not finite, or whose norm is not: clipping would turn them into NaN or nothing.

        Raises:
            NotFiniteError: Names the weight, step, rows and learning rate.
        """
        for name, weight in model.named_parameters():
            if weight.grad is not None and not _is_finite(torch.linalg.vector_norm(weight.grad)):
                raise self._error(f"the gradient of {name!r} is not finite", changed=self._step > 1)

    def check_weights(self, model: nn.Module) -> None:
        """Refuse trained weights that are not finite.

        Raises:
            NotFiniteError: Names the weight, step, rows and learning rate.
        """
        for name, weight in model.named_parameters():
            if weight.requires_grad and not _is_finite(weight):
                raise self._error(f"the weight {name!r} is not finite after it", changed=True)

    def check_evaluation(self, loss: Tensor, rows: Sequence[str], steps: int) -> None:
        """Refuse an evaluation loss that is not finite.

        Args:
            loss: Of one batch.
            rows: Ids of its rows.
            steps: Optimiser steps made so far.

        Raises:
            NotFiniteError: Names the rows.
        """
        if not bool(torch.isfinite(loss).all()):
            raise NotFiniteError(
                f"the loss on the evaluation rows {name_some(list(rows))} is {float(loss):g} after {steps} steps; "
                f"nothing was written; {self._remedy(changed=steps > 0)}"
            )

    def _error(self, what: str, *, changed: bool) -> NotFiniteError:
        return NotFiniteError(
            f"tuning diverged at step {self._step}: {what}, rows {self._rows}, learning rate {self._rate:.2e}; "
            f"nothing was written; {self._remedy(changed=changed)}"
        )

    def _remedy(self, *, changed: bool) -> str:
        if changed:
            return f"tune with a learning_rate below {self._peak:g}"
        return "no weight had changed yet, so look at the checkpoint and at these rows"


def require_finite_weights(model: nn.Module) -> None:
    """Refuse to write a checkpoint with a weight that is not finite.

    Raises:
        NotFiniteError: Names the first one.
    """
    for name, weight in model.named_parameters():
        if not _is_finite(weight):
            raise NotFiniteError(
                f"the tuned weight {name!r} is not finite; nothing was written; tune with a smaller learning_rate"
            )


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
