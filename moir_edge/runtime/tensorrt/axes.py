"""Where batch and sequence lie in the decoder's inputs, as the manifest says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from moir_edge.bundle.manifest import TensorSpec
from moir_edge.runtime.interface import Array, DecoderInputs

__all__ = ["DecoderAxes"]

_KNOWN = ("inputs_embeds", "attention_mask")


class DecoderAxes:
    """Cuts what a decoder takes of a prompt by rows and by tokens.

    Args:
        inputs: The decoder's inputs.
    """

    def __init__(self, inputs: Iterable[TensorSpec]) -> None:
        self._specs = {
            spec.name: spec for spec in inputs if not spec.is_cache and spec.name not in _KNOWN
        }

    def rows(self, decoder: DecoderInputs, rows: slice) -> DecoderInputs:
        """Return the inputs of some rows of the batch."""
        return DecoderInputs(
            attention_mask=decoder.attention_mask[rows],
            position_ids=self._cut("position_ids", decoder.position_ids, "batch", rows),
            next_positions=decoder.next_positions[rows],
            further=self._each(decoder.further, "batch", rows),
            step=self._each(decoder.step, "batch", rows),
        )

    def span(self, decoder: DecoderInputs, tokens: slice) -> dict[str, Array]:
        """Return the inputs with an axis `sequence` for some tokens of the prompt, by name."""
        named = {"position_ids": decoder.position_ids, **decoder.further}
        return self._each(named, "sequence", tokens)

    def of_step(self, batch: int) -> dict[str, Array]:
        """Return arrays of zeros for one token of each row, by name, position ids among them."""
        sizes = {"batch": batch, "sequence": 1}
        return {
            name: np.zeros(
                [size if isinstance(size, int) else sizes[size] for size in spec.shape], spec.dtype
            )
            for name, spec in self._specs.items()
        }

    def _each(self, named: Mapping[str, Array], axis: str, part: slice) -> dict[str, Array]:
        return {name: self._cut(name, array, axis, part) for name, array in named.items()}

    def _cut(self, name: str, array: Array, axis: str, part: slice) -> Array:
        at = self._specs[name].shape.index(axis)
        return array[(slice(None),) * at + (part,)]
