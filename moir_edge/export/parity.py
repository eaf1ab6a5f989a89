"""Parity of written graphs with torch: per component, over prefill and decode, and of the router's choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moir_edge.checkpoint import Checkpoint
from moir_edge.errors import DataError, ToleranceError
from moir_edge.export.components import TracedModel
from moir_edge.export.parity_figures import ParityFigures
from moir_edge.export.samples import ParitySample, parity_samples
from moir_edge.graphs.sessions import PromptRun, TappedSessions
from moir_edge.metrics.routed import RoutedPrompts, RoutingFigures, same_choice
from moir_edge.router import last_routing
from moir_edge.runtime.families import Family
from moir_edge.transformers_cache import cache_keyword, returned_cache

__all__ = [
    "PARITY_RTOL",
    "STORED_ROUNDINGS",
    "check_parity_rtol",
    "expected_outputs",
    "measure_parity",
    "require_fp32_parity",
]

PARITY_RTOL = 1e-4
"""Contract of a float32 bundle, as a share of the largest value of each output.

ONNX Runtime and torch differ in the order of float32 sums: up to 1e-5 of an output's scale over tens of layers. A
scale that is wrong by a thousandth is ten times past this bound.
"""

STORED_ROUNDINGS = 16
"""Roundings of a weight that an output of its scale may be off by, where weights are stored in half precision.

The error of a layer's output is at most one rounding of its weights, as a share of its scale. Those of different layers
are independent and add up as their root, eight for 64 layers; twice that, because layers between may widen them. Tiny
models of two layers are off by 1 to 4.
"""

# Where the two best sources are alike, rounding swaps them at no cost; sources that are not alike are another router.
_LEAST_MATCHED_COSINE = 0.99
_DECODE_STEPS = 4

Array = npt.NDArray[Any]


def check_parity_rtol(rtol: float) -> None:
    """Refuse a tolerance that no graph or every graph would keep.

    Raises:
        DataError: It is not above 0 and below 1.
    """
    if not 0 < rtol < 1:
        raise DataError(
            f"the parity tolerance must be above 0 and below 1, got {rtol:g}; it is a share of each "
            f"output's largest value, {PARITY_RTOL:g} by default"
        )


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
        Plain JSON data. By output (`embedding`, `vision`, `router`, `router scores`, `prefill logits`, `decode logits`):
        ``max_abs_error``; ``reference_scale``, torch's largest magnitude; and ``max_rel_error``, the error over the
        scale. ``greedy_agreement`` in [0, 1], ``samples``, and ``router`` where one was run.

    Raises:
        NotFiniteError: An output of torch or of a graph is NaN or infinite.
    """
    sessions = TappedSessions(folder, precisions, traced.facts)
    figures, routing = ParityFigures(precisions), RoutingFigures()
    samples = samples or parity_samples(traced.checkpoint, traced.facts)
    for sample in samples:
        figures.sample = sample.name
        _compare(traced.checkpoint, sessions, sample, figures, routing)
    return {
        "samples": [sample.name for sample in samples],
        "decode_steps": _DECODE_STEPS,
        **figures.summary(),
        "router": routing.summary(),
    }


def require_fp32_parity(
    figures: Mapping[str, Any], expected: Sequence[str], rtol: float = PARITY_RTOL
) -> None:
    """Refuse a float32 bundle whose figures are above tolerance.

    Args:
        figures: From `measure_parity`.
        expected: Outputs that must have been compared, see `expected_outputs`.
        rtol: Largest error of an output over its scale; over 1 where torch gives nothing but zeros.

    Raises:
        ToleranceError: Names the figure, its value and the tolerance, or the output that was not compared.
    """
    for name in expected:
        if name not in figures["max_rel_error"]:
            raise ToleranceError(
                f"{name}: not compared with torch, so the graphs lack it; nothing was written"
            )
    for name, worst in figures["max_rel_error"].items():
        if not worst <= rtol:
            raise ToleranceError(
                f"{name}: max abs error {figures['max_abs_error'][name]:.2e} against torch is {worst:.2e} of "
                f"the output's scale {figures['reference_scale'][name]:.2e}, tolerance {rtol:.0e} "
                "(parity rtol); nothing was written"
            )
    cosine = (figures["router"] or {}).get("matched_token_cosine", 1.0)
    if not cosine >= _LEAST_MATCHED_COSINE:
        raise ToleranceError(
            f"router: its sources differ from torch's, matched-token cosine {cosine:.4f}, at least "
            f"{_LEAST_MATCHED_COSINE:g}; nothing was written"
        )


