"""Do no harm: on clean rows the routed model's answers stay close to those of the base, the same weights unrouted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moir_edge.router import router_disabled
from moir_edge.router.attach import MODULE_NAME
from moir_edge.tuning.loss import answer_divergence
from moir_edge.tuning.objectives import Objective, Step

if TYPE_CHECKING:
    from moir_edge.tuning.adapters import Adapters

__all__ = ["KeepClean"]


class KeepClean(Objective):
    """KL(base ‖ routed) on the answer tokens of clean rows, the mean over those rows; rows that were degraded are free.

    The base is the model with its router off and its adapters off, in evaluation mode: what it was before tuning.

    Args:
        weight: Of the divergence in the sum.
        adapters: Those of the run, or None.
    """

    name = "keep_clean"

    def __init__(self, weight: float, adapters: Adapters | None = None) -> None:
        self.weight = weight
        self._adapters = adapters

    def loss(self, step: Step) -> Tensor:
        """Return the divergence in nats; one more forward pass over the clean rows, without gradients."""
        logits: Tensor = step.outputs.logits
        clean = torch.tensor([row.is_clean for row in step.rows], device=logits.device)
        if not bool(clean.any()):
            return logits.new_zeros((), dtype=torch.float32)
        inputs = step.inputs
        if all(row.row.images for row in step.rows) and _has_entry_per_row(inputs, len(step.rows)):
            inputs = {name: value[clean] for name, value in inputs.items()}
            logits, clean = logits[clean], clean[clean]
        with self._base(step.model), torch.no_grad():
            base: Tensor = step.model(**inputs, use_cache=False).logits
        return answer_divergence(base, logits, inputs["labels"], clean)

    @contextmanager
    def _base(self, model: Any) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(_evaluating(model))
            if hasattr(model, MODULE_NAME):
                stack.enter_context(router_disabled(model))
            if self._adapters is not None:
                stack.enter_context(self._adapters.disabled())
            yield


def _has_entry_per_row(inputs: Mapping[str, Tensor], rows: int) -> bool:
    """Say whether the i-th entry of every input belongs to row i.

    Pixels of some families lie in one list of all images or patches. Where each row has an image, such a list is as
    long as the batch only if each row has exactly one.
    """
    return all(value.shape[0] == rows for value in inputs.values())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for the time of the block, and each module back in its own."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
