"""Parity of written graphs with torch: per component, over prefill and decode, and of the router's choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moir_edge.errors import ToleranceError
from moir_edge.export.chain import ChainStep, GraphChain
from moir_edge.export.checkpoints import Checkpoint
from moir_edge.export.components import TracedModel
from moir_edge.export.routing_parity import RoutingFigures
from moir_edge.export.samples import ParitySample, parity_samples
from moir_edge.transformers_cache import cache_keyword, returned_cache

__all__ = ["LOGITS_TOLERANCE_FP32", "measure_parity", "require_fp32_parity"]

# Contract of a float32 bundle: the runtimes differ from torch in the order of sums only.
LOGITS_TOLERANCE_FP32 = 1e-3
_DECODE_STEPS = 4

Array = npt.NDArray[Any]


@dataclass
class _Figures:
    """Largest absolute errors so far, by what they measure, and agreement of the greedy token."""

    errors: dict[str, float] = field(default_factory=dict)
    greedy_same: int = 0
    greedy_total: int = 0

    def error(self, name: str, got: Array, expected: Array) -> None:
        difference = np.abs(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
        worst = float(difference.max(initial=0.0))
        # NaN must win over every number: max() alone would drop it.
        known = self.errors.get(name, 0.0)
        self.errors[name] = worst if not worst <= known else known

    def logits(self, name: str, got: Array, expected: Array) -> None:
        self.error(name, got, expected)
        self.greedy_same += int((got.argmax(-1) == expected.argmax(-1)).sum())
        self.greedy_total += len(got)


def measure_parity(
    traced: TracedModel,
    folder: Path,
    precisions: Mapping[str, str],
    samples: Sequence[ParitySample] | None = None,
) -> dict[str, Any]:
    """Run the graphs of a folder and torch on the same prompts.

    Args:
        traced: Gives the torch model, with its router if it has one.
        folder: Holds ``<component>.onnx``.
        precisions: Component name to precision.
        samples: The prompts; None takes the few that every export is checked with.

    Returns:
        Plain JSON data: ``max_abs_error`` by component and phase, ``greedy_agreement`` in [0, 1], ``samples``,
        and ``router`` where one was run.
    """
    chain = GraphChain(folder, precisions, traced.facts)
    figures, routing = _Figures(), RoutingFigures()
    samples = samples or parity_samples(traced.checkpoint, traced.facts)
    for sample in samples:
        _compare(traced.checkpoint, chain, sample, figures, routing)
    return {
        "samples": [sample.name for sample in samples],
        "decode_steps": _DECODE_STEPS,
        "max_abs_error": figures.errors,
        "greedy_agreement": figures.greedy_same / figures.greedy_total,
        "router": routing.summary(),
    }


def require_fp32_parity(figures: dict[str, Any]) -> None:
    """Refuse a float32 bundle whose figures are above tolerance.

    Args:
        figures: From `measure_parity`.

    Raises:
        ToleranceError: Names the figure, its value and the tolerance.
    """
    for name, worst in figures["max_abs_error"].items():
        if not worst <= LOGITS_TOLERANCE_FP32:
            raise ToleranceError(
                f"{name}: max abs error {worst:.2e} against torch, tolerance "
                f"{LOGITS_TOLERANCE_FP32:.0e}; nothing was written"
            )


@torch.no_grad()
def _compare(
    checkpoint: Checkpoint,
    chain: GraphChain,
    sample: ParitySample,
    figures: _Figures,
    routing: RoutingFigures,
) -> None:
    step = chain.prefill(sample.input_ids, sample.attention_mask, sample.tiles)
    _compare_inputs(checkpoint, sample, step, figures)
    inputs: dict[str, torch.Tensor] = {}
    if len(sample.tiles):
        tiles = torch.from_numpy(sample.tiles)
        inputs["pixel_values"] = checkpoint.architecture.model_pixels(tiles, len(sample.input_ids))
    expected = _torch_step(
        checkpoint.model, sample.input_ids, sample.attention_mask, None, **inputs
    )
    figures.logits("prefill logits", step.logits, _last(expected))
    if step.routing is not None:
        routing.add(checkpoint.model, step.routing)
    for _ in range(_DECODE_STEPS):
        tokens = _last(expected).argmax(-1)[:, None].astype(np.int64)
        step = chain.step(step, tokens)
        expected = _torch_step(checkpoint.model, tokens, step.mask, returned_cache(expected))
        figures.logits("decode logits", step.logits, _last(expected))


def _compare_inputs(
    checkpoint: Checkpoint, sample: ParitySample, step: ChainStep, figures: _Figures
) -> None:
    """Compare what enters the language model: token embeddings and image features."""
    model = checkpoint.model
    embeds = model.get_input_embeddings()(torch.from_numpy(sample.input_ids))
    figures.error("embedding", step.text_embeds, embeds.numpy())
    if step.image_features is None:
        return
    tiles = torch.from_numpy(sample.tiles)
    pixels = checkpoint.architecture.model_pixels(tiles, len(sample.input_ids))
    features = torch.cat(list(model.get_image_features(pixel_values=pixels).pooler_output))
    figures.error(
        "vision", step.image_features, features.reshape(step.image_features.shape).numpy()
    )


def _torch_step(
    model: Any, input_ids: Array, mask: Array, cache: Any, **inputs: torch.Tensor
) -> Any:
    """Run the Hugging Face model, hooks and all, on a prompt or on one more token."""
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -input_ids.shape[1] :]
    return model(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(mask),
        position_ids=torch.from_numpy(positions),
        use_cache=True,
        logits_to_keep=1,
        **{cache_keyword(model): cache},
        **inputs,
    )


def _last(outputs: Any) -> Array:
    logits: Array = outputs.logits[:, -1].numpy()
    return logits