def expected_outputs(traced: TracedModel) -> list[str]:
    """Return the outputs that `measure_parity` must compare for a model."""
    router = ["router", "router scores"] if traced.checkpoint.router is not None else []
    vision = ["vision"] if "vision" in traced.checkpoint.architecture.components else []
    return ["embedding", *vision, *router, "prefill logits", "decode logits"]


@torch.no_grad()
def _compare(
    checkpoint: Checkpoint,
    sessions: TappedSessions,
    sample: ParitySample,
    figures: ParityFigures,
    routing: RoutingFigures,
) -> None:
    run, mask = sessions.prompt(sample), sample.attention_mask
    _compare_inputs(checkpoint, sample, run, figures)
    logits, state = sessions.prefill(run.embeds, run.decoder)
    further = checkpoint.architecture.torch_inputs(sample)
    expected = _torch_step(checkpoint.model, sessions.family, sample.input_ids, mask, **further)
    if checkpoint.router is not None and run.routed is not None:
        _compare_routing(checkpoint, run.routed, figures, routing)
    figures.logits("prefill logits", logits, _last(expected))
    for _ in range(_DECODE_STEPS):
        tokens = _last(expected).argmax(-1).astype(np.int64)
        logits = sessions.decode(tokens, state)
        mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], axis=1)
        cache = returned_cache(expected)
        expected = _torch_step(checkpoint.model, sessions.family, tokens[:, None], mask, cache)
        figures.logits("decode logits", logits, _last(expected))


def _compare_inputs(
    checkpoint: Checkpoint, sample: ParitySample, run: PromptRun, figures: ParityFigures
) -> None:
    """Compare what enters the language model: token embeddings and image features."""
    model = checkpoint.model
    embeds = model.get_input_embeddings()(torch.from_numpy(sample.input_ids))
    figures.error("embedding", run.text_embeds, embeds.numpy())
    if run.features is None:
        return
    architecture = checkpoint.architecture
    expected = architecture.reference_features(model, architecture.torch_inputs(sample)).numpy()
    figures.error("vision", run.features.features.reshape(expected.shape), expected)


def _compare_routing(
    checkpoint: Checkpoint, got: RoutedPrompts, figures: ParityFigures, routing: RoutingFigures
) -> None:
    """Compare the router's outputs; its embeddings where both sides picked the same sources."""
    expected = torch_routing(checkpoint.model)
    if expected is None:
        return
    for output in ("gate", "margin"):
        figures.require_finite("router", getattr(got, output), getattr(expected, output))
    figures.error("router scores", got.scores, expected.scores)
    same = same_choice(got, expected)
    figures.error("router", got.embeds, expected.embeds, counted=same)
    routing.compare(expected, got)


def torch_routing(model: Any) -> RoutedPrompts | None:
    """Return what a model's router did to the prompt that the model has just run; None if nothing was routed."""
    routing = last_routing(model)
    if routing is None:
        return None
    places = [routing.image_positions, routing.text_positions]
    output = routing.output
    return RoutedPrompts(
        embeds=output.inputs_embeds.numpy(),
        positions=np.concatenate([place.numpy() for place in places], axis=1),
        scores=output.scores.numpy(),
        indices=output.indices.numpy(),
        margin=output.margin.numpy(),
        gate=output.gate.numpy(),
    )


def _torch_step(
    model: Any,
    family: Family,
    input_ids: Array,
    mask: Array,
    cache: Any = None,
    **inputs: torch.Tensor,
) -> Any:
    """Run the Hugging Face model, hooks and all, on a prompt or on one more token."""
    positions = family.torch_positions(mask)
    if positions is not None:
        inputs["position_ids"] = torch.from_numpy(positions[:, -input_ids.shape[1] :])
    return model(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(mask),
        use_cache=True,
        logits_to_keep=1,
        **{cache_keyword(model): cache},
        **inputs,
    )


def _last(outputs: Any) -> Array:
    logits: Array = outputs.logits[:, -1].numpy()
    return logits
