"""Parity of written graphs with torch: per component, over prefill and decode, and of the router's choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError, ToleranceError
from moir_edge.export.components import TracedModel
from moir_edge.export.parity_figures import ParityFigures
from moir_edge.export.reference import DECODE_STEPS, SampleReference, torch_reference
from moir_edge.export.samples import ParitySample
from moir_edge.graphs.sessions import PromptRun, TappedSessions
from moir_edge.metrics.routed import RoutedPrompts, RoutingFigures, same_choice
from moir_edge.runtime.interface import DecoderInputs, Embeds

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

# Of a single prompt; the images of a batch go through the tower one by one.
_TILES_PER_RUN = 16


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
    reference = traced.reference
    if samples is not None:
        reference = torch_reference(traced.checkpoint, traced.facts, samples)
    figures, routing = ParityFigures(precisions), RoutingFigures()
    # The decoder is most of the memory: what comes before it has run and gone when it is opened.
    front = TappedSessions(folder, _without(precisions, "decoder"), traced.facts, frugal=True)
    prompts = [_compare_prompt(front, one, figures, routing) for one in reference.samples]
    del front
    back = TappedSessions(
        folder, _without(precisions, "vision", "router"), traced.facts, frugal=True
    )
    for expected, prompt in zip(reference.samples, prompts, strict=True):
        _compare_logits(back, expected, prompt, figures)
    return {
        "samples": [expected.sample.name for expected in reference.samples],
        "decode_steps": DECODE_STEPS,
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


@dataclass(frozen=True)
class _Prompt:
    """The decoder's inputs."""

    embeds: Embeds
    decoder: DecoderInputs


def _without(precisions: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: precision for name, precision in precisions.items() if name not in names}


def _compare_prompt(
    sessions: TappedSessions,
    expected: SampleReference,
    figures: ParityFigures,
    routing: RoutingFigures,
) -> _Prompt:
    """Compare what comes before the decoder."""
    figures.sample = expected.sample.name
    # A lone tile is a size of its own: an axis of one that tracing took for fixed would show here alone.
    sessions.tiles_per_run = _TILES_PER_RUN if len(expected.sample.input_ids) == 1 else 1
    run = sessions.prompt(expected.sample)
    _compare_inputs(expected, run, figures)
    if expected.routed is not None and run.routed is not None:
        _compare_routing(expected.routed, run.routed, figures, routing)
    return _Prompt(sessions.to_numpy(run.embeds).copy(), run.decoder)


def _compare_logits(
    sessions: TappedSessions, expected: SampleReference, prompt: _Prompt, figures: ParityFigures
) -> None:
    """Compare the logits of a prompt and of torch's greedy tokens after it."""
    figures.sample = expected.sample.name
    logits, state = sessions.prefill(prompt.embeds, prompt.decoder)
    first, *others = expected.logits
    figures.logits("prefill logits", logits, first)
    for tokens, other in zip(expected.tokens, others, strict=True):
        figures.logits("decode logits", sessions.decode(tokens, state), other)


def _compare_inputs(expected: SampleReference, run: PromptRun, figures: ParityFigures) -> None:
    """Compare what enters the language model: token embeddings and image features."""
    figures.error("embedding", run.text_embeds, expected.embeds)
    if run.features is not None and expected.features is not None:
        got = run.features.features.reshape(expected.features.shape)
        figures.error("vision", got, expected.features)


def _compare_routing(
    expected: RoutedPrompts, got: RoutedPrompts, figures: ParityFigures, routing: RoutingFigures
) -> None:
    """Compare the router's outputs; its embeddings where both sides picked the same sources."""
    for output in ("gate", "margin"):
        figures.require_finite("router", getattr(got, output), getattr(expected, output))
    figures.error("router scores", got.scores, expected.scores)
    same = same_choice(got, expected)
    figures.error("router", got.embeds, expected.embeds, counted=same)
    routing.compare(expected, got)
